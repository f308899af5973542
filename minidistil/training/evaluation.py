"""Evaluation of classifiers: predict logits, compare them with labels, and format the result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_count
from ..errors import InputError, printable
from ..model import Model
from ..pipelines.classification import TextClassification, ZeroShotClassification
from ..pipelines.inference import Engine
from ..tokenizer import Tokenizer
from .data import Example, Labels
from .metrics import Array, Interval, accuracy, bootstrap, confusion, f1, fisher, pearson, spearman, wilson
from .progress import progress_bar

METRICS = {  # metrics that can select the best checkpoint, the default first
    "single_label_classification": ("accuracy", "f1_macro", "f1_weighted", "loss"),
    "multi_label_classification": ("f1_micro", "accuracy", "f1_macro", "f1_weighted", "loss"),
    "regression": ("pearson", "spearman", "loss"),
}
MAX_LABELS = 10  # largest confusion matrix that is printed
T = TypeVar("T")


def predict(
    model: Model,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    max_length: int | None = None,
    *,
    quiet: bool = False,
) -> Tensor:
    """Return a classifier's logits, float32 (n, C), without dropout; show progress unless `quiet`.

    max_length: tokens that texts are truncated to.
    """
    check_count("max_length", max_length)
    modes = [(module, module.training) for module in model.modules()]
    try:
        pipe = TextClassification("text-classification", Engine(model, "text-classification"), tokenizer)
        logits = pipe.logits(((e.text, e.pair) for e in examples), "longest_first", max_length)
        rows = list(_with_progress(logits, len(examples), quiet))
    finally:
        for module, training in modes:
            module.training = training
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, model.config.num_labels)


def evaluate(
    model: Model,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    max_length: int | None = None,
    *,
    problem_type: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Return the metrics of a classifier on examples, as `measure` does.

    problem_type: as in a config; None: the model's. Other arguments as for `predict`.
    """
    labels = Labels.from_config(model.config)
    logits = predict(model, tokenizer, examples, max_length, quiet=quiet)
    return measure(logits, examples, problem_type or labels.problem_type, labels.names)


