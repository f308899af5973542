"""Check an implementation against float64: every case of its operation, in every dtype that it claims.

A wrong kernel is often right for the sizes that it was tried with. So the cases include odd sizes, and the gate
checks more than a tolerance. Memory that a kernel allocates is filled with NaN; NaN surrounds its inputs and
outputs, and must stay. Inputs must not change. The same inputs must give the same result, and new numbers of the
same shape their own result, also after many calls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import Error
from ..layout import Layout
from .cases import Case, Inputs, linear_weights
from .numpy_ops import as_array
from .operations import ALL, Operation
from .registry import Implementation

FENCE = 64  # elements of NaN before and after each tensor
WARM_UP_CALLS = 5  # between the first rounds and the last, as a timer would make
SEEDS = (0, 1)
LARGEST = 2.0  # the tolerance of the largest element, as a multiple of the tolerance of the norm: it varies more

Fences = list[tuple[str, Tensor, int]]  # name of a tensor, the memory around it, and its number of elements


class Finding(NamedTuple):
    """A failed check."""

    case: str
    dtype: str
    reason: str
    gradients: bool = False


class Errors(NamedTuple):
    """Errors of one output, relative to the reference: of the norm, and of the largest element."""

    norm: float
    largest: float


@dataclasses.dataclass
class Verdict:
    """The result of all checks of an implementation."""

    implementation: Implementation
    checks: int
    findings: list[Finding]
    worst: float  # the largest error in norm that passed, as a fraction of the tolerance
    lacking: dict[str, str] = dataclasses.field(default_factory=dict)  # dtypes that cannot run here -> why

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as plain values for JSON."""
        checked = {"op": self.implementation.op, "name": self.implementation.name, "passed": self.passed}
        findings = [finding._asdict() for finding in self.findings]
        return {
            **checked,
            **{"checks": self.checks, "worst": self.worst, "lacking": self.lacking, "findings": findings},
        }


class GateError(Error):
    """A case that cannot tell right from wrong."""


class CheckFailed(Exception):  # noqa: N818
    """The reason why a result is rejected."""


def check(implementation: Implementation) -> Verdict:
    """Check every case, in the claimed dtypes that can run here. An exception is a failed check."""
    operation = ALL[implementation.op]
    verdict = Verdict(implementation, 0, [], 0.0, implementation.lacking)
    for dtype in (dtype for dtype in implementation.dtypes if dtype not in verdict.lacking):
        for case in operation.cases:
            if "compiler" in implementation.needs:
                torch.compiler.reset()  # to stay below the limit of recompilations
            trial = Trial(implementation, operation, case, getattr(torch, dtype), implementation.device)
            for gradients in (False, True) if implementation.gradients and case.gradients else (False,):
                verdict.checks += 1
                try:
                    verdict.worst = max(verdict.worst, trial.run(gradients))
                except CheckFailed as failure:
                    verdict.findings.append(Finding(case.name, dtype, str(failure), gradients))
    return verdict


