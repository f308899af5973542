"""Right kernels that the tests of the lab share."""

from __future__ import annotations

import torch


def two_passes(x, residual, weight, bias, eps):
    """Sum rows one element after the other, in float32, as a plain loop in C does."""
    x = (x + residual).float()
    mean = torch.from_numpy(x.numpy().cumsum(axis=1)[:, -1:]) / x.shape[1]
    squares = torch.from_numpy((x - mean).square().numpy().cumsum(axis=1)[:, -1:])
    y = (x - mean) * torch.rsqrt(squares / x.shape[1] + eps) * weight.float() + bias.float()
    return y.to(weight.dtype)
