"""Packed batches: token ids of n sequences without padding, and a `Layout` with the sequence boundaries.

This is the only module with padding, masks, value checks and device synchronization. Behind it the model has no
`if` on its input.

Shapes: T tokens of a batch, n sequences, L padded length; Tq tokens of a subset.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .config import DistilBertConfig
from .errors import InputError

L = TypeVar("L", bound="Layout")


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The sequence boundaries of a packed batch: n sequences, T tokens.

    Operations read the tensors, so that one compiled model serves every batch. Python code reads the values on the
    CPU, which never synchronizes with a GPU. A row without tokens is a sequence of length 0.
    """

    cu_seqlens: Tensor  # (n + 1,) int32: sequence i is the tokens from cu_seqlens[i] to cu_seqlens[i + 1]
    cu_seqlens_cpu: Tensor  # (n + 1,) the same values, on the CPU
    position_ids: Tensor  # (T,) int64: position of each token in its padded row
    padded_index: Tensor  # (T,) int64: index of each token among the n * width padded positions
    width: int  # length of a padded row
    max_seqlen: int  # length of the longest sequence
    equal: bool  # whether all sequences have the same length
    lengths: list[int]  # length of each sequence

    @classmethod
    def from_mask(cls, mask: Tensor) -> Layout:
        """Return the layout of a padded batch. mask: (n, L) bool on the CPU, True at tokens, holes allowed."""
        # clone: nonzero returns views of one tensor, on whose shape torch.compile would guard
        rows, positions = (x.clone() for x in mask.nonzero(as_tuple=True))
        return _layout(mask.sum(1).tolist(), rows, positions, mask.shape[1])

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], width: int | None = None) -> Layout:
        """Return the layout of sequences of these lengths. width: of a padded row; None: the longest sequence."""
        if any(length < 0 for length in lengths):
            raise InputError(f"lengths are {list(lengths)}: expected lengths of at least 0")
        sizes = torch.tensor(lengths, dtype=torch.int64)  # (n,)
        rows = torch.repeat_interleave(sizes)  # (T,): the sequence of each token
        position_ids = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes)[rows]
        return _layout(list(lengths), rows, position_ids, max(lengths, default=0) if width is None else width)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.cu_seqlens_cpu) - 1

    def subset(self, indices: Tensor) -> Subset:
        """Return a subset of the tokens. indices: (Tq,) int64 into the packed batch, increasing, on the CPU."""
        if len(indices) and (indices[0] < 0 or indices[-1] >= self.cu_seqlens_cpu[-1]):
            raise InputError(f"indices are from {indices[0]} to {indices[-1]}: expected indices of tokens")
        if not (indices.diff() > 0).all():
            raise InputError("indices must be in increasing order, each at most once")
        rows = torch.bucketize(indices, self.cu_seqlens_cpu[1:].long(), right=True)
        return Subset(**vars(Layout.from_lengths(rows.bincount(minlength=len(self)).tolist())), indices=indices)

    def first_tokens(self) -> Subset:
        """Return the first token of each sequence that has one."""
        rows = torch.tensor([i for i, length in enumerate(self.lengths) if length], dtype=torch.int64)
        first = _layout([min(length, 1) for length in self.lengths], rows, torch.zeros_like(rows), 1)
        return Subset(**vars(first), indices=self.cu_seqlens_cpu[rows].long())

    def to(self: L, device: torch.device | str) -> L:
        """Return the same layout with its tensors, except `cu_seqlens_cpu`, on another device."""
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor) and k != "cu_seqlens_cpu"}
        moved: dict[str, Any] = {name: _move(tensor, device) for name, tensor in tensors.items()}
        return dataclasses.replace(self, **moved)

    def select(self, x: Tensor) -> Tensor:
        """Return the rows of a packed tensor that belong to this layout: all of them."""
        return x

    def pad(self, x: Tensor) -> Tensor:
        """Return packed tokens in padded rows, 0 at padding: (T, ...) -> (n, width, ...)."""
        n = len(self.cu_seqlens) - 1
        padded = x.new_zeros(n * self.width, *x.shape[1:])
        return padded.index_copy_(0, self.padded_index, x).unflatten(0, (n, self.width))

    def unpad(self, padded: Tensor) -> Tensor:
        """Return the tokens of padded rows: (n, width, ...) -> (T, ...)."""
        return padded.flatten(0, 1).index_select(0, self.padded_index)

    def mask(self) -> Tensor:
        """Return the padding mask: (n, width) bool, True at tokens."""
        return self.pad(torch.ones_like(self.padded_index, dtype=torch.bool))


@dataclasses.dataclass(frozen=True, eq=False)
class Subset(Layout):
    """Some tokens of a packed batch: their own layout, and their indices in the batch."""

    indices: Tensor  # (Tq,) int64: index of each token in the whole packed batch

    def select(self, x: Tensor) -> Tensor:
        """Return the rows of the whole packed tensor that belong to this subset: (T, ...) -> (Tq, ...)."""
        return x.index_select(0, self.indices)


