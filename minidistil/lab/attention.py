"""softmax(q kᵀ / √d) v within each sequence, from the formula to the fastest implementation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..errors import InputError
from ..layout import Layout
from ..reference import Array
from . import reference
from .numpy_ops import register_reference
from .registry import REFERENCE, implementation, refuse_gradients
from .triton_setup import INTERPRETED, tl, triton

BLOCK = 64  # queries and keys per step of the Triton kernel


def _reference(q: Array, k: Array, v: Array, queries: Layout, keys: Layout, dropout_p: float = 0.0) -> Array:
    _refuse_dropout(REFERENCE, dropout_p)
    return reference.attention(q, k, v, reference.spans_of(queries, keys))


register_reference("attention", _reference)
implementation("attention", "torch", gradients=True, about="the default: dense or padded, by device and lengths")(
    ops.attention
)
implementation("attention", "dense", gradients=True, about="SDPA for each run of equal lengths: no mask")(
    ops.attention_by_length
)


@implementation("attention", "padded", gradients=True)
def attention_padded(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """One SDPA call on padded rows with a padding mask."""
    q, k, v = (layout.pad(x).transpose(1, 2) for layout, x in ((queries, q), (keys, k), (keys, v)))  # (n, H, L, d)
    mask = keys.mask()[:, None, None, :]  # (n, 1, 1, L)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)  # (n, H, Lq, d)
    return queries.unpad(out.transpose(1, 2))


@implementation("attention", "loop", gradients=True)
def attention_loop(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """The formula, one sequence at a time: scores in memory, in float32 because they can be large."""
    _refuse_dropout("loop", dropout_p)
    outputs = [q[:0]]
    lengths_q, lengths_k = queries.lengths, keys.lengths
    for qs, ks, vs in zip(q.split(lengths_q), k.split(lengths_k), v.split(lengths_k), strict=True):
        scores = torch.einsum("qhd,khd->hqk", qs.float(), ks.float()) / math.sqrt(q.shape[-1])
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1).to(v.dtype), vs))
    return torch.cat(outputs)


def _by(backend: str) -> Callable[..., Tensor]:
    """Return SDPA restricted to one backend. It raises if that backend cannot run."""

    def attention(
        q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
    ) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel  # imports the compiler, torch._dynamo

        run = attention_padded if backend == "EFFICIENT_ATTENTION" else ops.attention_by_length
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return run(q, k, v, queries, keys, dropout_p)

    return attention


HALF = ("bfloat16", "float16")
implementation("attention", "math", gradients=True, about="SDPA's math backend: the formula, scores in memory")(
    _by("MATH")
)
implementation(
    "attention", "flash", needs=("cuda",), dtypes=HALF, gradients=True, about="SDPA's flash-attention backend"
)(_by("FLASH_ATTENTION"))
implementation(
    "attention",
    "efficient",
    needs=("cuda",),
    gradients=True,
    about="SDPA's memory-efficient backend, with a padding mask",
)(_by("EFFICIENT_ATTENTION"))
implementation("attention", "cudnn", needs=("cuda",), dtypes=HALF, gradients=True, about="SDPA's cuDNN backend")(
    _by("CUDNN_ATTENTION")
)


@implementation("attention", "varlen", needs=("varlen",), dtypes=HALF, gradients=True)
def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """One FlashAttention call on the packed batch and its cu_seqlens: no padding."""
    from torch.nn.attention.varlen import varlen_attn  # imports the compiler, torch._dynamo

    _refuse_dropout("varlen", dropout_p)
    # positional arguments: their names differ between torch versions
    out = varlen_attn(q, k, v, queries.cu_seqlens, keys.cu_seqlens, queries.max_seqlen, keys.max_seqlen)
    assert isinstance(out, Tensor)  # it returns a tuple only on request
    return out


def _refuse_dropout(name: str, dropout_p: float) -> None:
    if dropout_p:
        raise InputError(f"attention {name} does not support dropout: dropout_p is {dropout_p}, expected 0.0")


@triton.jit
def _attention_kernel(
    q, k, v, out, cu_seqlens_q, cu_seqlens_k, row_q, row_k, row_v, head_q, head_k, head_v, heads, scale,
    WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Compute one head for a block of queries of one sequence (FlashAttention).

    A loop over blocks of keys keeps a running maximum of the scores, the sum of exp2(score - maximum), and the sum
    of values weighted by it. The full score matrix is never stored.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    begin_q, begin_k = tl.load(cu_seqlens_q + sequence), tl.load(cu_seqlens_k + sequence)
    length_q = tl.load(cu_seqlens_q + sequence + 1) - begin_q
    length_k = tl.load(cu_seqlens_k + sequence + 1) - begin_k
    rows = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    dims = tl.arange(0, WIDTH)
    if tl.program_id(2) * QUERIES < length_q:
        row_index = (begin_q + rows)[:, None].to(tl.int64)
        query = tl.load(
            q + row_index * row_q + head * head_q + dims[None, :], mask=rows[:, None] < length_q, other=0.0
        )
        largest = tl.full([QUERIES], float("-inf"), tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        weighted = tl.zeros([QUERIES, WIDTH], tl.float32)
        for start in range(0, length_k, KEYS):
            columns = start + tl.arange(0, KEYS)
            mask = columns < length_k
            key_index = (begin_k + columns).to(tl.int64)
            keys = tl.load(
                k + key_index[None, :] * row_k + head * head_k + dims[:, None], mask=mask[None, :], other=0.0
            )
            values = tl.load(
                v + key_index[:, None] * row_v + head * head_v + dims[None, :], mask=mask[:, None], other=0.0
            )
            if WIDEN:
                query, keys = query.to(tl.float32), keys.to(tl.float32)
            scores = tl.dot(query, keys, input_precision="ieee") * scale  # in powers of two
            scores = tl.where(mask[None, :], scores, float("-inf"))
            larger = tl.maximum(largest, tl.max(scores, 1))
            weights = tl.exp2(scores - larger[:, None])
            rescale = tl.exp2(largest - larger)
            total = total * rescale + tl.sum(weights, 1)
            weighted = weighted * rescale[:, None]
            weights = weights.to(values.dtype)
            if WIDEN:
                weights, values = weights.to(tl.float32), values.to(tl.float32)
            weighted += tl.dot(weights, values, input_precision="ieee")
            largest = larger
        target = out + (row_index * heads + head) * WIDTH + dims[None, :]
        tl.store(target, (weighted / total[:, None]).to(out.dtype.element_ty), mask=rows[:, None] < length_q)


@implementation("attention", "triton", needs=("triton",))
def attention_triton(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """FlashAttention on the packed batch in Triton: blocks of queries and keys, scores never in memory."""
    _refuse_dropout("triton", dropout_p)
    heads, width = q.shape[1:]
    if width < 16 or width & (width - 1):
        raise InputError(
            f"attention triton does not support heads of {width}: expected 16, 32, 64 or another power of two"
        )
    refuse_gradients("attention triton", q, k, v)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_empty(q.shape)
    if len(q):
        grid = (len(queries), heads, triton.cdiv(queries.max_seqlen, BLOCK))
        # float32 does not use tensor cores, and a block of 64 keys does not fit into registers
        keys_at_once = max(16, min(BLOCK, 2 * BLOCK * BLOCK // (width * q.itemsize)))
        strides = [x.stride(dim) for dim in (0, 1) for x in (q, k, v)]
        scale = math.log2(math.e) / math.sqrt(width)
        _attention_kernel[grid](
            q, k, v, out, queries.cu_seqlens, keys.cu_seqlens, *strides, heads, scale,
            WIDTH=width, QUERIES=BLOCK, KEYS=keys_at_once, WIDEN=INTERPRETED,
            num_warps=2 * q.itemsize, num_stages=2,
        )  # fmt: skip
    return out
