"""Cost model: bytes that an operation must move, FLOPs that it must compute, and the lower bound of its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..benchmarks.measure import copy_rate, default_device, matmul_rate
from . import workloads
from .cases import Inputs, linear_weights


def ceilings(dtype: str) -> dict[str, float]:
    """Measure the copy rate, in bytes read and written per second, and the rate of a linear layer, in FLOP/s."""
    device, shape = default_device(), (workloads.WIDTH, workloads.HIDDEN)
    return {"copy rate": copy_rate(device), "matmul rate": matmul_rate([shape], dtype, device)}


def cost_of(
    op: str, i: Inputs, outputs: Sequence[Tensor], rates: Mapping[str, float], backward: bool = False
) -> dict[str, Any]:
    """Return bytes, FLOPs, the lower bound of the time at the `ceilings`, and which of the two sets it.

    backward: of the backward pass alone.
    """
    moved, computed = bytes_of(op, i, outputs), operations_of(op, i, outputs)
    if backward:
        moved, computed = backward_bytes_of(op, i, outputs), 2 * computed  # per matmul one for each factor
    by_memory, by_compute = moved / rates["copy rate"], computed / rates["matmul rate"]
    limit = "memory" if by_memory >= by_compute else "compute"
    return {"bytes": moved, "operations": computed, "bound": max(by_memory, by_compute), "bound by": limit}


def bytes_of(op: str, i: Inputs, outputs: Sequence[Tensor]) -> int:
    """Return the bytes to move: each input and output once; of an embedding table, only the rows looked up."""
    moved = {name: x.nbytes for name, x in i.items() if isinstance(x, Tensor)}
    if op == "embed":
        for table, ids in (("word", "ids"), ("position", "position_ids")):
            moved[table] = len(i[ids].unique()) * i[table][0].nbytes
    return sum(moved.values()) + sum(y.nbytes for y in outputs)


def backward_bytes_of(op: str, i: Inputs, outputs: Sequence[Tensor]) -> int:
    """Return the bytes of a backward pass: each input, and a gradient of each input and output.

    Biases are not read. The residual has the gradient of x, and the forward pass can save their sum.
    """
    unread = sum(x.nbytes for name, x in i.items() if name.endswith("bias") or name == "residual")
    floating = {name: x for name, x in i.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return bytes_of(op, i, outputs) - unread + sum(x.nbytes for name, x in floating.items() if name != "residual")


def operations_of(op: str, i: Inputs, outputs: Sequence[Tensor]) -> int:
    """Return the FLOPs to compute, without biases, GELU and softmax."""
    weights = linear_weights(i)
    matmuls = 2 * len(i["x"]) * sum(weight.numel() for weight in weights) if weights else 0
    if op in ("attention", "block"):
        lengths = zip(i["queries"].lengths, i["keys"].lengths, strict=True)
        width = outputs[0][0].numel()  # of all heads
        return matmuls + 4 * width * sum(length_q * length for length_q, length in lengths)
    # LayerNorm: add, sum, subtract, square, sum, and 3 to scale and shift
    return matmuls or 8 * sum(y.numel() for y in outputs)
