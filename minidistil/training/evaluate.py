"""How good a classifier is: the metrics of scikit-learn and SciPy, each with its 95 % interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..checks import check_count
from ..errors import InputError
from ..model import Model
from ..pipelines.classification import TextClassification, ZeroShotClassification
from ..tokenizer import Tokenizer
from .data import Example, Labels

CLASSES = ("accuracy", "f1_micro", "f1_macro", "f1_weighted", "loss")
METRICS = {  # by which one checkpoint may be better than another; the first is the usual one
    "single_label_classification": CLASSES,
    "multi_label_classification": ("f1_micro", *(name for name in CLASSES if name != "f1_micro")),
    "regression": ("pearson", "spearman", "loss"),
}
AVERAGES = ("micro", "macro", "weighted")
Z = statistics.NormalDist().inv_cdf(0.975)
RESAMPLES = 1000
CELLS = 2**21  # of a chunk of resamples
MOST_SHOWN = 10  # labels of a confusion matrix that a terminal still shows

Array: TypeAlias = NDArray[Any]
Interval: TypeAlias = tuple[float, float]


def accuracy(predicted: ArrayLike, true: ArrayLike) -> float:
    """Give the share of examples that are right: class ids (n,), or rows (n, C) that match as a whole."""
    same = np.asarray(predicted) == np.asarray(true)
    return float((same.all(1) if same.ndim == 2 else same).mean())


def confusion(predicted: ArrayLike, true: ArrayLike, labels: int) -> Array:
    """Count the pairs of class ids (n,), which are below `labels`: (labels, labels), rows true."""
    codes = np.asarray(true, np.int64) * labels + np.asarray(predicted, np.int64)
    return np.bincount(codes, minlength=labels**2).reshape(labels, labels)


def f1(predicted: ArrayLike, true: ArrayLike, average: str, labels: int | None = None) -> float:
    """Give F1 by its average over classes: "micro", "macro" or "weighted"; 0 for a class that never comes up.

    predicted, true: class ids (n,), with how many `labels` there are; or (n, C) of 0 and 1, without it.
    """
    if average not in AVERAGES:
        raise InputError(f"average is {average!r}: expected one of {', '.join(AVERAGES)}")
    rows, times = _outcomes(predicted, true, labels)
    return float(_f1(np.tensordot(times, rows, 1), rows)[average])


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Give the correlation of (n,) and (n,): nan where one is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if (x == x[0]).all() or (y == y[0]).all():
        return math.nan
    return float(np.clip(_unit(x) @ _unit(y), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Give the correlation of the ranks of (n,) and (n,), where equal values share their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def wilson(share: float, n: int) -> Interval:
    """Give the 95 % interval of a share of n examples: Wilson's score interval (Wilson 1927)."""
    middle = share + Z**2 / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((middle + side) / (1 + Z**2 / n) for side in (-half, half))
    return min(max(low, 0.0), share), max(min(high, 1.0), share)  # a share of 0 or 1 is its own end


def fisher(r: float, n: int) -> Interval:
    """Give the 95 % interval of a correlation of n pairs, by the normal law of atanh r (Fisher 1921)."""
    if math.isnan(r) or (abs(r) == 1 and n > 3):
        return r, r
    if n < 4:
        return -1.0, 1.0
    z, half = math.atanh(r), Z / math.sqrt(n - 3)
    return math.tanh(z - half), math.tanh(z + half)


