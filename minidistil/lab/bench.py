"""Time the implementations of an operation, next to the least time that the machine allows.

The least time is the larger of two: for the bytes that must be moved, at the measured rate of a copy, and for the
operations that must be computed, at the measured rate of a matmul. Nothing is timed that the gate rejects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..benchmarks.measure import default_device, machine
from ..benchmarks.plots import check_plot
from ..errors import InputError
from . import gate
from .cost import ceilings
from .plot import plot_times
from .registry import DTYPES, REFERENCE, Implementation, find, implementations
from .report import add_speeds, header, lines
from .timer import time_case
from .workloads import timed_cases


def bench(
    op: str,
    *,
    dtype: str = "float32",
    names: Sequence[str] | None = None,
    plot: str | None = None,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Time the implementations of an operation, print a report, and return it.

    Args:
        names: only these.
        plot: a file for a plot, in the format of its suffix (extra `plot`).
        seconds: time limit for each case and state of the cache. Each is timed at least five times, and until its
            mean is known to 2 %.

    Raises InputError for unknown values, and for a name that cannot run here.
    """
    check_plot(plot)  # before anything is measured
    chosen = implementations(op) if names is None else [find(op, name) for name in names]
    reasons = {each.name: why_not_timed(each, dtype) for each in chosen}
    device, rates = default_device(), ceilings(dtype)
    report: dict[str, Any] = {"op": op, "dtype": dtype, **machine(device), "ceilings": rates}
    report["skipped"] = {name: reason for name, reason in reasons.items() if reason is not None}
    report |= {"rejected": {}, "cases": {}}
    print(*header(report), sep="\n", flush=True)
    timed = [each for each in chosen if reasons[each.name] is None]
    for each in timed:
        if (finding := first_finding(each)) is not None:
            report["rejected"][each.name] = f"not timed: rejected by the gate: {finding}"
    for case in timed_cases(op):
        timed = [each for each in timed if each.name not in report["rejected"]]
        if timed:
            timing = time_case(op, case, timed, dtype=dtype, device=device, rates=rates, seconds=seconds)
            report["cases"][case.name] = timing.report
            report["rejected"] |= timing.rejected
    for case_report in report["cases"].values():
        rows = case_report["rows"]
        for name in report["rejected"]:
            rows.pop(name, None)
        add_speeds(rows)
    print(*lines(report), sep="\n", flush=True)
    if plot is not None:
        plot_times(report, plot)
    return report


def why_not_timed(implementation: Implementation, dtype: str) -> str | None:
    """Return why an implementation is not timed here; None if it is. Raises InputError for an unknown dtype."""
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    if (reason := implementation.lacks()) is not None:
        return f"cannot run here: {reason}"
    if implementation.name == REFERENCE:
        return "it is the reference, in NumPy, whose threads would disturb the others"
    if implementation.device == "cpu" and "triton" in implementation.needs:
        return "it runs in Triton's interpreter, whose speed says nothing about a GPU"
    if implementation.device != default_device():
        return "it is for CPUs, and the others are timed on the CUDA device"
    if dtype not in implementation.dtypes:
        return f"it does not claim {dtype}"
    reason = implementation.lacks(dtype)
    return None if reason is None else f"cannot run here in {dtype}: {reason}"


def first_finding(implementation: Implementation) -> str | None:
    """Check an implementation. Returns the first finding; None if there is none."""
    findings = gate.check(implementation).findings
    if "compiler" in implementation.needs:
        torch.compiler.reset()  # the limit of recompilations counts those of the gate
    return next((f"{finding.case} ({finding.dtype}): {finding.reason}" for finding in findings), None)
