"""A loop in Python that Numba compiles: `pip install numba`."""

import math

import numba
import torch

from minidistil.lab import implementation


@numba.njit(error_model="numpy")  # with fastmath=True, NaN would not stay NaN
def kernel(x, residual, weight, bias, out, eps):
    """Write LayerNorm(x + residual) to out."""
    rows, width = x.shape
    for row in range(rows):
        total = squares = numba.float32(0)
        for i in range(width):
            out[row, i] = x[row, i] + residual[row, i]
            total += out[row, i]
        mean = total / numba.float32(width)
        for i in range(width):
            squares += (out[row, i] - mean) ** 2
        scale = numba.float32(1 / math.sqrt(squares / width + eps))
        for i in range(width):
            out[row, i] = (out[row, i] - mean) * scale * weight[i] + bias[i]


@implementation("add_norm", "numba", needs=("cpu",), dtypes=("float32",))
def add_norm(x, residual, weight, bias, eps):
    """A loop in Python, compiled by Numba."""
    out = torch.empty(x.shape)
    kernel(*(each.numpy() for each in (x, residual, weight, bias, out)), eps)
    return out
