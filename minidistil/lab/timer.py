"""Time implementations on one case, forward or backward, in turns, and judge the results of a timed call.

Before every timed call the judge writes new random values. It keeps the results of one turn, which an
implementation cannot tell from the others, and checks them like the gate. The seconds are those of the worker's
clock, which code in that process could replace, so the judge compares them with its own clock: the rest of a
request (the message, and the copy of the results) must take as long as with plain PyTorch.

Backward passes follow a forward pass on new values; upstream gradients are drawn between the two.
"""

from __future__ import annotations

import functools
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..benchmarks.measure import MIN_ROUNDS, interquartile_range, take_turns
from .arena import Place
from .cases import Case, Inputs
from .cost import ceilings, cost_of
from .gate import Expectations, Trial, inputs_with_gradients
from .memory import peak_bytes
from .registry import Implementation
from .worker import Rejected, Worker, threads, timed_ask

CHANGED = {"embed": ("ids",), "attention": ("q", "k", "v"), "add_norm": ("x", "residual")}  # for a call; else x
SLACK = 2e-4  # seconds by which requests may differ without suspicion
AGAIN = 20  # rounds of a second look at such a difference
CEILING = 1.25  # share of the bound above which a cold time is refused: the ceilings vary too
T = TypeVar("T")


class Timing(NamedTuple):
    """Times of one case, and the implementations that failed its checks."""

    report: dict[str, Any]  # cost, and "rows": times by cache state, and peak memory, by implementation
    rejected: dict[str, str]  # reasons by name


class Timed:
    """One implementation on one case: its inputs, and what was measured."""

    def __init__(self, implementation: Implementation, worker: Worker, case: Case, dtype: str, backward: bool):
        self.trial = Trial(implementation, worker, case, dtype, Expectations(), strict=False)
        self.worker, self.backward, self.turns, self.config = worker, backward, 0, ""
        self.kept: tuple[Inputs, list[Tensor], list[Tensor], list[Tensor]] | None = None
        self.rests: list[float] = []  # seconds that requests took, except the calls
        self.forwards: list[float] = []  # seconds of the forward passes before timed backward passes

    def start(self, inputs: Inputs, handle: int, sibling: Timed | None) -> None:
        """Place the inputs, and call once: prepares weights, selects kernels. Raises Rejected.

        sibling: another implementation in the same worker, whose places are shared.
        """
        if sibling is None:
            self.trial._start(inputs, gradients=self.backward)
            self.inputs = self.trial.write(inputs)
        else:
            self.trial.share(sibling.trial)
            self.inputs = sibling.inputs
        requires = inputs_with_gradients(self.inputs) if self.backward else None
        self.trial.bind(handle, self.inputs, requires=requires)
        mode, self.changed = "grad" if self.backward else "inference", CHANGED.get(self.trial.case.op, ("x",))
        self.run: dict[str, Any] = {"handles": [handle], "outputs": [self.trial.outputs[0]], "mode": mode}
        self.run["changed"] = self.changed
        self.trial.run(handle, 0, mode=mode)
        self.dys = self.trial.dys.get("contiguous", [])
        self.gradients = [self.trial.gradient_places[name] for name in requires or ()]
        self.derive: dict[str, Any] = {"handle": handle, "upstream": self.dys, "gradients": self.gradients}
        if self.backward:
            self.worker.ask("backward", **self.derive)

    def draw(self, generator: torch.Generator) -> None:
        """Write new values."""
        for name in self.changed:
            x = self.inputs[name]
            if x.is_floating_point():
                x.copy_(torch.randn(x.shape, generator=generator))
            else:
                x.copy_(torch.randint(len(self.inputs["word"]), x.shape, generator=generator))

    def call(self, cold: bool, keep: int, generator: torch.Generator) -> float:
        """Write new values, and time a call by the worker's clock. keep: the turn whose results are kept."""
        self.rests.append(0.0)
        self.draw(generator)
        seconds = self._timed("run", self.run, cold)
        if self.backward:
            self.forwards.append(seconds)
            for dy in self._tensors(self.dys):
                dy.copy_(torch.randn(dy.shape, generator=generator))
            seconds = self._timed("backward", self.derive, cold)
        if self.turns == keep:
            tensors = {name: x.clone() if isinstance(x, Tensor) else x for name, x in self.inputs.items()}
            parts = (self.trial.outputs[0], self.dys, self.gradients)
            results, dys, gradients = ([x.clone() for x in self._tensors(part)] for part in parts)
            self.kept = tensors, results, dys, gradients
        self.turns += 1
        return seconds

    def call_untimed(self) -> None:
        """Call once."""
        self.config = self.worker.ask("run", **self.run)["configs"][0]
        if self.backward:
            self.worker.ask("backward", **self.derive)

    def _timed(self, do: str, request: dict[str, Any], cold: bool) -> float:
        self.worker.ask("cache", handles=self.run["handles"], cold=cold)
        reply, passed = timed_ask(self.worker, do, **request)
        seconds = float(reply["seconds"][0])
        self.rests[-1] += passed - seconds
        return seconds

    def _tensors(self, places: Sequence[Place]) -> list[Tensor]:
        return [self.worker.arena.tensor(place) for place in places]

    def judge(self) -> None:
        """Check the kept results. Raises Rejected."""
        assert self.kept is not None
        inputs, results, dys, gradients = self.kept
        self.trial.known = Expectations()  # these values are its own
        self.trial.judge(self.trial.expect(inputs, 0), results)
        if self.backward:
            self.trial.judge(self.trial.expect_gradients(inputs, dys, 0), gradients)


