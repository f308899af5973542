"""Hidden states and attention maps of one run, recorded by operations that wrap those of the model."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .layout import Batch, Layout
from .model import DistilBertModel, Model


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Hidden states, queries and keys of one batch of T tokens."""

    layout: Layout
    hidden: list[Tensor]  # layers + 1 of (T, D): after the embeddings, then after each layer
    queries: list[Tensor]  # of each layer, (T, H, d)
    keys: list[Tensor]  # of each layer, (T, H, d)

    def attention(self, layer: int, sequence: int) -> Tensor:
        """Return the attention probabilities of one layer for one sequence; rows sum to 1: (H, L, L)."""
        for name, index, count in (("layer", layer, len(self.keys)), ("sequence", sequence, len(self.layout))):
            if not 0 <= index < count:
                raise InputError(f"{name} is {index}: expected 0 to {count - 1}")
        start, end = self.layout.cu_seqlens_cpu[sequence : sequence + 2].tolist()
        q, k = (x[layer][start:end].transpose(0, 1) for x in (self.queries, self.keys))  # (H, L, d)
        return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)


@torch.no_grad()
def trace(model: Model, batch: Batch) -> Trace:
    """Run a model's encoder on a batch, and record its hidden states, queries and keys."""
    if not isinstance(batch, Batch):
        raise InputError(f"batch is {type(batch).__name__}: expected a Batch, as a Tokenizer returns")
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
