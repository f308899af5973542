"""How far a result may be from the float64 reference.

The limit is a multiple of the error of a straightforward kernel, simulated by `rounding.py`: float32 arithmetic,
sums in order, intermediate results stored in the dtype. An implementation may have `k` times that error,

- in the L2 norm of the whole result, and
- in the L2 norm of each row, where chance varies more: `ROW` times as much.

A norm over few rows varies too, so its limit grows by 1 + 3 / √rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .rounding import Arithmetic, as_rounded, stored

Arrays = Mapping[str, np.ndarray[Any, Any]]
ROW = 4.0  # limit of one row / limit of the whole result
ELEMENTS, ROWS = 2048, 32  # simulate until this number of errors is known: those in a row can depend on each other
MOST, LEAST = 32, 2  # simulations
K_8_BITS = 1.8  # 1 for 8 bits; up to 1.7 where AVX2 needs weights of 7 bits (backends/fbgemm.py); 2 for 7 bits


class Errors(NamedTuple):
    """Errors of a result, relative to the norm of the reference."""

    whole: float
    rows: np.ndarray[Any, Any]  # (rows,)


@dataclasses.dataclass(frozen=True)
class Expected:
    """A reference result, and the error that it may have."""

    reference: np.ndarray[Any, Any]
    limit: Errors  # largest allowed errors

    def errors(self, y: np.ndarray[Any, Any]) -> Errors:
        """Return the errors of a result."""
        return _errors(y - self.reference, self.reference)


def simulate(
    run: Callable[[Arrays], Arrays], inputs: Arrays, dtype: str, k: float, seed: int = 0, bits: int | None = None
) -> dict[str, Expected]:
    """Run a reference exactly, then with simulated rounding errors. Return the expected results by name."""
    with np.errstate(all="ignore"):
        exact = run(inputs)
        largest, fewest = max(y.size for y in exact.values()), min(len(y) for y in exact.values())
        squares = {name: np.zeros(y.shape) for name, y in exact.items()}
        runs = int(np.clip(max(ELEMENTS // max(largest, 1), ROWS // max(fewest, 1)), LEAST, MOST))
        for i in range(runs):
            arithmetic = Arithmetic(np.random.default_rng([seed, i]), dtype, bits)
            rounded = {
                name: as_rounded(x, arithmetic) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x
                for name, x in inputs.items()
            }
            for name, y in run(rounded).items():
                squares[name] += np.square(np.asarray(stored(as_rounded(np.asarray(y), arithmetic))) - exact[name])
        expected = {}
        for name, y in exact.items():
            n = max(len(y), 1)
            factor = k * (1 + 3 / n**0.5) if bits is None else K_8_BITS * (1 + 1 / max(y.size, 1) ** 0.5)
            expected[name] = Expected(y, _limit(np.sqrt(squares[name] / runs), y, factor))
        return expected


def _limit(rms: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], factor: float) -> Errors:
    whole, rows = _errors(rms, reference)
    n = max(len(rows), 1)
    # a few runs do not show how large the error of one row can be: at least like that of an average row
    return Errors(factor * whole, ROW * factor * np.maximum(rows, whole / n**0.5))


def _errors(error: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> Errors:
    """Return the L2 norm of the finite errors, of all and of each row, relative to the norm of the reference."""
    finite = np.isfinite(reference) & np.isfinite(error)
    norm = float(np.linalg.norm(reference[finite])) or 1.0
    squares = np.square(np.where(finite, error, 0.0)).sum(tuple(range(1, error.ndim)))
    return Errors(float(np.sqrt(squares.sum())) / norm, np.sqrt(squares) / norm)
