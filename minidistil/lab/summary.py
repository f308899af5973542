"""All figures of one implementation: times forward and backward, memory, and its effect on a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import InputError
from .bench import describe, measure, why_not_timed
from .cases import Case
from .in_model import Texts, measure_in_model
from .registry import REFERENCE, Implementation, implementations
from .report import header, in_model_lines
from .worker import Worker
from .workloads import timed_cases


def dtype_to_time(implementation: Implementation, dtype: str | None = None) -> str:
    """Return a dtype, by default the first that an implementation supports and that can run here.

    Raises InputError for an implementation that cannot be timed here.
    """
    if dtype is None:
        dtype = next(
            (x for x in implementation.dtypes if x not in implementation.lacking), implementation.dtypes[0]
        )
    if (reason := why_not_timed(implementation, dtype)) is not None:
        raise InputError(f"{implementation.title} is not timed: {reason}")
    return dtype


def summarize(
    implementation: Implementation,
    worker: Worker,
    plain: Worker,
    texts: Texts,
    *,
    dtype: str,
    cases: dict[str, Case] | None = None,
    seconds: float = 1.0,
    seed: int | None = None,
    quiet: bool = False,
    transformers: bool = False,
) -> dict[str, Any]:
    """Time an implementation that has passed the gate, next to the built-in ones, alone and in a classifier.

    Args:
        worker, plain: the processes of the implementation and of the built-in ones.
        texts: of the classifier.
        cases: shapes to time, by title; None: those of `workloads.py`.
        seconds: time limit for each case and cache state.
        seed: of the inputs; None: another one each time.
        transformers: measure it too, in the classifier.

    Raises Rejected.
    """
    op, name = implementation.op, implementation.name
    others = [
        each
        for each in implementations(op)
        if each.name not in (REFERENCE, name) and each.precision in (None, implementation.precision)
    ]
    others = [each for each in others if why_not_timed(each, dtype) is None]
    pairs = [*((each, plain) for each in others), (implementation, worker)]
    checked, cases = [each.name for each, _ in pairs], timed_cases(op) if cases is None else cases
    forward = describe(op, dtype, seed=seed, file=implementation.file)
    measure(forward, pairs, cases, seconds=seconds, quiet=quiet, checked=checked)
    report: dict[str, Any] = {"op": op, "name": name, "dtype": dtype, "forward": forward}
    if implementation.gradients:
        again = {"backward": True, "seed": forward["seed"], "rates": forward["ceilings"]}
        backward = describe(op, dtype, file=implementation.file, **again)
        pairs = [(each, held_by) for each, held_by in pairs if each.gradients]
        measure(backward, pairs, cases, seconds=seconds, quiet=quiet, checked=checked)
        report["backward"] = backward
    report["rejected"] = [
        report[direction]["rejected"][name]
        for direction in ("forward", "backward")
        if direction in report and name in report[direction]["rejected"]
    ]
    if not report["rejected"]:
        report["table"] = {title: list(_rows(report, title)) for title in forward["cases"]}
        report["model"] = measure_in_model(
            implementation, worker, plain, texts, dtype=dtype, transformers=transformers
        )
    return report


def _rows(report: dict[str, Any], title: str) -> Iterator[dict[str, Any]]:
    """Yield the times of a case, next to those of plain PyTorch and of the fastest built-in implementation."""
    name = report["name"]
    for direction, key in (("forward", "seconds"), ("backward", "seconds"), ("backward", "with forward")):
        if direction not in report:
            continue
        case = report[direction]["cases"][title]
        bound = case["bound"] + (report["forward"]["cases"][title]["bound"] if key == "with forward" else 0)
        row: dict[str, Any] = {"what": "both" if key == "with forward" else direction}
        for cache in ("cold", "warm"):
            seconds = {each: times[cache][key] for each, times in case["rows"].items()}
            others = {each: time for each, time in seconds.items() if each != name}
            best = min(others, key=lambda each: others[each], default=None)
            row[cache] = {"seconds": seconds[name], "share": bound / seconds[name], "best": best}
            row[cache]["noisy"] = case["rows"][name][cache]["noisy"]
            row[cache]["speed"] = others["torch"] / seconds[name] if "torch" in others else None
            row[cache]["speed to best"] = None if best is None else others[best] / seconds[name]
        memory = {each: times["peak bytes"] for each, times in case["rows"].items()}
        yield row | {"peak bytes": memory[name], "peak bytes of torch": memory.get("torch")}


def summary_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report of `summarize` as text, after the verdict."""
    yield from header(report["forward"])
    if report["rejected"]:
        yield from (f"REJECTED  {report['op']} {report['name']}: {reason}" for reason in report["rejected"])
        return
    yield "best: the same, to the fastest built-in implementation; MB: memory that a call allocates at its peak"
    yield "both: a forward pass for training and its backward pass"
    for title, rows in report["table"].items():
        yield f"\n{title}"
        columns, memory = f"{'torch':>7} {'best':>7}", f"{'MB':>8} {'torch':>6}"
        yield f"  {'':<9} {'cold ms':>10} {'of bound':>8} {columns} {'':<17} {'warm ms':>10} {columns} {memory}"
        for row in rows:
            cold, warm = row["cold"], row["warm"]
            times = (
                f"{cold['seconds'] * 1e3:10.4f} {cold['share']:8.0%} {_ratios(cold)} {cold['best'] or '':<17.17}"
            )
            times += f" {warm['seconds'] * 1e3:10.4f} {_ratios(warm)}"
            memory = f"{_megabytes(row['peak bytes']):>8} {_megabytes(row['peak bytes of torch']):>6}"
            yield f"  {row['what']:<9} {times} {memory}".rstrip()
    yield ""
    yield from in_model_lines(report["model"])


def _ratios(timed: dict[str, Any]) -> str:
    ratios = (timed[key] for key in ("speed", "speed to best"))
    end = "?" if timed["noisy"] else "x"
    return " ".join(f"{'' if ratio is None else f'{ratio:.2f}{end}':>7}" for ratio in ratios)


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"