def _layout(lengths: list[int], rows: Tensor, position_ids: Tensor, width: int) -> Layout:
    """Return a layout. rows: (T,) int64, the sequence of each token."""
    cu_seqlens = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    max_seqlen, equal = max(lengths, default=0), len(set(lengths)) < 2
    padded_index = rows * width + position_ids
    return Layout(cu_seqlens, cu_seqlens, position_ids, padded_index, width, max_seqlen, equal, lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Packed token ids with their layout: the output of a tokenizer and the input of a model.

    Create one with `from_lists` or `from_padded`, which check every value, on the CPU.
    """

    ids: Tensor  # (T,) int64
    layout: Layout
    first: Subset  # the first token of each sequence, [CLS]
    largest_id: int  # checked against the model's vocab_size
    largest_position: int  # checked against the model's max_position_embeddings
    starts_masked: bool = False  # whether the first position of a non-empty row is masked
    truncated: int = 0  # number of texts that were truncated
    pad_id: int = 0  # value of `padded` ids at padding

    @classmethod
    def from_lists(
        cls, ids: Sequence[Sequence[int]], *, truncated: int = 0, pad_id: int = 0, width: int | None = None
    ) -> Batch:
        """Return a batch of the token ids of n sequences. width: of a padded row; None: the longest sequence.

        Raises InputError for values that are not token ids.
        """
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
        """Return a batch of padded rows, on the device of `input_ids`. Synchronizes with a GPU, once.

        input_ids: (n, L) integers. attention_mask: (n, L), 1 at tokens and 0 at padding, of any dtype; None: all
        are tokens. Raises InputError, which names the argument and the position.
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
            raise InputError(f"attention_mask is on {mask.device}: expected {input_ids.device}, like input_ids")
        kept = (mask == 1).to(torch.int64)
        wrong = ((mask != 0) & (mask != 1)).to(torch.int64)
        ids, kept, wrong = torch.stack([input_ids.to(torch.int64), kept, wrong]).cpu()
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            value = mask[row, column].item()
            raise InputError(f"attention_mask[{row}, {column}] is {value}: expected 1 at tokens, 0 at padding")
        layout = Layout.from_mask(kept.bool())
        return cls._checked(layout.unpad(ids), layout).to(input_ids.device)

    @classmethod
    def _checked(cls, ids: Tensor, layout: Layout, truncated: int = 0, pad_id: int = 0) -> Batch:
        largest_id, largest_position = -1, -1
        if len(ids):
            smallest_id, largest_id = (int(x) for x in ids.aminmax())
            largest_position = int(layout.position_ids.max())
            if smallest_id < 0:
                raise InputError(f"a token id is {smallest_id}: expected ids of at least 0")
        first = layout.first_tokens()
        starts_masked = bool(first.select(layout.position_ids).any())
        return cls(ids, layout, first, largest_id, largest_position, starts_masked, truncated, pad_id)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.layout)

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on a device, without a copy if it is there already."""
        if self.ids.device == torch.device(device):
            return self
        layout, first = self.layout.to(device), self.first.to(device)
        return dataclasses.replace(self, ids=_move(self.ids, device), layout=layout, first=first)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `attention_mask`, both (n, L) int64, as transformers takes them."""
        attention_mask = self.layout.pad(torch.ones_like(self.ids))
        input_ids = self.layout.pad(self.ids - self.pad_id) + self.pad_id
        return input_ids, attention_mask


def enter(
    inputs: Batch | Tensor, attention_mask: Tensor | None, config: DistilBertConfig, **other: Any
) -> tuple[Batch, Callable[[Tensor], Tensor]]:
    """Return a model's arguments as a batch, and the function that restores the shape of per-token results.

    That function is `Layout.pad` for padded arguments, and the identity for a batch. Raises InputError for ids
    beyond the vocabulary and sequences beyond the position embeddings, TypeError for other arguments.
    """
    if other:
        raise TypeError(
            f"unexpected arguments: {', '.join(other)}. A model takes input_ids and attention_mask, and returns a "
            "tensor for a loss; trace() records hidden states; use peft without task_type, or merge_and_unload()"
        )
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined]
        raise InputError("torch.jit.trace and torch.export would be wrong for other lengths: use torch.compile")
    if isinstance(inputs, Batch):
        if attention_mask is not None:
            raise InputError("attention_mask cannot be combined with a Batch: pass it with padded input_ids")
        batch, leave = inputs, lambda x: x
    elif isinstance(inputs, Tensor):
        batch = Batch.from_padded(inputs, attention_mask)
        leave = batch.layout.pad
    else:
        raise InputError(f"input_ids is {type(inputs).__name__}: expected a Batch or a tensor of token ids")
    config.check_ids(batch.largest_id, batch.largest_position)
    return batch, leave


def enter_choices(
    inputs: Batch | Tensor, attention_mask: Tensor | None, config: DistilBertConfig, **other: Any
) -> tuple[Batch, Callable[[Tensor], Tensor]]:
    """Do the same as `enter` for multiple choice, where padded arguments are (n, choices, L).

    The returned function restores the shape of scores: (n * choices,) -> (n, choices); the identity for a batch.
    """
    if not isinstance(inputs, Tensor):
        batch, _ = enter(inputs, attention_mask, config, **other)
        return batch, lambda scores: scores
    for name, tensor in (("input_ids", inputs), ("attention_mask", attention_mask)):
        if isinstance(tensor, Tensor) and (tensor.ndim != 3 or tensor.shape != inputs.shape):
            raise InputError(f"{name} is {_describe(tensor)}: expected the shape (questions, choices, length)")
    if isinstance(attention_mask, Tensor):
        attention_mask = attention_mask.flatten(0, 1)
    batch, _ = enter(inputs.flatten(0, 1), attention_mask, config, **other)
    return batch, lambda scores: scores.unflatten(0, inputs.shape[:2])


def first_tokens(batch: Batch) -> Subset:
    """Return the first token of each sequence, [CLS]. Raises InputError where a row starts with padding."""
    if batch.starts_masked:
        raise InputError(
            "the first position of a row is masked, but a sequence head reads [CLS] there: pad on the right"
        )
    return batch.first


def _move(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to a device: asynchronously to a GPU, but not to the CPU, where the values are read at once."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
