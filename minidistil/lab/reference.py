"""Every operation in NumPy and float64, and its gradients by hand: what implementations are judged by.

The forward is `reference.py`. Backward: dy is the gradient of some loss by an output y, and a function gives that
loss's gradients by the inputs, in the inputs' order; the chain rule, written out.

Letters in shapes: T tokens, D, K and N widths, H heads, d width of a head, L and Lq a sequence's keys and queries.
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
from ..reference import attention as one_sequence
from ..reference import gelu as gelu

Spans = Sequence[tuple[slice, slice]]  # of each sequence: its queries, its keys


def spans_of(queries: Layout, keys: Layout) -> Spans:
    """Say where each sequence's queries and keys stand."""
    starts = queries.starts_cpu.tolist(), keys.starts_cpu.tolist()
    return [(slice(*q), slice(*k)) for q, k in zip(*map(itertools.pairwise, starts), strict=True)]


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Mean 0 and variance 1, then scale and shift: (T, D)."""
    centred, deviation = _normalised(x, eps)
    return weight * centred / deviation + bias


def _normalised(x: Array, eps: float) -> tuple[Array, Array]:
    centred = x - x.mean(-1, keepdims=True)
    return centred, np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def layer_norm_backward(dy: Array, x: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
    """By x (T, D), weight (D,) and bias (D,): what moves the mean or the variance of a row moves all of it."""
    centred, deviation = _normalised(x, eps)
    normal = centred / deviation
    dn = dy * weight
    dx = (dn - dn.mean(-1, keepdims=True) - normal * (dn * normal).mean(-1, keepdims=True)) / deviation
    return dx, (dy * normal).sum(0), dy.sum(0)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """x Wᵀ + b: (T, N)."""
    return x @ weight.T + bias


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """By x (T, K), weight (N, K) and bias (N,)."""
    return dy @ weight, dy.T @ x, dy.sum(0)


def gelu_backward(dy: Array, x: Array) -> Array:
    """By x: Φ(x) + x φ(x), φ the normal distribution's density."""
    phi = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * phi)


def attention(q: Array, k: Array, v: Array, spans: Spans) -> Array:
    """softmax(q kᵀ / √d) v inside each sequence: (Tq, H, d)."""
    out = np.zeros_like(q)
    for of_q, of_k in spans:
        if not len(q[of_q]):
            continue
        qs, ks, vs = (x.reshape(len(x), -1) for x in (q[of_q], k[of_k], v[of_k]))  # (Lq, H * d), two of (L, H * d)
        out[of_q] = one_sequence(qs, ks, vs, q.shape[1]).reshape(q[of_q].shape)
    return out


def attention_backward(dy: Array, q: Array, k: Array, v: Array, spans: Spans) -> tuple[Array, Array, Array]:
    """By q, k and v: through the product with v, then the softmax, then the product of q and k."""
    gradients = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    dq, dk, dv = gradients
    scale = 1 / math.sqrt(q.shape[-1])
    for of_q, of_k in spans:
        if not len(q[of_q]):
            continue
        qh, kh, vh, dyh = (x.swapaxes(0, 1) for x in (q[of_q], k[of_k], v[of_k], dy[of_q]))  # (H, L, d)
        shares = softmax(qh @ kh.swapaxes(1, 2) * scale)  # (H, Lq, L)
        by_shares = dyh @ vh.swapaxes(1, 2)
        by_scores = shares * (by_shares - (by_shares * shares).sum(-1, keepdims=True)) * scale
        dq[of_q] = (by_scores @ kh).swapaxes(0, 1)
        dk[of_k] = (by_scores.swapaxes(1, 2) @ qh).swapaxes(0, 1)
        dv[of_k] = (shares.swapaxes(1, 2) @ dyh).swapaxes(0, 1)
    return gradients


def feed_forward(x: Array, weight0: Array, bias0: Array, weight1: Array, bias1: Array) -> Array:
    """Widen, bend, narrow: (T, D) -> (T, F) -> (T, D)."""
    return linear(gelu(linear(x, weight0, bias0)), weight1, bias1)