def time_case(
    title: str,
    case: Case,
    implementations: Sequence[tuple[Implementation, Worker]],
    *,
    dtype: str,
    rates: Mapping[str, float],
    seconds: float,
    backward: bool = False,
    seed: int = 0,
) -> Timing:
    """Time implementations on one case, with a cold and a warm cache, and check results of timed calls.

    rates: the `ceilings`. seconds: time limit for each cache state. seed: of the values.
    """
    inputs, rejected = case.make(seed), {}
    generator = torch.Generator().manual_seed(seed)
    timed: dict[str, Timed] = {}
    for each, worker in implementations:
        one = Timed(each, worker, case, dtype, backward)
        try:
            sibling = next((other for other in timed.values() if other.worker is worker), None)
            one.start(inputs, len(timed), sibling)
            timed[each.name] = one
        except Rejected as failure:
            rejected[each.name] = f"not timed: {title}: {failure}"
    rows: dict[str, Any] = {name: {} for name in timed}
    if not timed:
        return Timing({"rows": rows}, rejected)
    first = next(iter(timed.values()))
    report = cost_of(case.op, first.inputs, first.trial.read(0), rates, backward) | {"case": case.name}
    try:
        for cache in ("cold", "warm"):
            calls = [_caller(one, cache == "cold", generator) for one in timed.values()]
            for name, measured in zip(timed, take_turns(calls, seconds=seconds), strict=True):
                row = {"seconds": statistics.median(measured), "spread": interquartile_range(measured)}
                row |= {"runs": len(measured), "share": report["bound"] / row["seconds"]}
                if backward:
                    both = zip(timed[name].forwards[-len(measured) :], measured, strict=True)
                    row["with forward"] = statistics.median(map(sum, both))
                rows[name][cache] = row
        for name, one in timed.items():
            one.draw(generator)
            call = functools.partial(_named, name, one.call_untimed)
            rows[name]["peak bytes"] = peak_bytes(one.worker, one.trial.implementation.device, call)
            rows[name]["config"] = one.config
    except _Failed as failed:
        rejected[failed.name] = f"time withdrawn: {title}: {failed}"
        others = [pair for pair in implementations if pair[0].name not in rejected]
        options: dict[str, Any] = {"dtype": dtype, "rates": rates, "seconds": seconds, "seed": seed}
        again = time_case(title, case, others, backward=backward, **options)
        return Timing(again.report, rejected | again.rejected)
    for name, one in timed.items():
        if (reason := _doubt(one, timed.get("torch"), rows[name], report, dtype)) is not None:
            rejected[name] = f"time withdrawn: {title}: {reason}"
    return Timing({**report, "rows": rows}, rejected)


class _Failed(Exception):  # noqa: N818
    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.name = name


def _named(name: str, call: Callable[[], T]) -> T:
    """Call a function. Raises _Failed with the implementation's name instead of Rejected."""
    try:
        return call()
    except Rejected as failure:
        raise _Failed(name, str(failure)) from None


def _caller(one: Timed, cold: bool, generator: torch.Generator) -> Callable[[], float]:
    keep = one.turns + random.randrange(MIN_ROUNDS)
    return lambda: _named(one.trial.implementation.name, lambda: one.call(cold, keep, generator))


def _hidden(one: Timed, plain: Timed) -> float:
    """Return the seconds by which requests, apart from the calls, take suspiciously longer than with plain."""
    usual, rest = (statistics.quantiles(each.rests, n=4)[0] for each in (plain, one))
    return rest - usual if rest > 2 * usual + SLACK else 0.0


def _doubt(one: Timed, plain: Timed | None, row: dict[str, Any], report: dict[str, Any], dtype: str) -> str | None:
    """Return why the times of an implementation are not credible, or None."""
    try:
        one.judge()
    except Rejected as failure:
        return str(failure)
    if plain is not None and one is not plain:
        claimed = min(row[cache]["seconds"] for cache in ("cold", "warm"))
        if _hidden(one, plain) > claimed / 4:  # a busy machine, perhaps: look again
            generator = torch.Generator().manual_seed(one.turns)
            one.rests, plain.rests = [], []
            try:
                take_turns([_caller(each, False, generator) for each in (one, plain)], AGAIN)
            except _Failed as failed:
                return str(failed)
            if (hidden := _hidden(one, plain)) > claimed / 4:
                return (
                    f"its clock reports {claimed * 1e3:.3g} ms, but by the judge's clock the call takes up to "
                    f"{(claimed + hidden) * 1e3:.3g} ms"
                )
    if one.trial.bits is None and row["cold"]["share"] > CEILING:
        with threads(one.worker.threads):
            rates = ceilings(dtype)
        bound = cost_of(one.trial.case.op, one.inputs, one.trial.read(0), rates, one.backward)["bound"]
        if bound > CEILING * row["cold"]["seconds"]:
            return f"{row['cold']['seconds'] * 1e3:.3g} ms is faster than this machine's ceilings allow"
    return None
