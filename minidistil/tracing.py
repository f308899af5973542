"""Hidden states and attention maps of a run, seen by operations that record what passes through them."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .layout import Batch, Layout
from .model import DistilBertModel, Model


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """What a model saw and thought of one batch of T tokens."""

    layout: Layout
    hidden: list[Tensor]  # layers + 1 of (T, D): after the embeddings, then after each layer
    queries: list[Tensor]  # of each layer, (T, H, d)
    keys: list[Tensor]  # of each layer, (T, H, d)

    def attention(self, layer: int, sequence: int) -> Tensor:
        """Give one layer's attention map of one sequence, each row a softmax: (H, L, L)."""
        for name, index, count in (("layer", layer, len(self.keys)), ("sequence", sequence, len(self.layout))):
            if not 0 <= index < count:
                raise InputError(f"{name} is {index}: there are {count}, counted from 0")
        start, end = self.layout.starts_cpu[sequence : sequence + 2].tolist()
        q, k = (x[layer][start:end].transpose(0, 1) for x in (self.queries, self.keys))  # (H, L, d)
        return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)


@torch.no_grad()
def trace(model: Model, batch: Batch) -> Trace:
    """Run a model's encoder on a batch, with the operations that it uses, and keep what they compute."""
    if not isinstance(batch, Batch):
        raise InputError(f"batch is {type(batch).__name__}: expected a Batch, such as a Tokenizer returns")
    encoder = model if isinstance(model, DistilBertModel) else model.distilbert
    assert isinstance(encoder, DistilBertModel)
    ops = encoder.ops
    record = Trace(batch.layout, [], [], [])
    norms: list[Tensor] = []

    def embed(*args: Any) -> Tensor:
        record.hidden.append(ops.embed(*args))
        return record.hidden[-1]

    def attention(q: Tensor, k: Tensor, *args: Any) -> Tensor:
        record.queries.append(q)
        record.keys.append(k)
        return ops.attention(q, k, *args)

    def add_norm(*args: Any) -> Tensor:
        norms.append(ops.add_norm(*args))
        return norms[-1]

    encoder.with_ops(embed=embed, attention=attention, add_norm=add_norm)(batch)
    record.hidden.extend(norms[1::2])  # a block ends with its second norm
    return record


class _CallableModule(types.ModuleType):
    """`minidistil.trace` is this module's name and its function's: as a module it can be called too."""

    def __call__(self, model: Model, batch: Batch) -> Trace:
        return trace(model, batch)


sys.modules[__name__].__class__ = _CallableModule
