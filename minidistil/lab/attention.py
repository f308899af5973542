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
from .registry import implementation

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
    return _flex()(q, k, v, block_mask=mask)[0].transpose(0, 1)


@functools.cache
def _flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _sequences(layout: Layout, device: torch.device) -> Tensor:
    """Give each token its sequence's number: (T,)."""
    return torch.repeat_interleave(layout.starts.diff().to(device))


def _refuse_dropout(name: str, dropout_p: float) -> None:
    if dropout_p:
        raise InputError(f"attention {name} has no dropout: dropout_p is {dropout_p}, expected 0.0")
