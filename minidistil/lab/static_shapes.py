"""One size for all batches: what a CUDA graph and a compiled model of fixed shapes ask for.

A kernel's launch costs microseconds, whatever it does, and a small batch on a large GPU is little else. A CUDA
graph records all launches of a call once, and replays them as one, over the same memory: so every call must be of
one size. A `Budget` fills each batch up to it: so many tokens, in so many sequences, of so many tokens at most.

    classify = Budget(model, tokens=2048, sequences=64)
    logits = classify(tokenizer(texts).ids)
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
from ..layout import Batch, enter
from ..model import DistilBertForSequenceClassification

WARM = 3  # calls before the recording, in which kernels are chosen and compiled


class Budget:
    """A classifier for batches that are filled up to one size: on CUDA a graph, recorded at the first call."""

    def __init__(
        self,
        model: DistilBertForSequenceClassification,
        *,
        tokens: int,
        sequences: int,
        longest: int = 128,
        compiled: bool = False,
    ):
        """Take a classifier and its batches' size. compiled: by torch.compile, for these shapes alone.

        tokens, sequences: the most of a batch. longest: the most tokens of one, 2 or more. `InputError` for
        another model, and for what is no count.
        """
        if not isinstance(model, DistilBertForSequenceClassification):
            raise InputError(f"model is {type(model).__name__}: expected a DistilBertForSequenceClassification")
        for name, count, least in (("tokens", tokens, 1), ("sequences", sequences, 1), ("longest", longest, 2)):
            if not is_int(count) or count < least:
                raise InputError(f"{name} is {count!r}: expected an integer of at least {least}")
        self.model, self.most, self.longest = model, (sequences, tokens), longest
        # so many sequences more hold whatever a batch lacks, and each of all has a token of its own
        self.sequences = sequences + math.ceil(tokens / (longest - 1))
        self.tokens = tokens + self.sequences
        self.call: Callable[[Batch], Tensor] = torch.compile(model, fullgraph=True) if compiled else model
        self.recorded: tuple[torch.cuda.CUDAGraph, Batch, Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Classify sequences of token ids: (n, C). `InputError` where they do not fit."""
        batch = self.fill(ids)
        if self.model.device.type != "cuda":
            return self.call(batch)[: len(ids)]
        if self.recorded is None:
            self.recorded = self._record(batch.to(self.model.device))
        graph, place, out = self.recorded
        for kept, given in zip(_tensors(place), _tensors(batch), strict=True):
            kept.copy_(given, non_blocking=True)
        graph.replay()
        return out[: len(ids)].clone()

    def fill(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Give a batch of the one size: these sequences, and behind them others of token 0."""
        lengths = [len(sequence) for sequence in ids]
        sizes, most = (len(lengths), sum(lengths)), self.most
        if sizes[0] > most[0] or sizes[1] > most[1] or not all(0 < length <= self.longest for length in lengths):
            raise InputError(
                f"{sizes[0]} sequences of {sizes[1]} tokens, lengths {lengths}, do not fit: expected at most "
                f"{most[0]} of {most[1]} tokens, 1 to {self.longest} each"
            )
        more, left = self.sequences - sizes[0], self.tokens - sizes[1]
        batch = Batch.from_lists(with_filler(ids, split_evenly(left, more)), width=self.longest)
        enter(batch, None, self.model.config)  # which looks at what is lost below
        # what Python code sees is the same for all batches: a graph has no Python in it
        layout = dataclasses.replace(batch.layout, longest=self.longest, equal=False)
        return dataclasses.replace(batch, layout=layout, largest_id=0, largest_position=0)

    def _record(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, Tensor]:
        """Record a call over this batch's memory, on a stream of its own, as PyTorch asks for."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                self.call(batch)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.call(batch)
        return graph, batch, out


def _tensors(batch: Batch) -> list[Tensor]:
    """Give what differs between batches of one size; of the layout of first tokens only where they lie does."""
    layout = batch.layout
    assert layout.first is not None
    assert layout.first.picks is not None
    return [batch.ids, layout.starts, layout.positions, layout.slots, layout.first.picks]
