"""Time the implementations of an operation and compare them with a lower bound for this machine.

The bound is the larger of two times: bytes to move / measured copy rate, and FLOPs / measured matmul rate.
Implementations that the gate rejects are not timed.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..benchmarks.measure import default_device, machine
from ..benchmarks.plots import check_plot
from ..errors import InputError
from ..training.progress import progress_bar
from . import gate
from .cases import Case
from .cost import ceilings
from .plot import plot_times
from .registry import DTYPES, REFERENCE, Implementation, find, implementations
from .report import add_speeds, header, lines
from .results import origin
from .timer import time_case
from .worker import LocalWorker, Worker, threads
from .workloads import timed_cases


def bench(
    op: str,
    *,
    dtype: str = "float32",
    names: Sequence[str] | None = None,
    plot: str | None = None,
    seconds: float = 2.0,
    quiet: bool = False,
    others: Sequence[tuple[Implementation, Worker]] = (),
    worker: Worker | None = None,
    cases: dict[str, Case] | None = None,
    backward: bool = False,
    seed: int | None = None,
    show: Callable[[dict[str, Any]], Iterable[str]] = lines,
    draw: Callable[[dict[str, Any], str], None] = plot_times,
) -> dict[str, Any]:
    """Time the implementations of an operation, print a report, and return it.

    Args:
        names: the implementations to time (default: all).
        plot: file to write a plot to; the suffix sets the format (extra `plot`).
        seconds: time limit for each case and cache state. Each implementation is timed at least five times, and
            until its mean is known to 2 %.
        quiet: show no progress on stderr.
        others: implementations that another process holds, which are timed too.
        worker: where the named implementations run; None: in this process.
        cases: shapes to time, by title; None: those of `workloads.py`.
        backward: time the backward pass, of implementations that support gradients.
        seed: of the inputs; None: another one each time.
        show, draw: what to print and plot.

    Raises InputError for unknown values, and for a name that cannot run on this machine.
    """
    check_plot(plot)  # before anything is measured
    chosen = implementations(op) if names is None else [find(op, name) for name in names]
    local = LocalWorker(chosen) if worker is None else worker
    pairs = [*((each, local) for each in chosen), *others]
    why_not_timed(chosen[0], dtype)  # an unknown dtype
    report = describe(op, dtype, backward=backward, seed=seed, file=others[0][0].file if others else "")
    print(*header(report), sep="\n", flush=True)
    measure(report, pairs, timed_cases(op) if cases is None else cases, seconds=seconds, quiet=quiet)
    print(*show(report), sep="\n", flush=True)
    if plot is not None:
        draw(report, plot)
    return report


def describe(
    op: str,
    dtype: str,
    *,
    backward: bool = False,
    seed: int | None = None,
    file: str = "",
    rates: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Return a report without times: the machine and its ceilings, versions, and the seed of the inputs.

    rates: the ceilings, if they are known.
    """
    report = {"op": op, "dtype": dtype, "direction": "backward" if backward else "forward"}
    report |= machine(default_device()) | origin(file)
    seed = random.randrange(10**6) if seed is None else seed
    return report | {"seed": seed, "ceilings": ceilings(dtype) if rates is None else rates}


