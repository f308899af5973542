"""Larger operations: the feed-forward (two linear layers with GELU between them) and the whole block.

A fused implementation saves memory traffic: intermediate results are not written to memory and read again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..backends import int8, onednn
from ..backends.prepared import Prepared
from ..layout import Layout
from ..model import Block
from ..ops import Ops
from ..reference import Array
from . import reference
from .linear import PREPACKED
from .numpy_ops import layer_arrays, register_reference
from .registry import implementation

register_reference("feed_forward", lambda x, lin1, lin2, ops: reference.feed_forward(x, *lin1, *lin2))
implementation("feed_forward", "torch", gradients=True, about="the default: two linear layers, GELU between them")(
    ops.feed_forward
)


def _prepack(lin1: nn.Linear, lin2: nn.Linear) -> tuple[onednn.Prepacked, onednn.Prepacked]:
    return onednn.prepack(lin1), onednn.prepack(lin2)


def _prepacked(x: Tensor, state: tuple[onednn.Prepacked, onednn.Prepacked], *, ops: Ops) -> Tensor:
    return onednn.linear(onednn.linear_gelu(x, state[0]), state[1])


def _prepacked_by_rows(x: Tensor, state: tuple[onednn.Prepacked, onednn.Prepacked], *, ops: Ops) -> Tensor:
    return torch.cat([_prepacked(rows, state, ops=ops) for rows in x.split(int8.ROWS)])


for _name, _run, _about in (
    ("prepacked", _prepacked, "weights prepacked by oneDNN, GELU fused into the first matmul"),
    (
        "prepacked by rows",
        _prepacked_by_rows,
        "512 tokens at a time: intermediate results stay in the cache, but the smaller matmuls are slower",
    ),
):
    implementation("feed_forward", _name, needs=PREPACKED, dtypes=("float32", "bfloat16"), about=_about)(
        Prepared(_prepack, _run)
    )
implementation(
    "feed_forward", "int8", needs=("cpu",), precision="int8", about="8 bits, 512 tokens at a time with AMX"
)(int8.quantized()["feed_forward"])


def _block_reference(x: Array, module: Block, *, layout: Layout, queries: Layout, ops: Ops) -> Array:
    weights = {}
    for name in reference.block_layers(*module.ffn.lin2.weight.shape):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = layer_arrays(module.get_submodule(name))
    return reference.Block(x, weights, queries, layout, module.attention.n_heads, module.ffn.activation).out


register_reference("block", _block_reference)
implementation("block", "torch", gradients=True, about="the default: the operations one after the other")(
    ops.block
)
implementation(
    "block",
    "prepacked",
    needs=PREPACKED,
    dtypes=("float32", "bfloat16"),
    about="weights prepacked by oneDNN; GELU and the residual sums fused into the matmuls",
)(onednn.prepacked()["block"])


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(ops.block, dynamic=True)


@implementation("block", "compiled", needs=("compiler",))
def block_compiled(x: Tensor, module: nn.Module, **context: Any) -> Tensor:
    """torch.compile: operations between the matmuls are fused, attention is padded."""
    return _compiled()(x, module, **context)
