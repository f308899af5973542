"""The forward pass of DistilBERT in NumPy, float64: the first file to read, and the reference for every test.

One sequence at a time, from a plain dict of arrays with the Hub's names. No torch, no batch, no padding.

    weights = safetensors.numpy.load_file("model.safetensors")
    logits = classify(weights, [101, 7592, 102], n_heads=12)  # [CLS] hello [SEP]

Shapes: T tokens, D model width, F feed-forward width, H heads, d = D / H, C labels.
Sanh et al. 2019, https://arxiv.org/abs/1910.01108; Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def classify(
    weights: Weights,
    ids: Sequence[int],
    n_heads: int,
    positions: Sequence[int] | None = None,
    activation: str = "gelu",
) -> Array:
    """Return the logits of a classifier: the encoder, then two layers on the first token, [CLS]. -> (C,)."""
    weights = in_float64(weights)
    cls = encode(weights, ids, n_heads, positions, activation, prefix="distilbert.")[-1][0]  # (D,)
    hidden = np.maximum(linear(weights, "pre_classifier", cls), 0)  # (D,)
    return linear(weights, "classifier", hidden)


def encode(
    weights: Weights,
    ids: Sequence[int],
    n_heads: int,
    positions: Sequence[int] | None = None,
    activation: str = "gelu",
    prefix: str = "",
) -> list[Array]:
    """Return the hidden states after the embeddings and after each layer. -> (layers + 1) of (T, D).

    ids: T token ids. positions: of the tokens; None: 0, 1, 2, ... activation: "gelu" or "relu". prefix: of the
    encoder's names in `weights`, "distilbert." in a classifier.
    """
    weights = in_float64(weights, prefix)
    positions = range(len(ids)) if positions is None else positions
    hidden = [embed(weights, np.asarray(ids), np.asarray(positions))]
    while f"transformer.layer.{len(hidden) - 1}.ffn.lin1.weight" in weights:
        hidden.append(block(weights, f"transformer.layer.{len(hidden) - 1}.", hidden[-1], n_heads, activation))
    return hidden


def in_float64(weights: Weights, prefix: str = "") -> Weights:
    """Return the weights in float64, with the prefix removed from their names."""
    return {name.removeprefix(prefix): np.asarray(array, np.float64) for name, array in weights.items()}


def embed(weights: Weights, ids: NDArray[np.int64], positions: NDArray[np.int64]) -> Array:
    """LayerNorm(word embedding + position embedding). -> (T, D)."""
    word = weights["embeddings.word_embeddings.weight"][ids]
    position = weights["embeddings.position_embeddings.weight"][positions]
    return layer_norm(weights, "embeddings.LayerNorm", word + position)


def block(weights: Weights, name: str, x: Array, n_heads: int, activation: str) -> Array:
    """Attention, then feed-forward, each with a residual connection and LayerNorm. -> (T, D)."""
    q, k, v = (linear(weights, f"{name}attention.{part}_lin", x) for part in "qkv")
    attended = linear(weights, f"{name}attention.out_lin", attention(q, k, v, n_heads))
    x = layer_norm(weights, f"{name}sa_layer_norm", attended + x)
    wide = linear(weights, f"{name}ffn.lin1", x)  # (T, F)
    wide = gelu(wide) if activation == "gelu" else np.maximum(wide, 0)
    narrow = linear(weights, f"{name}ffn.lin2", wide)
    return layer_norm(weights, f"{name}output_layer_norm", narrow + x)


def attention(q: Array, k: Array, v: Array, n_heads: int) -> Array:
    """softmax(q kᵀ / √d) v in each head: every token attends to all tokens. -> (T, D)."""
    q, k, v = (x.reshape(len(x), n_heads, -1).swapaxes(0, 1) for x in (q, k, v))  # (H, T, d)
    scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])  # (H, T, T)
    context = softmax(scores) @ v  # (H, T, d)
    return context.swapaxes(0, 1).reshape(context.shape[1], -1)


def linear(weights: Weights, name: str, x: Array) -> Array:
    """x Wᵀ + b."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: Weights, name: str, x: Array) -> Array:
    """Scale each token to mean 0 and variance 1, then apply the learned scale and shift. Ba et al. 2016."""
    centered = x - x.mean(-1, keepdims=True)
    variance = (centered**2).mean(-1, keepdims=True)
    return weights[f"{name}.weight"] * centered / np.sqrt(variance + 1e-12) + weights[f"{name}.bias"]


def softmax(x: Array) -> Array:
    """Return exp(x) / sum(exp(x)) over the last axis; subtracting the maximum first prevents overflow."""
    exp = np.exp(x - x.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def gelu(x: Array) -> Array:
    """x Φ(x), with Φ the normal distribution function: the exact form, with erf. Hendrycks and Gimpel 2016."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has no erf
