"""Every operation in NumPy and float64, and its gradients by hand: what implementations are judged by.

The forward is `reference.py`. Backward: dy is the gradient of some loss by an output y, and a function gives that
loss's gradients by the inputs, in the inputs' order; the chain rule, written out.

Letters in shapes: T tokens, D, K and N widths, H heads, d width of a head, L and Lq a sequence's keys and queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..reference import Array, erf, softmax
from ..reference import attention as one_sequence
from ..reference import gelu as gelu

Spans = Sequence[tuple[slice, slice]]  # of each sequence: its queries, its keys


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


def rows_backward(dy: Array, ids: NDArray[np.int64], rows: int) -> Array:
    """By a table of which rows were looked up: each row's gradients add up. (T, D) -> (rows, D)."""
    gradient = np.zeros((rows, dy.shape[1]))
    np.add.at(gradient, ids, dy)
    return gradient
