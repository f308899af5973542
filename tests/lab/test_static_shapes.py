"""Fixed-size batches: inputs that fit return the usual logits, others are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minidistil import Batch, InputError
from minidistil.lab.static_shapes import Budget, _tensors
from support.twins import ours, theirs, twins


def plain(ids):
    with torch.inference_mode():
        return twins()[0](Batch.from_lists(ids))


def sequences(lengths):
    return [[1 + (7 * i + j) % 99 for j in range(length)] for i, length in enumerate(lengths)]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 12), max_size=7), st.integers(12, 90))
def test_batches_have_a_fixed_size_and_return_the_usual_logits(lengths, longest):
    budget = Budget(twins()[0], tokens=84, sequences=7, longest=longest)
    ids = sequences(lengths)
    batch = budget.fill(ids)
    assert (len(batch.ids), len(batch)) == (budget.tokens, budget.sequences)
    assert max(batch.layout.lengths) <= longest == batch.layout.max_seqlen == batch.layout.width
    assert [x.shape for x in _tensors(batch)] == [x.shape for x in _tensors(budget.fill(sequences([5])))]
    torch.testing.assert_close(budget(ids), plain(ids), atol=1e-5, rtol=0)


def test_long_sequences_need_little_filler():
    budget = Budget(twins()[0], tokens=2048, sequences=64)
    assert (budget.tokens, budget.sequences) == (2048 + 81, 64 + 17)


@pytest.mark.parametrize("lengths", [[1] * 9, [30] * 4, [40], [8, 0]], ids=str)
def test_a_batch_that_exceeds_the_size_is_refused(lengths):
    with pytest.raises(InputError, match="expected at most 8 sequences and 90 tokens, 1 to 32 each"):
        Budget(twins()[0], tokens=90, sequences=8, longest=32)(sequences(lengths))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"tokens": 0, "sequences": 8}, "tokens is 0: expected an integer of at least 1"),
        ({"tokens": 9, "sequences": 0}, "sequences is 0: expected an integer of at least 1"),
        ({"tokens": 9, "sequences": 2, "longest": 1}, "longest is 1: expected an integer of at least 2"),
    ],
)
def test_an_invalid_size_is_refused(size, message):
    with pytest.raises(InputError, match=message):
        Budget(twins()[0], **size)


def test_a_token_id_beyond_the_vocabulary_is_refused():
    with pytest.raises(InputError, match="a token id is 99999, but vocab_size is 1000"):
        Budget(twins()[0], tokens=9, sequences=3)([[99999]])


def test_a_model_of_another_class_is_refused():
    with pytest.raises(InputError, match="model is DistilBertModel: expected a DistilBertForSeq"):
        Budget(ours(theirs({}, "DistilBertModel")), tokens=9, sequences=3)


@pytest.mark.slow
def test_a_compiled_model_is_compiled_once_for_all_batches():
    torch.compiler.reset()
    budget = Budget(twins()[0], tokens=64, sequences=8, longest=32, compiled=True)
    budget(sequences([3, 4]))
    with torch.compiler.set_stance("fail_on_recompile"):
        for lengths in ([5], [9, 1, 2, 30], [2] * 7):
            ids = sequences(lengths)
            torch.testing.assert_close(budget(ids), plain(ids), atol=1e-5, rtol=0)
