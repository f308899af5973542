"""The cost model: the bytes that an operation must move, the FLOPs that it must compute, and the least time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..benchmarks.measure import copy_rate, default_device, matmul_rate
from . import workloads
from .cases import Inputs, linear_weights


def ceilings(dtype: str) -> dict[str, float]:
    """Measure the rate of a copy, in bytes read and written per second, and of a linear layer, in FLOP/s."""
    device, shape = default_device(), (workloads.WIDTH, workloads.HIDDEN)
    return {"copy rate": copy_rate(device), "matmul rate": matmul_rate([shape], dtype, device)}


def cost_of(op: str, i: Inputs, outputs: Sequence[Tensor], rates: Mapping[str, float]) -> dict[str, Any]:
    """Return bytes, operations, and the least time that the `ceilings` allow, with what limits it."""
    moved, computed = bytes_of(op, i, outputs), operations_of(op, i, outputs)
    by_memory, by_compute = moved / rates["copy rate"], computed / rates["matmul rate"]
    limit = "memory" if by_memory >= by_compute else "compute"
    return {"bytes": moved, "operations": computed, "bound": max(by_memory, by_compute), "bound by": limit}


def bytes_of(op: str, i: Inputs, outputs: Sequence[Tensor]) -> int:
    """Return the bytes that must be moved: each input and output once; of a table, the rows that are looked up."""
    moved = {name: x.nbytes for name, x in i.items() if isinstance(x, Tensor)}
    if op == "embed":
        for table, ids in (("word", "ids"), ("position", "position_ids")):
            moved[table] = len(i[ids].unique()) * i[table][0].nbytes
    return sum(moved.values()) + sum(y.nbytes for y in outputs)


def operations_of(op: str, i: Inputs, outputs: Sequence[Tensor]) -> int:
    """Return the floating-point operations that must be computed, without biases, GELU and softmax."""
    weights = linear_weights(i)
    matmuls = 2 * len(i["x"]) * sum(weight.numel() for weight in weights) if weights else 0
    if op in ("attention", "block"):
        lengths = zip(i["queries"].lengths, i["keys"].lengths, strict=True)
        width = outputs[0][0].numel()  # of all heads
        return matmuls + 4 * width * sum(length_q * length for length_q, length in lengths)
    # LayerNorm: add, sum, subtract, square, sum, and three to scale and shift
    return matmuls or 8 * sum(y.numel() for y in outputs)
