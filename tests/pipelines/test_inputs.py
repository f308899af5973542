"""Inputs of every kind: list-like inputs are answered with a list, all others with a stream."""

from __future__ import annotations

import collections
import itertools
import types

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import transformers
from transformers.pipelines.pt_utils import KeyDataset, KeyPairDataset

import minidistil
from minidistil.errors import InputError
from support.pipelines import LABELS, TEXTS
from support.twins import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")


class Indexed:
    """A data set without an iterator, which does not check its index."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, i):
        return TEXTS[i % len(TEXTS)]


class ByIndex(torch.utils.data.Dataset):
    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, i):
        return TEXTS[i]


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(TEXTS)


ROWS = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)})
LISTS = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "deque": collections.deque(TEXTS),
    "UserList": collections.UserList(TEXTS),
    "array of str": np.array(TEXTS),
    "array of objects": np.array(TEXTS, dtype=object),
    "Series": pd.Series(TEXTS),
    "Series with another index": pd.Series(TEXTS, index=range(7, 7 + len(TEXTS))),
    "Index": pd.Index(TEXTS),
    "categorical": pd.Series(TEXTS, dtype="category"),
    "column": ROWS["text"],
    "Arrow array": pa.array(TEXTS),
    "Arrow column": pa.chunked_array([TEXTS[:2], TEXTS[2:]]),
    "column of a table": pd.DataFrame({"text": TEXTS})["text"],
}
STREAMS = {
    "generator": lambda: (text for text in TEXTS),
    "iterator": lambda: iter(TEXTS),
    "map": lambda: map(str, TEXTS),
    "KeyDataset": lambda: KeyDataset(ROWS, "text"),
    "Dataset": ByIndex,
    "IterableDataset": Streamed,
    "object with __len__ and __getitem__": Indexed,
    "column of a stream": lambda: ROWS.to_iterable_dataset()["text"],
    "dict view": lambda: dict.fromkeys(TEXTS).keys(),
}


@pytest.mark.parametrize("inputs", LISTS.values(), ids=LISTS.keys())
def test_list_like_inputs_are_answered_with_a_list(classify, zero_shot, inputs):
    assert_same(classify(inputs), classify(TEXTS))
    assert_same(zero_shot(inputs, LABELS), zero_shot(TEXTS, LABELS))


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS.keys())
def test_other_inputs_are_answered_with_a_stream(classify, zero_shot, make):
    for pipe, arguments in ((classify, ()), (zero_shot, (LABELS,))):
        answers = pipe(make(), *arguments)
        assert isinstance(answers, types.GeneratorType)
        assert_same(list(answers), pipe(TEXTS, *arguments))


@pytest.mark.parametrize("make", [lambda: KeyDataset(ROWS, "text"), ByIndex], ids=["KeyDataset", "Dataset"])
def test_data_sets_are_answered_as_transformers_answers_them(classify, their_classify, make):
    assert_same(list(classify(make())), list(their_classify(make())))


def test_a_data_set_of_pairs_is_answered_as_transformers_answers_it(classify, their_classify):
    pairs = KeyPairDataset([{"a": text, "b": "a man"} for text in TEXTS], "a", "b")
    assert_same(list(classify(pairs)), list(their_classify(pairs)))


def test_a_data_set_is_read_a_window_at_a_time(classify):
    read = []

    class Endless(Indexed):
        def __len__(self):
            return 10**9

        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    assert len(list(itertools.islice(classify(Endless()), 3))) == 3
    assert len(read) < 100


def test_tasks_with_other_inputs_take_data_sets(checkpoint):
    labels = ("B-X", "I-X", "O")
    tagger = minidistil.pipeline(
        "ner", checkpoint(labels, model_class=transformers.DistilBertForTokenClassification), device="cpu"
    )
    words = [text.split() for text in TEXTS]
    for inputs in (pd.Series(words), np.array([np.array(row) for row in words], dtype=object)):
        assert_same(tagger(inputs, is_split_into_words=True), tagger(words, is_split_into_words=True))
    folder = checkpoint(("a", "b"), model_class=transformers.DistilBertForQuestionAnswering)
    asker = minidistil.pipeline("question-answering", folder, device="cpu")
    questions = ["who won?", "what was held?"]
    expected = asker(question=questions, context=TEXTS[:2])
    assert_same(asker(question=pd.Series(questions), context=np.array(TEXTS[:2])), expected)
    table = datasets.Dataset.from_dict({"question": questions, "context": TEXTS[:2]})
    assert_same(asker(question=table["question"], context=table["context"]), expected)
    assert_same(asker(table), expected)
    masker = minidistil.pipeline(
        "fill-mask", checkpoint(model_class=transformers.DistilBertForMaskedLM), device="cpu", top_k=2
    )
    masked = [f"{text} [MASK]" for text in TEXTS]
    assert_same(
        masker(np.array(masked), targets=np.array(["team", "man"])), masker(masked, targets=["team", "man"])
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (pd.DataFrame({"text": TEXTS}), "DataFrame of 2 dimensions: expected one, such as one column"),
        (np.array([TEXTS]), r"inputs\[0\] is list"),
        (np.array(5), "inputs is int: expected a text"),
        (datasets.DatasetDict(train=ROWS), r"DatasetDict|inputs\[0\] has the keys"),
        (collections.UserDict(text="a"), "UserDict: expected a text"),
        (pd.Series(["a", None]), r"inputs\[1\] is "),
        (ROWS, r"inputs\[0\] has the keys \['label', 'text'\]"),
        (torch.zeros(2), r"inputs\[0\] is float"),
        (pa.table({"label": TEXTS}), r"inputs\[0\] has the keys \['label'\]"),
    ],
    ids=["table", "matrix", "scalar", "DatasetDict", "mapping", "missing value", "rows", "tensor", "Arrow table"],
)
def test_inputs_that_are_not_texts_are_an_error_that_names_what_they_are(classify, inputs, message):
    with pytest.raises(InputError, match=message):
        classify(inputs)


@pytest.mark.parametrize("text", [np.str_("a man"), np.array("a man"), pa.scalar("a man")], ids=type)
def test_a_text_of_another_library_is_answered_like_a_string(classify, zero_shot, text):
    assert_same(classify(text), classify("a man"))
    answer = zero_shot(text, LABELS)
    assert_same(answer, zero_shot("a man", LABELS))
    assert type(answer["sequence"]) is str


@pytest.mark.parametrize(
    "labels",
    [np.array(LABELS), pd.Series(LABELS), pa.array(LABELS), [np.str_(label) for label in LABELS]],
    ids=["array", "Series", "Arrow array", "np.str_"],
)
def test_labels_of_another_library_are_returned_as_strings(zero_shot, labels):
    answer = zero_shot(TEXTS[0], labels)
    assert_same(answer, zero_shot(TEXTS[0], LABELS))
    assert {type(label) for label in answer["labels"]} == {str}


@pytest.mark.parametrize(
    "convert",
    [np.array, pa.array, lambda rows: [np.array(row) for row in rows], pd.Series],
    ids=["NumPy", "Arrow", "list of arrays", "pandas"],
)
def test_labels_for_each_text_may_be_rows_of_an_array(zero_shot, convert):
    rows = [LABELS[:2], LABELS[1:]]
    answers = zero_shot(TEXTS[:2], convert(rows))
    assert_same(answers, zero_shot(TEXTS[:2], rows))
    assert {type(label) for answer in answers for label in answer["labels"]} == {str}


def test_words_may_be_rows_of_an_array(checkpoint):
    folder = checkpoint(("B-X", "O"), model_class=transformers.DistilBertForTokenClassification)
    tagger = minidistil.pipeline("ner", folder, device="cpu", is_split_into_words=True)
    words = [["A", "man"], ["the", "team"]]
    for convert in (np.array, pa.array):
        assert_same(tagger(convert(words)), tagger(words))
        assert_same(tagger(convert(words[0])), tagger(words[0]))
