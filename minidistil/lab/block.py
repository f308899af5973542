"""Larger parts done as one: the feed-forward, two products with GELU between them, and the whole block.

What can be saved here is memory's time: what lies between two operations need not be written and read again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backends import int8
from ..backends import onednn as packed
from ..layout import Layout
from ..model import Block
from ..ops import Ops, Product
from ..reference import Array
from . import reference as truth
from .cases import WHOLE, in_turn
from .linear import PACKED
from .numpy_ops import reference_product, weights_of
from .registry import implementation

reference_product("feed_forward", lambda x, layers: truth.feed_forward(x, *layers[0], *layers[1]))
implementation("feed_forward", "torch", gradients=True, about="two of PyTorch's products, GELU between them")(
    WHOLE["feed_forward"]
)


_packed = in_turn(packed.PRODUCTS["linear_gelu"], packed.PRODUCTS["linear"])


def _by_rows(x: Tensor, states: Any) -> Tensor:
    return torch.cat([_packed.run(some, states) for some in x.split(int8.ROWS)])


for _name, _product, _about in (
    ("packed", _packed, "weights laid out by oneDNN once, GELU inside the first product"),
    (
        "packed by rows",
        _packed._replace(run=_by_rows),
        "512 tokens at a time: the cache holds what lies between, but products cost more",
    ),
):
    implementation("feed_forward", _name, needs=PACKED, dtypes=("float32", "bfloat16"), about=_about)(_product)
implementation(
    "feed_forward", "int8", needs=("cpu",), precision="int8", about="in 8 bits, 512 tokens at a time likewise"
)(int8.PRODUCTS["feed_forward"])


def _weights(block: Block) -> tuple[dict[str, Array], int, str]:
    found = {}
    for name in truth.block_layers(*block.ffn.lin2.weight.shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = weights_of(block.get_submodule(name))
    return found, block.attention.n_heads, block.ffn.activation


def _reference(x: Array, state: tuple[dict[str, Array], int, str], layout: Layout, queries: Layout) -> Array:
    weights, n_heads, activation = state
    return truth.block(x, weights, truth.spans_of(queries, layout), n_heads, activation)


reference_product("block", _reference, _weights)
implementation("block", "torch", gradients=True, about="the six operations, one after the other")(WHOLE["block"])


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    def block(x: Tensor, part: Any, layout: Layout, queries: Layout) -> Tensor:
        return part(x, layout, Ops(), queries)

    return torch.compile(block, dynamic=True)


implementation(
    "block",
    "compiled",
    needs=("compiler",),
    about="torch.compile: what lies between products is fused, attention padded",
)(Product(lambda part: part, lambda x, part, layout, queries: _compiled()(x, part, layout, queries), live=True))
