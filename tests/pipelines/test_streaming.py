"""Batching and streaming do not change answers, and streams are read lazily."""

from __future__ import annotations

import itertools
import random

import pytest

from minidistil.errors import InputError
from minidistil.pipelines import base, inference
from support.pipelines import (
    LABELS,
    PAIR,
    TEXTS,
    WORDS,
    record_batches,
)
from support.twins import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "8"])
def test_batch_size_is_a_positive_integer(classify, zero_shot, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        classify("a", batch_size=batch_size)
    with pytest.raises(InputError, match="batch_size"):
        zero_shot("a", LABELS, batch_size=batch_size)


@pytest.fixture(scope="module")
def many_texts():
    shuffled = random.Random(0)
    texts = [" ".join(shuffled.choices(WORDS.split(), k=shuffled.randint(1, 50))) for _ in range(40)]
    assert len(set(texts)) == len(texts)
    return texts


@pytest.fixture(scope="module")
def one_by_one(zero_shot, classify, many_texts):
    return [zero_shot(text, LABELS) for text in many_texts], [classify({"text": text}) for text in many_texts]


BATCHINGS = {
    "all at once": {},
    "windows of 3": {"WINDOW": 3},
    "windows of 1": {"WINDOW": 1},
    "70 tokens": {"TOKENS": 70},
    "1 token": {"TOKENS": 1},
    "windows of 7 and 100 tokens": {"WINDOW": 7, "TOKENS": 100},
}


@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize("limits", BATCHINGS.values(), ids=BATCHINGS.keys())
def test_batching_does_not_change_the_answers(
    zero_shot, classify, many_texts, one_by_one, monkeypatch, limits, batch_size
):
    for name, value in limits.items():
        monkeypatch.setattr(inference if name == "TOKENS" else base, name, value)
    assert_same(zero_shot(many_texts, LABELS, batch_size=batch_size), one_by_one[0])
    assert_same(classify(many_texts, batch_size=batch_size), one_by_one[1])


@pytest.mark.full
def test_the_order_of_the_texts_does_not_change_the_answers(zero_shot, classify, many_texts, one_by_one):
    order = random.Random(1).sample(range(len(many_texts)), len(many_texts))
    shuffled = [many_texts[i] for i in order]
    assert_same(zero_shot(shuffled, LABELS), [one_by_one[0][i] for i in order])
    assert_same(classify(shuffled), [one_by_one[1][i] for i in order])


def test_all_pairs_of_a_call_are_one_batch(zero_shot, monkeypatch):
    batches = record_batches(monkeypatch, zero_shot)
    zero_shot(TEXTS[:4], LABELS)
    assert [len(batch) for batch in batches] == [12]


def test_texts_and_pairs_share_a_batch(classify, monkeypatch):
    batches = record_batches(monkeypatch, classify)
    classify([*TEXTS, PAIR, ""])
    assert [len(batch) for batch in batches] == [7]


def test_a_batch_has_no_more_tokens_or_sequences_than_its_limits(classify, many_texts, monkeypatch):
    batches = record_batches(monkeypatch, classify)
    monkeypatch.setattr(inference, "TOKENS", 100)
    classify(many_texts, batch_size=5)
    assert sum(map(len, batches)) == len(many_texts)
    assert all(len(batch) <= 5 and sum(batch) <= 100 for batch in batches)


def counted(texts, read):
    for text in texts:
        read.append(text)
        yield text


def test_an_endless_stream_is_read_a_window_at_a_time(zero_shot, classify, monkeypatch):
    monkeypatch.setattr(base, "WINDOW", 6)
    for pipe, options, texts_of_a_window in ((zero_shot, {"candidate_labels": LABELS}, 2), (classify, {}, 6)):
        read = []
        answers = pipe(counted(itertools.cycle(TEXTS), read), **options)
        assert read == []  # nothing is read before the first next()
        assert_same([next(answers) for _ in range(4)], list(pipe(TEXTS[:4], **options)))
        assert len(read) == texts_of_a_window * -(-4 // texts_of_a_window)


def test_a_stream_can_be_abandoned(zero_shot):
    answers = zero_shot(iter(TEXTS), LABELS)
    first = next(answers)
    answers.close()
    assert_same(zero_shot(TEXTS[0], LABELS), first)


@pytest.mark.parametrize("broken", [5, "\ud800"], ids=["number", "surrogate"])
def test_texts_before_an_invalid_one_are_answered_first(zero_shot, broken):
    answers = zero_shot(iter([*TEXTS[:3], broken, TEXTS[3]]), LABELS)
    assert_same(list(itertools.islice(answers, 3)), zero_shot(TEXTS[:3], LABELS))
    with pytest.raises(InputError, match=r"sequences\[3\]"):
        next(answers)


def test_texts_before_invalid_labels_are_answered_first(zero_shot):
    answers = zero_shot(iter(TEXTS), iter([LABELS, ["a", ""], LABELS]))
    assert_same(next(answers), zero_shot(TEXTS[0], LABELS))
    with pytest.raises(InputError, match=r"candidate_labels\[1\] is empty"):
        next(answers)


def test_inputs_before_an_invalid_pair_are_answered_first(classify):
    answers = classify(iter(["a", PAIR, {"text": 5}]))
    assert_same(list(itertools.islice(answers, 2)), classify(["a", PAIR]))
    with pytest.raises(InputError, match=r"inputs\[2\]"):
        next(answers)


def test_a_stream_is_answered_before_much_of_it_is_read(classify):
    read = []
    answers = classify(read.append(i) or "a" * (i % 9) for i in range(10_000))
    next(answers)
    assert len(read) == base.FIRST_WINDOW
    for _ in itertools.islice(answers, 2000):
        pass
    assert len(read) <= 2001 + base.WINDOW
