"""Hidden states of tokens match transformers."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers

import minidistil
from minidistil.errors import InputError
from minidistil.pipelines import base
from support.embedding import EMBED, FEATURES, LONG, POSITIONS, TEXTS, assert_same, ours

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def features(checkpoint):
    return ours(FEATURES, checkpoint())


@pytest.fixture(scope="module")
def their_features(checkpoint):
    return transformers.pipeline(FEATURES, model=str(checkpoint()), device="cpu")


@pytest.mark.parametrize("text", TEXTS)
def test_hidden_states_of_a_text_match_transformers(features, their_features, text):
    answer = features(text)
    assert_same(answer, their_features(text))
    assert np.shape(answer)[::2] == (1, 16)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], tuple(TEXTS[:2])], ids=["list", "one in a list", "tuple"])
def test_hidden_states_of_a_list_match_transformers(features, their_features, texts):
    answers, expected = features(texts), their_features(list(texts))
    assert type(answers) is list
    assert len(answers) == len(expected)
    for answer, other in zip(answers, expected, strict=True):
        assert_same(answer, other)


def test_returned_tensors_match_transformers_and_own_their_memory(features, their_features):
    expected = their_features(TEXTS, return_tensors=True)
    assert_same(features(TEXTS, return_tensors=True), expected)
    answer = features(TEXTS[0], return_tensors=True)
    assert_same(answer, expected[0])
    (answer * torch.ones(16, requires_grad=True)).sum().backward()  # raises for an inference tensor
    answers = features(["A man", "A man"], return_tensors=True)
    answers[0].zero_()
    assert answers[1].any()


def test_an_empty_list_has_no_answers(features):
    assert features([]) == features(()) == list(features(iter(()))) == []


def test_a_generator_is_answered_by_an_iterator(features):
    answers = features(text for text in TEXTS)
    assert not isinstance(answers, list)
    assert list(answers) == features(TEXTS)


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": True},
        {"truncation": "longest_first"},
        {"truncation": "only_first"},
        {"tokenize_kwargs": {"truncation": True}},
        {"tokenize_kwargs": {"truncation": True, "max_length": 10}},
        {"tokenize_kwargs": {"max_length": 10}, "truncation": True},
        {"tokenize_kwargs": {"max_length": 10}},
    ],
    ids=str,
)
def test_texts_are_truncated_as_in_transformers(features, their_features, options):
    def copied():  # transformers writes into tokenize_kwargs
        return json.loads(json.dumps(options))

    assert_same(features(LONG, **copied()), their_features(LONG, **copied()))


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": False, "max_length": 10},
        {"truncation": "do_not_truncate"},
        {"padding": "max_length", "max_length": 10},
    ],
)
def test_max_length_for_padding_does_not_truncate(features, their_features, options):
    assert_same(features(TEXTS[5], tokenize_kwargs=options), their_features(TEXTS[5], tokenize_kwargs=options))


@pytest.mark.parametrize("options", [{}, {"truncation": False}, {"tokenize_kwargs": {"padding": True}}], ids=str)
def test_a_text_longer_than_the_model_is_an_error_with_a_remedy(features, options):
    expected = rf"inputs\[1\] has 122 tokens, but the model takes {POSITIONS}: truncate it with truncation=True"
    with pytest.raises(InputError, match=expected):
        features(["a", LONG], **options)


def test_max_length_is_capped_at_the_models_maximum(features):
    answer = features(LONG, tokenize_kwargs={"truncation": True, "max_length": 1000}, return_tensors=True)
    assert answer.shape == (1, POSITIONS, 16)


@pytest.mark.parametrize("padding", [False, True, "max_length", "longest"])
def test_padding_has_no_effect(features, padding):
    assert features(TEXTS, tokenize_kwargs={"padding": padding}) == features(TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": True, "tokenize_kwargs": {"truncation": True}}, "truncation is passed twice"),
        ({"truncation": "banana"}, "truncation is 'banana'"),
        ({"truncation": "only_second"}, "only_second"),
        (
            {"tokenize_kwargs": {"add_special_tokens": False}},
            "add_special_tokens is False, which has no meaning here",
        ),
        ({"tokenize_kwargs": "truncation"}, "tokenize_kwargs is 'truncation'"),
        ({"tokenize_kwargs": {"max_length": 0}}, "max_length is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
    ids=str,
)
def test_an_invalid_option_is_an_error(features, options, message):
    with pytest.raises(InputError, match=message):
        features("a", **options)


@pytest.mark.parametrize("task", [FEATURES, EMBED])
@pytest.mark.parametrize(
    "inputs",
    [None, 3, b"a", {"text": "a"}, ["a", None], ["a", ("a", "b", "c")], ["a", [3, "a"]], "\ud800"],
    ids=repr,
)
def test_inputs_that_are_not_text_are_an_error(checkpoint, task, inputs):
    pipe = ours(task, checkpoint(), **({"pooling": "mean"} if task == EMBED else {}))
    with pytest.raises(InputError, match=r"^inputs"):
        pipe(inputs)


@pytest.mark.parametrize("task", [FEATURES, EMBED])
def test_an_unknown_argument_is_an_error(checkpoint, task):
    with pytest.raises(TypeError, match="banana"):
        ours(task, checkpoint(), banana=1)
    with pytest.raises(TypeError, match="banana"):
        ours(task, checkpoint())("a", banana=1)


@pytest.mark.parametrize("task", [FEATURES, EMBED])
def test_a_stream_is_read_lazily_and_answered_up_to_an_invalid_text(checkpoint, task):
    read = []
    pipe = ours(task, checkpoint(), **({"pooling": "cls"} if task == EMBED else {}))
    answers = pipe(read.append(i) or ("a" * (i % 9) if i < 100 else None) for i in range(1000))
    next(answers)
    assert len(read) == base.FIRST_WINDOW
    assert len(list(itertools.islice(answers, 99))) == 99
    with pytest.raises(InputError, match=r"inputs\[100\] is NoneType"):
        next(answers)


def test_hidden_states_use_small_windows(features):
    read = []
    answers = features(read.append(i) or "a" * (i % 9) for i in range(1000))
    assert len(list(itertools.islice(answers, 33))) == 33
    assert len(read) == 64


def test_a_model_with_another_head_is_refused(checkpoint):
    model = minidistil.DistilBertForMaskedLM(
        minidistil.DistilBertConfig(8, n_layers=1, n_heads=1, dim=8, hidden_dim=8)
    )
    for task in (FEATURES, EMBED):
        with pytest.raises(InputError, match=f"{task} requires a DistilBertModel, found DistilBertForMaskedLM"):
            minidistil.pipeline(task, model, checkpoint())