class Trial:
    """One implementation on one case, in one dtype."""

    def __init__(
        self, implementation: Implementation, operation: Operation, case: Case, dtype: torch.dtype, device: str
    ):
        self.implementation, self.operation, self.case = implementation, operation, case
        self.plain, self.k = operation.baseline(implementation.precision)
        self.dtype, self.device = dtype, device

    def run(self, gradients: bool) -> float:
        """Check the numbers of each seed, and others after more calls.

        Returns the largest error, as a fraction of the tolerance. Raises CheckFailed.
        """
        fractions = [self._check_seed(seed, gradients) for seed in SEEDS]
        if not gradients:
            inputs, _ = self.inputs(len(SEEDS))
            for _ in range(WARM_UP_CALLS):
                self._call(self.implementation.value, inputs)
            fractions.append(self._check_seed(len(SEEDS) + 1, gradients))
        return max(fractions)

    def _check_seed(self, seed: int, gradients: bool) -> float:
        inputs, fences = self.inputs(seed)
        before = {name: x.clone() for name, x in inputs.items() if isinstance(x, Tensor)}
        arrays = {name: as_array(x) for name, x in inputs.items()}
        outputs = self.operation.forward(arrays)
        weights = [loss_weights(output, seed) for output in outputs]
        # a compiled graph allocates its memory itself, where no fence can be put around it
        with contextlib.nullcontext() if "compiler" in self.implementation.needs else _FencedMemory(fences):
            results = self._results(self.implementation.value, inputs, weights if gradients else None)
        check_fences(fences)
        for name, x in before.items():
            if not _same(x, inputs[name].detach()):
                raise CheckFailed(f"it writes into its inputs: {name}")
        if gradients:
            backward = self.operation.backward(arrays, weights)
            expected = {f"the gradient by {name}": backward[name] for name in self._differentiable(inputs)}
        else:
            expected = name_outputs(outputs)
        self.check_shapes(expected, results)
        plain = self._results(self.plain, inputs, weights if gradients else None)
        fraction = self.check_errors(expected, results, plain, inputs)
        if not gradients and not all(map(_same, results, self._call(self.implementation.value, inputs))):
            raise CheckFailed("the same inputs give another result the second time")
        return fraction

    def inputs(self, seed: int) -> tuple[Inputs, Fences]:
        """Draw the inputs, with NaN around each tensor."""
        inputs, fences = self.case.make(torch.Generator().manual_seed(seed)), []
        for name, x in inputs.items():
            if isinstance(x, Layout):
                inputs[name] = x.to(self.device)
            elif isinstance(x, Tensor) and x.is_floating_point():
                shape = x.shape if name not in self.case.strided else torch.Size((len(x), 2, *x.shape[1:]))
                memory, inner = fenced(shape, self.dtype, self.device)
                fences.append((f"the input {name}", memory, inner.numel()))
                inputs[name] = (inner if inner.shape == x.shape else inner[:, 0]).copy_(x)
            elif isinstance(x, Tensor):
                inputs[name] = x.to(self.device)
        return inputs, fences

    def _differentiable(self, inputs: Inputs) -> list[str]:
        return [name for name, x in inputs.items() if isinstance(x, Tensor) and x.is_floating_point()]

    def _results(self, value: Any, inputs: Inputs, weights: list[np.ndarray] | None) -> list[Tensor]:
        """Return the outputs; with weights of the outputs in a loss, the gradients of that loss."""
        if weights is None:
            return list(self._call(value, inputs))
        leaves = {name: nn.Parameter(inputs[name].detach()) for name in self._differentiable(inputs)}
        outputs = self._call(value, {**inputs, **leaves}, grad=True)
        for output in outputs:
            if not output.requires_grad:
                raise CheckFailed("it claims gradients, and its output has none")
        dys = [torch.from_numpy(w).to(output) for w, output in zip(weights, outputs, strict=True)]
        try:
            return list(torch.autograd.grad(outputs, [*leaves.values()], dys, materialize_grads=True))
        except Exception as error:
            raise CheckFailed(f"its backward raises {type(error).__name__}: {error}") from error

    def _call(self, value: Any, inputs: Inputs, grad: bool = False) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(grad), failing_on_errors():
            outputs = self.operation.run(value, inputs)
            if self.device != "cpu":
                torch.cuda.synchronize()
        for output in outputs:
            if not isinstance(output, Tensor):
                raise CheckFailed(f"it returns {type(output).__name__} instead of a tensor")
        return outputs

    def check_shapes(self, expected: dict[str, np.ndarray], results: list[Tensor]) -> None:
        """Raise CheckFailed for a wrong number of results, shape or dtype."""
        if len(results) != len(expected):
            raise CheckFailed(f"it returns {len(results)} outputs instead of {len(expected)}")
        for (name, reference), y in zip(expected.items(), results, strict=True):
            if (tuple(y.shape), y.dtype) != (reference.shape, self.dtype):
                raise CheckFailed(
                    f"{name} is {y.dtype} of {tuple(y.shape)}: expected {self.dtype} of {reference.shape}"
                )

    def check_errors(
        self, expected: dict[str, np.ndarray], results: list[Tensor], plain: list[Tensor], inputs: Inputs
    ) -> float:
        """Return the largest error, as a fraction of the tolerance. Raises CheckFailed if it is above."""
        worst = 0.0
        for (name, reference), y, p in zip(expected.items(), results, plain, strict=True):
            if not reference.size:
                continue
            if not y.isfinite().all():
                cause = "from memory that it did not write or should not read, or from its arithmetic"
                raise CheckFailed(f"{name} has NaN or inf: {cause}")
            tolerance = self.tolerance(reference, p, inputs)
            _check_sensitivity(self.case.name, reference, tolerance, inputs)
            errors = errors_of(as_array(y), reference)
            for kind, error, most in zip(("in norm", "in the largest element"), errors, tolerance, strict=True):
                if error > most:
                    raise CheckFailed(
                        f"{name} has an error of {error:.1e} {kind}, above {most:.1e} "
                        f"({self.k:g} times plain PyTorch's, or one rounding)"
                    )
            worst = max(worst, errors.norm / tolerance.norm)
        return worst

    def tolerance(self, reference: np.ndarray, plain: Tensor, inputs: Inputs) -> Errors:
        """Return the errors that are allowed: k times plain PyTorch's, one rounding of the output, or of a sum."""
        rounding = torch.finfo(self.dtype).eps
        summed = sum_error(inputs)
        errors = errors_of(as_array(plain), reference)
        return Errors(
            max(self.k * errors.norm, rounding, summed),
            max(LARGEST * self.k * errors.largest, rounding, LARGEST * summed),
        )


