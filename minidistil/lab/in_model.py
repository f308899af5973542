"""Measure one implementation in a classifier: share of the time, speedup, and change of the logits."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..batching import split_into_batches
from ..benchmarks.measure import interquartile_range, machine, mark, seconds_between, seconds_of, take_turns
from ..checkpoint.load import from_pretrained
from ..checks import check_count
from ..errors import InputError
from ..layout import Batch
from ..ops import Ops
from ..tokenizer import Tokenizer
from ..training.data import Labels
from ..training.evaluation import METRICS, measure
from ..training.records import read_rows
from .bench import refuse_untimed
from .operations import ALL
from .registry import find
from .report import in_model_lines

TOKENS = 2048  # at most, per batch


def bench_model(
    model: str,
    data: str,
    op: str,
    name: str,
    *,
    dtype: str = "float32",
    examples: int | None = 128,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """Check one implementation, measure it in a classifier, print a report, and return it.

    Args:
        model: a checkpoint.
        data: labeled texts in a format of `read_rows`.
        examples: number of texts to run, from the first.
        seconds: time limit.

    Raises InputError for an implementation that cannot be timed on this machine or that the gate rejects.
    """
    refuse_untimed(find(op, name), dtype)
    report = measure_in_model(model, data, op, name, dtype=dtype, examples=examples, seconds=seconds)
    print(*in_model_lines(report), sep="\n", flush=True)
    return report


def measure_in_model(
    model: str,
    data: str,
    op: str,
    name: str,
    *,
    dtype: str = "float32",
    examples: int | None = 128,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """Measure one implementation in a classifier, like `bench_model`, without a check of the implementation."""
    check_count("examples", examples)
    implementation = find(op, name)
    device = implementation.device
    plain = from_pretrained(model, task="text-classification", dtype=dtype, device=device, ops=Ops())
    changed = plain.with_ops(**{op: implementation.value})
    labels = Labels.from_config(plain.config)
    chosen = labels.read(read_rows(data))[0][:examples]
    if not chosen:
        raise InputError(f"{data} has no labeled examples: expected at least one")
    pairs = [example.pair or "" for example in chosen] if any(example.pair for example in chosen) else None
    ids = Tokenizer.from_pretrained(model).encode([example.text for example in chosen], pairs).ids
    batches = [Batch.from_lists(part).to(device) for part in split_into_batches(ids, max_tokens=TOKENS)]
    report = {"op": op, "name": name, "model": model, "dtype": dtype, **machine(device)}
    report |= {"examples": len(ids), "tokens": sum(map(len, ids)), "batches": len(batches)}

    @torch.inference_mode()
    def run(model: Any) -> Tensor:
        return torch.cat([model(batch) for batch in batches])  # (n, C)

    def time_model(model: Any) -> Callable[[], float]:
        return lambda: seconds_of(lambda: run(model), device)

    def time_operation(value: Any) -> Callable[[], float]:
        """Return a function that runs the model and returns the time spent in the operation."""
        spans: list[tuple[Any, Any]] = []
        timed_model = plain.with_ops(**{op: timed(value, device, spans)})

        def seconds_in_operation() -> float:
            spans.clear()
            run(timed_model)
            return sum(seconds_between(*span) for span in spans)

        return seconds_in_operation

    before, after = (run(each).float().cpu() for each in (plain, changed))
    metric = METRICS[labels.problem_type][0]
    scores = [measure(logits, chosen, labels.problem_type, labels.names)[metric] for logits in (before, after)]
    report |= {"metric": metric, "score": [score["value"] for score in scores]}
    operations = (ALL[op].plain, implementation.value)
    turns = [*map(time_model, (plain, changed)), *map(time_operation, operations)]
    times = take_turns(turns, seconds=seconds)
    whole, whole_changed, inner, inner_changed = map(statistics.median, times)
    share, speed = inner / whole, inner / inner_changed
    report |= {"seconds": [whole, whole_changed], "spread": [interquartile_range(each) for each in times[:2]]}
    report |= {"share": share, "speed of the operation": speed}
    report |= {"speed allowed": 1 / (1 - share + share / speed)}
    return report | {"speed": whole / whole_changed, "largest change": float((after - before).abs().max())}


def timed(value: Any, device: str, spans: list[tuple[Any, Any]]) -> Callable[..., Any]:
    """Wrap an operation to append the begin and end of each call to `spans`."""

    def operation(*arguments: Any, **context: Any) -> Any:
        begin = mark(device)
        result = value(*arguments, **context)
        spans.append((begin, mark(device)))
        return result

    operation.live = getattr(value, "live", True)  # type: ignore[attr-defined]
    return operation
