"""LayerNorm(x + residual), from obvious to fast.

An operation of memory: three numbers cross the bus for each element (x, the residual, the answer), and few flops
are done with it. What makes it fast is to cross once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from . import reference as truth
from .numpy_ops import reference
from .registry import implementation
from .triton_setup import ROWS, tl, triton

PROGRAMS = 256  # of the backward: each reads many rows, and leaves one row of sums

reference("add_norm", lambda x, residual, weight, bias, eps: truth.layer_norm(x + residual, weight, bias, eps))
implementation("add_norm", "torch", gradients=True, about="the default: an addition, then PyTorch's LayerNorm")(
    ops.add_norm
)


@implementation("add_norm", "steps", gradients=True)
def add_norm_steps(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As the formula says, a kernel for each step, statistics in float32: each step crosses memory."""
    x = (x + residual).float()
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    normal = centred * torch.rsqrt(variance + eps)
    return (normal * weight.float() + bias.float()).to(weight.dtype)


@triton.jit
def _add_norm_kernel(x, residual, weight, bias, out, rows, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """A program for a few rows, which stay in registers: read once, looked at twice, written once."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    there = (row < rows)[:, None] & (columns < width)[None, :]
    at = row[:, None] * width + columns[None, :]
    both = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    both += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    centred = tl.where(there, both - (tl.sum(both, 1) / width)[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 1) / width + eps)[:, None]
    scale = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, (centred / deviation * scale + shift).to(out.dtype.element_ty), mask=there)


@triton.jit
def _add_norm_backward_kernel(
    dy, x, residual, weight, dx, dweight, dbias, rows, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """A program for many rows, as far apart as there are programs; each adds up its own part of two sums."""
    columns = tl.arange(0, WIDTH)
    scale = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    by_scale = tl.zeros([WIDTH], tl.float32)
    by_shift = tl.zeros([WIDTH], tl.float32)
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        there = (row < rows)[:, None] & (columns < width)[None, :]
        at = row[:, None] * width + columns[None, :]
        both = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        both += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
        by_y = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
        centred = tl.where(there, both - (tl.sum(both, 1) / width)[:, None], 0.0)
        deviation = tl.sqrt(tl.sum(centred * centred, 1) / width + eps)[:, None]
        normal = centred / deviation
        by_normal = by_y * scale
        along = (tl.sum(by_normal, 1) / width)[:, None] + normal * (tl.sum(by_normal * normal, 1) / width)[:, None]
        tl.store(dx + at, ((by_normal - along) / deviation).to(dx.dtype.element_ty), mask=there)
        by_scale += tl.sum(by_y * normal, 0)
        by_shift += tl.sum(by_y, 0)
    mine = tl.program_id(0) * width + columns
    tl.store(dweight + mine, by_scale, mask=columns < width)
    tl.store(dbias + mine, by_shift, mask=columns < width)


class _AddNorm(torch.autograd.Function):
    """The two kernels; what the backward needs of the forward it computes again, rather than keep it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x, residual = x.contiguous(), residual.contiguous()
        out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, residual.dtype))
        ctx.save_for_backward(x, residual, weight)
        ctx.eps = eps
        rows, width = x.shape
        if rows:
            grid, blocks = (triton.cdiv(rows, ROWS),), {"ROWS": ROWS, "WIDTH": triton.next_power_of_2(width)}
            _add_norm_kernel[grid](x, residual, weight, bias, out, rows, width, eps, **blocks)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, residual, weight = ctx.saved_tensors
        rows, width = x.shape
        dy, dx = gradients[0].contiguous(), torch.empty_like(x, dtype=gradients[0].dtype)
        programs = max(1, min(triton.cdiv(rows, ROWS), PROGRAMS))
        by_weight, by_bias = x.new_zeros(2, programs, width, dtype=torch.float32)
        if rows:
            blocks = {"ROWS": ROWS, "WIDTH": triton.next_power_of_2(width)}
            _add_norm_backward_kernel[(programs,)](
                dy, x, residual, weight, dx, by_weight, by_bias, rows, width, ctx.eps, **blocks
            )
        dweight, dbias = (part.sum(0).to(weight.dtype) for part in (by_weight, by_bias))
        return dx, dx, dweight, dbias, None


@implementation("add_norm", "triton", needs=("triton",), gradients=True)
def add_norm_triton(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """One kernel: a row is read once and written once, statistics in float32; and its backward."""
    return _AddNorm.apply(x, residual, weight, bias, eps)