def bootstrap(
    predicted: ArrayLike, true: ArrayLike, labels: int | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Give the 95 % interval of F1 for each average: percentiles of 1000 resamples (Efron 1979).

    predicted, true, labels: as for `f1`. A resample's macro F1 is of the classes that it holds: a rare class
    that it happens to lack says nothing about how well the class is found. Where classes have few examples
    each, the interval of macro F1 lies too low.
    """
    rows, times = _outcomes(predicted, true, labels)
    n, step = times.sum(), max(1, CELLS // len(times))
    rng = np.random.default_rng(seed)
    found: dict[str, list[Array]] = {average: [] for average in AVERAGES}
    for start in range(0, RESAMPLES, step):
        draws = rng.multinomial(n, times / n, min(step, RESAMPLES - start))  # as many of each outcome
        for average, values in _f1(np.tensordot(draws.astype(np.float64), rows, 1), rows).items():
            found[average].append(values)
    ends = {average: np.percentile(np.concatenate(found[average]), [2.5, 97.5]) for average in AVERAGES}
    return {average: (float(low), float(high)) for average, (low, high) in ends.items()}


def predict(
    model: Model, tokenizer: Tokenizer, examples: Sequence[Example], max_length: int | None = None
) -> Tensor:
    """Give a classifier's logits, float32 (n, C), without dropout. max_length: tokens to which texts are cut."""
    check_count("max_length", max_length)
    modes = [(module, module.training) for module in model.modules()]
    try:
        pipe = TextClassification("text-classification", model, tokenizer)
        rows = list(pipe.logits(((e.text, e.pair) for e in examples), "longest_first", max_length))
    finally:
        for module, training in modes:
            module.training = training
    return torch.stack(rows) if rows else torch.empty(0, model.config.num_labels)


def evaluate(
    model: Model, tokenizer: Tokenizer, examples: Sequence[Example], max_length: int | None = None
) -> dict[str, Any]:
    """Measure a classifier on examples: see `predict` and `measure`."""
    labels = Labels.of(model.config)
    return measure(predict(model, tokenizer, examples, max_length), examples, labels.problem_type, labels.names)


def evaluate_zero_shot(
    pipe: ZeroShotClassification, examples: Sequence[Example], names: Sequence[str], template: str | None = None
) -> dict[str, Any]:
    """Measure how often the best of all `names` is the class: as `measure` for a single label, without a loss.

    names: of the classes (C). template: the hypothesis, with {} where the name goes; None: the pipeline's own.
    `InputError` for a pair.
    """
    true = _targets(examples, len(names)).argmax(1)
    for example in examples:
        if example.pair is not None:
            raise InputError(f"{example.place} is a pair: zero-shot classification takes a text alone")
        if not example.text:
            raise InputError(f"{example.place}: the text is empty: there is nothing to classify")
    options = {} if template is None else {"hypothesis_template": template}
    answers = pipe((example.text for example in examples), list(names), **options)
    predicted = np.array([names.index(answer["labels"][0]) for answer in answers])
    return {**_of_classes(predicted, true, names), **({} if template is None else {"template": template})}


def measure(
    logits: Tensor, examples: Sequence[Example], problem_type: str, labels: Sequence[str]
) -> dict[str, Any]:
    """Compare logits (n, C) with the labels of n examples, as plain values for JSON.

    labels: the names of the C classes. Every metric is {"value", "low", "high"}, the ends of its 95 % interval;
    None is what cannot be told, such as the correlation with a constant. `InputError` for what does not fit.
    """
    if problem_type not in METRICS:
        raise InputError(f"problem_type is {problem_type!r}: expected one of {', '.join(METRICS)}")
    target = _targets(examples, len(labels))
    if logits.shape != target.shape:
        raise InputError(f"logits are of shape {tuple(logits.shape)}: the examples need {target.shape}")
    values, wanted = logits.detach().double().cpu(), torch.from_numpy(target)
    if problem_type == "regression":
        return {
            "examples": len(target),
            "loss": F.mse_loss(values, wanted).item(),
            **_of_values(values.numpy(), target),
        }
    if problem_type == "multi_label_classification":
        loss = F.binary_cross_entropy_with_logits(values, wanted).item()
        return _of_classes(values.numpy() > 0, target > 0.5, None, loss)  # above 0 the sigmoid is above 0.5
    return _of_classes(values.numpy().argmax(1), target.argmax(1), labels, F.cross_entropy(values, wanted).item())


def score(result: dict[str, Any], metric: str) -> float:
    """Give a metric of a result of `measure`, the higher the better: the loss is negated, None is -inf."""
    known = [name for name, found in result.items() if isinstance(found, dict | float)]
    if metric not in known:
        raise InputError(f"metric is {metric!r}: expected one of {', '.join(known)}")
    value = result[metric]["value"] if isinstance(result[metric], dict) else result[metric]
    if value is None:
        return -math.inf
    return -value if metric == "loss" else value


def table(result: dict[str, Any]) -> str:
    """Show a result of `measure` to people: a line for each metric, and a confusion matrix that is small."""
    shown = {name: value for name, value in result.items() if name not in ("confusion", "labels")}
    width = max(map(len, shown))
    lines = [f"{name:{width}}  {_shown(value)}" for name, value in shown.items()]
    labels = result.get("labels")
    if labels and len(labels) <= MOST_SHOWN:
        cells = [["true \\ predicted", *labels]]
        cells += [[label, *map(str, row)] for label, row in zip(labels, result["confusion"], strict=True)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines.append("")
        for first, *rest in cells:
            lines.append("  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        ends = "" if value["low"] is None else f"  [{value['low']:.4f}, {value['high']:.4f}]"
        return _shown(value["value"]) + ends
    return f"{value:.4f}" if isinstance(value, float) else "nan" if value is None else str(value)


def _targets(examples: Sequence[Example], labels: int) -> Array:
    """Give the labels of examples as (n, C), in float64."""
    if not examples:
        raise InputError("there are no examples: expected at least one to measure on")
    for example in examples:
        if len(example.label) != labels:
            raise InputError(f"{example.place} has a label of {len(example.label)} values: expected {labels}")
    return np.array([example.label for example in examples], np.float64)


def _of_classes(
    predicted: Array, true: Array, names: Sequence[str] | None, loss: float | None = None
) -> dict[str, Any]:
    """Give the metrics of class ids (n,), which have names, or of rows (n, C)."""
    n, labels = len(true), None if names is None else len(names)
    right = accuracy(predicted, true)
    result: dict[str, Any] = {"examples": n, **({} if loss is None else {"loss": loss})}
    result["accuracy"] = _estimate(right, wilson(right, n))
    for average, ends in bootstrap(predicted, true, labels).items():
        result[f"f1_{average}"] = _estimate(f1(predicted, true, average, labels), ends)
    if names is not None:
        result |= {"confusion": confusion(predicted, true, len(names)).tolist(), "labels": list(names)}
    return result


def _of_values(values: Array, true: Array) -> dict[str, Any]:
    """Give the correlations of (n, C), over all values; an interval only of C = 1, whose pairs are independent."""
    found = {"pearson": pearson(values.ravel(), true.ravel()), "spearman": spearman(values.ravel(), true.ravel())}
    alone = values.shape[1] == 1
    return {name: _estimate(r, fisher(r, len(true)) if alone else (math.nan,) * 2) for name, r in found.items()}


def _estimate(value: float, ends: Interval) -> dict[str, float | None]:
    numbers = zip(("value", "low", "high"), (value, *ends), strict=True)
    return {name: None if math.isnan(number) else number for name, number in numbers}


def _outcomes(predicted: ArrayLike, true: ArrayLike, labels: int | None) -> tuple[Array, Array]:
    """Give the distinct outcomes of examples, and how often each comes up (K,).

    An outcome is what it adds to the counts of each class: right, predicted and true, (K, 3, C) of 0 and 1.
    """
    p, t = np.asarray(predicted, np.int64), np.asarray(true, np.int64)
    if p.ndim == 2:
        both, times = np.unique(np.stack([p, t], 1), axis=0, return_counts=True)
        p, t = both[:, 0], both[:, 1]
    elif labels is None:
        raise InputError("labels is missing: expected how many classes the ids are of")
    else:
        codes, times = np.unique(t * labels + p, return_counts=True)
        p, t = np.eye(labels)[codes % labels], np.eye(labels)[codes // labels]
    return np.stack([p * t, p, t], 1).astype(np.float64), times


def _f1(counts: Array, rows: Array) -> dict[str, Array]:
    """Give F1 of counts (..., 3, C) by average; the classes that they hold stand for all of the outcomes."""
    right, sizes, support = counts[..., 0, :], counts[..., 1:, :].sum(-2), counts[..., 2, :]
    each = 2 * right / np.maximum(sizes, 1)
    share = rows.any((0, 1)).mean() / np.maximum((sizes > 0).sum(-1), 1)  # 1 / C, unless a resample lacks some
    return {
        "micro": 2 * right.sum(-1) / np.maximum(sizes.sum(-1), 1),
        "macro": each.sum(-1) * share,
        "weighted": (each * support).sum(-1) / np.maximum(support.sum(-1), 1),
    }


def _unit(x: Array) -> Array:
    """Center a vector and give it the length 1; its largest value first, lest a square vanish."""
    x = x - x.mean()
    x = x / np.abs(x).max()
    return x / np.linalg.norm(x)


def _ranks(x: ArrayLike) -> Array:
    _, place, times = np.unique(np.asarray(x), return_inverse=True, return_counts=True)
    return (np.cumsum(times) - (times - 1) / 2)[place]
