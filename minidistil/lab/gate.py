"""Check an implementation against float64: every case of its operation, in every dtype that it claims.

A wrong kernel often passes on the sizes it was developed with, so the cases include odd sizes, and the gate checks
more than the error:

- Memory that a kernel allocates is filled with NaN, and NaN before and after each tensor must not be overwritten.
- Inputs must not be modified.
- The same inputs must return the same result. New values must return a new result, also after more calls.
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
WARM_UP_CALLS = 5  # before the last check, like those of a timer: a result cached after them must not pass
SEEDS = (0, 1)
LARGEST = 2.0  # tolerance of the largest element / tolerance of the norm: the largest element varies more

Fences = list[tuple[str, Tensor, int]]  # name of a tensor, the memory around it, and its number of elements


class Finding(NamedTuple):
    """A failed check."""

    case: str
    dtype: str
    reason: str
    gradients: bool = False


class Errors(NamedTuple):
    """Relative errors of one output: of the L2 norm, and of the largest element."""

    norm: float
    largest: float


@dataclasses.dataclass
class Verdict:
    """The result of all checks of an implementation."""

    implementation: Implementation
    checks: int
    findings: list[Finding]
    worst: float  # the largest error in norm that passed, as a fraction of the tolerance
    lacking: dict[str, str] = dataclasses.field(default_factory=dict)  # dtypes that cannot run here, and why

    @property
    def passed(self) -> bool:
        """Return whether all checks passed."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as JSON-serializable values."""
        checked = {"op": self.implementation.op, "name": self.implementation.name, "passed": self.passed}
        findings = [finding._asdict() for finding in self.findings]
        return {
            **checked,
            **{"checks": self.checks, "worst": self.worst, "lacking": self.lacking, "findings": findings},
        }


class GateError(Error):
    """A case that a wrong result would pass."""


class CheckFailed(Exception):  # noqa: N818
    """The reason for rejecting a result."""


def check(implementation: Implementation) -> Verdict:
    """Check every case in the claimed dtypes that can run here. An exception counts as a failed check."""
    operation = ALL[implementation.op]
    verdict = Verdict(implementation, 0, [], 0.0, implementation.lacking)
    for dtype in (dtype for dtype in implementation.dtypes if dtype not in verdict.lacking):
        for case in operation.cases:
            if "compiler" in implementation.needs:
                torch.compiler.reset()  # stay below the recompilation limit
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
        """Check each seed, and a new seed after more calls. Return the largest error / tolerance.

        Raises CheckFailed.
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
        # memory that a compiled graph allocates cannot be fenced
        with contextlib.nullcontext() if "compiler" in self.implementation.needs else _FencedMemory(fences):
            results = self._results(self.implementation.value, inputs, weights if gradients else None)
        check_fences(fences)
        for name, x in before.items():
            if not _same(x, inputs[name].detach()):
                raise CheckFailed(f"it modifies its input {name}")
        if gradients:
            backward = self.operation.backward(arrays, weights)
            expected = {f"the gradient of {name}": backward[name] for name in self._differentiable(inputs)}
        else:
            expected = name_outputs(outputs)
        self.check_shapes(expected, results)
        plain = self._results(self.plain, inputs, weights if gradients else None)
        fraction = self.check_errors(expected, results, plain, inputs)
        if not gradients and not all(map(_same, results, self._call(self.implementation.value, inputs))):
            raise CheckFailed("a second call with the same inputs returns a different result")
        return fraction

    def inputs(self, seed: int) -> tuple[Inputs, Fences]:
        """Draw the inputs, each surrounded by NaN."""
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
        """Return the outputs, or with weights the gradients of a loss: the weighted sum of the outputs."""
        if weights is None:
            return list(self._call(value, inputs))
        leaves = {name: nn.Parameter(inputs[name].detach()) for name in self._differentiable(inputs)}
        outputs = self._call(value, {**inputs, **leaves}, grad=True)
        for output in outputs:
            if not output.requires_grad:
                raise CheckFailed(
                    "it is registered with gradients=True, but its output does not require gradients"
                )
        dys = [torch.from_numpy(w).to(output) for w, output in zip(weights, outputs, strict=True)]
        try:
            return list(torch.autograd.grad(outputs, [*leaves.values()], dys, materialize_grads=True))
        except Exception as error:
            raise CheckFailed(f"its backward pass raises {type(error).__name__}: {error}") from error

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
        """Raise CheckFailed for a wrong number of results, a wrong shape or a wrong dtype."""
        if len(results) != len(expected):
            raise CheckFailed(f"it returns {len(results)} outputs instead of {len(expected)}")
        for (name, reference), y in zip(expected.items(), results, strict=True):
            if (tuple(y.shape), y.dtype) != (reference.shape, self.dtype):
                raise CheckFailed(
                    f"{name} has dtype {y.dtype} and shape {tuple(y.shape)}: "
                    f"expected {self.dtype} and {reference.shape}"
                )

    def check_errors(
        self, expected: dict[str, np.ndarray], results: list[Tensor], plain: list[Tensor], inputs: Inputs
    ) -> float:
        """Return the largest error / tolerance. Raises CheckFailed if an error exceeds the tolerance."""
        worst = 0.0
        for (name, reference), y, p in zip(expected.items(), results, plain, strict=True):
            if not reference.size:
                continue
            if not y.isfinite().all():
                cause = "it reads uninitialized or out-of-bounds memory, or its arithmetic overflows or is invalid"
                raise CheckFailed(f"{name} has NaN or inf: {cause}")
            tolerance = self.tolerance(reference, p, inputs)
            _check_sensitivity(self.case.name, reference, tolerance, inputs)
            errors = errors_of(as_array(y), reference)
            for kind, error, most in zip(("L2 norm", "largest element"), errors, tolerance, strict=True):
                if error > most:
                    raise CheckFailed(
                        f"{name} has a relative error of {error:.1e} ({kind}): expected at most {most:.1e} "
                        f"({self.k:g}x plain PyTorch's error, or one rounding)"
                    )
            worst = max(worst, errors.norm / tolerance.norm)
        return worst

    def tolerance(self, reference: np.ndarray, plain: Tensor, inputs: Inputs) -> Errors:
        """Return the largest allowed errors: k× plain PyTorch's, one rounding of the output, or `sum_error`."""
        rounding = torch.finfo(self.dtype).eps
        summed = sum_error(inputs)
        errors = errors_of(as_array(plain), reference)
        return Errors(
            max(self.k * errors.norm, rounding, summed),
            max(LARGEST * self.k * errors.largest, rounding, LARGEST * summed),
        )


