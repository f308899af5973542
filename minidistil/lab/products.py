"""The products with weights, from obvious to fast: query, key and value; a linear layer; one with GELU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops, packed
from ..ops import Product
from .registry import implementation

PACKED = ("onednn", "cpu")
for _name in ("qkv", "linear", "linear_gelu"):
    _about = "the default: PyTorch's own product, over the live weights"
    implementation(_name, "torch", gradients=True, about=_about)(getattr(ops, _name))
    _about = "weights laid out by oneDNN once; query, key and value as one product, GELU inside it"
    implementation(_name, "packed", needs=PACKED, dtypes=("float32", "bfloat16"), about=_about)(
        packed.PRODUCTS[_name]
    )


def _stack(*lins: nn.Linear) -> tuple[Tensor, Tensor]:
    return torch.cat([lin.weight for lin in lins]), torch.cat([lin.bias for lin in lins])


def _stacked(x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return F.linear(x, *state).chunk(3, dim=1)


implementation(
    "qkv", "stacked", gradients=True, about="the three weights in one, of three times the height: one product"
)(Product(_stack, _stacked))
