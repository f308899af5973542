"""Batches compared with brute-force definitions, and the properties of filler sequences."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minidistil.batching import (
    MAX_TOKEN_MULTIPLE,
    MIN_TOKENS_TO_FILL,
    WINDOW,
    batch_by_size,
    bucket_width,
    filler_lengths,
    plan_epoch,
    split_evenly,
    split_into_batches,
    training_filler_lengths,
    with_filler,
)
from minidistil.errors import InputError

lengths = st.lists(st.integers(1, 512), max_size=300)
seeds = st.integers(-(2**70), 2**70)
SIZES = st.sampled_from([None, 1, 7, 64, 600, 2048])
COUNTS = st.sampled_from([None, 1, 7, 32])


def longest_prefix(order, lengths, max_tokens, max_sequences):
    """Return the longest prefix of the indices that fits into one batch, at least one index."""
    fits = [
        n
        for n in range(1, len(order) + 1)
        if (max_tokens is None or sum(lengths[i] for i in order[:n]) <= max_tokens)
        and (max_sequences is None or n <= max_sequences)
    ]
    return order[: max(fits, default=1)]


def greedy(order, lengths, max_tokens, max_sequences):
    while order:
        batch = longest_prefix(order, lengths, max_tokens, max_sequences)
        yield batch
        order = order[len(batch) :]


# Batches by size


@given(st.lists(st.integers(1, 512), max_size=60), SIZES, COUNTS, st.randoms(use_true_random=False))
def test_batches_are_filled_greedily(lengths, max_tokens, max_sequences, rng):
    order = [*range(len(lengths))]
    sizes = {"max_tokens": max_tokens, "max_sequences": max_sequences}
    assert list(batch_by_size(lengths, **sizes)) == list(greedy(order, lengths, **sizes))
    chosen = rng.sample(order, len(order) // 2)
    assert list(batch_by_size(lengths, chosen, **sizes)) == list(greedy(chosen, lengths, **sizes))


@given(lengths, st.sampled_from([None, 1, 7]), st.sampled_from([64, 600, 2048]))
def test_even_batches_have_about_the_same_number_of_tokens(lengths, batch_size, most):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups = list(batch_by_size(lengths, order, max_tokens=most, max_sequences=batch_size, even=True))
    in_order = [lengths[i] for group in groups for i in group]
    assert sorted(i for group in groups for i in group) == [*range(len(lengths))]
    assert in_order == sorted(lengths)
    sizes = [sum(lengths[i] for i in group) for group in groups]
    assert all(size <= most or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert batch_size is None or all(len(group) <= batch_size for group in groups)
    count = -(-sum(lengths) // most)
    if count and batch_size is None and sum(lengths) / count + max(lengths) <= most:
        assert len(groups) == count
        assert max(sizes) - min(sizes) < 2 * max(lengths)


@given(st.lists(st.integers(1, 512), max_size=60), st.sampled_from([64, 600, 2048]), COUNTS)
def test_an_even_batch_ends_once_it_reaches_its_target(lengths, max_tokens, max_sequences):
    """By definition, batch b ends where the tokens so far reach b + 1 targets, or where it is full."""
    order = [*range(len(lengths))]
    count = max(1, math.ceil(sum(lengths) / max_tokens))
    assume(math.gcd(sum(lengths), count) in (1, count))  # else rounding decides whether a target is reached
    target = sum(lengths) / count
    expected = []
    while order:
        full = longest_prefix(order, lengths, max_tokens, max_sequences)
        before = sum(lengths[i] for batch in expected for i in batch)
        wanted = target * (len(expected) + 1) - before
        reached = [n for n in range(1, len(full) + 1) if sum(lengths[i] for i in full[:n]) >= wanted - 1e-6]
        batch = full[: reached[0]] if reached else full
        expected.append(batch)
        order = order[len(batch) :]
    assert list(batch_by_size(lengths, max_tokens=max_tokens, max_sequences=max_sequences, even=True)) == expected


def test_split_batches_hold_every_sequence_in_order():
    sequences = [[1, 2, 3], [4], [5, 6, 7, 8], [9] * 20]
    assert [len(batch) for batch in split_into_batches(sequences, max_sequences=3)] == [3, 1]
    assert [len(batch) for batch in split_into_batches(sequences, max_tokens=7)] == [2, 1, 1]
    for size in ({"max_sequences": 3}, {"max_tokens": 7}):
        assert [sequence for batch in split_into_batches(sequences, **size) for sequence in batch] == sequences


# The plan of a training epoch


@given(lengths, st.integers(1, 64), seeds, st.integers(0, 99))
def test_batches_by_count_hold_each_example_once(lengths, count, seed, epoch):
    batches = plan_epoch(lengths, max_sequences=count, seed=seed, epoch=epoch)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    assert all(0 < len(batch) <= count for batch in batches)
    assert len(batches) == math.ceil(len(lengths) / count)
    assert plan_epoch(lengths, max_sequences=count, seed=seed, epoch=epoch) == batches


@given(lengths, st.integers(1, 5000), seeds, st.integers(0, 99))
def test_batches_by_tokens_hold_each_example_once(lengths, tokens, seed, epoch):
    batches = plan_epoch(lengths, max_tokens=tokens, seed=seed, epoch=epoch)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    assert all(batch for batch in batches)
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= tokens for batch in batches)
    assert plan_epoch(lengths, max_tokens=tokens, seed=seed, epoch=epoch) == batches


@pytest.mark.parametrize("size", [{"max_sequences": 16}, {"max_tokens": 1000}])
def test_epoch_and_seed_change_the_order(size):
    rng = random.Random(0)
    lengths = [rng.randint(3, 128) for _ in range(400)]
    plans = [plan_epoch(lengths, **size, seed=seed, epoch=epoch) for seed in range(4) for epoch in range(4)]
    assert all(a != b for a, b in itertools.combinations(plans, 2))


@pytest.mark.parametrize("size", [{"max_sequences": 8}, {"max_tokens": 512}])
def test_lengths_within_a_batch_are_similar_and_batches_are_shuffled(size):
    rng = random.Random(0)
    lengths = [rng.randint(3, 125) for _ in range(5000)]
    batches = plan_epoch(lengths, **size, seed=0, epoch=0)
    lengths_of = [[lengths[i] for i in batch] for batch in batches]
    real = sum(lengths)
    padded = sum(max(batch) * len(batch) for batch in lengths_of)
    at_random = sum(max(lengths[i : i + 8]) * 8 for i in range(0, 5000, 8))
    assert padded < 1.03 * real < at_random
    assert sum(max(batch) - min(batch) <= 8 for batch in lengths_of) > 0.98 * len(batches)
    longest = [max(batch) for batch in lengths_of]
    half = len(longest) // 2
    assert abs(sum(longest[:half]) / half - sum(longest[half:]) / (len(longest) - half)) < 10
    assert sum(a <= b for a, b in itertools.pairwise(longest)) < 0.6 * len(longest)


def test_examples_are_batched_with_others_in_each_epoch():
    lengths = [5] * (2 * WINDOW * 4)
    first, second = (
        {frozenset(batch) for batch in plan_epoch(lengths, max_sequences=4, seed=0, epoch=i)} for i in range(2)
    )
    assert len(first & second) < 5


def test_an_example_longer_than_max_tokens_gets_its_own_batch():
    batches = plan_epoch([10, 500, 10, 600], max_tokens=20, seed=0, epoch=0)
    assert sorted(map(sorted, batches)) == [[0, 2], [1], [3]]


def test_no_examples_make_no_batches():
    assert plan_epoch([], max_sequences=4, seed=0, epoch=0) == plan_epoch([], max_tokens=4, seed=0, epoch=0) == []


@pytest.mark.parametrize("size", [{}, {"max_sequences": 8, "max_tokens": 100}])
def test_an_epoch_needs_exactly_one_batch_size(size):
    with pytest.raises(InputError, match="pass either max_sequences or max_tokens"):
        plan_epoch([1, 2], **size, seed=0, epoch=0)


def test_a_plan_stays_the_same_in_every_version():
    """A resumed run needs the plan that it started with."""
    lengths = [7, 3, 5, 3, 9, 12, 4, 4]
    by_count = plan_epoch(lengths, max_sequences=3, seed=42, epoch=1)
    by_tokens = plan_epoch(lengths, max_tokens=16, seed=42, epoch=1)
    assert by_count == [[7, 2, 0], [4, 5], [1, 3, 6]]
    assert by_tokens == [[2, 0], [5], [4], [1, 3, 6, 7]]


# Filler sequences


@given(st.integers(0, 10**6))
def test_bucket_width_is_at_most_an_eighth_of_the_size(size):
    width = bucket_width(size)
    assert width & (width - 1) == 0
    assert width == max(1, 1 << (size.bit_length() - 4 if size >= 16 else 0))
    assert size < 16 or size / 16 < width <= size / 8


@given(st.integers(0, 10**6), st.integers(1, 500))
def test_a_total_is_split_into_almost_equal_parts(total, count):
    parts = split_evenly(total, count)
    assert (sum(parts), len(parts)) == (total, count)
    assert max(parts) - min(parts) <= 1


@given(st.integers(1, 300).flatmap(lambda most: st.lists(st.integers(1, most), min_size=1, max_size=700)))
def test_filler_rounds_large_batches_up_to_few_sizes(lengths):
    fill = filler_lengths(lengths)
    assert all(1 <= length <= max(lengths) for length in fill)
    whole = lengths + fill
    if sum(lengths) >= MIN_TOKENS_TO_FILL:
        for number, most in ((sum(whole), MAX_TOKEN_MULTIPLE), (len(whole), 1 << 30)):
            assert number % min(most, 1 << max(0, number.bit_length() - 5)) == 0
        assert sum(fill) < 2 * MAX_TOKEN_MULTIPLE + len(lengths) / 4
    else:
        assert not fill


@given(st.integers(1, 100_000), st.integers(1, 512))
def test_filler_rounds_training_batches_up_to_few_sizes(tokens, max_length):
    fill = training_filler_lengths(tokens, max_length)
    assert all(1 <= length <= min(32, max_length) for length in fill)
    assert len(fill) == math.ceil(sum(fill) / min(32, max_length))
    filled = tokens + sum(fill)
    assert 0 <= filled - tokens < max(64, tokens / 8)
    assert filled % 64 == 0
    assert filled <= 1024 or filled.bit_length() - (filled & -filled).bit_length() < 4


def test_filler_follows_the_sequences():
    assert with_filler([[5, 6], [7]], [2, 1]) == [[5, 6], [7], [0, 0], [0]]
    assert with_filler([[5, 6]], [3], token_id=9) == [[5, 6], [9, 9, 9]]
    assert with_filler([[5, 6]], []) == [[5, 6]]