def evaluate_zero_shot(
    pipe: ZeroShotClassification,
    examples: Sequence[Example],
    names: Sequence[str],
    template: str | None = None,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Return the metrics of zero-shot classification: those of `measure` for a single label, without the loss.

    Args:
        pipe: a zero-shot pipeline.
        examples: single texts, no pairs.
        names: names of the C classes.
        template: hypothesis template, with {} for the name; None: the default of the pipeline.
        quiet: show no progress.
    """
    true = _targets(examples, len(names)).argmax(1)
    for example in examples:
        if example.pair is not None:
            raise InputError(f"{example.place} is a pair: zero-shot classification takes single texts")
        if not example.text:
            raise InputError(f"{example.place}: the text is empty: there is nothing to classify")
    options = {} if template is None else {"hypothesis_template": template}
    answers = pipe((example.text for example in examples), list(names), **options)
    answers = _with_progress(answers, len(examples), quiet)
    predicted = np.array([names.index(answer["labels"][0]) for answer in answers])
    return {**_class_metrics(predicted, true, names), **({} if template is None else {"template": template})}


def _with_progress(results: Iterable[T], total: int, quiet: bool) -> Iterator[T]:
    with progress_bar("evaluation", total, unit="example", leave=False, quiet=quiet) as bar:
        for result in results:
            yield result
            bar.update()


def measure(
    logits: Tensor, examples: Sequence[Example], problem_type: str, labels: Sequence[str]
) -> dict[str, Any]:
    """Compare logits (n, C) with the labels of n examples; return the metrics as plain values, ready for JSON.

    labels: names of the C outputs. Each metric is {"value", "low", "high"}, with its 95 % confidence interval;
    None for an undefined value, such as the correlation with a constant.
    """
    if problem_type not in METRICS:
        raise InputError(f"problem_type is {problem_type!r}: expected one of {', '.join(METRICS)}")
    target = _targets(examples, len(labels))
    if logits.shape != target.shape:
        raise InputError(f"logits have shape {tuple(logits.shape)}: expected {target.shape} for these examples")
    values, wanted = logits.detach().double().cpu(), torch.from_numpy(target)
    if problem_type == "regression":
        return {
            "examples": len(target),
            "loss": F.mse_loss(values, wanted).item(),
            **_value_metrics(values.numpy(), target),
        }
    if problem_type == "multi_label_classification":
        loss = F.binary_cross_entropy_with_logits(values, wanted).item()
        return _class_metrics(values.numpy() > 0, target > 0.5, None, loss)  # logit > 0: sigmoid > 0.5
    loss = F.cross_entropy(values, wanted).item()
    return _class_metrics(values.numpy().argmax(1), target.argmax(1), labels, loss)


def score(result: dict[str, Any], metric: str) -> float:
    """Return a metric from a result of `measure` so that higher is better: -loss, and -inf for None."""
    known = [name for name, value in result.items() if isinstance(value, dict | float)]
    if metric not in known:
        raise InputError(f"metric is {metric!r}: expected one of {', '.join(known)}")
    value = result[metric]["value"] if isinstance(result[metric], dict) else result[metric]
    if value is None:
        return -math.inf
    return -value if metric == "loss" else value


def table(result: dict[str, Any]) -> str:
    """Format a result of `measure` for a terminal: a line per metric, and a small confusion matrix."""
    shown = {name: value for name, value in result.items() if name not in ("confusion", "labels")}
    width = max(map(len, shown))
    lines = [f"{name:{width}}  {_format(value)}" for name, value in shown.items()]
    labels = [printable(label) for label in result.get("labels") or ()]
    if labels and len(labels) <= MAX_LABELS:
        cells = [["true \\ predicted", *labels]]
        cells += [[label, *map(str, row)] for label, row in zip(labels, result["confusion"], strict=True)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines.append("")
        for first, *rest in cells:
            lines.append("  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]))
    return "\n".join(lines)


def _format(value: Any) -> str:
    if isinstance(value, dict):
        interval = "" if value["low"] is None else f"  [{value['low']:.4f}, {value['high']:.4f}]"
        return _format(value["value"]) + interval
    return f"{value:.4f}" if isinstance(value, float) else "nan" if value is None else str(value)


def _targets(examples: Sequence[Example], outputs: int) -> Array:
    """Return the labels of examples: (n, C) float64."""
    if not examples:
        raise InputError("there are no examples to evaluate on: expected at least one")
    for example in examples:
        if len(example.label) != outputs:
            raise InputError(f"{example.place} has a label of {len(example.label)} values: expected {outputs}")
    return np.array([example.label for example in examples], np.float64)


def _class_metrics(
    predicted: Array, true: Array, names: Sequence[str] | None, loss: float | None = None
) -> dict[str, Any]:
    """Return the metrics of class ids (n,) and their names, or of multi-label rows (n, C) of 0 and 1."""
    n, classes = len(true), None if names is None else len(names)
    fraction = accuracy(predicted, true)
    result: dict[str, Any] = {"examples": n, **({} if loss is None else {"loss": loss})}
    result["accuracy"] = _estimate(fraction, wilson(fraction, n))
    for average, interval in bootstrap(predicted, true, classes).items():
        if average == "micro" and names is not None:
            continue  # for a single label, micro F1 equals accuracy
        result[f"f1_{average}"] = _estimate(f1(predicted, true, average, classes), interval)
    if names is not None:
        result |= {"confusion": confusion(predicted, true, len(names)).tolist(), "labels": list(names)}
    return result


def _value_metrics(values: Array, true: Array) -> dict[str, Any]:
    """Return the correlations of (n, C) over all values; intervals only for C = 1, where pairs are independent."""
    single = values.shape[1] == 1
    values, true, n = values.ravel(), true.ravel(), len(true)
    correlations = {"pearson": pearson(values, true), "spearman": spearman(values, true)}
    return {name: _estimate(r, fisher(r, n) if single else (math.nan,) * 2) for name, r in correlations.items()}


def _estimate(value: float, interval: Interval) -> dict[str, float | None]:
    numbers = zip(("value", "low", "high"), (value, *interval), strict=True)
    return {name: None if math.isnan(number) else number for name, number in numbers}