def measure(
    report: dict[str, Any],
    pairs: Sequence[tuple[Implementation, Worker]],
    cases: dict[str, Case],
    *,
    seconds: float,
    quiet: bool = False,
    checked: Collection[str] = (),
) -> None:
    """Add times to a report of `describe`: "cases" by title, and "skipped" and "rejected" implementations.

    checked: names of implementations that have passed the gate.
    """
    dtype, backward = report["dtype"], report["direction"] == "backward"
    reasons = {each.name: why_not_timed(each, dtype, backward) for each, _ in pairs}
    report["skipped"] = {name: reason for name, reason in reasons.items() if reason is not None}
    report |= {"rejected": {}, "cases": {}}
    timed = [pair for pair in pairs if reasons[pair[0].name] is None]
    known, options = (
        gate.Expectations(),
        {"rates": report["ceilings"], "backward": backward, "seed": report["seed"]},
    )
    judge = (
        contextlib.nullcontext() if any(isinstance(held_by, LocalWorker) for _, held_by in pairs) else threads(1)
    )
    with judge, progress_bar(report["op"], len(timed) + len(cases), unit="step", leave=False, quiet=quiet) as bar:
        for each, held_by in timed:
            finding = None if each.name in checked else first_finding(each, held_by, known)
            if finding is not None:
                report["rejected"][each.name] = f"not timed: rejected by the gate: {finding}"
            bar.update()
        for title, case in cases.items():
            timed = [pair for pair in timed if pair[0].name not in report["rejected"]]
            if timed:
                timing = time_case(title, case, timed, dtype=dtype, seconds=seconds, **options)
                if timing.report["rows"]:
                    report["cases"][title] = timing.report
                report["rejected"] |= timing.rejected
            bar.update()
    for case_report in report["cases"].values():
        rows = case_report["rows"]
        for name in report["rejected"]:
            rows.pop(name, None)
        add_speeds(rows)


def why_not_timed(implementation: Implementation, dtype: str, backward: bool = False) -> str | None:
    """Return why an implementation cannot be timed here, or None. Raises InputError for an unknown dtype."""
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    if (reason := implementation.lacks()) is not None:
        return f"cannot run here: {reason}"
    if implementation.name == REFERENCE:
        return "it is the NumPy reference, whose threads would slow down the others"
    if implementation.device == "cpu" and "triton" in implementation.needs:
        return "it runs in Triton's interpreter, whose speed does not predict a GPU's"
    if implementation.device != default_device():
        return "it runs on CPU only, and the others are timed on CUDA"
    if dtype not in implementation.dtypes:
        return f"it is not registered for {dtype}"
    if backward and not implementation.gradients:
        return "it is not registered with gradients=True"
    reason = implementation.lacks(dtype)
    return None if reason is None else f"cannot run here in {dtype}: {reason}"


def refuse_untimed(implementation: Implementation, dtype: str, worker: Worker | None = None) -> None:
    """Raise InputError for an implementation that cannot be timed here or that the gate rejects."""
    reason = why_not_timed(implementation, dtype)
    if reason is None and (finding := first_finding(implementation, worker)) is not None:
        reason = f"rejected by the gate: {finding}"
    if reason is not None:
        raise InputError(f"{implementation.title} is not timed: {reason}")


def first_finding(
    implementation: Implementation, worker: Worker | None = None, known: gate.Expectations | None = None
) -> str | None:
    """Check an implementation quickly. Return the first finding, or None if it passes."""
    worker = LocalWorker([implementation]) if worker is None else worker
    findings = gate.check(implementation, worker, quick=True, stop=True, expectations=known).findings
    if "compiler" in implementation.needs and not findings:
        worker.ask("reset_compiler")  # compilations of the gate count towards the recompilation limit
    return next((f"{finding.case} ({finding.dtype}): {finding.reason}" for finding in findings), None)


def profile(
    implementation: Implementation, worker: Worker, path: str, *, dtype: str, cases: dict[str, Case] | None = None
) -> dict[str, Any]:
    """Profile one call on the last of the cases, in inference mode, and write a trace to a file.

    Returns what `profiler.profile_call` does, and the title of the case. Raises Rejected.
    """
    title, case = list((cases or timed_cases(implementation.op)).items())[-1]
    trial = gate.Trial(implementation, worker, case, dtype, gate.Expectations(), strict=False)
    trial._start(case.make(0))
    trial.bind(0, trial.write(case.make(0)))
    trial.run(0, 0, mode="inference")  # prepares weights, selects kernels
    measured = worker.ask("profile", handle=0, path=str(Path(path).resolve()), mode="inference")
    return {"title": title, "device": implementation.device, "trace": path, **measured}
