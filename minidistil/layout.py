"""The door: padded tensors and masks on one side, one flat list of tokens on the other.

Every value check and every wait for a device is here. Behind it tokens lie end to end, without padding,
and a `Layout` says where each sequence begins and ends.

Letters in shapes: T tokens of a batch, n sequences, L padded length, D width of the model.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .config import DistilBertConfig
from .errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Where each of n sequences lies in a flat list of T tokens.

    Everything that an operation may need is a tensor, so that a compiled model serves every batch; what
    Python code may need lies on the CPU, so that asking never waits for a GPU. A row without any real
    token is a sequence of length 0.
    """

    starts: Tensor  # (n + 1,) int32: sequence i is the tokens from starts[i] to starts[i + 1]; "cu_seqlens"
    starts_cpu: Tensor  # (n + 1,) the same, always on the CPU
    positions: Tensor  # (T,) int64: each token's place in its row, counted from the row's left edge
    slots: Tensor  # (T,) int64: each token's place among n * width padded ones
    width: int  # how long a padded row is
    longest: int  # how long the longest sequence is
    equal: bool  # whether all sequences have one length
    first: Layout | None = None  # the layout of the first tokens alone
    picks: Tensor | None = None  # in such a layout: (T,) int64, where those tokens lie in the whole list

    @classmethod
    def from_mask(cls, mask: Tensor) -> Layout:
        """Make the layout of a padded batch. mask: (n, L) bool on the CPU, True at real tokens, holes allowed."""
        # cloned: they are views of one tensor, and a compiled model would be guarded by its shape
        rows, positions = (x.clone() for x in mask.nonzero(as_tuple=True))
        return cls._build(mask.sum(1).tolist(), rows, positions, mask.shape[1])

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], width: int | None = None) -> Layout:
        """Make the layout of sequences of these lengths, laid end to end. width: of a row; None: the longest's."""
        if any(length < 0 for length in lengths):
            raise InputError(f"lengths are {list(lengths)}: none can be below 0")
        sizes = torch.tensor(lengths, dtype=torch.int64)  # (n,)
        rows = torch.repeat_interleave(sizes)  # (T,): which sequence each token is of
        positions = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes)[rows]
        return cls._build(list(lengths), rows, positions, max(lengths, default=0) if width is None else width)

    @classmethod
    def _build(cls, lengths: list[int], rows: Tensor, positions: Tensor, width: int) -> Layout:
        starts = _starts(lengths)
        there = [min(length, 1) for length in lengths]  # a first token, or none
        filled = torch.tensor([i for i, one in enumerate(there) if one], dtype=torch.int64)
        one, zeros, picks = _starts(there), torch.zeros_like(filled), starts[filled].long()
        first = cls(one, one, zeros, filled, 1, max(there, default=0), len(set(there)) < 2, picks=picks)
        slots, longest, equal = rows * width + positions, max(lengths, default=0), len(set(lengths)) < 2
        return cls(starts, starts, positions, slots, width, longest, equal, first)

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self.starts_cpu) - 1

    @functools.cached_property
    def lengths(self) -> list[int]:
        """The length of each sequence."""
        return self.starts_cpu.diff().tolist()

    def to(self, device: torch.device | str) -> Layout:
        """Give the same layout with its tensors, but for `starts_cpu`, on another device."""
        moved: dict[str, Any] = {
            "starts": _move(self.starts, device),
            "positions": _move(self.positions, device),
            "slots": _move(self.slots, device),
            "first": None if self.first is None else self.first.to(device),
            "picks": None if self.picks is None else _move(self.picks, device),
        }
        return dataclasses.replace(self, **moved)

    def pick(self, x: Tensor) -> Tensor:
        """Take this layout's tokens out of the whole list: all of them, or the first of each sequence."""
        return x if self.picks is None else x.index_select(0, self.picks)

    def pad(self, x: Tensor) -> Tensor:
        """Lay flat tokens out in rows, 0 where there is none: (T, ...) -> (n, width, ...)."""
        n = len(self.starts) - 1
        padded = x.new_zeros(n * self.width, *x.shape[1:])
        return padded.index_copy_(0, self.slots, x).unflatten(0, (n, self.width))

    def unpad(self, padded: Tensor) -> Tensor:
        """Take the real tokens out of padded rows: (n, width, ...) -> (T, ...)."""
        return padded.flatten(0, 1).index_select(0, self.slots)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Token ids laid end to end, with their layout; what a tokenizer returns and a model takes.

    Made by `from_lists` or `from_padded`, which check every value, on the CPU.
    """

    ids: Tensor  # (T,) int64
    layout: Layout
    largest_id: int  # what the model's vocabulary must have
    largest_position: int  # what its position table must have
    starts_masked: bool = False  # whether a row that is not empty has its first position masked
    truncated: int = 0  # how many texts lost their end to fit
    pad_id: int = 0  # what `padded` fills up with

    @classmethod
    def from_lists(
        cls, ids: Sequence[Sequence[int]], *, truncated: int = 0, pad_id: int = 0, width: int | None = None
    ) -> Batch:
        """Make a batch of the token ids of n sequences. width: of a padded row; None: the longest sequence's."""
        try:
            flat = [i for sequence in ids for i in sequence]
            tensor = torch.tensor(flat, dtype=None if flat else torch.int64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"expected a list of token ids for each sequence: {error}") from error
        if tensor.dtype != torch.int64:
            raise InputError(f"token ids are {tensor.dtype}: expected integers")
        layout = Layout.from_lengths([len(sequence) for sequence in ids], width)
        return cls._checked(tensor, layout, truncated, pad_id)

    @classmethod
    def from_padded(cls, input_ids: Tensor, attention_mask: Tensor | None = None) -> Batch:
        """Make a batch of padded rows, on the device of `input_ids`. This is where a GPU is waited for, once.

        input_ids: (n, L) integers. attention_mask: (n, L) of 1 at real tokens and 0 at padding, of any
        type; None: all are real. `InputError` says what is wrong and where.
        """
        if input_ids.ndim != 2 or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
            raise InputError(
                f"input_ids is {_describe(input_ids)}: expected integers of shape (sequences, length)"
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if not isinstance(mask, Tensor):
            raise InputError(f"attention_mask is {type(mask).__name__}: expected a tensor")
        if mask.shape != input_ids.shape:
            raise InputError(
                f"attention_mask is {_describe(mask)}: expected the shape of input_ids, {tuple(input_ids.shape)}"
            )
        if mask.device != input_ids.device:
            raise InputError(f"attention_mask is on {mask.device} but input_ids on {input_ids.device}")
        kept = (mask == 1).to(torch.int64)
        wrong = ((mask != 0) & (mask != 1)).to(torch.int64)
        ids, kept, wrong = torch.stack([input_ids.to(torch.int64), kept, wrong]).cpu()
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            value = mask[row, column].item()
            raise InputError(f"attention_mask[{row}, {column}] is {value}: expected 1 for a token, 0 for padding")
        layout = Layout.from_mask(kept.bool())
        return cls._checked(layout.unpad(ids), layout).to(input_ids.device)

    @classmethod
    def _checked(cls, ids: Tensor, layout: Layout, truncated: int = 0, pad_id: int = 0) -> Batch:
        largest_id, largest_position = -1, -1
        if len(ids):
            smallest_id, largest_id = (int(found) for found in ids.aminmax())
            largest_position = int(layout.positions.max())
            if smallest_id < 0:
                raise InputError(f"a token id is {smallest_id}: ids are 0 or more")
        starts_masked = layout.first is not None and bool(layout.first.pick(layout.positions).any())
        return cls(ids, layout, largest_id, largest_position, starts_masked, truncated, pad_id)

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self.layout)

    def to(self, device: torch.device | str) -> Batch:
        """Give the same batch on another device."""
        return dataclasses.replace(self, ids=_move(self.ids, device), layout=self.layout.to(device))

    def padded(self) -> tuple[Tensor, Tensor]:
        """Give `input_ids` and `attention_mask`, both (n, L) int64, as transformers takes them."""
        attention_mask = self.layout.pad(torch.ones_like(self.ids))
        input_ids = self.layout.pad(self.ids - self.pad_id) + self.pad_id
        return input_ids, attention_mask


