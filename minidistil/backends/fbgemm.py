"""8-bit matmuls by FBGEMM, which PyTorch ships for x86. Fast on CPUs with AVX2, where oneDNN has no fast ones.

AVX2 multiplies unsigned by signed 8-bit integers, and adds each pair of neighboring products in 16 bits, which
can overflow. Activations q have 127 added, so they are at most 254, and a pair is exact if

    254 (|w0| + |w1|) ≤ 32767 for weights w0 and w1 of one sign, thus |w0| + |w1| ≤ 129.

`fit` rounds the outputs whose weights have larger pairs to fewer levels. Typical outputs keep 100 of 127. The
alternative, activations in 7 bits, has a larger error.

Shapes: R rows, K and N input and output width of a linear layer.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ZERO_POINT = 127  # is added to activations of -127 to 127
PAIR = 32767 // (2 * ZERO_POINT)  # the largest sum of two neighboring weights of one sign
OPERATORS = ("linear_prepack", "linear_with_input_q_dq_qweight_dq_output_fp32")


def works() -> bool:
    """Return whether FBGEMM runs here and is exact. PyTorch has announced to remove quantized operators."""
    operators = getattr(torch.ops, "quantized", None)
    if not all(hasattr(operators, name) for name in OPERATORS):
        return False
    if "fbgemm" not in torch.backends.quantized.supported_engines:  # the CPU has no AVX2, or is not an x86
        return False
    weight = torch.tensor([[2, PAIR - 2] * 8, [-100, 100 - PAIR] * 8], dtype=torch.int8)
    integers = torch.tensor([[127.0] * 16, [-127.0] * 16])
    expected = integers @ weight.float().T
    return torch.equal(multiply(integers, prepack(weight, torch.ones(2))), expected)


def fit(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to fewer levels where neighbors are too large: int8 (N, K), float32 (N,) -> the same."""
    pairs = F.pad(weight.float(), (0, weight.shape[1] % 2)).unflatten(1, (-1, 2))  # (N, K / 2, 2)
    sums = torch.maximum(pairs.clamp(min=0).sum(2), -pairs.clamp(max=0).sum(2)).amax(1)  # (N,)
    factor = (sums / (PAIR - 1)).clamp_(min=1)  # - 1: both of a pair may be rounded up
    return (weight / factor[:, None]).round_().to(torch.int8), scale * factor


def prepack(weight: Tensor, scale: Tensor) -> Any:
    """Return fitted weights in FBGEMM's layout."""
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor.* deprecated", UserWarning)
        try:
            torch.backends.quantized.engine = "fbgemm"  # "x86" may choose oneDNN
            zeros = torch.zeros(len(weight), dtype=torch.int64)
            quantized = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(quantized, None)
        finally:
            torch.backends.quantized.engine = engine


def multiply(x: Tensor, packed: Any) -> Tensor:
    """(round(x) q_Wᵀ) · s_W, for x of -127 to 127: float32 (R, K) -> (R, N)."""
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x, 1.0, ZERO_POINT, packed)
