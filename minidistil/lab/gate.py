"""Check an implementation against float64: every case of its operation, in every dtype that it claims.

The judge draws the inputs, places them in shared memory, asks a worker to call the implementation, and reads the
bytes of the result. The user's code never runs in the judge's process, unless the worker is a `LocalWorker`. For
each case it asks for:

- a result within the tolerance (`tolerance.py`), from memory that is surrounded by NaN and must not be changed;
- the same result from a second call, in inference mode and, with gradients, where autograd is enabled;
- another result for other values in the same memory, and the earlier result unchanged;
- another result after values changed in place, as an optimizer's step does, after more calls;
- gradients with respect to all inputs and to some of them, for upstream gradients that are contiguous, expanded
  and strided, with two forward passes before two backward passes.

A missing result is a failed check: an exception, sys.exit, a crash, or no answer within the time limit.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import Error
from ..layout import Layout
from . import suites
from .arena import FENCE, Place, bytes_for
from .cases import LAYERS, Case, Inputs, case
from .numpy_ops import as_array
from .operations import ALL
from .registry import Implementation
from .server import layout_to_json
from .tolerance import Expected, simulate
from .worker import Died, LocalWorker, Rejected, Worker

CALLS = 5  # before the values change, like those of a timer: a result cached after them must not pass
DRAWS = {"quick": 2, "full": 10}  # random cases
COMPILED = 3  # random cases of a compiled implementation, and its cases in all dtypes except the first
INTERPRETED = 3  # in Triton's interpreter, a quick check runs every third case
DROPOUT_RUNS = 200
BITS = {"int8": 8}


class Finding(NamedTuple):
    """A failed check."""

    case: str
    dtype: str
    reason: str
    gradients: bool = False
    replay: str = ""  # options that repeat a random case


@dataclasses.dataclass
class Verdict:
    """The result of all checks of an implementation."""

    implementation: Implementation
    checks: int = 0
    findings: list[Finding] = dataclasses.field(default_factory=list)
    worst: float = 0.0  # the largest error that passed, as a fraction of the tolerance
    lacking: dict[str, str] = dataclasses.field(default_factory=dict)  # dtypes that cannot run here, and why
    seed: int = 0  # of the random cases

    @property
    def passed(self) -> bool:
        """Return whether all checks passed."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as JSON-serializable values."""
        checked = {"op": self.implementation.op, "name": self.implementation.name, "passed": self.passed}
        return {
            **checked,
            **{"checks": self.checks, "worst": self.worst, "lacking": self.lacking, "seed": self.seed},
            "findings": [finding._asdict() for finding in self.findings],
        }


class GateError(Error):
    """A case that a wrong result would pass."""


class Expectations:
    """Expected results, which all implementations of an operation share."""

    def __init__(self) -> None:
        self.op = ""
        self.known: dict[tuple[Any, ...], dict[str, Expected]] = {}

    def get(self, key: tuple[Any, ...], compute: Callable[[], dict[str, Expected]]) -> dict[str, Expected]:
        """Return expected results. Keeps those of one operation."""
        if key[0] != self.op:
            self.op = key[0]
            self.known.clear()
        if key not in self.known:
            self.known[key] = compute()
        return self.known[key]


