"""softmax(q kᵀ / √d) v inside each sequence, from obvious to fast."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import ops
from ..errors import InputError
from ..layout import Layout
from ..reference import Array
from . import reference as truth
from .numpy_ops import reference
from .registry import REFERENCE, implementation, refuse_gradients
from .triton_setup import INTERPRETED, tl, triton

BLOCK = 64  # queries, and keys, that Triton's kernel holds at once


def _reference(q: Array, k: Array, v: Array, queries: Layout, keys: Layout, dropout_p: float = 0.0) -> Array:
    _refuse_dropout(REFERENCE, dropout_p)
    return truth.attention(q, k, v, truth.spans_of(queries, keys))


reference("attention", _reference)
implementation("attention", "torch", gradients=True, about="the default: the two below, each where it is better")(
    ops.attention
)
implementation(
    "attention", "dense", gradients=True, about="SDPA for each run of sequences of one length: no mask"
)(lambda q, k, v, queries, keys, dropout_p=0.0: ops.attention_dense(q, k, v, queries, keys, dropout_p))
implementation("attention", "padded", gradients=True, about="SDPA over padded rows, padding masked: one call")(
    lambda q, k, v, queries, keys, dropout_p=0.0: ops.attention_padded(q, k, v, queries, keys, dropout_p)
)


@implementation("attention", "loop", gradients=True)
def attention_loop(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """A sequence at a time, as the formula says: scores in memory, and in float32, which sharp ones need."""
    outputs = [q[:0]]
    for of_q, of_k, of_v in zip(
        q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True
    ):
        scores = torch.einsum("qhd,khd->hqk", of_q.float(), of_k.float()) / math.sqrt(q.shape[-1])
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1).to(v.dtype), of_v))
    return torch.cat(outputs)


def _by(backend: str) -> Callable[..., Tensor]:
    """SDPA held to one of its kernels: it raises where that one cannot run, and does not choose another."""

    def attention(
        q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
    ) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel  # which imports the compiler

        run = ops.attention_padded if backend == "EFFICIENT_ATTENTION" else ops.attention_dense
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return run(q, k, v, queries, keys, dropout_p)

    return attention


HALF = ("bfloat16", "float16")
implementation("attention", "math", gradients=True, about="SDPA's own form of the formula, scores in memory")(
    _by("MATH")
)
implementation("attention", "flash", needs=("cuda",), dtypes=HALF, gradients=True, about="SDPA's flash kernel")(
    _by("FLASH_ATTENTION")
)
implementation("attention", "efficient", needs=("cuda",), gradients=True, about="SDPA's, which takes a mask")(
    _by("EFFICIENT_ATTENTION")
)
implementation("attention", "cudnn", needs=("cuda",), dtypes=HALF, gradients=True, about="SDPA's cuDNN kernel")(
    _by("CUDNN_ATTENTION")
)


@implementation("attention", "varlen", needs=("varlen",), dtypes=HALF, gradients=True)
def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """Flash attention over the flat list itself, by where sequences begin: no padding, one call."""
    from torch.nn.attention.varlen import varlen_attn  # which imports the compiler

    _refuse_dropout("varlen", dropout_p)
    # what stands after these seven is called otherwise from one torch to the next
    out = varlen_attn(q, k, v, queries.starts, keys.starts, queries.longest, keys.longest)
    assert isinstance(out, Tensor)  # it gives more only where it is asked to
    return out


@implementation("attention", "flex", needs=("compiler",))
def attention_flex(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """FlexAttention: a token sees those of its own sequence, and blocks where none does are left out."""
    from torch.nn.attention.flex_attention import create_block_mask

    _refuse_dropout("flex", dropout_p)
    if not len(q):
        return q
    of_q, of_k = (_sequences(layout, q.device) for layout in (queries, keys))
    mask = create_block_mask(lambda b, h, i, j: of_q[i] == of_k[j], None, None, len(q), len(k), device=q.device)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H, T, d)
    # sizes left open spare compiling for each; of fewer queries than keys torch 2.13 writes C++ that is none
    sizes_open = q.is_cuda or q.shape == k.shape
    return _flex(sizes_open)(q, k, v, block_mask=mask)[0].transpose(0, 1)


@functools.cache
def _flex(dynamic: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=dynamic)


def _sequences(layout: Layout, device: torch.device) -> Tensor:
    """Give each token its sequence's number: (T,)."""
    return torch.repeat_interleave(layout.starts.diff().to(device))