def sum_error(inputs: Inputs) -> float:
    """Return a bound on the relative error of a linear layer that adds its K products one by one in float32.

    The roundings of the partial sums add up to eps·√K / 9.5 where the bias comes last, to eps·√K / 5.5 where it
    comes first; eps·√K / 3 leaves a margin for chance. Plain PyTorch alone is no sound measure for one row: BLAS
    keeps many sums side by side, with a third of that error, and the few errors of one row can all be small.
    0 for operations without linear layers.
    """
    widths = [weight.shape[1] for weight in linear_weights(inputs)]
    return torch.finfo(torch.float32).eps * max(widths, default=0) ** 0.5 / 3


@contextlib.contextmanager
def failing_on_errors() -> Iterator[None]:
    """Turn any exception of an implementation into CheckFailed."""
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        raise CheckFailed(f"it raises {type(error).__name__}: {message}") from error


def name_outputs(outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs by the names that findings use."""
    return {f"output {i}" if len(outputs) > 1 else "the output": output for i, output in enumerate(outputs)}


def errors_of(y: np.ndarray, reference: np.ndarray) -> Errors:
    """Return the norm of an error, relative to the norm of the reference, and likewise the largest elements."""
    error = y - reference
    norm, largest = np.linalg.norm(reference), np.abs(reference).max()
    return Errors(float(np.linalg.norm(error) / (norm or 1)), float(np.abs(error).max() / (largest or 1)))


def _check_sensitivity(case: str, reference: np.ndarray, tolerance: Errors, inputs: Inputs) -> None:
    """Raise GateError if zeros, or one of the inputs, would pass as the result."""
    if not np.any(reference):  # zeros are right, such as the gradient of an input without effect
        return
    wrong = {"zeros": np.zeros_like(reference)}
    for name, x in inputs.items():
        if isinstance(x, Tensor) and x.shape == reference.shape and not np.array_equal(as_array(x), reference):
            wrong[f"its input {name}"] = as_array(x)
    for what, y in wrong.items():
        if errors_of(y, reference).norm <= 2 * tolerance.norm and not np.allclose(y, reference, rtol=1e-2):
            raise GateError(f"{case}: {what} would pass, within {tolerance.norm:.1e}: the case checks nothing")


def loss_weights(output: np.ndarray, seed: int) -> np.ndarray:
    """Draw the weight of each element of an output in a loss."""
    return np.random.default_rng(seed).standard_normal(output.shape)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def fenced(shape: torch.Size, dtype: torch.dtype, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Return memory filled with NaN, and a tensor in its middle."""
    size = math.prod(shape)
    memory = torch.full((size + 2 * FENCE,), math.nan, dtype=dtype, device=device)
    return memory, memory[FENCE : FENCE + size].view(shape)


class _FencedMemory(TorchDispatchMode):
    """Fills every tensor that is allocated uninitialized with NaN, and surrounds it with NaN."""

    EMPTY = (
        "aten::empty",
        "aten::empty_like",
        "aten::new_empty",
        "aten::empty_strided",
        "aten::new_empty_strided",
    )

    def __init__(self, fences: Fences):
        super().__init__()
        self.fences = fences

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name not in self.EMPTY or not isinstance(result, Tensor) or result.device.type == "meta":
            return result
        if not result.is_floating_point() or not result.is_contiguous():
            return result
        memory, inner = fenced(result.shape, result.dtype, result.device)
        self.fences.append(("an output, or memory of its own", memory, result.numel()))
        return inner


def check_fences(fences: Fences) -> None:
    """Raise CheckFailed if the NaN around a tensor was overwritten."""
    for name, memory, size in fences:
        if not (memory[:FENCE].isnan().all() and memory[FENCE + size :].isnan().all()):
            raise CheckFailed(f"it writes past an end of {name}")


def show(verdict: Verdict) -> Iterator[str]:
    """Yield a verdict as lines of text; of many findings with the same reason, the first."""
    title = verdict.implementation.title
    if not verdict.checks:
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
        reason, _, _ = finding.reason.partition(" has an error of ")  # without the numbers
        by_reason.setdefault(reason, []).append(finding)
    for findings in by_reason.values():
        first = findings[0]
        what = f"{first.dtype}, gradients" if first.gradients else first.dtype
        more = f", and in {len(findings) - 1} more" if len(findings) > 1 else ""
        yield f"  {first.case} ({what}): {first.reason}{more}"