def enter(
    inputs: Batch | Tensor, attention_mask: Tensor | None, config: DistilBertConfig
) -> tuple[Batch, Callable[[Tensor], Tensor]]:
    """Take a model's arguments in: a batch that the model can read, and how to give its tokens back.

    The second value is `Layout.pad` for padded arguments, and does nothing for a batch.
    """
    if isinstance(inputs, Batch):
        if attention_mask is not None:
            raise InputError("attention_mask goes with padded input_ids: a Batch has none to mask")
        batch, leave = inputs, lambda x: x
    elif isinstance(inputs, Tensor):
        batch = Batch.from_padded(inputs, attention_mask)
        leave = batch.layout.pad
    else:
        raise InputError(f"expected a Batch or a tensor of token ids, found {type(inputs).__name__}")
    if batch.largest_id >= config.vocab_size:
        raise InputError(
            f"a token id is {batch.largest_id}, beyond the model's vocabulary of {config.vocab_size}: "
            "is this the model's own tokenizer?"
        )
    if batch.largest_position >= config.max_position_embeddings:
        raise InputError(
            f"a sequence is {batch.largest_position + 1} tokens long: the model has positions for "
            f"{config.max_position_embeddings}; cut it, for example with max_length="
        )
    return batch, leave


def enter_choices(
    inputs: Batch | Tensor, attention_mask: Tensor | None, config: DistilBertConfig
) -> tuple[Batch, Callable[[Tensor], Tensor]]:
    """Take a multiple-choice model's arguments in: padded ones are (n, choices, L), each choice a sequence.

    The second value gives scores their shape: (n * choices,) -> (n, choices), or does nothing for a batch.
    """
    if not isinstance(inputs, Tensor):
        batch, _ = enter(inputs, attention_mask, config)
        return batch, lambda scores: scores
    for name, tensor in (("input_ids", inputs), ("attention_mask", attention_mask)):
        if isinstance(tensor, Tensor) and (tensor.ndim != 3 or tensor.shape != inputs.shape):
            raise InputError(f"{name} is {_describe(tensor)}: expected the shape (questions, choices, length)")
    if isinstance(attention_mask, Tensor):
        attention_mask = attention_mask.flatten(0, 1)
    batch, _ = enter(inputs.flatten(0, 1), attention_mask, config)
    return batch, lambda scores: scores.unflatten(0, inputs.shape[:2])


def first_tokens(batch: Batch) -> Layout:
    """Give the layout of the first tokens, which a sequence head reads: [CLS]."""
    if batch.starts_masked:
        raise InputError("a row starts with a masked position, but [CLS] must come first: pad on the right")
    assert batch.layout.first is not None  # only the layout of first tokens itself has none
    return batch.layout.first


def _starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def _move(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to a device without waiting for it; to the CPU with waiting, or the values would not be there yet."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