def _refuse_dropout(name: str, dropout_p: float) -> None:
    if dropout_p:
        raise InputError(f"attention {name} has no dropout: dropout_p is {dropout_p}, expected 0.0")


@triton.jit
def _attention_kernel(
    q, k, v, out, of_queries, of_keys, row_q, row_k, row_v, head_q, head_k, head_v, heads, scale,
    WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """A program for each block of a sequence's queries, in one head. It walks along the keys, and keeps the
    largest score so far, the sum of the shares, and that of the values which they weigh; never the scores.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    begin, begin_k = tl.load(of_queries + sequence), tl.load(of_keys + sequence)
    count, count_k = tl.load(of_queries + sequence + 1) - begin, tl.load(of_keys + sequence + 1) - begin_k
    rows = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    across = tl.arange(0, WIDTH)
    if tl.program_id(2) * QUERIES < count:
        at = (begin + rows)[:, None].to(tl.int64)
        asked = tl.load(q + at * row_q + head * head_q + across[None, :], mask=rows[:, None] < count, other=0.0)
        largest = tl.full([QUERIES], float("-inf"), tl.float32)
        shared = tl.zeros([QUERIES], tl.float32)
        gathered = tl.zeros([QUERIES, WIDTH], tl.float32)
        for start in range(0, count_k, KEYS):
            columns = start + tl.arange(0, KEYS)
            there = columns < count_k
            at_k = (begin_k + columns).to(tl.int64)
            keys = tl.load(
                k + at_k[None, :] * row_k + head * head_k + across[:, None], mask=there[None, :], other=0.0
            )
            values = tl.load(
                v + at_k[:, None] * row_v + head * head_v + across[None, :], mask=there[:, None], other=0.0
            )
            if WIDEN:
                asked, keys = asked.to(tl.float32), keys.to(tl.float32)
            scores = tl.dot(asked, keys, input_precision="ieee") * scale  # in powers of two
            scores = tl.where(there[None, :], scores, float("-inf"))
            larger = tl.maximum(largest, tl.max(scores, 1))
            shares = tl.exp2(scores - larger[:, None])
            shrink = tl.exp2(largest - larger)
            shared = shared * shrink + tl.sum(shares, 1)
            gathered = gathered * shrink[:, None]
            shares = shares.to(values.dtype)
            if WIDEN:
                shares, values = shares.to(tl.float32), values.to(tl.float32)
            gathered += tl.dot(shares, values, input_precision="ieee")
            largest = larger
        to = out + (at * heads + head) * WIDTH + across[None, :]
        tl.store(to, (gathered / shared[:, None]).to(out.dtype.element_ty), mask=rows[:, None] < count)


@implementation("attention", "triton", needs=("triton",))
def attention_triton(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """Flash attention over the flat list, written out: blocks of queries and of keys, no scores kept."""
    _refuse_dropout("triton", dropout_p)
    heads, width = q.shape[1:]
    if width < 16 or width & (width - 1):
        raise InputError(f"attention triton has heads of {width}: expected 16, 32, 64 or another power of two")
    refuse_gradients("attention triton", q, k, v)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_empty(q.shape)
    if len(q):
        grid = (len(queries), heads, triton.cdiv(queries.longest, BLOCK))
        # in float32, without tensor cores, a block of 64 keys would not stay in registers
        keys_at_once = max(16, min(BLOCK, 2 * BLOCK * BLOCK // (width * q.itemsize)))
        strides = [x.stride(dim) for dim in (0, 1) for x in (q, k, v)]
        scale = math.log2(math.e) / math.sqrt(width)
        _attention_kernel[grid](
            q, k, v, out, queries.starts, keys.starts, *strides, heads, scale,
            WIDTH=width, QUERIES=BLOCK, KEYS=keys_at_once, WIDEN=INTERPRETED,
            num_warps=2 * q.itemsize, num_stages=2,
        )  # fmt: skip
    return out
