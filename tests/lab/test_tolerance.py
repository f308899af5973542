"""The tolerance does not depend on luck: right kernels pass in every draw, twice the allowed error in none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidistil.lab import operations, tolerance
from minidistil.lab.cases import case
from minidistil.lab.numpy_ops import as_array
from minidistil.lab.rounding import Arithmetic, as_rounded, unit_in_last_place
from support.kernels import two_passes

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = [
    case("add_norm", rows=9, width=100, values="mean"),
    case("add_norm", rows=1, width=768),
    case("embed", tokens=9, width=100, words=50),
    case("linear", rows=2, inputs=96, outputs=33),
    case("qkv", rows=2, inputs=96, outputs=33),
    case("linear_gelu", rows=2, inputs=96, outputs=33),
    case("attention", lengths=[5, 9], head_dim=16),
    case("feed_forward", rows=3, width=33, hidden=50),
    case("block", lengths=[5, 9], width=32, hidden=64),
]


def passes(errors, limit):
    return errors.whole <= limit.whole and (errors.rows <= limit.rows).all()


def measure(each, dtype, draws):
    """Return how often a right kernel is rejected, and twice the allowed error passes, and the largest ratio.

    The allowed error is the mean limit of all draws. Twice that is added to the reference as noise.
    """
    operation, drawn = operations.ALL[each.op], []
    kernel = two_passes if each.op == "add_norm" else operation.plain
    for seed in range(draws):
        inputs = {
            name: x.to(getattr(torch, dtype)) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for name, x in each.make(seed).items()
        }
        arrays = {name: as_array(x) for name, x in inputs.items()}
        run = lambda a: {"y": operation.forward(a)[0]}  # noqa: E731
        wanted = tolerance.simulate(run, arrays, dtype, operation.k, seed)["y"]
        with torch.no_grad():
            drawn.append((wanted, wanted.errors(as_array(operation.run(kernel, inputs)[0]))))
    allowed, generator = np.mean([wanted.limit.whole for wanted, _ in drawn]), np.random.default_rng(0)
    rejected = twice = 0
    for wanted, errors in drawn:
        rejected += not passes(errors, wanted.limit)
        noise = generator.standard_normal(wanted.reference.shape) / wanted.reference.size**0.5
        noise *= 2 * allowed * np.linalg.norm(wanted.reference)
        twice += passes(wanted.errors(wanted.reference + noise), wanted.limit)
    return rejected, twice, max(errors.whole / wanted.limit.whole for wanted, errors in drawn)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("each", CASES, ids=lambda each: f"{each.op} {each.name}")
def test_right_kernels_pass_and_twice_the_error_does_not(each, dtype):
    assert measure(each, dtype, 10)[:2] == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("each", CASES, ids=lambda each: f"{each.op} {each.name}")
def test_right_kernels_pass_in_a_thousand_draws(each, dtype, capsys):
    rejected, twice, largest = measure(each, dtype, 1000)
    with capsys.disabled():
        print(f"\n{each.op} {each.name}, {dtype}: {rejected} rejected, {twice} passed, at most {largest:.2f}")
    assert (rejected, twice) == (0, 0)


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
