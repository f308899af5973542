"""The products with weights, from obvious to fast: query, key and value; a linear layer; one with GELU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..backends import int8
from ..backends import onednn as packed
from ..ops import Product
from . import reference as truth
from .numpy_ops import reference_product
from .registry import implementation
from .triton_setup import INTERPRETED, tl, triton

TILE = 128 if INTERPRETED else 64  # rows and columns of the result that one Triton program computes

reference_product("qkv", lambda x, layers: tuple(truth.linear(x, *layer) for layer in layers))
reference_product("linear", lambda x, layers: truth.linear(x, *layers[0]))
reference_product("linear_gelu", lambda x, layers: truth.gelu(truth.linear(x, *layers[0])))

PACKED = ("onednn", "cpu")
for _name in ("qkv", "linear", "linear_gelu"):
    _about = "the default: PyTorch's own product, over the live weights"
    implementation(_name, "torch", gradients=True, about=_about)(getattr(ops, _name))
    _about = "weights laid out by oneDNN once; query, key and value as one product, GELU inside it"
    implementation(_name, "packed", needs=PACKED, dtypes=("float32", "bfloat16"), about=_about)(
        packed.PRODUCTS[_name]
    )
    _about = (
        "weights rounded to 8 bits once, a scale for each output, activations as they come, a scale for each token"
    )
    implementation(_name, "int8", needs=("cpu",), precision="int8", about=_about)(int8.PRODUCTS[_name])


def _stack(*lins: nn.Linear) -> tuple[Tensor, Tensor]:
    return torch.cat([lin.weight for lin in lins]), torch.cat([lin.bias for lin in lins])


def _stacked(x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return F.linear(x, *state).chunk(3, dim=1)


implementation(
    "qkv", "stacked", gradients=True, about="the three weights in one, of three times the height: one product"
)(Product(_stack, _stacked))


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
    """A program for each tile of the result, M x N: it walks along K, then adds, bends and writes."""
    m = tl.program_id(0) * M + tl.arange(0, M)
    n = tl.program_id(1) * N + tl.arange(0, N)
    k = tl.arange(0, K)
    total = tl.zeros([M, N], tl.float32)
    for start in range(0, inputs, K):
        along = start + k
        left = tl.load(
            x + m[:, None].to(tl.int64) * inputs + along[None, :],
            mask=(m[:, None] < rows) & (along[None, :] < inputs),
            other=0.0,
        )
        right = tl.load(
            weight + n[None, :].to(tl.int64) * inputs + along[:, None],
            mask=(n[None, :] < outputs) & (along[:, None] < inputs),
            other=0.0,
        )
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total += tl.dot(left, right, input_precision="ieee")
    y = total + tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[None, :]
    y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    at = m[:, None].to(tl.int64) * outputs + n[None, :]
    tl.store(out + at, y.to(out.dtype.element_ty), mask=(m[:, None] < rows) & (n[None, :] < outputs))


def _keep(lin: nn.Linear) -> tuple[Tensor, Tensor]:
    return lin.weight.contiguous(), lin.bias


def _linear_gelu_triton(x: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
    (outputs, inputs), x = state[0].shape, x.contiguous()
    out = x.new_empty(len(x), outputs)
    if len(x):
        grid = (triton.cdiv(len(x), TILE), triton.cdiv(outputs, TILE))
        _linear_gelu_kernel[grid](
            x, *state, out, len(x), outputs, inputs, M=TILE, N=TILE, K=TILE // 2, WIDEN=INTERPRETED
        )
    return out


implementation(
    "linear_gelu", "triton", needs=("triton",), about="GELU in the product's own kernel: the sum is never written"
)(Product(_keep, _linear_gelu_triton))
