"""Time implementations on one case, in turns, then check them again.

An input changes before each timed call. After timing, all inputs get new values in the same memory and each
implementation is checked again. This rejects an implementation that caches results while it is timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..benchmarks.measure import interquartile_range, seconds_of, take_turns
from .cases import Case, Inputs
from .cost import cost_of
from .gate import CheckFailed, Fences, Trial, check_fences, failing_on_errors, name_outputs
from .numpy_ops import as_array
from .operations import ALL, as_tuple
from .registry import Implementation

CHANGED = {"embed": "position", "attention": "q"}  # input that changes before a timed call; x for other operations
FLUSHED_BYTES = {"cpu": 2**26, "cuda": 2**28}  # buffer that is written to flush the caches
SEED, NEW_SEED = 10, 11  # different from the gate's


class Timing(NamedTuple):
    """Times of one case, and the implementations that failed its checks."""

    report: dict[str, Any]  # cost, and "rows": times by implementation and cache state
    rejected: dict[str, str]  # reasons by name


def time_case(
    op: str,
    case: Case,
    implementations: Sequence[Implementation],
    *,
    dtype: str,
    device: str,
    rates: dict[str, float],
    seconds: float,
) -> Timing:
    """Time implementations on the same inputs, with a cold and a warm cache, then check them.

    rates: the `ceilings`. seconds: time limit for each cache state.
    """
    operation, rejected = ALL[op], {}
    trials = {each.name: Trial(each, operation, case, getattr(torch, dtype), device) for each in implementations}
    # outside inference_mode, so that version counters track the changes
    inputs, fences = next(iter(trials.values())).inputs(SEED)
    with torch.inference_mode():
        outputs = operation.run(operation.plain, inputs)
        calls: dict[str, Callable[[], Any]] = {}
        for each in implementations:
            try:
                with failing_on_errors():
                    call = operation.bind(each.value, inputs)
                    call()  # warm-up: prepares weights, selects kernels
                calls[each.name] = call
            except CheckFailed as failure:
                rejected[each.name] = f"not timed: {case.name}: {failure}"
        report = cost_of(op, inputs, outputs, rates)
        rows: dict[str, Any] = {name: {} for name in calls}
        flushed, changed = torch.zeros(FLUSHED_BYTES[device] // 4, device=device), inputs[CHANGED.get(op, "x")]
        for cache in ("cold", "warm"):
            timers = [_timer(call, cache, changed, flushed) for call in calls.values()]
            for name, times in zip(calls, take_turns(timers, seconds=seconds), strict=True):
                median = statistics.median(times)
                rows[name][cache] = {"seconds": median, "spread": interquartile_range(times), "runs": len(times)}
                rows[name][cache]["share"] = report["bound"] / median
        for name, reason in recheck(trials, inputs, fences, calls).items():
            rejected[name] = f"time withdrawn: {case.name}, new inputs: {reason}"
    return Timing({**report, "rows": rows}, rejected)


def _timer(call: Callable[[], Any], cache: str, changed: Tensor, flushed: Tensor) -> Callable[[], float]:
    """Return a function that changes the input, then times a call. On CUDA a flush hides launch overhead."""
    device = changed.device.type

    def timed() -> float:
        if cache == "warm":
            if device == "cuda":
                flushed.add_(1)
            call()
        changed.neg_()
        if cache == "cold":
            flushed.add_(1)  # reads and writes: write-only stores can bypass the cache
        return seconds_of(call, device)

    return timed


def recheck(
    trials: dict[str, Trial], inputs: Inputs, fences: Fences, calls: dict[str, Callable[[], Any]]
) -> dict[str, str]:
    """Check the timed calls like the gate, on new values in the same memory. Return failure reasons by name."""
    operation, case = next(iter(trials.values())).operation, next(iter(trials.values())).case
    for name, x in case.make(torch.Generator().manual_seed(NEW_SEED)).items():
        if isinstance(x, Tensor):
            inputs[name].copy_(x)
    expected = name_outputs(operation.forward({name: as_array(x) for name, x in inputs.items()}))
    baselines = {trial.implementation.precision: trial.plain for trial in trials.values()}
    plain = {precision: list(operation.run(baseline, inputs)) for precision, baseline in baselines.items()}
    reasons = {}
    for name, call in calls.items():
        trial = trials[name]
        try:
            with failing_on_errors():
                results = list(as_tuple(call()))
            trial.check_shapes(expected, results)
            trial.check_errors(expected, results, plain[trial.implementation.precision], inputs)
            check_fences(fences)
        except CheckFailed as failure:
            reasons[name] = str(failure)
    return reasons
