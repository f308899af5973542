"""Linear layers, from the formula to the fastest: query/key/value, a single layer, a layer with GELU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..backends import int8, onednn
from ..backends.prepared import Prepared
from . import reference
from .numpy_ops import register_reference
from .registry import implementation, refuse_gradients
from .triton_setup import INTERPRETED, tl, triton

TILE = 128 if INTERPRETED else 64  # rows and columns of the result that one Triton program computes

register_reference("qkv", lambda x, *layers: tuple(reference.linear(x, *layer) for layer in layers))
register_reference("linear", lambda x, layer: reference.linear(x, *layer))
register_reference("linear_gelu", lambda x, layer: reference.gelu(reference.linear(x, *layer)))

PREPACKED = ("onednn", "cpu")
for _name in ("qkv", "linear", "linear_gelu"):
    _about = "the default: nn.Linear"
    implementation(_name, "torch", gradients=True, about=_about)(getattr(ops, _name))
    _about = "weights prepacked by oneDNN; one matmul for query, key and value; GELU fused into the matmul"
    implementation(_name, "prepacked", needs=PREPACKED, dtypes=("float32", "bfloat16"), about=_about)(
        onednn.prepacked()[_name]
    )
    _about = "8 bits: weights quantized once with a scale per output, activations with a scale per token"
    implementation(_name, "int8", needs=("cpu",), precision="int8", about=_about)(int8.quantized()[_name])


def _stack(*lins: nn.Linear) -> tuple[Tensor, Tensor]:
    return torch.cat([lin.weight for lin in lins]), torch.cat([lin.bias for lin in lins])


def _stacked(x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return F.linear(x, *state).chunk(3, dim=1)


implementation("qkv", "stacked", about="the three weights concatenated once: one matmul of 3x the width")(
    Prepared(_stack, _stacked)
)


@triton.jit
def _linear_gelu_kernel(
    x,
    weight,
    bias,
    out,
    rows,
    outputs,
    inputs,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute one M x N tile of the result: loop over blocks of K, add the bias, apply GELU, write once."""
    m = tl.program_id(0) * M + tl.arange(0, M)
    n = tl.program_id(1) * N + tl.arange(0, N)
    k = tl.arange(0, K)
    total = tl.zeros([M, N], tl.float32)
    for start in range(0, inputs, K):
        columns = start + k
        left = tl.load(
            x + m[:, None].to(tl.int64) * inputs + columns[None, :],
            mask=(m[:, None] < rows) & (columns[None, :] < inputs),
            other=0.0,
        )
        right = tl.load(
            weight + n[None, :].to(tl.int64) * inputs + columns[:, None],
            mask=(n[None, :] < outputs) & (columns[:, None] < inputs),
            other=0.0,
        )
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total += tl.dot(left, right, input_precision="ieee")
    y = total + tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[None, :]
    y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    offsets = m[:, None].to(tl.int64) * outputs + n[None, :]
    tl.store(out + offsets, y.to(out.dtype.element_ty), mask=(m[:, None] < rows) & (n[None, :] < outputs))


@implementation("linear_gelu", "triton", needs=("triton",))
def linear_gelu_triton(x: Tensor, lin: nn.Linear) -> Tensor:
    """Matmul and GELU in one kernel: the input of GELU is never written to memory."""
    refuse_gradients("linear_gelu triton", x, lin.weight, lin.bias)
    (outputs, inputs), x = lin.weight.shape, x.contiguous()
    out = x.new_empty(len(x), outputs)
    if len(x):
        grid = (triton.cdiv(len(x), TILE), triton.cdiv(outputs, TILE))
        weight, bias = lin.weight.contiguous(), lin.bias.contiguous()
        _linear_gelu_kernel[grid](
            x, weight, bias, out, len(x), outputs, inputs, M=TILE, N=TILE, K=TILE // 2, WIDEN=INTERPRETED
        )
    return out
