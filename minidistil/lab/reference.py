"""Float64 NumPy reference of every operation and its gradients, for the gate.

A backward function takes dy, the gradient of a loss with respect to the output y, and returns the gradients with
respect to the inputs, in their order. `stored` marks the intermediate results that an ordinary implementation
writes to memory in the dtype, and `operand` what 8-bit kernels quantize. Both only matter to the simulation of
rounding errors in `rounding.py`, and return float64 arrays unchanged.

Shapes: T tokens, D, K and N widths, F feed-forward width, H heads, d head width, Tq queries; L keys and Lq queries
of one sequence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..layout import Layout, Subset
from ..reference import Array, softmax
from .rounding import Rounded, as_rounded, operand, stored, stored_sum

Spans = Sequence[tuple[slice, slice]]  # per sequence: slices of its queries and keys


def spans_of(queries: Layout, keys: Layout) -> Spans:
    """Return the slices of each sequence's queries and keys."""
    boundaries = queries.cu_seqlens_cpu.tolist(), keys.cu_seqlens_cpu.tolist()
    return [(slice(*q), slice(*k)) for q, k in zip(*map(itertools.pairwise, boundaries), strict=True)]


def rows_of(queries: Layout) -> Any:
    """Return the indices of the queries among all tokens."""
    return queries.indices.cpu().numpy() if isinstance(queries, Subset) else slice(None)


def erf(x: Array) -> Array:
    """Return the error function: NumPy has none, and math.erf is slow for arrays."""
    result: Array = torch.erf(torch.from_numpy(np.array(x))).numpy()
    return as_rounded(x.arithmetic.rounded(result), x.arithmetic) if isinstance(x, Rounded) else result


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Normalize each row of x (T, D) to mean 0 and variance 1, then scale and shift it."""
    centered, deviation = _centered(x, eps)
    return weight * (centered / deviation) + bias


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
    return dx, stored_sum(dy * normalized), stored_sum(dy)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """Return x Wᵀ + b: (T, K) -> (T, N)."""
    return operand(x) @ operand(weight).T + bias


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of x (T, K), weight (N, K) and bias (N,)."""
    return dy @ weight, dy.T @ x, dy.sum(0)


def gelu(x: Array) -> Array:
    """Return x Φ(x), with Φ the normal distribution function."""
    return x * (0.5 * (1 + erf(x / math.sqrt(2))))


def gelu_backward(dy: Array, x: Array) -> Array:
    """Return the gradient of x: dy (Φ(x) + x φ(x)), where φ is the standard normal density."""
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * density)


def attention(q: Array, k: Array, v: Array, spans: Spans) -> Array:
    """Return softmax(q kᵀ / √d) v within each sequence: q (Tq, H, d), k and v (T, H, d) -> (Tq, H, d)."""
    out = np.zeros_like(q)
    for queries, keys in spans:
        if len(q[queries]):
            qh, kh, vh = (x.swapaxes(0, 1) for x in (q[queries], k[keys], v[keys]))  # (H, L, d)
            weights = stored(softmax(qh @ kh.swapaxes(1, 2) / math.sqrt(q.shape[-1])))  # (H, Lq, L)
            out[queries] = (weights @ vh).swapaxes(0, 1)
    return out


def attention_backward(dy: Array, q: Array, k: Array, v: Array, spans: Spans) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v."""
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    scale = 1 / math.sqrt(q.shape[-1])
    for queries, keys in spans:
        if not len(q[queries]):
            continue
        qh, kh, vh, dyh = (x.swapaxes(0, 1) for x in (q[queries], k[keys], v[keys], dy[queries]))  # (H, L, d)
        weights = stored(softmax(qh @ kh.swapaxes(1, 2) * scale))  # (H, Lq, L)
        dweights = stored(dyh @ vh.swapaxes(1, 2))
        # flash attention subtracts dy · out, which is the same sum: out was rounded when it was stored
        total = (dyh * stored(weights @ vh)).sum(-1, keepdims=True)
        dscores = stored(weights * (dweights - total) * scale)
        dq[queries] = (dscores @ kh).swapaxes(0, 1)
        dk[keys] = (dscores.swapaxes(1, 2) @ qh).swapaxes(0, 1)
        dv[keys] = (weights.swapaxes(1, 2) @ dyh).swapaxes(0, 1)
    return dq, dk, dv


def feed_forward(x: Array, weight1: Array, bias1: Array, weight2: Array, bias2: Array) -> Array:
    """Compute two linear layers with GELU between them: (T, D) -> (T, F) -> (T, D)."""
    return linear(stored(gelu(stored(linear(x, weight1, bias1)))), weight2, bias2)


def feed_forward_backward(
    dy: Array, x: Array, weight1: Array, bias1: Array, weight2: Array, bias2: Array, activation: str = "gelu"
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the gradients of x (T, D) and of the weight and bias of each layer."""
    hidden = stored(linear(x, weight1, bias1))  # (T, F)
    dactivated, dweight2, dbias2 = linear_backward(dy, stored(_activate(hidden, activation)), weight2)
    dactivated = stored(dactivated)
    dhidden = gelu_backward(dactivated, hidden) if activation == "gelu" else dactivated * (hidden > 0)
    return *linear_backward(stored(dhidden), x, weight1), dweight2, dbias2


