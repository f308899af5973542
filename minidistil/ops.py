"""The six operations that a DistilBERT is made of, in plain PyTorch, and `Ops`, which holds one set of them.

An implementation is a value: hand another one in with `model.with_ops(attention=mine)`, or with
`from_pretrained(..., ops=...)`. The model knows nothing else about it.

Letters in shapes: T tokens, D width of the model, K and N a product's input and output width, H heads,
d width of a head, n sequences, L their length, Tq and Lq those of the queries where they are fewer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layout import Layout


def embed(
    ids: Tensor, positions: Tensor, word: Tensor, position: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Look up each token and its position, add, and normalise: (T,), (T,) -> (T, D)."""
    x = F.embedding(ids, word) + F.embedding(positions, position)  # (T, D)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm(x + residual), over the width: (T, D), (T, D) -> (T, D)."""
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


class Product(NamedTuple):
    """A linear layer's product with its weights: `prepare` them once, `run` often.

    A product whose state is the modules themselves is live: it can be trained, moved, loaded and adapted. One
    that packs, fuses or quantises holds a copy, and a model that uses it refuses what would leave it behind.
    """

    prepare: Callable[..., Any]  # the nn.Linear, or three of them -> state
    run: Callable[..., Any]  # (T, K), state -> (T, N), or three of these
    live: bool = False


def _modules(*lins: nn.Linear) -> tuple[nn.Linear, ...]:
    """Plain PyTorch prepares nothing: its state is the layers themselves."""
    return lins


def _linear(x: Tensor, lins: tuple[nn.Linear, ...]) -> Tensor:
    (lin,) = lins
    return lin(x)


def _linear_gelu(x: Tensor, lins: tuple[nn.Linear, ...]) -> Tensor:
    return F.gelu(_linear(x, lins))  # the exact form, with erf


def _qkv(x: Tensor, lins: tuple[nn.Linear, ...]) -> tuple[Tensor, ...]:
    return tuple(lin(x) for lin in lins)


qkv = Product(_modules, _qkv, live=True)
linear = Product(_modules, _linear, live=True)
linear_gelu = Product(_modules, _linear_gelu, live=True)


def attention(q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √d) v inside each sequence: (Tq, H, d), two of (T, H, d) -> (Tq, H, d).

    Sequence i's queries see sequence i's keys, and nothing else; there may be fewer queries than keys
    (a classifier's last layer asks for its first tokens only). Attention Is All You Need, section 3.2.
    """
    # one kernel for each length is what a CPU likes best; a GPU wants few, and a compiled graph one of a kind
    dense = q.is_cpu or (queries.equal and keys.equal)
    if dense and not torch.compiler.is_compiling():
        return attention_dense(q, k, v, queries, keys, dropout_p)
    return attention_padded(q, k, v, queries, keys, dropout_p)


def attention_dense(q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float) -> Tensor:
    """Attend to neighbouring sequences of one length as to a dense batch: no padding, no mask.

    On a CPU nothing is faster than to ask for no work; on CUDA this reaches the flash kernel.
    """
    groups = itertools.groupby(zip(queries.lengths, keys.lengths, strict=True))
    shapes = [(len(list(group)), *lengths) for lengths, group in groups]  # of (n, Lq, L)
    if len(shapes) == 1:
        return _dense(shapes[0], q, k, v, dropout_p)
    of_q = q.split([n * length_q for n, length_q, _ in shapes])
    of_k = k.split([n * length_k for n, _, length_k in shapes])
    of_v = v.split([n * length_k for n, _, length_k in shapes])
    outputs = [_dense(*parts, dropout_p) for parts in zip(shapes, of_q, of_k, of_v, strict=True)]
    return torch.cat([q[:0], *outputs])  # q[:0]: there may be no outputs


def _dense(shape: tuple[int, int, int], q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    n, length_q, length_k = shape
    q = q.unflatten(0, (n, length_q)).transpose(1, 2)  # (n, H, Lq, d)
    k = k.unflatten(0, (n, length_k)).transpose(1, 2)  # (n, H, L, d)
    v = v.unflatten(0, (n, length_k)).transpose(1, 2)  # (n, H, L, d)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)  # (n, H, Lq, d)
    return out.transpose(1, 2).flatten(0, 1)


def attention_padded(q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float) -> Tensor:
    """Attend in padded rows, padding masked: a few large kernels, one graph for batches of every shape."""
    q = queries.pad(q).transpose(1, 2)  # (n, H, Lq, d)
    k = keys.pad(k).transpose(1, 2)  # (n, H, L, d)
    v = keys.pad(v).transpose(1, 2)  # (n, H, L, d)
    mask = keys.pad(torch.ones_like(keys.slots, dtype=torch.bool))[:, None, None, :]  # (n, 1, 1, L)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)  # (n, H, Lq, d)
    return queries.unpad(out.transpose(1, 2))


PARTS = {  # what is never called where a larger part is done as a whole
    "feed_forward": ("linear", "linear_gelu"),
    "block": ("qkv", "linear", "linear_gelu", "add_norm", "attention", "feed_forward"),
}


@dataclasses.dataclass(frozen=True)
class Ops:
    """One implementation of each operation. The defaults are this page."""

    embed: Callable[..., Tensor] = embed
    qkv: Product = qkv
    linear: Product = linear
    linear_gelu: Product = linear_gelu
    add_norm: Callable[..., Tensor] = add_norm
    attention: Callable[..., Tensor] = attention

    # larger parts, where one is done as a whole. None: by the operations above
    feed_forward: Product | None = None  # prepare(lin1, lin2); GELU is between them
    block: Product | None = None  # prepare(a `model.Block`); run(x, state, layout, queries): (T, D) -> (Tq, D)

    @property
    def live(self) -> bool:
        """Whether every product works on the live weights."""
        products = (self.qkv, self.linear, self.linear_gelu, self.feed_forward, self.block)
        return all(product.live for product in products if product is not None)
