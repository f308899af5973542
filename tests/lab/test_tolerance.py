"""The tolerance does not depend on luck: right kernels pass in every draw, twice the allowed error in none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidistil import ops
from minidistil.lab import operations, tolerance
from minidistil.lab.cases import case
from minidistil.lab.numpy_ops import as_array
from minidistil.lab.rounding import Arithmetic, as_rounded, unit_in_last_place
from support.kernels import two_passes

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = [
    case("add_norm", rows=9, width=100, values="mean"),
    case("add_norm", rows=1, width=768),
    case("linear", rows=2, inputs=96, outputs=33),
    case("attention", lengths=[5, 9], head_dim=16),
]


KERNELS = {"add_norm": two_passes, "linear": ops.linear, "attention": ops.attention}


def ratios(each, dtype, draws):
    """Yield, for each draw, the error / limit of a right kernel, and whether twice the limit passes."""
    operation = operations.ALL[each.op]
    for seed in range(draws):
        inputs = {
            name: x.to(getattr(torch, dtype)) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for name, x in each.make(seed).items()
        }
        arrays = {name: as_array(x) for name, x in inputs.items()}
        run = lambda a: {"y": operation.forward(a)[0]}  # noqa: E731
        wanted = tolerance.simulate(run, arrays, dtype, operation.k, seed)["y"]
        [y] = operation.run(KERNELS[each.op], inputs)
        errors = wanted.errors(as_array(y))
        ratio = max(errors.whole / wanted.limit.whole, float((errors.rows / wanted.limit.rows).max()))
        noise = np.random.default_rng(seed).standard_normal(wanted.reference.shape)
        scale = 2 * wanted.limit.whole * np.linalg.norm(wanted.reference) / np.linalg.norm(noise)
        twice = wanted.errors(wanted.reference + scale * noise)
        yield ratio, twice.whole <= wanted.limit.whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_right_kernels_pass_and_twice_the_error_does_not(each, dtype):
    measured = list(ratios(each, dtype, 10))
    assert max(ratio for ratio, _ in measured) <= 1
    assert not any(passed for _, passed in measured)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_right_kernels_pass_in_a_thousand_draws(each, dtype, capsys):
    measured = list(ratios(each, dtype, 1000))
    rejected, passed = sum(ratio > 1 for ratio, _ in measured), sum(passed for _, passed in measured)
    with capsys.disabled():
        largest = max(ratio for ratio, _ in measured)
        print(f"\n{each.op} {each.name}, {dtype}: {rejected} rejected, {passed} passed, at most {largest:.2f}")
    assert (rejected, passed) == (0, 0)


def test_simulated_errors_are_those_of_rounding():
    x = np.random.default_rng(0).standard_normal(10_000)
    for dtype in ("float32", "bfloat16", "float16"):
        rounded = torch.from_numpy(x).to(getattr(torch, dtype)).double().numpy()
        simulated = Arithmetic(np.random.default_rng(1), dtype).rounded(x, dtype) - x
        assert np.linalg.norm(simulated) == pytest.approx(np.linalg.norm(rounded - x), rel=0.05)
        assert (np.abs(rounded - x) <= unit_in_last_place(x, dtype) / 2 * 1.0001).all()


def test_simulated_sums_have_the_error_of_sequential_sums():
    x = np.random.default_rng(0).standard_normal((500, 1000)).astype(np.float32)
    for shift in (0, 10):
        terms = (x + np.float32(shift)).astype(np.float64)
        sequential = (x + np.float32(shift)).cumsum(1, dtype=np.float32)[:, -1] - terms.sum(1)
        arithmetic = Arithmetic(np.random.default_rng(1), "float32")
        simulated = np.asarray(as_rounded(terms, arithmetic).sum(1)) - terms.sum(1)
        ratio = np.linalg.norm(simulated) / np.linalg.norm(sequential)
        assert 0.5 < ratio < 2
