"""Float64 NumPy reference of every operation and its gradients, for the gate.

The forward pass is that of `minidistil/reference.py`. A backward function takes dy, the gradient of a loss with
respect to the output y, and returns the gradients with respect to the inputs, in their order.

Shapes: T tokens, D, K and N widths, F feed-forward width, H heads, d head width, Tq queries; L keys and Lq queries
of one sequence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .. import reference
from ..layout import Layout
from ..reference import Array, erf, softmax
from ..reference import gelu as gelu

Spans = Sequence[tuple[slice, slice]]  # per sequence: slices of its queries and keys


def spans_of(queries: Layout, keys: Layout) -> Spans:
    """Return the slices of each sequence's queries and keys."""
    boundaries = queries.cu_seqlens_cpu.tolist(), keys.cu_seqlens_cpu.tolist()
    return [(slice(*q), slice(*k)) for q, k in zip(*map(itertools.pairwise, boundaries), strict=True)]


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Normalize each row of x (T, D) to mean 0 and variance 1, then scale and shift it."""
    centered, deviation = _centered(x, eps)
    return weight * centered / deviation + bias


def _centered(x: Array, eps: float) -> tuple[Array, Array]:
    """Return x minus the mean of each row, and the standard deviation of each row."""
    centered = x - x.mean(-1, keepdims=True)
    return centered, np.sqrt((centered**2).mean(-1, keepdims=True) + eps)


def layer_norm_backward(dy: Array, x: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
    """Return the gradients of x (T, D), weight (D,) and bias (D,), including those through mean and variance."""
    centered, deviation = _centered(x, eps)
    normalized = centered / deviation
    dn = dy * weight
    dx = (dn - dn.mean(-1, keepdims=True) - normalized * (dn * normalized).mean(-1, keepdims=True)) / deviation
    return dx, (dy * normalized).sum(0), dy.sum(0)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """Return x Wᵀ + b: (T, K) -> (T, N)."""
    return x @ weight.T + bias


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of x (T, K), weight (N, K) and bias (N,)."""
    return dy @ weight, dy.T @ x, dy.sum(0)


def gelu_backward(dy: Array, x: Array) -> Array:
    """Return the gradient of x: dy (Φ(x) + x φ(x)), where φ is the standard normal density."""
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * density)


def attention(q: Array, k: Array, v: Array, spans: Spans) -> Array:
    """Return softmax(q kᵀ / √d) v within each sequence: q (Tq, H, d), k and v (T, H, d) -> (Tq, H, d)."""
    out = np.zeros_like(q)
    for queries, keys in spans:
        if len(q[queries]):
            rows_q, rows_k, rows_v = (x.reshape(len(x), -1) for x in (q[queries], k[keys], v[keys]))  # (L, H * d)
            out[queries] = reference.attention(rows_q, rows_k, rows_v, q.shape[1]).reshape(q[queries].shape)
    return out


def attention_backward(dy: Array, q: Array, k: Array, v: Array, spans: Spans) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v."""
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    scale = 1 / math.sqrt(q.shape[-1])
    for queries, keys in spans:
        if not len(q[queries]):
            continue
        qh, kh, vh, dyh = (x.swapaxes(0, 1) for x in (q[queries], k[keys], v[keys], dy[queries]))  # (H, L, d)
        weights = softmax(qh @ kh.swapaxes(1, 2) * scale)  # (H, Lq, L)
        dweights = dyh @ vh.swapaxes(1, 2)
        dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True)) * scale
        dq[queries] = (dscores @ kh).swapaxes(0, 1)
        dk[keys] = (dscores.swapaxes(1, 2) @ qh).swapaxes(0, 1)
        dv[keys] = (weights.swapaxes(1, 2) @ dyh).swapaxes(0, 1)
    return dq, dk, dv


def feed_forward(x: Array, weight1: Array, bias1: Array, weight2: Array, bias2: Array) -> Array:
    """Compute two linear layers with GELU between them: (T, D) -> (T, F) -> (T, D)."""
    return linear(gelu(linear(x, weight1, bias1)), weight2, bias2)


def feed_forward_backward(
    dy: Array, x: Array, weight1: Array, bias1: Array, weight2: Array, bias2: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the gradients of x (T, D) and of the weight and bias of each layer."""
    hidden = linear(x, weight1, bias1)  # (T, F)
    dactivated, dweight2, dbias2 = linear_backward(dy, gelu(hidden), weight2)
    return *linear_backward(gelu_backward(dactivated, hidden), x, weight1), dweight2, dbias2


