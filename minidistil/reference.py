"""The forward pass of DistilBERT in NumPy, float64: the first file to read, and the reference for every test.

One sequence at a time, from a plain dict of arrays with the Hub's names. No torch, no batch, no padding.

    weights = safetensors.numpy.load_file("model.safetensors")
    logits = classify(weights, [101, 7592, 102], n_heads=12)  # [CLS] hello [SEP]

Shapes: T tokens, D model width, F feed-forward width, H heads, d = D / H, C labels, V vocabulary.
Sanh et al. 2019, https://arxiv.org/abs/1910.01108; Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[Any]
Weights: TypeAlias = Mapping[str, Array]  # of a dtype that is not wider than the one to compute in


def classify(
    weights: Weights,
    ids: Sequence[int],
    n_heads: int,
    positions: Sequence[int] | None = None,
    activation: str = "gelu",
    dtype: DTypeLike = np.float64,
) -> Array:
    """Return the logits of a classifier: the encoder, then its head. -> (C,)."""
    return sequence_head(weights, encode(weights, ids, n_heads, positions, activation, dtype)[-1])


def encode(
    weights: Weights,
    ids: Sequence[int],
    n_heads: int,
    positions: Sequence[int] | None = None,
    activation: str = "gelu",
    dtype: DTypeLike = np.float64,
) -> list[Array]:
    """Return the hidden states after the embeddings and after each layer. -> (layers + 1) of (T, D).

    weights: of an encoder, or of a model with a head. ids: T token ids. positions: None: 0, 1, 2, ...
    activation: "gelu" or "relu". dtype: to compute in; the command line answers one text in float32.
    """
    weights = {name.removeprefix("distilbert."): array for name, array in weights.items()}
    positions = range(len(ids)) if positions is None else positions
    hidden = [embed(weights, list(ids), list(positions), dtype)]
    while f"transformer.layer.{len(hidden) - 1}.ffn.lin1.weight" in weights:
        hidden.append(block(weights, f"transformer.layer.{len(hidden) - 1}.", hidden[-1], n_heads, activation))
    return hidden


def embed(weights: Weights, ids: list[int], positions: list[int], dtype: DTypeLike) -> Array:
    """LayerNorm(word embedding + position embedding). -> (T, D)."""
    word = weights["embeddings.word_embeddings.weight"][ids].astype(dtype)
    position = weights["embeddings.position_embeddings.weight"][positions]
    return layer_norm(weights, "embeddings.LayerNorm", word + position)


def block(weights: Weights, name: str, x: Array, n_heads: int, activation: str) -> Array:
    """Attention, then feed-forward, each with a residual connection and LayerNorm. -> (T, D)."""
    q, k, v = (linear(weights, f"{name}attention.{part}_lin", x) for part in "qkv")
    attended = linear(weights, f"{name}attention.out_lin", attention(q, k, v, n_heads))
    x = layer_norm(weights, f"{name}sa_layer_norm", attended + x)
    wide = ACTIVATIONS[activation](linear(weights, f"{name}ffn.lin1", x))  # (T, F)
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


ACTIVATIONS = {"gelu": gelu, "relu": lambda x: np.maximum(x, 0)}
TABLE = np.array([math.erf(i / 256) for i in range(-1536, 1537)])  # from -6 to 6: beyond, erf rounds to -1 and 1


def erf(x: Array) -> Array:
    """Return 2/√π ∫ exp(-t²) dt from 0 to x, within 1e-15: NumPy has no erf.

    TABLE has the integral up to the nearest multiple of 1/256; Gauss's quadrature with two points adds the rest.
    """
    x = np.clip(x, -6, 6)
    nearest = np.rint(np.nan_to_num(x) * 256)
    middle, half = (x + nearest / 256) / 2, (x - nearest / 256) / 2
    density = np.exp(-((middle - half / 3**0.5) ** 2)) + np.exp(-((middle + half / 3**0.5) ** 2))
    return TABLE[nearest.astype(int) + 1536].astype(x.dtype) + 2 / math.pi**0.5 * half * density


def sequence_head(weights: Weights, x: Array) -> Array:
    """Classify the sequence: two layers on its first token, [CLS]. (T, D) -> (C,)."""
    return linear(weights, "classifier", np.maximum(linear(weights, "pre_classifier", x[0]), 0))


def token_head(weights: Weights, x: Array) -> Array:
    """Classify each token: (T, D) -> (T, C)."""
    return linear(weights, "classifier", x)


def span_head(weights: Weights, x: Array) -> Array:
    """Score each token as the start and the end of an answer: (T, D) -> (T, 2)."""
    return linear(weights, "qa_outputs", x)


def word_head(weights: Weights, x: Array, activation: str = "gelu") -> Array:
    """Score every word of the vocabulary at each token: (T, D) -> (T, V)."""
    x = ACTIVATIONS[activation](linear(weights, "vocab_transform", x))
    return linear(weights, "vocab_projector", layer_norm(weights, "vocab_layer_norm", x))
