"""Classification and regression metrics on arrays, as in scikit-learn and SciPy, with 95 % confidence intervals.

Shapes: n examples, C classes, K distinct outcomes.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

AVERAGES = ("micro", "macro", "weighted")
Z = statistics.NormalDist().inv_cdf(0.975)
RESAMPLES = 1000
MAX_CELLS = 2**21  # limit of resamples × outcomes that are computed at once

Array: TypeAlias = NDArray[Any]
Interval: TypeAlias = tuple[float, float]


def accuracy(predicted: ArrayLike, true: ArrayLike) -> float:
    """Return the fraction of correct examples: class ids (n,), or rows (n, C) that must match in every class."""
    same = np.asarray(predicted) == np.asarray(true)
    return float((same.all(1) if same.ndim == 2 else same).mean())


def confusion(predicted: ArrayLike, true: ArrayLike, classes: int) -> Array:
    """Return the confusion matrix of class ids (n,): (C, C), true classes in rows."""
    codes = np.asarray(true, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(codes, minlength=classes**2).reshape(classes, classes)


def f1(predicted: ArrayLike, true: ArrayLike, average: str, classes: int | None = None) -> float:
    """Return F1 averaged over classes: "micro", "macro" or "weighted". A class that never occurs has F1 0.

    predicted, true: class ids (n,), with the number of classes; or (n, C) of 0 and 1, without it.
    """
    if average not in AVERAGES:
        raise InputError(f"average is {average!r}: expected one of {', '.join(AVERAGES)}")
    outcomes, counts = _outcomes(predicted, true, classes)
    return float(_f1(np.tensordot(counts, outcomes, 1), outcomes)[average])


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return Pearson's correlation of (n,) and (n,): nan if one is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if (x == x[0]).all() or (y == y[0]).all():
        return math.nan
    return float(np.clip(_unit(x) @ _unit(y), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's correlation of (n,) and (n,): Pearson's of the ranks; ties share their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def wilson(fraction: float, n: int) -> Interval:
    """Return the 95 % confidence interval of a fraction of n examples: Wilson's score interval (Wilson 1927)."""
    center = fraction + Z**2 / (2 * n)
    half = Z * math.sqrt(fraction * (1 - fraction) / n + Z**2 / (4 * n**2))
    low, high = ((center + side) / (1 + Z**2 / n) for side in (-half, half))
    return min(max(low, 0.0), fraction), max(min(high, 1.0), fraction)  # exact at fractions of 0 and 1


def fisher(r: float, n: int) -> Interval:
    """Return the 95 % confidence interval of a correlation of n pairs, from Fisher's z = atanh r (Fisher 1921)."""
    if math.isnan(r) or (abs(r) == 1 and n > 3):
        return r, r
    if n < 4:
        return -1.0, 1.0
    z, half = math.atanh(r), Z / math.sqrt(n - 3)
    return math.tanh(z - half), math.tanh(z + half)


def bootstrap(
    predicted: ArrayLike, true: ArrayLike, classes: int | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Return the 95 % interval of F1 for each average: percentiles of 1000 resamples (Efron 1979).

    predicted, true, classes: as for `f1`. The macro F1 of a resample averages over the classes in it, since a rare
    class that is missing by chance is no error of the model. If classes have only a few examples each, the
    interval of macro F1 is too low.
    """
    outcomes, counts = _outcomes(predicted, true, classes)
    n, step = counts.sum(), max(1, MAX_CELLS // len(counts))
    rng = np.random.default_rng(seed)
    values: dict[str, list[Array]] = {average: [] for average in AVERAGES}
    for start in range(0, RESAMPLES, step):
        draws = rng.multinomial(n, counts / n, min(step, RESAMPLES - start))  # (resamples, K)
        for average, scores in _f1(np.tensordot(draws.astype(np.float64), outcomes, 1), outcomes).items():
            values[average].append(scores)
    ends = {average: np.percentile(np.concatenate(values[average]), [2.5, 97.5]) for average in AVERAGES}
    return {average: (float(low), float(high)) for average, (low, high) in ends.items()}


def _outcomes(predicted: ArrayLike, true: ArrayLike, classes: int | None) -> tuple[Array, Array]:
    """Return the distinct outcomes of examples, (K, 3, C), and how often each occurs, (K,).

    The outcome of an example is whether it is correct, predicted and true, each 0 or 1, for each class.
    """
    p, t = np.asarray(predicted, np.int64), np.asarray(true, np.int64)
    if p.ndim == 2:
        both, counts = np.unique(np.stack([p, t], 1), axis=0, return_counts=True)
        p, t = both[:, 0], both[:, 1]
    elif classes is None:
        raise InputError("classes is missing: class ids need the number of classes")
    else:
        codes, counts = np.unique(t * classes + p, return_counts=True)
        p, t = np.eye(classes)[codes % classes], np.eye(classes)[codes // classes]
    return np.stack([p * t, p, t], 1).astype(np.float64), counts


def _f1(counts: Array, outcomes: Array) -> dict[str, Array]:
    """Return F1 by average of the counts (..., 3, C) of a sample of the outcomes (K, 3, C)."""
    correct, sizes, support = counts[..., 0, :], counts[..., 1:, :].sum(-2), counts[..., 2, :]
    each = 2 * correct / np.maximum(sizes, 1)
    weight = outcomes.any((0, 1)).mean() / np.maximum((sizes > 0).sum(-1), 1)  # 1 / C, unless a class is missing
    return {
        "micro": 2 * correct.sum(-1) / np.maximum(sizes.sum(-1), 1),
        "macro": each.sum(-1) * weight,
        "weighted": (each * support).sum(-1) / np.maximum(support.sum(-1), 1),
    }


def _unit(x: Array) -> Array:
    """Center a vector and scale it to length 1; first to a maximum of 1, so that no square underflows."""
    x = x - x.mean()
    x = x / np.abs(x).max()
    return x / np.linalg.norm(x)


def _ranks(x: ArrayLike) -> Array:
    _, index, counts = np.unique(np.asarray(x), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]
