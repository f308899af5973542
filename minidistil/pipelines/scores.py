"""Logits → scores and rankings, in NumPy."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]


def softmax(logits: Array) -> Array:
    """Return probabilities that add up to 1 over the last axis."""
    with np.errstate(over="ignore"):  # a difference beyond float32 is -inf, whose exp is 0
        exp: Array = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    """Return the probability of each logit alone, without overflow."""
    return np.exp(-np.logaddexp(np.float32(0), -logits))


def ranked(scores: Array) -> list[int]:
    """Return the indices of scores (n,), best first; equal scores keep their order."""
    return np.argsort(-scores, kind="stable").tolist()


def top(scores: Array, count: int) -> list[int]:
    """Return the indices of the `count` best scores of (n,), best first; equal scores keep their order."""
    count = min(count, len(scores))
    threshold = np.partition(scores, -count)[-count]
    candidates = np.flatnonzero(scores >= threshold)
    return [int(candidates[i]) for i in ranked(scores[candidates])[:count]]
