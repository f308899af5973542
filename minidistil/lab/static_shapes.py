"""Fixed-size batches, for CUDA graphs and for models compiled with static shapes.

A kernel launch takes microseconds, and a small batch on a large GPU takes little longer than its launches. A CUDA
graph records all launches of a call once and replays them together, on the same memory. So every call must have
the same shapes: a `Budget` adds filler sequences to each batch, up to a fixed number of tokens and sequences.

    classify = Budget(model, tokens=2048, sequences=64)
    logits = classify(tokenizer.encode(texts).ids)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..batching import split_evenly, with_filler
from ..checks import is_int
from ..errors import InputError
from ..heads import DistilBertForSequenceClassification
from ..layout import Batch, enter

WARM_UP_CALLS = 3  # before recording, to select and compile kernels


class Budget:
    """A classifier for batches of a fixed size. On CUDA the first call records a CUDA graph."""

    def __init__(
        self,
        model: DistilBertForSequenceClassification,
        *,
        tokens: int,
        sequences: int,
        longest: int = 128,
        compiled: bool = False,
    ):
        """Set the model and the batch size.

        Args:
            tokens: maximum number of tokens per batch.
            sequences: maximum number of sequences per batch.
            longest: maximum number of tokens per sequence, at least 2.
            compiled: compile the model for this size with torch.compile.

        Raises InputError for a model of another class, and for a size that is not an integer or too small.
        """
        if not isinstance(model, DistilBertForSequenceClassification):
            raise InputError(f"model is {type(model).__name__}: expected a DistilBertForSequenceClassification")
        for name, count, least in (("tokens", tokens, 1), ("sequences", sequences, 1), ("longest", longest, 2)):
            if not is_int(count) or count < least:
                raise InputError(f"{name} is {count!r}: expected an integer of at least {least}")
        self.model, self.max_sequences, self.max_tokens, self.longest = model, sequences, tokens, longest
        # enough filler sequences for a batch of one token, and at least one token per sequence
        self.sequences = sequences + math.ceil(tokens / (longest - 1))
        self.tokens = tokens + self.sequences
        self.call: Callable[[Batch], Tensor] = torch.compile(model, fullgraph=True) if compiled else model
        self.recorded: tuple[torch.cuda.CUDAGraph, Batch, Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits of sequences of token ids: (n, C). Raises InputError if they exceed the size."""
        batch = self.fill(ids)
        if self.model.device.type != "cuda":
            return self.call(batch)[: len(ids)]
        if self.recorded is None:
            self.recorded = self._record(batch.to(self.model.device))
        graph, inputs, logits = self.recorded
        for recorded, x in zip(_tensors(inputs), _tensors(batch), strict=True):
            recorded.copy_(x, non_blocking=True)
        graph.replay()
        return logits[: len(ids)].clone()

    def fill(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Return a batch of the fixed size: the sequences, then filler sequences of token 0."""
        lengths = [len(sequence) for sequence in ids]
        count, total = len(lengths), sum(lengths)
        fits = count <= self.max_sequences and total <= self.max_tokens
        if not fits or not all(0 < length <= self.longest for length in lengths):
            raise InputError(
                f"{count} sequences with {total} tokens, of lengths {lengths}, exceed the batch size: expected at "
                f"most {self.max_sequences} sequences and {self.max_tokens} tokens, 1 to {self.longest} each"
            )
        filler = split_evenly(self.tokens - total, self.sequences - count)
        batch = Batch.from_lists(with_filler(ids, filler), width=self.longest)
        enter(batch, None, self.model.config)  # checks the largest id and position, which are reset below
        # Python values must not differ between batches: a graph does not run Python
        layout = dataclasses.replace(batch.layout, max_seqlen=self.longest, equal=False)
        return dataclasses.replace(batch, layout=layout, largest_id=0, largest_position=0)

    def _record(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, Tensor]:
        """Record a call on this batch's memory, after warm-up calls on a side stream, as PyTorch requires."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self.call(batch)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self.call(batch)
        return graph, batch, logits


def _tensors(batch: Batch) -> list[Tensor]:
    """Return the tensors whose values differ between batches of the same size."""
    layout = batch.layout
    return [batch.ids, layout.cu_seqlens, layout.position_ids, layout.padded_index, batch.first.indices]
