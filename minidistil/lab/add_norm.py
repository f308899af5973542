"""LayerNorm(x + residual), from obvious to fast.

An operation of memory: three numbers cross the bus for each element (x, the residual, the answer), and few flops
are done with it. What makes it fast is to cross once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from .registry import implementation

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