def _activate(x: Array, activation: str) -> Array:
    return gelu(x) if activation == "gelu" else np.maximum(x, 0)


def block_layers(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of a block, by its path in `model.Block`. Each weight has a bias."""
    projections = {f"attention.{name}_lin": (width, width) for name in ("q", "k", "v", "out")}
    norms: dict[str, tuple[int, ...]] = {"sa_layer_norm": (width,), "output_layer_norm": (width,)}
    return {**projections, **norms, "ffn.lin1": (hidden, width), "ffn.lin2": (width, hidden)}


class Block:
    """One transformer block, with what its backward pass reads."""

    def __init__(
        self,
        x: Array,
        weights: Mapping[str, Array],
        queries: Layout,
        keys: Layout,
        n_heads: int,
        activation: str = "gelu",
        eps: float = 1e-12,
    ):
        self.x, self.weights, self.activation, self.eps = x, weights, activation, eps
        self.rows, self.spans = rows_of(queries), spans_of(queries, keys)
        heads = (n_heads, x.shape[1] // n_heads)
        q, self.k, self.v = (
            stored(linear(x, *self.layer(f"attention.{name}_lin"))).reshape(len(x), *heads) for name in "qkv"
        )  # (T, H, d)
        self.q = q[self.rows]  # (Tq, H, d)
        context = stored(attention(self.q, self.k, self.v, self.spans))
        self.context = context.reshape(len(context), math.prod(context.shape[1:]))  # (Tq, D)
        attended = stored(linear(self.context, *self.layer("attention.out_lin")))
        self.attended = stored(attended + x[self.rows])
        self.middle = stored(layer_norm(self.attended, *self.layer("sa_layer_norm"), eps))
        hidden = stored(linear(self.middle, *self.layer("ffn.lin1")))
        narrow = stored(linear(stored(_activate(hidden, activation)), *self.layer("ffn.lin2")))
        self.fed = stored(narrow + self.middle)
        self.out = layer_norm(self.fed, *self.layer("output_layer_norm"), eps)

    def layer(self, name: str) -> tuple[Array, Array]:
        """Return the weight and bias of a layer."""
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def backward(self, dy: Array) -> dict[str, Array]:
        """Return the gradients of x and of each weight and bias, by name."""
        gradients: dict[str, Array] = {}

        def store(name: str, dweight: Array, dbias: Array) -> None:
            gradients.update({f"{name}.weight": dweight, f"{name}.bias": dbias})

        dfed, *dnorm = layer_norm_backward(dy, self.fed, self.layer("output_layer_norm")[0], self.eps)
        dfed = stored(dfed)
        store("output_layer_norm", *dnorm)
        layers = *self.layer("ffn.lin1"), *self.layer("ffn.lin2")
        dmiddle, *dffn = feed_forward_backward(dfed, self.middle, *layers, self.activation)
        store("ffn.lin1", *dffn[:2])
        store("ffn.lin2", *dffn[2:])
        dmiddle = stored(stored(dmiddle) + dfed)
        dattended, *dnorm = layer_norm_backward(dmiddle, self.attended, self.layer("sa_layer_norm")[0], self.eps)
        dattended = stored(dattended)
        store("sa_layer_norm", *dnorm)
        dcontext, *dout = linear_backward(dattended, self.context, self.layer("attention.out_lin")[0])
        store("attention.out_lin", *dout)
        dx = np.zeros_like(self.x)
        dx[self.rows] = dattended
        dq = np.zeros_like(self.k)
        dcontext = stored(dcontext).reshape(self.q.shape)
        dq[self.rows], dk, dv = attention_backward(dcontext, self.q, self.k, self.v, self.spans)
        for name, dheads in zip("qkv", (dq, dk, dv), strict=True):
            lin = f"attention.{name}_lin"
            dpart, *dlin = linear_backward(stored(dheads).reshape(self.x.shape), self.x, self.layer(lin)[0])
            store(lin, *dlin)
            dx = stored(dx + stored(dpart))
        gradients["x"] = dx
        if not isinstance(dx, Rounded):
            # it adds the same to all scores of a query, so its gradient is 0: the sum above is rounding error
            gradients["attention.k_lin.bias"] = np.zeros_like(gradients["attention.k_lin.bias"])
        return gradients


def rows_backward(dy: Array, ids: NDArray[np.int64], rows: int) -> Array:
    """Return the gradient of an embedding table, summed over the lookups of each row: (T, D) -> (rows, D)."""
    gradient = np.zeros((rows, dy.shape[1]))
    np.add.at(gradient, ids, np.asarray(dy))
    if isinstance(dy, Rounded):  # each addition rounds to the dtype, as in PyTorch
        lookups = np.sqrt(np.bincount(ids, minlength=rows))[:, None]
        rounding = dy.arithmetic.rounded(gradient, dy.arithmetic.dtype) - gradient
        return as_rounded(gradient + lookups * rounding, dy.arithmetic)
    return gradient