def feed_forward_backward(
    dy: Array, x: Array, weight0: Array, bias0: Array, weight1: Array, bias1: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """By x (T, D) and what widens and narrows it, weight and bias each."""
    wide = linear(x, weight0, bias0)  # (T, F)
    by_hidden, dweight1, dbias1 = linear_backward(dy, gelu(wide), weight1)
    return *linear_backward(gelu_backward(by_hidden, wide), x, weight0), dweight1, dbias1


def block_layers(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Give the shape of each weight of a block, by its path in `model.Block`; each has a bias too."""
    products = {f"attention.{name}_lin": (width, width) for name in ("q", "k", "v", "out")}
    norms: dict[str, tuple[int, ...]] = {"sa_layer_norm": (width,), "output_layer_norm": (width,)}
    return {**products, **norms, "ffn.lin1": (hidden, width), "ffn.lin2": (width, hidden)}


def block(x: Array, weights: Mapping[str, Array], spans: Spans, n_heads: int, activation: str = "gelu") -> Array:
    """One block, of each sequence alone, for the tokens that ask: (T, D) -> (Tq, D)."""
    out = np.zeros((spans[-1][0].stop if spans else 0, x.shape[1]))
    for of_q, of_k in spans:
        if x[of_k].size:
            out[of_q] = reference.block(weights, "", x[of_k], n_heads, activation)[: len(out[of_q])]
    return out


def block_backward(
    dy: Array, x: Array, weights: Mapping[str, Array], spans: Spans, n_heads: int, eps: float = 1e-12
) -> dict[str, Array]:
    """By x and each weight and bias, where every token asks: the forward, and then the same way back."""

    def layer(name: str) -> tuple[Array, Array]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def keep(name: str, of_weight: Array, of_bias: Array) -> None:
        found.update({f"{name}.weight": of_weight, f"{name}.bias": of_bias})

    found: dict[str, Array] = {}
    heads = (len(x), n_heads, -1)
    q, k, v = (linear(x, *layer(f"attention.{name}_lin")).reshape(heads) for name in "qkv")  # (T, H, d)
    context = attention(q, k, v, spans).reshape(x.shape)
    attended = linear(context, *layer("attention.out_lin")) + x
    middle = layer_norm(attended, *layer("sa_layer_norm"), eps)
    hidden = linear(gelu(linear(middle, *layer("ffn.lin1"))), *layer("ffn.lin2")) + middle

    by_hidden, *of_norm = layer_norm_backward(dy, hidden, layer("output_layer_norm")[0], eps)
    keep("output_layer_norm", *of_norm)
    by_middle, *of_ffn = feed_forward_backward(by_hidden, middle, *layer("ffn.lin1"), *layer("ffn.lin2"))
    keep("ffn.lin1", *of_ffn[:2])
    keep("ffn.lin2", *of_ffn[2:])
    by_attended, *of_norm = layer_norm_backward(by_middle + by_hidden, attended, layer("sa_layer_norm")[0], eps)
    keep("sa_layer_norm", *of_norm)
    by_context, *of_out = linear_backward(by_attended, context, layer("attention.out_lin")[0])
    keep("attention.out_lin", *of_out)
    found["x"] = by_attended
    by_parts = attention_backward(by_context.reshape(heads), q, k, v, spans)
    for name, by_part in zip("qkv", by_parts, strict=True):
        lin = f"attention.{name}_lin"
        dx, *of_lin = linear_backward(by_part.reshape(x.shape), x, layer(lin)[0])
        keep(lin, *of_lin)
        found["x"] = found["x"] + dx
    # it moves all scores of a query alike, which changes no share: what is computed here is rounding
    found["attention.k_lin.bias"] = np.zeros_like(found["attention.k_lin.bias"])
    return found


def rows_backward(dy: Array, ids: NDArray[np.int64], rows: int) -> Array:
    """By a table of which rows were looked up: each row's gradients add up. (T, D) -> (rows, D)."""
    gradient = np.zeros((rows, dy.shape[1]))
    np.add.at(gradient, ids, dy)
    return gradient