def sum_error(inputs: Inputs) -> float:
    """Return a bound on the relative error of a linear layer that sums its K terms sequentially in float32.

    The rounding error of the partial sums is about eps·√K / 9.5 if the bias is added last, eps·√K / 5.5 if it is
    added first; eps·√K / 3 leaves a margin. Plain PyTorch's error alone is too strict for a single row: BLAS keeps
    many partial sums, with a third of that error, and all errors of one row can happen to be small.
    Return 0 for operations without linear layers.
    """
    widths = [weight.shape[1] for weight in linear_weights(inputs)]
    return torch.finfo(torch.float32).eps * max(widths, default=0) ** 0.5 / 3


@contextlib.contextmanager
def failing_on_errors() -> Iterator[None]:
    """Convert any exception into CheckFailed."""
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        raise CheckFailed(f"it raises {type(error).__name__}: {message}") from error


def name_outputs(outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs by the name that findings use."""
    return {f"output {i}" if len(outputs) > 1 else "the output": output for i, output in enumerate(outputs)}


def errors_of(y: np.ndarray, reference: np.ndarray) -> Errors:
    """Return relative errors: L2 norm of the error / of the reference, and the same for the largest elements."""
    error = y - reference
    norm, largest = np.linalg.norm(reference), np.abs(reference).max()
    return Errors(float(np.linalg.norm(error) / (norm or 1)), float(np.abs(error).max() / (largest or 1)))


def _check_sensitivity(case: str, reference: np.ndarray, tolerance: Errors, inputs: Inputs) -> None:
    """Raise GateError if zeros or one of the inputs would pass as the result."""
    if not np.any(reference):  # zeros are correct, such as the gradient of an input without effect
        return
    wrong = {"zeros": np.zeros_like(reference)}
    for name, x in inputs.items():
        if isinstance(x, Tensor) and x.shape == reference.shape and not np.array_equal(as_array(x), reference):
            wrong[f"its input {name}"] = as_array(x)
    for what, y in wrong.items():
        if errors_of(y, reference).norm <= 2 * tolerance.norm and not np.allclose(y, reference, rtol=1e-2):
            raise GateError(
                f"{case}: {what} would pass with the tolerance {tolerance.norm:.1e}: lower k or change the case"
            )


def loss_weights(output: np.ndarray, seed: int) -> np.ndarray:
    """Draw the weight of each output element in a loss."""
    return np.random.default_rng(seed).standard_normal(output.shape)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def fenced(shape: torch.Size, dtype: torch.dtype, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Return a buffer filled with NaN, and a tensor in its middle."""
    size = math.prod(shape)
    memory = torch.full((size + 2 * FENCE,), math.nan, dtype=dtype, device=device)
    return memory, memory[FENCE : FENCE + size].view(shape)


class _FencedMemory(TorchDispatchMode):
    """Fill and surround every newly allocated uninitialized tensor with NaN."""

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
        self.fences.append(("an output or a temporary tensor", memory, result.numel()))
        return inner


def check_fences(fences: Fences) -> None:
    """Raise CheckFailed if NaN before or after a tensor was overwritten."""
    for name, memory, size in fences:
        if not (memory[:FENCE].isnan().all() and memory[FENCE + size :].isnan().all()):
            raise CheckFailed(f"it writes out of bounds, before or after {name}")


def show(verdict: Verdict) -> Iterator[str]:
    """Yield a verdict as lines of text: for each reason, the first finding and the number of others."""
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
        reason, _, _ = finding.reason.partition(" has a relative error of ")  # without the numbers
        by_reason.setdefault(reason, []).append(finding)
    for findings in by_reason.values():
        first = findings[0]
        what = f"{first.dtype}, gradients" if first.gradients else first.dtype
        more = f"; {len(findings) - 1} more like this" if len(findings) > 1 else ""
        yield f"  {first.case} ({what}): {first.reason}{more}"
