"""word[ids] + position[positions], normalised, from obvious to fast."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .. import ops
from . import reference as truth
from .numpy_ops import reference
from .registry import implementation, refuse_gradients
from .triton_setup import ROWS, tl, triton

reference(
    "embed",
    lambda ids, positions, word, position, *norm: truth.layer_norm(word[ids] + position[positions], *norm),
)
implementation("embed", "torch", gradients=True, about="the default: two lookups, an addition, a LayerNorm")(
    ops.embed
)


@implementation("embed", "indexed", gradients=True)
def embed_indexed(
    ids: Tensor, positions: Tensor, word: Tensor, position: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Lookups by index_select, which asks less than F.embedding does."""
    x = word.index_select(0, ids) + position.index_select(0, positions)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


@triton.jit
def _embed_kernel(
    ids, positions, word, position, weight, bias, out, tokens, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """A program for a few tokens: their rows are looked up, and each sum is normalised in registers."""
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    there = (token < tokens)[:, None] & (columns < width)[None, :]
    of_word = tl.load(ids + token, mask=token < tokens, other=0)[:, None] * width
    of_position = tl.load(positions + token, mask=token < tokens, other=0)[:, None] * width
    both = tl.load(word + of_word + columns[None, :], mask=there, other=0.0).to(tl.float32)
    both += tl.load(position + of_position + columns[None, :], mask=there, other=0.0).to(tl.float32)
    centred = tl.where(there, both - (tl.sum(both, 1) / width)[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 1) / width + eps)[:, None]
    scale = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    at = token[:, None] * width + columns[None, :]
    tl.store(out + at, (centred / deviation * scale + shift).to(out.dtype.element_ty), mask=there)


@implementation("embed", "triton", needs=("triton",))
def embed_triton(
    ids: Tensor, positions: Tensor, word: Tensor, position: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """One kernel: nothing but the answer is written."""
    refuse_gradients("embed triton", word, position, weight, bias)
    ids, positions, word, position = (x.contiguous() for x in (ids, positions, word, position))
    tokens, width = len(ids), word.shape[1]
    out = word.new_empty(tokens, width)
    if tokens:
        grid, blocks = (triton.cdiv(tokens, ROWS),), {"ROWS": ROWS, "WIDTH": triton.next_power_of_2(width)}
        _embed_kernel[grid](ids, positions, word, position, weight, bias, out, tokens, width, eps, **blocks)
    return out
