"""The products again, over weights that oneDNN has laid out for this CPU once, and not at every call.

A processor reads a matrix fastest in blocks of the size of its own registers. PyTorch's plain products take
weights as they lie in the file, so that training sees every change, and may lay them out anew in each call: for
one text that costs as much as the product itself. These keep a second copy, in blocks: for answering only.

    model = model.with_ops(**packed.PRODUCTS)

Query, key and value are one product of three times the width, and GELU is applied to each block of the result
while the processor still holds it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..ops import Ops, Product

FEW, MANY = 256, 1280  # rows between which oneDNN cuts a narrowing product on AMX badly: half its speed is lost
MALLOPT = {-3: 1 << 25, -1: 1 << 30}  # M_MMAP_THRESHOLD, the most that it takes, and M_TRIM_THRESHOLD, of malloc.h


class Packed(NamedTuple):
    """One product's weights, or three side by side."""

    weight: Tensor  # opaque: only oneDNN reads it
    bias: Tensor  # (N,)
    cut: bool  # whether a middling number of rows must be cut into parts


def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has products for this device and dtype here."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    bfloat16: bool = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or bfloat16


def pack(*lins: nn.Linear) -> Packed:
    """Lay out the weights of one linear layer, or of several that read the same input, as one product."""
    weight = torch.cat([lin.weight.detach() for lin in lins])
    bias = torch.cat([lin.bias.detach() for lin in lins])
    if not works(weight.device, weight.dtype):
        raise InputError(
            f"packed products work in float32 and, where the processor has it, bfloat16, on a CPU: not in "
            f"{weight.dtype} on {weight.device} here"
        )
    amx = weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return Packed(torch.ops.mkldnn._reorder_linear_weight(weight), bias, amx and len(weight) < weight.shape[1])


def linear(x: Tensor, state: Packed) -> Tensor:
    """x Wᵀ + b: (T, K) -> (T, N)."""
    if state.cut and FEW < len(x) <= MANY:
        return torch.cat([_product(rows, state, "none") for rows in x.split(FEW)])
    return _product(x, state, "none")


def linear_gelu(x: Tensor, state: Packed) -> Tensor:
    """GELU(x Wᵀ + b), in its exact form: (T, K) -> (T, N)."""
    return _product(x, state, "gelu")


def qkv(x: Tensor, state: Packed) -> tuple[Tensor, ...]:
    """Query, key and value of each token: (T, D) -> three of (T, D), columns of one result."""
    return _product(x, state, "none").chunk(3, dim=1)


def _product(x: Tensor, state: Packed, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, state.weight, state.bias, activation, [], "none")


PRODUCTS = {"qkv": Product(pack, qkv), "linear": Product(pack, linear), "linear_gelu": Product(pack, linear_gelu)}


def packable(ops: Ops) -> bool:
    """Whether all products are PyTorch's plain ones, so that packed ones may stand in for them."""
    plain = Ops()
    return all(getattr(ops, name) is getattr(plain, name) for name in (*PRODUCTS, "feed_forward", "block"))


def keep_memory() -> None:
    """Let this process keep the memory that it frees, for its next batch; on Linux only.

    The system's allocator gives large results back at once, and the pages that come in their place are cleared
    first, which takes up to a fifth of a batch's time. A setting of the whole process: a program's own to decide.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for name, most in MALLOPT.items():
            getattr(libc, "mallopt", lambda *_: 0)(name, most)
