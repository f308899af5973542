"""Time the 8-bit kernels of a CPU against float32: a row of the table in docs/benchmarks.md for each kernel.

    python -m minidistil.benchmarks.precisions

A call is the four matmuls of a DistilBERT base block, with quantization, scales and bias. Kernels take turns in
one process. The kernels here are all that `backends.processor` chooses from: a change of the table needs a run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from unittest import mock

import torch

from ..backends import fbgemm, int8, onednn, processor
from .measure import machine, mark, seconds_between

SHAPES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))  # (K, N)
ROWS = (1, 8, 16, 32, 128, 512, 1024)
TURNS = 15


def kernels() -> list[str]:
    """Return the 8-bit kernels that run on this CPU."""
    exact = processor.kind() in ("AMX", "AVX512-VNNI")
    return ["onednn"] * exact + ["fbgemm"] * fbgemm.works()


def block(kernel: str) -> Callable[[int], Callable[[], None]]:
    """Return a function from a number of rows to a call of the four matmuls."""
    layers = [torch.nn.Linear(*shape).eval() for shape in SHAPES]
    if kernel == "float32":
        states, linear = [onednn.prepack(lin) for lin in layers], onednn.linear
    else:
        with mock.patch.object(processor, "int8_kernel", return_value=kernel):
            states, linear = [int8.prepare(lin) for lin in layers], int8.linear  # type: ignore[assignment, misc]

    def of(rows: int) -> Callable[[], None]:
        inputs = [torch.randn(rows, shape[0]) for shape in SHAPES]

        def call() -> None:
            for x, state in zip(inputs, states, strict=True):
                linear(x, state)

        return call

    return of


@torch.inference_mode()
def speeds() -> dict[str, list[float]]:
    """Return the median speed of each kernel relative to float32, for each number of rows in ROWS."""
    blocks = {kernel: block(kernel) for kernel in ("float32", *kernels())}
    result: dict[str, list[float]] = {kernel: [] for kernel in blocks}
    for rows in ROWS:
        calls = {kernel: of(rows) for kernel, of in blocks.items()}
        times: dict[str, list[float]] = {kernel: [] for kernel in blocks}
        for _ in range(TURNS):
            for kernel, call in calls.items():
                call()
                begin = mark()
                call()
                times[kernel].append(seconds_between(begin, mark()))
        for kernel in blocks:
            ratios = [a / b for a, b in zip(times["float32"], times[kernel], strict=True)]
            result[kernel].append(statistics.median(ratios))
    return result


def main() -> None:
    """Print the rows of the table for this machine."""
    description = machine()
    print(f"{description['machine']}; torch {description['torch']}, {description['threads']} threads")
    print(f"| processor | kernel | {' | '.join(map(str, ROWS))} |")
    for kernel, numbers in speeds().items():
        if kernel != "float32":
            print(f"| {processor.kind()} | {kernel} | {' | '.join(f'{number:.2f}' for number in numbers)} |")


if __name__ == "__main__":
    main()
