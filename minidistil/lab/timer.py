"""Time implementations on one case, in turns, and judge the results of a timed call.

Before every timed call the judge writes new random values. It keeps the results of one turn, which an
implementation cannot tell from the others, and checks them like the gate. The seconds are those of the worker's
clock, which code in that process could replace, so the judge compares them with its own clock: the rest of a
request (the message, and the copy of the results) must take as long as with plain PyTorch.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..benchmarks.measure import MIN_ROUNDS, interquartile_range, take_turns
from .cases import Case, Inputs
from .cost import ceilings, cost_of
from .gate import Expectations, Trial
from .registry import Implementation
from .worker import Rejected, Worker, threads, timed_ask

CHANGED = {"embed": ("ids",), "attention": ("q", "k", "v"), "add_norm": ("x", "residual")}  # for a call; else x
SLACK = 2e-4  # seconds by which requests may differ without suspicion
CEILING = 1.25  # share of the bound above which a cold time is refused: the ceilings vary too


class Timing(NamedTuple):
    """Times of one case, and the implementations that failed its checks."""

    report: dict[str, Any]  # cost, and "rows": times by implementation and cache state
    rejected: dict[str, str]  # reasons by name


class Timed:
    """One implementation on one case: its inputs, and what was measured."""

    def __init__(
        self, implementation: Implementation, worker: Worker, case: Case, dtype: str, known: Expectations
    ):
        self.trial = Trial(implementation, worker, case, dtype, known, strict=False)
        self.worker, self.turns = worker, 0
        self.kept: tuple[Inputs, list[Tensor]] | None = None
        self.rests: list[float] = []

    def start(self, inputs: Inputs, handle: int, sibling: Timed | None) -> None:
        """Place the inputs, and call once: prepares weights, selects kernels. Raises Rejected.

        sibling: another implementation in the same worker, whose places are shared.
        """
        self.handle = handle
        if sibling is None:
            self.trial._start(inputs)
            self.inputs = self.trial.write(inputs)
        else:
            self.trial.share(sibling.trial)
            self.inputs = sibling.inputs
        self.trial.bind(handle, self.inputs)
        self.trial.run(handle, 0, mode="inference")

    def call(self, cold: bool, keep: int) -> float:
        """Write new values, and time a call by the worker's clock. keep: the turn whose results are kept."""
        names = CHANGED.get(self.trial.case.op, ("x",))
        for name in names:
            x = self.inputs[name]
            if x.is_floating_point():
                x.copy_(torch.randn(x.shape))
            else:
                x.copy_(torch.randint(len(self.inputs["word"]), x.shape))
        self.worker.ask("cache", handles=[self.handle], cold=cold)
        request = {
            "handles": [self.handle],
            "outputs": [self.trial.outputs[0]],
            "mode": "inference",
            "changed": names,
        }
        reply, passed = timed_ask(self.worker, "run", **request)
        seconds = float(reply["seconds"][0])
        self.rests.append(passed - seconds)
        if self.turns == keep:
            tensors = {name: x.clone() if isinstance(x, Tensor) else x for name, x in self.inputs.items()}
            self.kept = tensors, [x.clone() for x in self.trial.read(0)]
        self.turns += 1
        return seconds

    def judge(self) -> None:
        """Check the kept results. Raises Rejected."""
        assert self.kept is not None
        inputs, results = self.kept
        self.trial.known = Expectations()  # these values are its own
        self.trial.judge(self.trial.expect(inputs, 0), results)


def time_case(
    title: str,
    case: Case,
    implementations: Sequence[tuple[Implementation, Worker]],
    *,
    dtype: str,
    rates: Mapping[str, float],
    seconds: float,
) -> Timing:
    """Time implementations on one case, with a cold and a warm cache, and check results of timed calls.

    rates: the `ceilings`. seconds: time limit for each cache state.
    """
    inputs, rejected = case.make(random.randrange(10**6)), {}
    timed: dict[str, Timed] = {}
    for each, worker in implementations:
        one = Timed(each, worker, case, dtype, Expectations())
        try:
            sibling = next((other for other in timed.values() if other.worker is worker), None)
            one.start(inputs, len(timed), sibling)
            timed[each.name] = one
        except Rejected as failure:
            rejected[each.name] = f"not timed: {title}: {failure}"
    rows: dict[str, Any] = {name: {} for name in timed}
    report: dict[str, Any] = {}
    if not timed:
        return Timing({"rows": rows}, rejected)
    first = next(iter(timed.values()))
    report = cost_of(case.op, first.inputs, first.trial.read(0), rates)
    for cache in ("cold", "warm"):
        calls = {name: _caller(one, cache == "cold") for name, one in timed.items()}
        try:
            times = take_turns(list(calls.values()), seconds=seconds)
        except _Failed as failed:
            rejected[failed.name] = f"time withdrawn: {title}: {failed}"
            others = [pair for pair in implementations if pair[0].name not in rejected]
            again = time_case(title, case, others, dtype=dtype, rates=rates, seconds=seconds)
            return Timing(again.report, rejected | again.rejected)
        for name, measured in zip(calls, times, strict=True):
            median = statistics.median(measured)
            rows[name][cache] = {"seconds": median, "spread": interquartile_range(measured), "runs": len(measured)}
            rows[name][cache]["share"] = report["bound"] / median
    for name, one in timed.items():
        if (reason := _doubt(one, timed.get("torch"), rows[name], report, dtype)) is not None:
            rejected[name] = f"time withdrawn: {title}: {reason}"
    return Timing({**report, "rows": rows}, rejected)


class _Failed(Exception):  # noqa: N818
    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.name = name


def _caller(one: Timed, cold: bool) -> Callable[[], float]:
    keep = one.turns + random.randrange(MIN_ROUNDS)

    def call() -> float:
        try:
            return one.call(cold, keep)
        except Rejected as failure:
            raise _Failed(one.trial.implementation.name, str(failure)) from None

    return call


def _doubt(one: Timed, plain: Timed | None, row: dict[str, Any], report: dict[str, Any], dtype: str) -> str | None:
    """Return why the times of an implementation are not credible, or None."""
    try:
        one.judge()
    except Rejected as failure:
        return str(failure)
    if plain is not None and one is not plain:
        usual, rest = statistics.median(plain.rests), statistics.median(one.rests)
        claimed = min(each["seconds"] for each in row.values())
        if rest > 2 * usual + SLACK + claimed / 4:
            return (
                f"its clock reports {claimed * 1e3:.3g} ms, but by the judge's clock the call takes up to "
                f"{(claimed + rest - usual) * 1e3:.3g} ms"
            )
    if one.trial.bits is None and row["cold"]["share"] > CEILING:
        with threads(one.worker.threads):
            rates = ceilings(dtype)
        bound = cost_of(one.trial.case.op, one.inputs, one.trial.read(0), rates)["bound"]
        if bound > CEILING * row["cold"]["seconds"]:
            return f"{row['cold']['seconds'] * 1e3:.3g} ms is faster than this machine's ceilings allow"
    return None
