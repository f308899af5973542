"""Linear layers over weights that oneDNN has prepacked for this CPU, for inference.

oneDNN multiplies matrices that are stored in blocks of the size of the CPU's vector registers. PyTorch's nn.Linear
stores plain matrices, which can be trained, and may convert them in every call: for one short text that costs as
much as the matmul itself. Prepacking converts the weights once, and keeps a second copy of them:

    model = model.with_ops(**onednn.prepacked())

Query, key and value become one matmul of three times the width. GELU and the sum with the residual are fused into
the matmul before them.
"""

from __future__ import annotations

import ctypes
import sys
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..layout import Layout
from ..model import Attention, Block, FeedForward
from ..ops import Ops
from .prepared import PreparationError, Prepared, refuse_adapters

FEW, MANY = 256, 1280  # between these numbers of rows, oneDNN runs a narrowing matmul on AMX at half speed
Norm: TypeAlias = tuple[Tensor, Tensor, float]  # weight, bias and eps of a LayerNorm
MALLOPT = {-3: 1 << 25, -1: 1 << 30}  # M_MMAP_THRESHOLD, at its maximum, and M_TRIM_THRESHOLD, from malloc.h


class Prepacked(NamedTuple):
    """The prepacked weights of one linear layer, or of several side by side."""

    weight: Tensor  # opaque: only oneDNN reads it
    bias: Tensor  # (N,)
    split: bool  # whether a batch of FEW to MANY rows is split


def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN has matmuls for this device and dtype on this machine."""
    return lacks(device, dtype) is None


def lacks(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why weights cannot be prepacked on this machine, and what to do; None if they can."""
    name = str(dtype).removeprefix("torch.")
    if device.type != "cpu":
        return f"oneDNN runs on a CPU, not on {device}: use PyTorch's own operations"
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN: use PyTorch's own operations"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"weights are prepacked in float32 or bfloat16, not in {name}: use float32"
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN has no bfloat16 matmul for this processor (on x86 it needs AVX-512): use float32"
    return None


def prepack(*lins: nn.Linear) -> Prepacked:
    """Prepack one linear layer, or several that read the same input as one. Raises InputError for other layers."""
    refuse_adapters("prepacked", *lins)
    weight = torch.cat([lin.weight.detach() for lin in lins])
    bias = torch.cat([lin.bias.detach() for lin in lins])
    if (reason := lacks(weight.device, weight.dtype)) is not None:
        raise InputError(f"the weights cannot be prepacked: {reason}")
    amx = weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return Prepacked(torch.ops.mkldnn._reorder_linear_weight(weight), bias, amx and len(weight) < weight.shape[1])


def linear(x: Tensor, state: Prepacked) -> Tensor:
    """x Wᵀ + b: (T, K) -> (T, N)."""
    if state.split and FEW < len(x) <= MANY:
        return torch.cat([_matmul(rows, state, "none") for rows in x.split(FEW)])
    return _matmul(x, state, "none")


def linear_gelu(x: Tensor, state: Prepacked) -> Tensor:
    """GELU(x Wᵀ + b), exact (erf): (T, K) -> (T, N)."""
    return _matmul(x, state, "gelu")


def qkv(x: Tensor, state: Prepacked) -> tuple[Tensor, ...]:
    """Project each token to query, key and value: (T, D) -> three of (T, D), columns of one result."""
    return _matmul(x, state, "none").tensor_split(3, dim=1)


def linear_add(x: Tensor, state: Prepacked, residual: Tensor) -> Tensor:
    """x Wᵀ + b + residual: (T, K), (T, N) -> (T, N)."""
    if state.split and FEW < len(x) <= MANY:
        parts = zip(x.split(FEW), residual.split(FEW), strict=True)
        return torch.cat([linear_add(rows, state, others) for rows, others in parts])
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, state.weight, state.bias, "add")


def _matmul(x: Tensor, state: Prepacked, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, state.weight, state.bias, activation, [], "none")


class PrepackedBlock(NamedTuple):
    """The weights of one transformer block."""

    qkv: Prepacked
    out: Prepacked
    lin1: Prepacked
    lin2: Prepacked
    activation: str  # "gelu" or "relu"
    heads: int
    norms: list[Norm]


def prepack_block(block: Block) -> PrepackedBlock:
    """Prepack the linear layers of a block. Raises InputError for adapters and other changes of its modules."""
    attention, ffn, norms = block.attention, block.ffn, (block.sa_layer_norm, block.output_layer_norm)
    kinds = (Block, Attention, FeedForward, nn.LayerNorm, nn.LayerNorm)
    for module, kind in zip((block, attention, ffn, *norms), kinds, strict=True):
        if type(module) is not kind:
            raise PreparationError(f"a {type(module).__name__} cannot be prepacked: expected {kind.__name__}")
    qkv = prepack(attention.q_lin, attention.k_lin, attention.v_lin)
    linears = prepack(attention.out_lin), prepack(ffn.lin1), prepack(ffn.lin2)
    affine = [(norm.weight.detach(), norm.bias.detach(), norm.eps) for norm in norms]
    return PrepackedBlock(qkv, *linears, ffn.activation, attention.n_heads, affine)


def block(x: Tensor, state: PrepackedBlock, *, layout: Layout, queries: Layout, ops: Ops) -> Tensor:
    """Run one transformer block, with `ops.attention` and `ops.add_norm`: (T, D) -> (Tq, D)."""
    heads = len(x), 3, state.heads, x.shape[1] // state.heads
    q, k, v = _matmul(x, state.qkv, "none").view(heads).unbind(1)  # three of (T, H, d)
    context = ops.attention(queries.select(q), k, v, queries, layout)  # (Tq, H, d)
    x = _add_norm(context.flatten(1), state.out, queries.select(x), state.norms[0], ops)
    return _add_norm(_matmul(x, state.lin1, state.activation), state.lin2, x, state.norms[1], ops)


def _add_norm(x: Tensor, state: Prepacked, residual: Tensor, norm: Norm, ops: Ops) -> Tensor:
    """LayerNorm(x Wᵀ + b + residual): (T, K), (T, N) -> (T, N)."""
    weight, bias, eps = norm
    if ops.add_norm is not Ops.add_norm:
        return ops.add_norm(linear(x, state), residual, weight, bias, eps)
    return F.layer_norm(linear_add(x, state, residual), weight.shape, weight, bias, eps)


def prepacked() -> dict[str, Prepared]:
    """Return the operations, for `with_ops`. They keep a prepacked copy of the weights of each model."""
    return {
        "block": Prepared(prepack_block, block),
        "qkv": Prepared(prepack, qkv),  # these three are called where another `block` is used
        "linear": Prepared(prepack, linear),
        "linear_gelu": Prepared(prepack, linear_gelu),
    }


def prepackable(ops: Ops) -> bool:
    """Return whether all linear layers run in plain PyTorch, so that prepacked ones can replace them."""
    names = ("qkv", "linear", "linear_gelu", "feed_forward", "block")
    return all(getattr(ops, name) is getattr(Ops, name) for name in names)


def keep_memory() -> None:
    """Configure malloc to keep the freed memory of this process for its next batch. On Linux only.

    By default large results are returned to the system, and new pages must be cleared, which takes up to a fifth
    of the time of a batch. The setting affects the whole process, so only the command line and benchmarks use it.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for name, most in MALLOPT.items():
            getattr(libc, "mallopt", lambda *_: 0)(name, most)