def block_layers(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of a block, by its path in `model.Block`. Each weight has a bias."""
    projections = {f"attention.{name}_lin": (width, width) for name in ("q", "k", "v", "out")}
    norms: dict[str, tuple[int, ...]] = {"sa_layer_norm": (width,), "output_layer_norm": (width,)}
    return {**projections, **norms, "ffn.lin1": (hidden, width), "ffn.lin2": (width, hidden)}


def block(x: Array, weights: Mapping[str, Array], spans: Spans, n_heads: int, activation: str = "gelu") -> Array:
    """Compute one transformer block: (T, D) -> (Tq, D). The queries of a sequence are its first tokens."""
    out = np.zeros((spans[-1][0].stop if spans else 0, x.shape[1]))
    for queries, keys in spans:
        if x[keys].size:
            out[queries] = reference.block(weights, "", x[keys], n_heads, activation)[: len(out[queries])]
    return out


def block_backward(
    dy: Array, x: Array, weights: Mapping[str, Array], spans: Spans, n_heads: int, eps: float = 1e-12
) -> dict[str, Array]:
    """Return the gradients of x and of each weight and bias, by name. Every token is a query."""

    def layer(name: str) -> tuple[Array, Array]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    gradients: dict[str, Array] = {}

    def store(name: str, dweight: Array, dbias: Array) -> None:
        gradients.update({f"{name}.weight": dweight, f"{name}.bias": dbias})

    heads = (len(x), n_heads, -1)
    q, k, v = (linear(x, *layer(f"attention.{name}_lin")).reshape(heads) for name in "qkv")  # (T, H, d)
    context = attention(q, k, v, spans).reshape(x.shape)
    attended = linear(context, *layer("attention.out_lin")) + x
    middle = layer_norm(attended, *layer("sa_layer_norm"), eps)
    hidden = linear(gelu(linear(middle, *layer("ffn.lin1"))), *layer("ffn.lin2")) + middle

    dhidden, *dnorm = layer_norm_backward(dy, hidden, layer("output_layer_norm")[0], eps)
    store("output_layer_norm", *dnorm)
    dmiddle, *dffn = feed_forward_backward(dhidden, middle, *layer("ffn.lin1"), *layer("ffn.lin2"))
    store("ffn.lin1", *dffn[:2])
    store("ffn.lin2", *dffn[2:])
    dattended, *dnorm = layer_norm_backward(dmiddle + dhidden, attended, layer("sa_layer_norm")[0], eps)
    store("sa_layer_norm", *dnorm)
    dcontext, *dout = linear_backward(dattended, context, layer("attention.out_lin")[0])
    store("attention.out_lin", *dout)
    gradients["x"] = dattended
    dqkv = attention_backward(dcontext.reshape(heads), q, k, v, spans)
    for name, dheads in zip("qkv", dqkv, strict=True):
        lin = f"attention.{name}_lin"
        dx, *dlin = linear_backward(dheads.reshape(x.shape), x, layer(lin)[0])
        store(lin, *dlin)
        gradients["x"] = gradients["x"] + dx
    # this bias adds the same to all scores of a query, so its gradient is 0: the sum above is rounding error
    gradients["attention.k_lin.bias"] = np.zeros_like(gradients["attention.k_lin.bias"])
    return gradients


def rows_backward(dy: Array, ids: NDArray[np.int64], rows: int) -> Array:
    """Return the gradient of an embedding table, summed over the lookups of each row: (T, D) -> (rows, D)."""
    gradient = np.zeros((rows, dy.shape[1]))
    np.add.at(gradient, ids, dy)
    return gradient
