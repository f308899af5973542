"""LayerNorm(x + residual), from the formula to the fastest implementation.

The operation is memory-bound: each element moves three numbers (x, residual, result) for about eight FLOPs. A fast
implementation reads or writes each of them once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from . import reference
from .numpy_ops import register_reference
from .registry import implementation
from .triton_setup import ROWS, tl, triton

PROGRAMS = 256  # at most, of the backward kernel: each reads many rows and writes one row of partial sums

register_reference("add_norm", lambda x, residual, *norm: reference.layer_norm(x + residual, *norm))
implementation("add_norm", "torch", gradients=True, about="the default: an addition, then PyTorch's LayerNorm")(
    ops.add_norm
)


@implementation("add_norm", "steps", gradients=True)
def add_norm_steps(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The formula with float32 statistics: one kernel per step, each reading and writing memory."""
    x = (x + residual).float()
    centered = x - x.mean(-1, keepdim=True)
    variance = centered.square().mean(-1, keepdim=True)
    normalized = centered * torch.rsqrt(variance + eps)
    return (normalized * weight.float() + bias.float()).to(weight.dtype)


@triton.jit
def _add_norm_kernel(x, residual, weight, bias, out, rows, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Normalize ROWS rows in registers: each row is read once and written once."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    mask = (row < rows)[:, None] & (columns < width)[None, :]
    offsets = row[:, None] * width + columns[None, :]
    x_sum = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    x_sum += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    centered = tl.where(mask, x_sum - (tl.sum(x_sum, 1) / width)[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(centered * centered, 1) / width + eps)[:, None]
    scale = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    tl.store(out + offsets, (centered / deviation * scale + shift).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _add_norm_backward_kernel(
    dy, x, residual, weight, dx, dweight, dbias, rows, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Compute dx of every PROGRAMS-th group of rows, and this program's partial sums of dweight and dbias."""
    columns = tl.arange(0, WIDTH)
    scale = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    grad_scale = tl.zeros([WIDTH], tl.float32)
    grad_shift = tl.zeros([WIDTH], tl.float32)
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        mask = (row < rows)[:, None] & (columns < width)[None, :]
        offsets = row[:, None] * width + columns[None, :]
        x_sum = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
        x_sum += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
        grad_y = tl.load(dy + offsets, mask=mask, other=0.0).to(tl.float32)
        centered = tl.where(mask, x_sum - (tl.sum(x_sum, 1) / width)[:, None], 0.0)
        deviation = tl.sqrt(tl.sum(centered * centered, 1) / width + eps)[:, None]
        normalized = centered / deviation
        grad_normalized = grad_y * scale
        by_mean = (tl.sum(grad_normalized, 1) / width)[:, None]
        by_deviation = normalized * (tl.sum(grad_normalized * normalized, 1) / width)[:, None]
        grad_x = (grad_normalized - (by_mean + by_deviation)) / deviation
        tl.store(dx + offsets, grad_x.to(dx.dtype.element_ty), mask=mask)
        grad_scale += tl.sum(grad_y * normalized, 0)
        grad_shift += tl.sum(grad_y, 0)
    sums = tl.program_id(0) * width + columns
    tl.store(dweight + sums, grad_scale, mask=columns < width)
    tl.store(dbias + sums, grad_shift, mask=columns < width)


class _AddNorm(torch.autograd.Function):
    """Autograd function of the two kernels. The backward recomputes the statistics instead of storing them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x, residual, weight, bias = (each.contiguous() for each in (x, residual, weight, bias))
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
        weight_sums, bias_sums = x.new_zeros(2, programs, width, dtype=torch.float32)
        if rows:
            blocks = {"ROWS": ROWS, "WIDTH": triton.next_power_of_2(width)}
            _add_norm_backward_kernel[(programs,)](
                dy, x, residual, weight, dx, weight_sums, bias_sums, rows, width, ctx.eps, **blocks
            )
        dweight, dbias = (part.sum(0).to(weight.dtype) for part in (weight_sums, bias_sums))
        return dx, dx, dweight, dbias, None


@implementation("add_norm", "triton", needs=("triton",), gradients=True)
def add_norm_triton(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """One kernel each for forward and backward: each row is read and written once, with float32 statistics."""
    return _AddNorm.apply(x, residual, weight, bias, eps)
