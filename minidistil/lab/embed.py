"""LayerNorm(word[ids] + position[position_ids]), from the formula to the fastest implementation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .. import ops
from . import reference
from .numpy_ops import register_reference
from .registry import implementation, refuse_gradients
from .triton_setup import ROWS, tl, triton

register_reference(
    "embed", lambda ids, at, word, position, *norm: reference.layer_norm(word[ids] + position[at], *norm)
)
implementation("embed", "torch", gradients=True, about="the default: two lookups, an addition and a LayerNorm")(
    ops.embed
)


@implementation("embed", "indexed", gradients=True)
def embed_indexed(
    ids: Tensor, position_ids: Tensor, word: Tensor, position: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Lookups with index_select, which has less overhead than F.embedding."""
    x = word.index_select(0, ids) + position.index_select(0, position_ids)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


@triton.jit
def _embed_kernel(
    ids, position_ids, word, position, weight, bias, out, tokens, width, eps,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Look up the word and position rows of ROWS tokens, add them, and normalize the sums in registers."""
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    mask = (token < tokens)[:, None] & (columns < width)[None, :]
    word_rows = tl.load(ids + token, mask=token < tokens, other=0)[:, None] * width
    position_rows = tl.load(position_ids + token, mask=token < tokens, other=0)[:, None] * width
    x = tl.load(word + word_rows + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    x += tl.load(position + position_rows + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    centered = tl.where(mask, x - (tl.sum(x, 1) / width)[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(centered * centered, 1) / width + eps)[:, None]
    scale = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    offsets = token[:, None] * width + columns[None, :]
    tl.store(out + offsets, (centered / deviation * scale + shift).to(out.dtype.element_ty), mask=mask)


@implementation("embed", "triton", needs=("triton",))
def embed_triton(
    ids: Tensor, position_ids: Tensor, word: Tensor, position: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """One kernel: only the result is written to memory."""
    refuse_gradients("embed triton", word, position, weight, bias)
    ids, position_ids, word, position, weight, bias = (
        x.contiguous() for x in (ids, position_ids, word, position, weight, bias)
    )
    tokens, width = len(ids), word.shape[1]
    out = word.new_empty(tokens, width)
    if tokens:
        grid, blocks = (triton.cdiv(tokens, ROWS),), {"ROWS": ROWS, "WIDTH": triton.next_power_of_2(width)}
        _embed_kernel[grid](ids, position_ids, word, position, weight, bias, out, tokens, width, eps, **blocks)
    return out