def check(
    implementation: Implementation,
    worker: Worker | None = None,
    *,
    quick: bool = False,
    cases: Sequence[Case] | None = None,
    dtypes: Sequence[str] | None = None,
    seed: int | None = None,
    draws: int | None = None,
    stop: bool = False,
    expectations: Expectations | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Verdict:
    """Check every case in the claimed dtypes that can run here.

    Args:
        worker: where it runs; None: in this process.
        quick: check a selection of the cases.
        cases: check these instead, without random ones.
        dtypes: of the claimed dtypes, check only these.
        seed: of the random cases; None: another one each time.
        draws: number of random cases.
        stop: stop at the first failed check.
        expectations: expected results of earlier calls.
        progress: called after each case.
    """
    seed = random.randrange(10**6) if seed is None else seed
    verdict = Verdict(implementation, lacking=implementation.lacking, seed=seed)
    worker = LocalWorker([implementation]) if worker is None else worker
    known = Expectations() if expectations is None else expectations
    compiled = "compiler" in implementation.needs  # again for almost every case, in seconds
    drawn, strict = [], cases is None
    if cases is None:
        cases = suites.quick_cases(implementation.op) if quick else suites.CASES[implementation.op]
        cases = cases[::INTERPRETED] if quick and implementation.interpreted else cases
        count = DRAWS["quick" if quick else "full"] if draws is None else draws
        count = min(count, COMPILED) if compiled else count
        drawn = [suites.draw(implementation.op, seed + i, quick) for i in range(count)]
    try:
        for turn, dtype in enumerate(runnable_dtypes(implementation, dtypes)):
            for place, each in enumerate([*cases, *drawn]):
                slow = each.large and (turn or implementation.interpreted)
                if slow or (compiled and turn and place >= COMPILED):
                    continue
                options = f"--seed {seed} " if place >= len(cases) else ""
                _check_case(verdict, worker, each, dtype, known, options, strict and not options)
                progress()
                if stop and verdict.findings:
                    return verdict
        if implementation.gradients and implementation.op in ("attention", "block"):
            _check_dropout(verdict, worker, known)
        _attempt(verdict, "after all calls", "", False, lambda: _ask_state(worker))
    except Died as death:
        verdict.checks += 1
        verdict.findings.append(Finding("all", "", str(death)))
    return verdict


def runnable_dtypes(implementation: Implementation, dtypes: Sequence[str] | None = None) -> list[str]:
    """Return the claimed dtypes that can run here, of those selected."""
    lacking = implementation.lacking
    return [x for x in implementation.dtypes if x not in lacking and (dtypes is None or x in dtypes)]


def _ask_state(worker: Worker) -> float:
    worker.ask("state")
    return 0.0


def _attempt(verdict: Verdict, name: str, dtype: str, gradients: bool, run: Callable[[], float]) -> str | None:
    """Run a check. Record and return the reason if it fails. Raises Died."""
    verdict.checks += 1
    try:
        verdict.worst = max(verdict.worst, run())
    except Died as death:
        raise Died(f"{name} ({dtype}): {death}") from None
    except Rejected as failure:
        verdict.findings.append(Finding(name, dtype, str(failure), gradients))
        return str(failure)
    return None


def _check_case(
    verdict: Verdict, worker: Worker, each: Case, dtype: str, known: Expectations, options: str, strict: bool
) -> None:
    implementation = verdict.implementation
    for gradients in (False, True) if implementation.gradients and each.gradients else (False,):

        def run(tried: Case, gradients: bool = gradients) -> float:
            trial = Trial(implementation, worker, tried, dtype, known, strict)
            return trial.check_gradients() if gradients else trial.check_results()

        reason = _attempt(verdict, each.name, dtype, gradients, lambda: run(each))
        if reason is not None and options:
            smallest = suites.shrink(each, lambda smaller: _fails(run, smaller))
            finding = verdict.findings.pop()
            replay = f'--dtype {dtype} --case "{smallest.name}"'
            verdict.findings.append(finding._replace(case=smallest.name, replay=replay))


def _fails(run: Callable[[Case], float], tried: Case) -> bool:
    try:
        run(tried)
    except Died:
        raise
    except Rejected:
        return True
    return False


class Trial:
    """One implementation on one case, in one dtype."""

    def __init__(
        self,
        implementation: Implementation,
        worker: Worker,
        each: Case,
        dtype: str,
        known: Expectations,
        strict: bool = True,
    ):
        self.implementation, self.worker, self.case, self.dtype = implementation, worker, each, dtype
        self.operation, self.known, self.strict = ALL[implementation.op], known, strict
        self.bits = None if implementation.precision is None else BITS[implementation.precision]
        self.compiled = "compiler" in implementation.needs

    def check_results(self) -> float:
        """Check results. Return the largest error / tolerance. Raises Rejected."""
        drawn = self.case.make(0)
        self._start(drawn)
        inputs = self.write(drawn)
        self.bind(1, inputs)
        expected = self.expect(inputs, 0)
        results = self.run(1, 0, fences=not self.compiled)
        worst = self.judge(expected, results)
        if self.case.large:
            return worst
        for mode in ("inference", "grad") if self.implementation.gradients else ("inference",):
            for again, y in zip(self.run(1, 1, mode=mode), results, strict=True):
                if not _same(again, y):
                    raise Rejected(f"a second call with the same inputs ({mode} mode) returns a different result")

        other = self.write(self.case.make(1))
        self.bind(2, other)
        results = self.run(2, 0)
        worst = max(worst, self.judge(self.expect(other, 1), results))
        earlier = [x.clone() for x in self.read(1)]
        self.worker.ask("reread", handle=1, outputs=self.outputs[1])
        if not all(map(_same, earlier, self.read(1))):
            raise Rejected("an earlier result changes when it is called again")

        self.run(2, 0, calls=CALLS)
        layouts = {name: x for name, x in other.items() if isinstance(x, Layout)}
        changed = self.write(self.case.make(2) | layouts)
        # without version counters: an implementation that reads the weights themselves does not need them
        names = [] if self.implementation.live else list(self.places)
        expected = self.expect(changed, 2)
        try:
            return max(worst, self.judge(expected, self.run(2, 0, changed=names)))
        except Died:
            raise
        except Rejected as failure:
            raise Rejected(f"after its inputs changed in place, {failure}") from None

    def check_gradients(self) -> float:
        """Check gradients. Return the largest error / tolerance. Raises Rejected."""
        drawn = self.case.make(0)
        self._start(drawn, copies=2, gradients=True)
        inputs = self.write(drawn)
        names = list(inputs_with_gradients(inputs))
        self.bind(1, inputs, requires=names)
        self.run(1, 0, mode="grad")
        worst = self.backward(1, inputs, names, self.upstream(0, "contiguous"), 0)

        other = self.write(self.case.make(1), copy=1)
        some, others = names[:1], names[1:]  # frozen weights, and a frozen input
        self.bind(1, inputs, requires=some)
        self.bind(2, other, requires=others, copy=1)
        self.run(1, 0, mode="grad")
        self.run(2, 1, mode="grad")
        worst = max(worst, self.backward(1, inputs, some, self.upstream(1, "expanded"), 1))
        return max(worst, self.backward(2, other, others, self.upstream(2, "alternate"), 2))

    def _start(self, inputs: Inputs, copies: int = 1, gradients: bool = False) -> None:
        """Reserve places for the inputs, for two results, and for gradients."""
        shapes = self._output_shapes(inputs)
        tensors = {name: x for name, x in inputs.items() if isinstance(x, Tensor)}
        dtypes = {name: self.dtype if x.is_floating_point() else "int64" for name, x in tensors.items()}
        kinds = {name: self.case.layouts.get(name, "contiguous") for name in tensors}
        size = sum(bytes_for(x.shape, dtypes[name], kinds[name]) for name, x in tensors.items()) * copies
        size += 2 * sum(bytes_for(shape, self.dtype) for shape in shapes)
        if gradients:
            size += sum(bytes_for(x.shape, self.dtype) for x in tensors.values())
            size += 4 * sum(bytes_for(shape, self.dtype, "alternate") for shape in shapes)
        self.worker.reserve(size)
        if self.compiled:
            self.worker.ask("keep_compilations")
        arena = self.worker.arena
        self.copies = [
            {name: arena.place(x.shape, dtypes[name], kinds[name]) for name, x in tensors.items()}
            for _ in range(copies)
        ]
        self.places, self.end = self.copies[0], arena.end  # of the inputs
        self.outputs = [[arena.place(shape, self.dtype) for shape in shapes] for _ in range(2)]
        self.shapes = shapes
        self.gradient_places: dict[str, Place] = {}
        self.dys: dict[str, list[Place]] = {}
        if gradients:
            self.gradient_places = {name: arena.place(tensors[name].shape, self.dtype) for name in self.places}
            self.dys |= {
                layout: [arena.place(shape, self.dtype, layout) for shape in shapes]
                for layout in ("contiguous", "expanded", "alternate")
            }

    def share(self, other: Trial) -> None:
        """Use the places of another trial of the same case, in the same worker."""
        self.copies, self.places, self.end = other.copies, other.places, other.end
        self.outputs, self.shapes = other.outputs, other.shapes
        self.gradient_places, self.dys = other.gradient_places, other.dys

    def _output_shapes(self, inputs: Inputs) -> list[list[int]]:
        if "q" in inputs:
            return [list(inputs["q"].shape)]
        if self.case.op in LAYERS and self.case.op != "feed_forward":
            return [[len(inputs["x"]), len(inputs[f"{name}.bias"])] for name in LAYERS[self.case.op]]
        if self.case.op == "block":
            return [[sum(inputs["queries"].lengths), inputs["x"].shape[1]]]
        if self.case.op == "embed":
            return [[len(inputs["ids"]), inputs["word"].shape[1]]]
        return [list(inputs["x"].shape)]

    def write(self, inputs: Inputs, copy: int = 0) -> Inputs:
        """Write inputs to their places, in the dtype. Return them as they lie there."""
        placed = dict(inputs)
        for name, place in self.copies[copy].items():
            tensor = self.worker.arena.tensor(place)
            if self.case.layouts.get(name) == "expanded":
                tensor[:1].copy_(inputs[name][:1])
            else:
                tensor.copy_(inputs[name])
            placed[name] = tensor
        return placed

    def bind(self, handle: int, inputs: Inputs, requires: list[str] | None = None, copy: int = 0) -> None:
        """Bind the implementation to the inputs at their places."""
        described: dict[str, Any] = {}
        for name, x in inputs.items():
            if isinstance(x, Layout):
                same = name == "queries" and x is inputs["keys"]
                described[name] = "keys" if same else layout_to_json(x)
            else:
                described[name] = self.copies[copy][name] if isinstance(x, Tensor) else x
        self.worker.ask(
            "bind",
            handle=handle,
            op=self.implementation.op,
            name=self.implementation.name,
            inputs=described,
            device=self.implementation.device,
            requires=requires,
        )

    def run(self, handle: int, slot: int, **options: Any) -> list[Tensor]:
        """Call the implementation and return its results. Raises Rejected if it changes memory of its inputs."""
        arena = self.worker.arena
        for place in self.outputs[slot]:
            arena.tensor(place).fill_(torch.nan)
        before = arena.bytes[: self.end].copy()
        if self.compiled:
            options.setdefault("mode", "inference")  # each mode is compiled again
        self.worker.ask("run", handles=[handle], outputs=[self.outputs[slot]], **options)
        changed = np.flatnonzero(before != arena.bytes[: self.end])
        if len(changed):
            raise Rejected(self._written(int(changed[0])))
        return [x.clone() for x in self.read(slot)]

    def _written(self, byte: int) -> str:
        """Return which input has a byte at this offset, or is next to it."""
        for places in self.copies:
            for name, place in places.items():
                item = getattr(torch, place.dtype).itemsize
                begin, end = place.offset, place.offset + (place.span + 2 * FENCE) * item
                if begin + FENCE * item <= byte < end - FENCE * item:
                    return f"it modifies its input {name}"
                if begin <= byte < end:
                    return f"it writes out of bounds, before or after the input {name}"
        return "it writes out of bounds, before or after an input"

    def read(self, slot: int) -> list[Tensor]:
        """Return the results at their places."""
        return [self.worker.arena.tensor(place) for place in self.outputs[slot]]

    def upstream(self, seed: int, layout: str) -> list[Place]:
        """Draw upstream gradients with a layout: expanded ones are those of a sum."""
        generator = torch.Generator().manual_seed(seed)
        for place in self.dys[layout]:
            tensor = self.worker.arena.tensor(place)
            if layout == "expanded":
                tensor[:1].copy_(torch.randn(place.shape[1:], generator=generator))
            else:
                tensor.copy_(torch.randn(place.shape, generator=generator))
        return self.dys[layout]

    def backward(self, handle: int, inputs: Inputs, names: list[str], upstream: list[Place], seed: int) -> float:
        """Check the gradients of some inputs. Return the largest error / tolerance."""
        arena = self.worker.arena
        places = [self.gradient_places[name] for name in names]
        for place in places:
            arena.tensor(place).fill_(torch.nan if any(y.numel() for y in self.read(0)) else 0)
        dys = [arena.tensor(place).clone() for place in upstream]
        self.worker.ask("backward", handle=handle, upstream=upstream, gradients=places)
        expected = self.expect_gradients(inputs, dys, seed)
        kept = {f"the gradient of {name}": expected[f"the gradient of {name}"] for name in names}
        return self.judge(kept, [arena.tensor(place) for place in places], zeros=True)

    def expect_gradients(self, inputs: Inputs, upstream: Sequence[Tensor], seed: int) -> dict[str, Expected]:
        """Return the expected gradients of all floating-point inputs."""
        dys = {f"dy {i}": as_array(dy) for i, dy in enumerate(upstream)}

        def run(arrays: Any) -> dict[str, Any]:
            gradients = self.operation.backward(arrays, [arrays[name] for name in dys])
            return {f"the gradient of {name}": gradients[name] for name in inputs_with_gradients(inputs)}

        return self._expect({**_arrays(inputs), **dys}, run, ("gradients", seed))

    def expect(self, inputs: Inputs, seed: int) -> dict[str, Expected]:
        """Return the expected results."""

        def run(arrays: Any) -> dict[str, Any]:
            outputs = self.operation.forward(arrays)
            return {f"output {i}" if len(outputs) > 1 else "the output": y for i, y in enumerate(outputs)}

        return self._expect(_arrays(inputs), run, ("results", seed))

    def _expect(self, arrays: Any, run: Callable[[Any], Any], what: tuple[str, int]) -> dict[str, Expected]:
        key = (self.case.op, self.case.name, self.dtype, self.bits, *what)
        k = self.operation.k
        return self.known.get(key, lambda: simulate(run, arrays, self.dtype, k, what[1], self.bits))

    def judge(self, expected: dict[str, Expected], results: Sequence[Tensor], zeros: bool = False) -> float:
        """Return the largest error / tolerance. Raises Rejected if an error exceeds the tolerance.

        zeros: whether zeros may be a correct result.
        """
        worst = 0.0
        for (name, wanted), result in zip(expected.items(), results, strict=True):
            if not wanted.reference.size:
                continue
            if self.strict and not zeros and wanted.limit.whole >= 1:
                raise GateError(f"{self.case.name}: zeros would pass: lower k or change the case")
            y, finite = as_array(result), np.isfinite(wanted.reference)
            if not np.isfinite(y[finite]).all():
                cause = "it reads uninitialized or out-of-bounds memory, or its arithmetic overflows or is invalid"
                raise Rejected(f"{name} has NaN or inf: {cause}")
            if np.isfinite(y[~finite]).any():
                raise Rejected(f"{name} is finite where the inputs make it NaN or inf")
            worst = max(worst, self._judge_errors(name, wanted, y))
        return worst

    def _judge_errors(self, name: str, wanted: Expected, y: np.ndarray[Any, Any]) -> float:
        errors, limit = wanted.errors(y), wanted.limit
        beyond = errors.rows - limit.rows
        row = int(beyond.argmax())
        precision = self.dtype if self.bits is None else f"{self.bits} bits"
        for kind, error, most in (
            ("L2 norm", errors.whole, limit.whole),
            (f"row {row}", float(errors.rows[row]), float(limit.rows[row])),
        ):
            if error > most:
                raise Rejected(
                    f"{name} has a relative error of {error:.1e} ({kind}): expected at most {most:.1e}, "
                    f"{most / max(error, 1e-300):.1g} of it, for a kernel in {precision}"
                )
        return errors.whole / limit.whole if limit.whole else 0.0


def inputs_with_gradients(inputs: Inputs) -> list[str]:
    """Return the names of the floating-point inputs."""
    return [name for name, x in inputs.items() if isinstance(x, Tensor) and x.is_floating_point()]


def _arrays(inputs: Inputs) -> dict[str, Any]:
    return {name: as_array(x) for name, x in inputs.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


# Dropout


def _check_dropout(verdict: Verdict, worker: Worker, known: Expectations) -> None:
    """Check that dropout is applied, or refused, where gradients are claimed: a model trains with it."""
    implementation = verdict.implementation
    run = _attention_dropout if implementation.op == "attention" else _block_dropout
    for dtype in runnable_dtypes(implementation)[:1]:
        check = functools.partial(_refusable, run, implementation, worker, dtype, known)
        _attempt(verdict, "dropout", dtype, True, check)


def _refusable(run: Any, implementation: Implementation, worker: Worker, dtype: str, known: Expectations) -> float:
    try:
        return float(run(implementation, worker, dtype, known))
    except Died:
        raise
    except Rejected as failure:
        if "raises" in str(failure) and "dropout" in str(failure):  # it says that it does not support dropout
            return 0.0
        raise


def _attention_dropout(implementation: Implementation, worker: Worker, dtype: str, known: Expectations) -> float:
    """Check the mean of many results, and that the backward pass drops the same weights as the forward pass."""
    trial = Trial(implementation, worker, case("attention", lengths=[7, 5], head_dim=16), dtype, known)
    trial._start(trial.case.make(0), gradients=True)
    inputs = trial.write(trial.case.make(0))
    [wanted] = trial.expect(inputs, 0).values()
    trial.bind(1, inputs, requires=["q", "k", "v"])
    results = np.stack(
        [as_array(trial.run(1, 0, mode="grad", context={"dropout_p": 0.5})[0]) for _ in range(DROPOUT_RUNS)]
    )
    [dy] = trial.upstream(0, "contiguous")
    places = [trial.gradient_places[name] for name in "qkv"]
    worker.ask("backward", handle=1, upstream=[dy], gradients=places)
    if (results == results[:1]).all():
        raise Rejected("it ignores dropout_p: all results are the same")
    scores = (results.mean(0) - wanted.reference) / (results.std(0) / DROPOUT_RUNS**0.5 + 1e-3)
    if np.abs(scores).max() > 6:
        raise Rejected(
            "the mean of its results with dropout_p=0.5 is not the result without dropout: "
            "weights are dropped with another probability, or not scaled by 1 / (1 - dropout_p)"
        )
    dy, v, dv = (as_array(worker.arena.tensor(place)) for place in (dy, trial.places["v"], places[2]))
    forward, backward = float((dy * results[-1]).sum()), float((dv * v).sum())
    if abs(forward - backward) > 0.02 * np.linalg.norm(dy) * np.linalg.norm(results[-1]):
        raise Rejected("its backward pass drops other attention weights than its forward pass")
    return 0.0


def _block_dropout(implementation: Implementation, worker: Worker, dtype: str, known: Expectations) -> float:
    """Check that two results in training mode differ."""
    trial = Trial(implementation, worker, case("block", lengths=[7, 5], width=32), dtype, known)
    trial._start(trial.case.make(0))
    inputs = trial.write(trial.case.make(0))
    trial.bind(1, inputs, requires=inputs_with_gradients(inputs))
    first, second = (trial.run(1, slot, mode="grad", context={"dropout_p": 0.5}) for slot in range(2))
    if all(map(_same, first, second)):
        raise Rejected("it ignores dropout in training mode: two results are the same")
    return 0.0


# Report


def show(verdict: Verdict) -> Iterator[str]:
    """Yield a verdict as lines of text: for each reason, the first finding and the number of others."""
    title = verdict.implementation.title
    if verdict.lacking and len(verdict.lacking) == len(verdict.implementation.dtypes):
        yield f"skipped   {title}"
    elif verdict.passed:
        yield f"passed    {title}: {verdict.checks} checks, largest error {verdict.worst:.0%} of the tolerance"
    for dtype, reason in verdict.lacking.items():
        yield f"  cannot run here in {dtype}: {reason}"
    if verdict.passed:
        return
    yield f"REJECTED  {title}: {len(verdict.findings)} of {verdict.checks} checks failed"
    by_reason: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        reason, _, _ = finding.reason.partition(" has a relative error of ")  # without the numbers
        by_reason.setdefault(reason, []).append(finding)
    for findings in by_reason.values():
        first = findings[0]
        what = f"{first.dtype}, gradients" if first.gradients else first.dtype
        more = f"; {len(findings) - 1} more like this" if len(findings) > 1 else ""
        yield f"  {first.case} ({what}): {first.reason}{more}"
        if replay := next((finding.replay for finding in findings if finding.replay), None):
            yield f"    drawn with --seed {verdict.seed}; repeat with {replay}"
