"""Arrays whose operations have simulated rounding errors: they measure the error that a correct kernel may have.

The reference runs in float64. The same functions, called with `Rounded` arrays, compute what a straightforward
kernel would: every operation is rounded to float32, and every sum adds its terms one after the other, which is the
order with the largest error. Where a kernel writes an intermediate result to memory, `stored` rounds it to the
dtype. The error is drawn at random, as in Monte Carlo arithmetic (Parker 1997), so a few runs show its size,
independent of the machine, of the version of PyTorch, and of luck.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
SMALLEST = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}  # normal numbers
ROUNDING = 0.21  # rms relative error of one rounding, in eps: uniform within half a unit in the last place
EXPONENT = np.int64(0x7FF << 52)  # bits of a float64


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """The precision that is simulated."""

    generator: np.random.Generator
    dtype: str  # of tensors in memory
    bits: int | None = None  # of the operands of a matmul, if they are quantized

    def rounded(self, x: NDArray[Any], dtype: str = "float32") -> NDArray[Any]:
        """Return x with a random error of at most half a unit in the last place of a dtype."""
        units = self.generator.random(x.shape, np.float32)
        units -= np.float32(0.5)
        error = unit_in_last_place(x, dtype)
        error *= units
        error += x  # in place: this is most of the time of a check
        return error

    def summed(
        self, total: NDArray[Any], squares: NDArray[Any], terms: int, dtype: str = "float32"
    ) -> NDArray[Any]:
        """Return sums with the error of a sequential sum of n terms, each partial sum rounded to a dtype.

        Partial sum j is about (j / n) of the total plus a random walk of j steps, so the squares of all partial
        sums add up to n squares / 2 + n total² / 3, where `squares` is the sum of squared terms.
        """
        scale = ROUNDING * EPS[dtype] * np.sqrt(terms * (squares / 2 + total**2 / 3))
        return total + scale * self.generator.standard_normal(total.shape, np.float32)


class Rounded(np.ndarray[Any, Any]):
    """A float64 array with the errors of an `Arithmetic`."""

    arithmetic: Arithmetic

    def __array_finalize__(self, source: Any) -> None:
        if isinstance(source, Rounded):
            self.arithmetic = source.arithmetic

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        arithmetic = next(x.arithmetic for x in inputs if isinstance(x, Rounded))
        exact = [np.asarray(x) if isinstance(x, Rounded) else x for x in inputs]
        result = np.asarray(getattr(ufunc, method)(*exact, **options))
        if ufunc is np.matmul:
            squares = np.square(exact[0]) @ np.square(exact[1])
            result = arithmetic.summed(result, squares, exact[0].shape[-1])
        elif ufunc is np.add and method == "reduce":
            squares = np.add.reduce(np.square(exact[0]), **options)
            result = arithmetic.summed(result, squares, exact[0].size // max(result.size, 1))
        elif method == "__call__" and result.dtype == np.float64:
            result = arithmetic.rounded(result)
        if out is not None:
            np.asarray(out[0])[...] = result
            return out[0]
        return as_rounded(result, arithmetic)


def as_rounded(x: NDArray[Any], arithmetic: Arithmetic) -> Rounded:
    """Return an array as `Rounded`, without an error of its own."""
    rounded = np.asarray(x).view(Rounded)
    rounded.arithmetic = arithmetic
    return rounded


def stored(x: Any) -> Any:
    """Round an intermediate result to the dtype, as a kernel does that writes it to memory."""
    if not isinstance(x, Rounded) or x.arithmetic.dtype == "float32":
        return x
    return as_rounded(x.arithmetic.rounded(np.asarray(x), x.arithmetic.dtype), x.arithmetic)


def stored_sum(x: Any) -> Any:
    """Sum over rows, with partial sums in the dtype, as PyTorch adds gradients of LayerNorm's weights on CPU."""
    if not isinstance(x, Rounded) or x.arithmetic.dtype == "float32":
        return x.sum(0)
    exact = np.asarray(x)
    return as_rounded(
        x.arithmetic.summed(exact.sum(0), np.square(exact).sum(0), len(exact), x.arithmetic.dtype), x.arithmetic
    )


def operand(x: Any) -> Any:
    """Quantize an operand of a matmul, if the arithmetic does: each row has a scale, set by its largest value."""
    if not isinstance(x, Rounded) or x.arithmetic.bits is None:
        return x
    exact = np.asarray(x)
    step = np.abs(exact).max(-1, keepdims=True, initial=0) / (2 ** (x.arithmetic.bits - 1) - 1)
    return as_rounded(exact + step * (x.arithmetic.generator.random(x.shape) - 0.5), x.arithmetic)


def unit_in_last_place(x: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the distance between neighboring numbers of a dtype at x, in float64; inf where x is NaN or inf."""
    power = (x.view(np.int64) & EXPONENT).view(np.float64)  # of two, at most |x|
    return np.maximum(power, SMALLEST[dtype]) * EPS[dtype]
