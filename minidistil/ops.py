"""The operations of a DistilBERT in plain PyTorch, and `Ops`, which holds one implementation of each.

An operation is a function of tensors and of the `nn.Linear` modules that it reads. To replace one, pass another
function: `model.with_ops(attention=mine)` or `from_pretrained(..., ops=Ops(attention=mine))`.

Shapes: T tokens, D model width, F feed-forward width, K and N input and output width of a linear layer, H heads,
d head width, n sequences, L padded length; Tq and Lq for queries, which may be fewer than keys.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError
from .layout import Layout


def embed(
    ids: Tensor, position_ids: Tensor, word: Tensor, position: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """LayerNorm(word[ids] + position[position_ids]): (T,), (T,) -> (T, D)."""
    x = F.embedding(ids, word) + F.embedding(position_ids, position)  # (T, D)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def qkv(x: Tensor, q_lin: nn.Linear, k_lin: nn.Linear, v_lin: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
    """Project each token to query, key and value: (T, D) -> three of (T, D)."""
    return q_lin(x), k_lin(x), v_lin(x)


def attention(q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √d) v within each sequence: (Tq, H, d), (T, H, d), (T, H, d) -> (Tq, H, d).

    Sequence i of the queries attends to sequence i of the keys. Attention Is All You Need, section 3.2.
    """
    if not torch.compiler.is_compiling() and (q.is_cpu or (queries.equal and keys.equal)):
        return attention_by_length(q, k, v, queries, keys, dropout_p)  # the same result, without padding
    q = queries.pad(q).transpose(1, 2)  # (n, H, Lq, d)
    k = keys.pad(k).transpose(1, 2)  # (n, H, L, d)
    v = keys.pad(v).transpose(1, 2)  # (n, H, L, d)
    mask = keys.mask()[:, None, None, :]  # (n, 1, 1, L)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)  # (n, H, Lq, d)
    return queries.unpad(out.transpose(1, 2))


def linear(x: Tensor, lin: nn.Linear) -> Tensor:
    """x Wᵀ + b: (T, K) -> (T, N)."""
    return lin(x)


def linear_gelu(x: Tensor, lin: nn.Linear) -> Tensor:
    """GELU(x Wᵀ + b), exact (erf): (T, K) -> (T, N)."""
    return F.gelu(lin(x))


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm(x + residual): (T, D), (T, D) -> (T, D)."""
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


# Two larger operations. By default they call the smaller ones; a fused kernel can replace them.


def feed_forward(x: Tensor, lin1: nn.Linear, lin2: nn.Linear, *, ops: Ops) -> Tensor:
    """Apply two linear layers with GELU between them: (T, D) -> (T, F) -> (T, D)."""
    return ops.linear(ops.linear_gelu(x, lin1), lin2)


def block(x: Tensor, module: nn.Module, *, layout: Layout, queries: Layout, ops: Ops) -> Tensor:
    """Run one transformer block, `model.Block`: (T, D) -> (Tq, D)."""
    return module(x, layout, queries, ops)


def attention_by_length(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """Compute `attention` with one dense call per run of sequences of equal length: no padding, no mask.

    Fastest on CPU. On CUDA it is used where all lengths are equal, since SDPA's flash kernel takes no mask.
    """
    runs = itertools.groupby(zip(queries.lengths, keys.lengths, strict=True))
    shapes = [(len(list(run)), *lengths) for lengths, run in runs]  # (n, Lq, L) of each run
    if len(shapes) == 1:
        return _dense(shapes[0], q, k, v, dropout_p)
    q_runs = q.split([n * length_q for n, length_q, _ in shapes])
    k_runs = k.split([n * length_k for n, _, length_k in shapes])
    v_runs = v.split([n * length_k for n, _, length_k in shapes])
    outputs = [_dense(*run, dropout_p) for run in zip(shapes, q_runs, k_runs, v_runs, strict=True)]
    return torch.cat([q[:0], *outputs])  # q[:0]: a batch may have no sequences


def _dense(shape: tuple[int, int, int], q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    n, length_q, length_k = shape
    q = q.view(n, length_q, *q.shape[1:]).transpose(1, 2)  # (n, H, Lq, d)
    k = k.view(n, length_k, *k.shape[1:]).transpose(1, 2)  # (n, H, L, d)
    v = v.view(n, length_k, *v.shape[1:]).transpose(1, 2)  # (n, H, L, d)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)  # (n, H, Lq, d)
    return out.transpose(1, 2).flatten(0, 1)


PARTS = {  # the operations that the default of a larger one calls
    "feed_forward": {"linear", "linear_gelu"},
    "block": {"qkv", "attention", "linear", "linear_gelu", "add_norm", "feed_forward"},
}


@dataclasses.dataclass(frozen=True)
class Ops:
    """One implementation of each operation; by default the functions of this module.

    An operation may have an attribute `live`. False means that it computes with a copy of the weights, such as
    prepacked ones: no gradient reaches the weights, so the model runs it only in eval mode, without autograd.
    """

    embed: Callable[..., Tensor] = embed
    qkv: Callable[..., tuple[Tensor, ...]] = qkv
    attention: Callable[..., Tensor] = attention
    linear: Callable[..., Tensor] = linear
    linear_gelu: Callable[..., Tensor] = linear_gelu
    add_norm: Callable[..., Tensor] = add_norm
    feed_forward: Callable[..., Tensor] = feed_forward
    block: Callable[..., Tensor] = block

    @property
    def live(self) -> bool:
        """Whether every operation reads the weights themselves."""
        return all(getattr(op, "live", True) for op in vars(self).values())

    def replace(self, **changes: Any) -> Ops:
        """Return a copy with some operations replaced.

        Raises TypeError for an unknown name, and InputError for a part of an operation that is already replaced.
        """
        for whole, parts in PARTS.items():
            ignored = sorted(parts & changes.keys())
            if ignored and whole not in changes and getattr(self, whole) is not getattr(Ops, whole):
                raise InputError(
                    f"{whole} is already replaced as a whole and would not call {ignored[0]}: "
                    f"pass {whole}=minidistil.ops.{whole} too"
                )
        return dataclasses.replace(self, **changes)
