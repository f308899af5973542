"""Is an implementation right? Every case, in every dtype that it claims, against float64.

A wrong kernel seldom looks wrong: it is right for the sizes that it was tried with. So the gate asks odd ones, and
looks where a tolerance does not: what a kernel leaves unwritten is NaN here, past the ends of its inputs lies NaN,
and past those of its outputs NaN that must stay; its inputs must stay as they are; the same question must get the
same answer, and new numbers of the same shape, after many calls too, a new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import Error
from ..layout import Layout
from .cases import ALL, Case, Inputs, Operation
from .numpy_ops import as_array
from .registry import Implementation

FENCE = 64  # elements before and after a tensor that nobody may touch
WARM = 5  # calls between the first check and the last, as a timer would make
SEEDS = (0, 1)
LARGEST = 2.0  # how much more than k the largest single error may be: there, chance does more than in a norm


class Finding(NamedTuple):
    """What is wrong, and on what."""

    case: str
    dtype: str
    reason: str
    gradients: bool = False


class Errors(NamedTuple):
    """Of one output against the truth, both over the truth's own: of all elements, and of the worst one."""

    norm: float
    largest: float


@dataclasses.dataclass
class Verdict:
    """What the gate says of an implementation."""

    implementation: Implementation
    checks: int
    findings: list[Finding]
    worst: float  # the largest error in norm that passed, as a part of what is allowed

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Give it as a program reads it."""
        one = self.implementation
        found = {"op": one.op, "name": one.name, "passed": self.passed, "checks": self.checks, "worst": self.worst}
        return {**found, "findings": [finding._asdict() for finding in self.findings]}


class GateError(Error):
    """The gate itself could not tell right from wrong."""


def check(one: Implementation) -> Verdict:
    """Run every case; an implementation that raises is wrong there, as one that answers wrongly is."""
    operation, verdict = ALL[one.op], Verdict(one, 0, [], 0.0)
    for dtype in one.dtypes:
        for case in operation.cases:
            if "compiler" in one.needs:
                torch.compiler.reset()  # of so many shapes it has enough, and would compile no more
            question = Question(one, operation, case, getattr(torch, dtype), one.device)
            for gradients in (False, True) if one.gradients and case.gradients else (False,):
                verdict.checks += 1
                try:
                    part = question.ask(gradients)
                    verdict.worst = max(verdict.worst, part)
                except Wrong as wrong:
                    verdict.findings.append(Finding(case.name, dtype, str(wrong), gradients))
    return verdict


class Wrong(Exception):  # noqa: N818
    """Why an answer is not right."""


class Question:
    """One case in one dtype, for one implementation."""

    def __init__(self, one: Implementation, operation: Operation, case: Case, dtype: torch.dtype, device: str):
        self.one, self.operation, self.case = one, operation, case
        self.plain, self.k = operation.yardstick(one.precision)
        self.dtype, self.device = dtype, device

    def ask(self, gradients: bool) -> float:
        """Ask with each seed's numbers, and again after many calls; give the worst part of what is allowed."""
        parts = [self._round(seed, gradients) for seed in SEEDS]
        if not gradients:
            value, inputs = self.one.value, self.inputs(len(SEEDS))[0]
            for _ in range(WARM):
                self._call(value, inputs)
            parts.append(self._round(len(SEEDS) + 1, gradients))
        return max(parts)

    def _round(self, seed: int, gradients: bool) -> float:
        inputs, fences = self.inputs(seed)
        kept = {name: x.clone() for name, x in inputs.items() if isinstance(x, Tensor)}
        exact = {name: as_array(x) for name, x in inputs.items()}
        truths = self.operation.forward(exact)
        weights = [weights_like(truth, seed) for truth in truths]  # of the outputs, in a loss: sum of w · y
        # a compiled graph makes its memory itself, where nothing can fence it
        with contextlib.nullcontext() if "compiler" in self.one.needs else _Fences(fences):
            found = self._answers(self.one.value, inputs, weights if gradients else None)
        look_at(fences)
        for name, before in kept.items():
            if not _same(before, inputs[name].detach()):
                raise Wrong(f"it writes into its inputs: {name}")
        if gradients:
            of_truth = self.operation.backward(exact, weights)
            expected = {f"the gradient by {name}": of_truth[name] for name in self._differentiable(inputs)}
        else:
            expected = {f"output {i}" if len(truths) > 1 else "the output": t for i, t in enumerate(truths)}
        self.compare_shapes(expected, found)
        plain = self._answers(self.plain, inputs, weights if gradients else None)
        part = self.judge(expected, found, plain, inputs)
        if not gradients and not all(map(_same, found, self._call(self.one.value, inputs))):
            raise Wrong("the same question gets another answer the second time")
        return part

    def inputs(self, seed: int) -> tuple[Inputs, list[tuple[str, Tensor, int]]]:
        """Draw the inputs, each tensor amid a fence of NaN."""
        draw = torch.Generator().manual_seed(seed)
        inputs, fences = self.case.make(draw), []
        for name, x in inputs.items():
            if isinstance(x, Layout):
                inputs[name] = x.to(self.device)
            elif isinstance(x, Tensor) and x.is_floating_point():
                shape = x.shape if name not in self.case.apart else torch.Size((len(x), 2, *x.shape[1:]))
                flat, inner = fenced(shape, self.dtype, self.device)
                fences.append((f"the input {name}", flat, inner.numel()))
                inputs[name] = (inner if inner.shape == x.shape else inner[:, 0]).copy_(x)
            elif isinstance(x, Tensor):
                inputs[name] = x.to(self.device)
        return inputs, fences

    def _differentiable(self, inputs: Inputs) -> list[str]:
        return [name for name, x in inputs.items() if isinstance(x, Tensor) and x.is_floating_point()]

    def _answers(self, value: Any, inputs: Inputs, weights: list[np.ndarray] | None) -> list[Tensor]:
        """Give the outputs; or, where the loss weighs them, its gradients."""
        if weights is None:
            return list(self._call(value, inputs))
        names = self._differentiable(inputs)
        leaves = {name: inputs[name].detach().requires_grad_() for name in names}
        outputs = self._call(value, {**inputs, **leaves}, grad=True)
        for output in outputs:
            if not output.requires_grad:
                raise Wrong("it claims gradients, and its output has none")
        on = [torch.from_numpy(w).to(output) for w, output in zip(weights, outputs, strict=True)]
        try:
            return list(torch.autograd.grad(outputs, [leaves[name] for name in names], on, materialize_grads=True))
        except Exception as error:
            raise Wrong(f"its backward raises {type(error).__name__}: {error}") from error

    def _call(self, value: Any, inputs: Inputs, grad: bool = False) -> tuple[Tensor, ...]:
        try:
            with torch.set_grad_enabled(grad):
                found = self.operation.run(value, inputs)
                if self.device != "cpu":
                    torch.cuda.synchronize()
        except Exception as error:
            raise Wrong(f"it raises {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        for output in found:
            if not isinstance(output, Tensor):
                raise Wrong(f"it gives {type(output).__name__} in place of a tensor")
        return found

    def compare_shapes(self, expected: dict[str, np.ndarray], found: list[Tensor]) -> None:
        """Raise where an answer is not of the form that it should have."""
        if len(found) != len(expected):
            raise Wrong(f"it gives {len(found)} outputs in place of {len(expected)}")
        for (name, truth), y in zip(expected.items(), found, strict=True):
            if (tuple(y.shape), y.dtype) != (truth.shape, self.dtype):
                raise Wrong(f"{name} is {y.dtype} of {tuple(y.shape)}: expected {self.dtype} of {truth.shape}")

    def judge(
        self, expected: dict[str, np.ndarray], found: list[Tensor], plain: list[Tensor], inputs: Inputs
    ) -> float:
        """Raise where an answer errs more than it may; give the worst error in norm, over what is allowed."""
        worst = 0.0
        for (name, truth), y, p in zip(expected.items(), found, plain, strict=True):
            if not truth.size:
                continue
            if not y.isfinite().all():
                where = "from memory that it did not write or should not read, or from its arithmetic"
                raise Wrong(f"{name} has NaN or inf: {where}")
            allowed = self.allowed(truth, p)
            _refuse_blindness(self.case.name, truth, allowed, inputs)
            errors = errors_of(as_array(y), truth)
            for kind, error, most in zip(("in norm", "at worst"), errors, allowed, strict=True):
                if error > most:
                    raise Wrong(
                        f"{name} errs by {error:.1e} {kind}, at most {most:.1e} "
                        f"({self.k:g} times plain PyTorch's, or a rounding)"
                    )
            worst = max(worst, errors.norm / allowed.norm)
        return worst

    def allowed(self, truth: np.ndarray, plain: Tensor) -> Errors:
        """Give the errors that may be: k times plain PyTorch's, or a rounding of the output."""
        rounding = torch.finfo(self.dtype).eps
        of_plain = errors_of(as_array(plain), truth)
        return Errors(max(self.k * of_plain.norm, rounding), max(LARGEST * self.k * of_plain.largest, rounding))


def errors_of(y: np.ndarray, truth: np.ndarray) -> Errors:
    """Measure an error: its norm over the truth's norm, its largest element over the truth's largest."""
    wrong = y - truth
    norm, largest = np.linalg.norm(truth), np.abs(truth).max()
    return Errors(float(np.linalg.norm(wrong) / (norm or 1)), float(np.abs(wrong).max() / (largest or 1)))


def _refuse_blindness(case: str, truth: np.ndarray, allowed: Errors, inputs: Inputs) -> None:
    """Raise where an answer of zeros, or an input given back, would pass: such a tolerance checks nothing."""
    if not np.any(truth):  # zeros are the truth, such as the gradient of what does not matter
        return
    wrong = {"zeros": np.zeros_like(truth)}
    for name, x in inputs.items():
        if isinstance(x, Tensor) and x.shape == truth.shape and not np.array_equal(as_array(x), truth):
            wrong[f"its input {name}"] = as_array(x)
    for what, y in wrong.items():
        if errors_of(y, truth).norm <= 2 * allowed.norm and not np.allclose(y, truth, rtol=1e-2):
            raise GateError(f"{case}: {what} would pass, within {allowed.norm:.1e}: the case checks nothing")


def weights_like(truth: np.ndarray, seed: int) -> np.ndarray:
    """Draw how much each element of an output counts in a loss."""
    return np.random.default_rng(seed).standard_normal(truth.shape)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def fenced(shape: torch.Size, dtype: torch.dtype, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Give memory filled with NaN, and a tensor in its middle."""
    size = math.prod(shape)
    flat = torch.full((size + 2 * FENCE,), math.nan, dtype=dtype, device=device)
    return flat, flat[FENCE : FENCE + size].view(shape)


class _Fences(TorchDispatchMode):
    """Let every tensor that is made empty be full of NaN, and lie amid a fence."""

    EMPTY = (
        "aten::empty",
        "aten::empty_like",
        "aten::new_empty",
        "aten::empty_strided",
        "aten::new_empty_strided",
    )

    def __init__(self, fences: list[tuple[str, Tensor, int]]):
        super().__init__()
        self.fences = fences

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func._schema.name not in self.EMPTY or not isinstance(made, Tensor) or made.device.type == "meta":
            return made
        if not made.is_floating_point() or not made.is_contiguous():
            return made
        flat, inner = fenced(made.shape, made.dtype, made.device)
        self.fences.append(("an output, or memory of its own", flat, made.numel()))
        return inner


def look_at(fences: list[tuple[str, Tensor, int]]) -> None:
    """Raise where a fence is not what it was."""
    for name, flat, size in fences:
        if not (flat[:FENCE].isnan().all() and flat[FENCE + size :].isnan().all()):
            raise Wrong(f"it writes past an end of {name}")


def show(verdict: Verdict) -> Iterator[str]:
    """Say a verdict for people, a line each; of many findings with one reason, the first."""
    one = verdict.implementation
    if verdict.passed:
        yield f"passed    {one.title}: {verdict.checks} checks, at worst {verdict.worst:.0%} of what is allowed"
        return
    yield f"REJECTED  {one.title}: {len(verdict.findings)} of {verdict.checks} checks"
    reasons: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        kind = finding.reason.split(" errs by ")[0] + (" errs" if " errs by " in finding.reason else "")
        reasons.setdefault(kind, []).append(finding)
    for found in reasons.values():
        first = found[0]
        what = f"{first.dtype}, gradients" if first.gradients else first.dtype
        more = f", and in {len(found) - 1} more" if len(found) > 1 else ""
        yield f"  {first.case} ({what}): {first.reason}{more}"
