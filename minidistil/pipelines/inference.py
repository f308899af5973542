"""The model behind a pipeline: sequences of token ids → NumPy arrays, in batches bounded by tokens.

Only this module and pooling.py import torch; the other modules of the pipelines use NumPy.

Shapes: T tokens of a batch, n sequences, L length of one, D model width, C labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..backends import onednn, processor
from ..backends.prepared import PreparationError
from ..batching import batch_by_size, filler_lengths, with_filler
from ..checkpoint.architectures import class_for_task
from ..checkpoint.files import Files
from ..checkpoint.load import from_pretrained, parse_device
from ..errors import InputError
from ..layout import Batch, enter
from ..model import Model
from .base import Ids, check_finite
from .pooling import pool
from .scores import Array

TOKENS = 2048  # maximum tokens of a batch of several sequences, without filler
CUDA_TOKENS = 4096  # on CUDA; on CPU, malloc would return results of this size to the system in every batch

Rows: TypeAlias = tuple[Tensor, Sequence[int]]  # rows of all sequences, concatenated; number of rows of each


def sequence_logits(model: Any, batch: Batch) -> Rows:
    """Return one row per sequence: (n, C)."""
    return model(batch.to(model.device)), [1] * len(batch)


def token_logits(model: Any, batch: Batch) -> Rows:
    """Return one row per token: (T, C), or (T, D) from an encoder."""
    return model(batch.to(model.device)), batch.layout.lengths


def span_logits(model: Any, batch: Batch) -> Rows:
    """Return the logits of an answer's start and end at each token: (T, 2)."""
    return torch.stack(model(batch.to(model.device)), dim=1), batch.layout.lengths


def masked_logits(model: Any, batch: Batch, mask_id: int) -> Rows:
    """Return one row per masked token: (masks, V). The last block and the head compute no other token."""
    masks = batch.layout.subset((batch.ids == mask_id).nonzero().flatten())
    return model(batch.to(model.device), tokens=masks.to(model.device)), masks.lengths


def pooled(model: Any, batch: Batch, modes: tuple[str, ...], skip: int = 0) -> Rows:
    """Return poolings of each sequence's hidden states after the first `skip`, in float32: (n, modes * D)."""
    batch = batch.to(model.device)
    if modes == ("cls",) and not skip:  # the last block computes no other token
        batch, _ = enter(batch, None, model.config)
        return batch.first.pad(model.encode(batch, batch.first)).flatten(0, 1), [1] * len(batch)
    states, mask = batch.layout.pad(model(batch).float()), batch.layout.mask()  # (n, L, D), (n, L)
    mask[:, :skip] = False
    return pool(states, mask, modes), [1] * len(batch)


OUTPUTS: dict[str, Callable[..., Rows]] = {
    function.__name__: function for function in (sequence_logits, token_logits, span_logits, masked_logits, pooled)
}


class Engine:
    """Runs a model for a pipeline, in eval mode."""

    def __init__(self, model: Model, task: str, *, prepack: bool = False):
        """Wrap a model. prepack: allow prepacked weights; only for a model that no other code trains."""
        expected = class_for_task(task)
        if not isinstance(model, expected):
            raise InputError(f"{task} requires a {expected.__name__}, found {type(model).__name__}")
        self.model: Model = model.eval()
        self.config = model.config
        self.prepack = prepack
        self.plain_batches = 1  # first batches without prepacked weights: for one batch, packing costs more
        self._batches = 0
        self._prepacked = onednn.prepacked()

    @classmethod
    def load(cls, files: Files, task: str, dtype: str | torch.dtype | None, device: torch.device) -> Engine:
        """Load the model that a task needs. dtype: "auto" on CPU is the dtype that is fastest there."""
        if dtype == "auto" and device.type == "cpu":
            dtype = processor.fastest_dtype()
        return cls(from_pretrained(files, task=task, dtype=dtype, device=device), task, prepack=True)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the model computes."""
        return self.model.dtype

    def __repr__(self) -> str:
        """Return the class of the model, its dtype and device."""
        name = str(self.dtype).removeprefix("torch.")
        return f"Engine({type(self.model).__name__}, dtype={name}, device={self.device})"

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of the model into a folder."""
        self.model.save_pretrained(folder)

    def hand_over(self) -> Model:
        """Return the model, and free its prepacked weights: not every change, such as to `.data`, is noticed."""
        self.prepack, self._prepacked = False, {}
        return self.model

    def run(
        self, output: str, sequences: Sequence[Ids], batch_size: int | None = None, **options: Any
    ) -> list[Array]:
        """Return an output in `OUTPUTS` for each sequence of token ids, (rows, columns) in float32.

        Equal sequences are computed once, so their scores are identical. Raises CheckpointError for nan and inf.
        """
        distinct = list(dict.fromkeys(sequences))
        results: dict[Ids, Array] = {}
        cuda = self.device.type == "cuda"
        lengths = [len(sequence) for sequence in distinct]
        by_length = sorted(range(len(distinct)), key=lengths.__getitem__)
        max_tokens = CUDA_TOKENS if cuda else TOKENS
        for group in batch_by_size(lengths, by_length, max_tokens=max_tokens, max_sequences=batch_size, even=True):
            filler = [] if cuda else filler_lengths([lengths[i] for i in group])
            batch = Batch.from_lists(with_filler([distinct[i] for i in group], filler))
            with torch.inference_mode():
                rows, counts = self._rows(output, batch, options)
                counts = counts[: len(group)]
                values = rows[: sum(counts)].float().cpu()  # the one synchronization per batch
            check_finite(bool(values.isfinite().all()), self.model.dtype)
            array, start = values.numpy(), 0
            for i, count in zip(group, counts, strict=True):
                results[distinct[i]] = array[start : start + count]
                start += count
        return [results[sequence] for sequence in sequences]

    def _rows(self, output: str, batch: Batch, options: dict[str, Any]) -> Rows:
        """Run the model, over prepacked weights after the first batches."""
        model, function = self.model, OUTPUTS[output]
        self._batches += 1
        if (
            self.prepack
            and self._batches > self.plain_batches
            and not model.training
            and onednn.prepackable(model.ops)
            and onednn.works(model.device, model.dtype)
        ):
            try:
                return function(model.with_ops(**self._prepacked), batch, **options)
            except PreparationError:
                pass  # hooks and adapters, which the default operations run
        return function(model, batch, **options)


def choose_device(device: str | int | torch.device | None) -> torch.device:
    """Return the device for an argument of `pipeline`; None: CUDA if there is one, else the CPU."""
    return parse_device("auto" if device is None else device)
