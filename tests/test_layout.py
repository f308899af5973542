"""Layout and Batch: values computed by hand, round trips, and invalid inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minidistil import Batch, InputError, Layout
from minidistil.layout import enter
from support.twins import twins


def test_the_layout_of_a_ragged_batch_computed_by_hand():
    layout = Layout.from_lengths([3, 2])
    assert layout.cu_seqlens.tolist() == [0, 3, 5]
    assert (layout.max_seqlen, layout.equal) == (3, False)
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert layout.padded_index.tolist() == [0, 1, 2, 3, 4]
    assert (layout.width, len(layout), layout.lengths) == (3, 2, [3, 2])
    assert layout.first_tokens().cu_seqlens.tolist() == [0, 1, 2]
    assert layout.first_tokens().indices.tolist() == [0, 3]


def test_the_layout_of_a_mask_with_holes_computed_by_hand():
    layout = Layout.from_mask(torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]]).bool())
    assert layout.cu_seqlens.tolist() == [0, 2, 2, 5]
    assert layout.position_ids.tolist() == [0, 2, 0, 1, 3]
    assert layout.padded_index.tolist() == [0, 2, 8, 9, 11]
    assert layout.first_tokens().cu_seqlens.tolist() == [0, 1, 1, 2]
    assert layout.first_tokens().indices.tolist() == [0, 2]


def test_pad_and_unpad_by_hand():
    layout = Layout.from_lengths([1, 0, 2])
    x = torch.tensor([[1.0], [2.0], [3.0]])
    padded = layout.pad(x)
    assert padded.tolist() == [[[1.0], [0.0]], [[0.0], [0.0]], [[2.0], [3.0]]]
    assert torch.equal(layout.unpad(padded), x)
    assert torch.equal(layout.first_tokens().select(x), x[[0, 1]])


masks = st.integers(0, 5).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), max_size=5).map(
        lambda rows: torch.tensor(rows, dtype=torch.bool).reshape(len(rows), width)
    )
)


@given(masks)
def test_unpad_inverts_pad_for_any_mask(mask):
    layout = Layout.from_mask(mask)
    x = torch.arange(int(mask.sum()) * 2).reshape(-1, 2)
    padded = layout.pad(x)
    assert padded.shape == (*mask.shape, 2)
    assert torch.equal(layout.unpad(padded), x)
    assert (padded[~mask] == 0).all()
    assert layout.lengths == mask.sum(1).tolist()


@given(masks)
def test_a_padded_batch_makes_a_round_trip(mask):
    ids = torch.arange(mask.numel()).reshape(mask.shape)
    batch = Batch.from_padded(ids, mask)
    input_ids, attention_mask = batch.padded()
    assert torch.equal(attention_mask, mask.long())
    assert torch.equal(input_ids, ids * mask)


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=5), st.integers(0, 9))
def test_lists_of_ids_are_padded_with_the_padding_token(lists, pad_id):
    input_ids, attention_mask = Batch.from_lists(lists, pad_id=pad_id).padded()
    for row, kept, ids in zip(input_ids, attention_mask, lists, strict=True):
        assert row.tolist() == ids + [pad_id] * (len(row) - len(ids))
        assert kept.tolist() == [1] * len(ids) + [0] * (len(row) - len(ids))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64, torch.float32])
def test_a_mask_may_have_any_dtype(dtype):
    ids = torch.ones(2, 3, dtype=torch.int32)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).to(dtype)
    assert Batch.from_padded(ids, mask).layout.lengths == [2, 1]


IDS = torch.ones(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (IDS.float(), None, r"torch.float32 of shape \(2, 3\): expected integers"),
        (IDS.bool(), None, "expected integers"),
        (IDS[0], None, r"expected integers of shape \(sequences, length\)"),
        (IDS, IDS[:, :2], r"attention_mask is torch.int64 of shape \(2, 2\): expected the shape of input_ids"),
        (IDS, IDS * 2, r"attention_mask\[0, 0\] is 2: expected 1 at tokens, 0 at padding"),
        (IDS, IDS * -10000.0, r"is -10000.0: expected 1"),
        (IDS, IDS * float("nan"), "is nan: expected 1"),
        (-IDS, None, "a token id is -1"),
        (IDS * 1000, None, "a token id is 1000, but vocab_size is 1000: .* tokens that the model lacks"),
        (
            torch.ones(1, 513, dtype=torch.int64),
            None,
            "a sequence has 513 tokens, but the model has 512 positions",
        ),
        ([[1, 2]], None, "input_ids is list: expected a Batch or a tensor of token ids"),
        (Batch.from_lists([[1]]), IDS, "attention_mask cannot be combined with a Batch"),
        (IDS, [[1, 1, 0]], "attention_mask is list: expected a tensor"),
        (Batch.from_lists([[1000]]), None, "a token id is 1000"),
        (Batch.from_lists([[1] * 513]), None, "a sequence has 513 tokens"),
    ],
)
def test_invalid_model_inputs_are_refused(ids, mask, message):
    config = twins()[0].config
    with pytest.raises(InputError, match=message):
        enter(ids, mask, config)


def test_masked_positions_are_not_checked():
    """Padding may hold any id, and a row may be wider than the model has positions."""
    ids = torch.full((1, 600), -100)
    ids[0, :4] = 7
    mask = (torch.arange(600) < 4).long()[None]
    batch, _ = enter(ids, mask, twins()[0].config)
    assert batch.ids.tolist() == [7] * 4


@pytest.mark.parametrize("ids", [[[1, 2.5]], [1, 2], [["a"]], [[2**70]], [[None]]])
def test_lists_of_other_values_than_ids_are_refused(ids):
    with pytest.raises(InputError, match="token ids"):
        Batch.from_lists(ids)


@given(
    st.lists(st.integers(0, 5), max_size=6).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, 40))))
)
def test_a_subset_is_the_tokens_at_its_indices(case):
    lengths, chosen = case
    layout = Layout.from_lengths(lengths)
    total = sum(lengths)
    indices = torch.tensor(sorted(i for i in chosen if i < total), dtype=torch.int64)
    subset = layout.subset(indices)
    x = torch.arange(total)[:, None]
    assert torch.equal(subset.select(x), x[indices])
    sequence_of = [i for i, length in enumerate(lengths) for _ in range(length)]
    assert subset.lengths == [sum(sequence_of[i] == s for i in indices.tolist()) for s in range(len(lengths))]
    assert torch.equal(subset.unpad(subset.pad(subset.select(x))), x[indices])
    assert len(subset) == len(layout)


def test_first_tokens_are_a_subset():
    layout = Layout.from_lengths([2, 0, 1])
    first, subset = layout.first_tokens(), layout.subset(torch.tensor([0, 2]))
    for name in ("cu_seqlens", "cu_seqlens_cpu", "position_ids", "padded_index", "indices"):
        assert torch.equal(getattr(first, name), getattr(subset, name)), name
    assert (first.width, first.max_seqlen, first.equal) == (subset.width, subset.max_seqlen, subset.equal)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([1, 0], "increasing order"),
        ([1, 1], "increasing order"),
        ([-1, 1], "indices are from -1 to 1: expected indices of tokens"),
        ([1, 3], "indices are from 1 to 3: expected indices of tokens"),
    ],
)
def test_invalid_subset_indices_are_refused(indices, message):
    with pytest.raises(InputError, match=message):
        Layout.from_lengths([1, 2]).subset(torch.tensor(indices))


def test_a_negative_length_is_refused():
    with pytest.raises(InputError, match="expected lengths of at least 0"):
        Layout.from_lengths([1, -1])
