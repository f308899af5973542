"""Wrong kernels, by name: ordinary bugs, and tricks seen on kernel leaderboards. The gate must reject each.

An entry is the operation, the function, the reason as a regular expression, and options of `gate.check`.
"""

from __future__ import annotations

import functools
import math
import sys
import time

import torch
import torch.nn.functional as F

from minidistil import ops
from minidistil.backends.prepared import Prepared

INACCURATE = r"has a relative error of [\d.e+-]+ \((L2 norm|row \d+)\)"
NOT_FINITE = "has NaN or inf: it reads uninitialized"
WRITES = "it writes out of bounds"
CHANGED = "after its inputs changed in place, "
norm, attend = ops.add_norm, ops.attention_by_length


def by_sequence(attend):
    """Return an attention that calls a function with q, k, v of one sequence, each (L, H, d)."""

    def attention(q, k, v, queries, keys, dropout_p=0.0):
        parts = zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True)
        return torch.cat([q[:0], *(attend(*part) for part in parts)])

    return attention


def with_scores(change, weigh=lambda scores: scores.softmax(-1)):
    """Return an attention with changed scores (H, Lq, L)."""

    def attend(q, k, v):
        scores = torch.einsum("qhd,khd->hqk", q.float(), k.float())
        return torch.einsum("hqk,khd->qhd", weigh(change(scores, q.shape[-1])).to(v.dtype), v)

    return by_sequence(attend)


def scaled(scores, d):
    return scores / math.sqrt(d)


def causal(scores, d):
    lower = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
    return scaled(scores, d).masked_fill(~lower, -math.inf)


def without_maximum(scores):
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def last_key_missing(q, k, v):
    last = len(k) - (len(k) > 128)
    q, k, v = (x.transpose(0, 1) for x in (q, k[:last], v[:last]))
    return F.scaled_dot_product_attention(q, k, v).transpose(0, 1)


def ignores_boundaries(q, k, v, queries, keys, dropout_p=0.0):
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(0, 1)


def same_queries_and_keys(q, k, v, queries, keys, dropout_p=0.0):
    return v.clone() if queries is keys else attend(q, k, v, queries, keys)


def plan_cache():
    plans = {}

    def attention(q, k, v, queries, keys, dropout_p=0.0):
        key = len(q), len(k), len(keys), keys.max_seqlen
        return attend(q, k, v, *plans.setdefault(key, (queries, keys)))

    return attention


def positions_as_offsets(q, k, v, queries, keys, dropout_p=0.0):
    """Find sequence starts where the position is 0: wrong for left padding."""
    starts = (keys.position_ids == 0).nonzero()[:, 0].tolist()
    if queries is not keys or not starts:
        return attend(q, k, v, queries, keys)
    lengths = [b - a for a, b in zip(starts, [*starts[1:], len(k)], strict=True)]
    parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    heads = ([x.transpose(0, 1) for x in part] for part in parts)
    return torch.cat([F.scaled_dot_product_attention(*part).transpose(0, 1) for part in heads])


def padded_without_mask(q, k, v, queries, keys, dropout_p=0.0):
    q, k, v = (layout.pad(x).transpose(1, 2) for layout, x in ((queries, q), (keys, k), (keys, v)))
    return queries.unpad(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))


def leaks_nan_of_neighbors(q, k, v, queries, keys, dropout_p=0.0):
    rows_q, rows_k = (torch.repeat_interleave(x.cu_seqlens.diff()) for x in (queries, keys))
    mask = rows_q[:, None] == rows_k[None]
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1).nan_to_num()
    return torch.einsum("hqk,khd->qhd", weights.to(v.dtype), v)


def at_most_64_sequences(q, k, v, queries, keys, dropout_p=0.0):
    y = attend(q, k, v, queries, keys)
    return (
        torch.cat([y[: queries.cu_seqlens[64]], torch.zeros_like(y[queries.cu_seqlens[64] :])])
        if len(queries) > 64
        else y
    )


def first_query_only_tables(q, k, v, queries, keys, dropout_p=0.0):
    """Assume that a subset of the queries is the first tokens."""
    if len(q) == len(k):
        return attend(q, k, v, queries, keys)
    return attend(q, k, v, keys.first_tokens(), keys) if len(q) == len(keys) else torch.zeros_like(q)


def layer_norm_with(eps=None, one_pass=False, unbiased=False):
    def add_norm(x, residual, weight, bias, given):
        x = x + residual
        mean = x.mean(-1, keepdim=True)
        if one_pass:
            variance = (x.square().mean(-1, keepdim=True) - mean.square()).clamp(min=0)
        else:
            variance = x.var(-1, keepdim=True, unbiased=unbiased)
        return (x - mean) * torch.rsqrt(variance + (given if eps is None else eps)) * weight + bias

    return add_norm


def low_precision_statistics(x, residual, weight, bias, eps):
    x = x + residual
    centered = x - x.mean(-1, keepdim=True)
    total = torch.zeros_like(x[:, :1])
    for column in centered.square().split(1, dim=1):
        total = total + column  # in bfloat16, 256 + 1 is 256
    return centered * torch.rsqrt(total / x.shape[1] + eps) * weight + bias


def half_inside(x, residual, weight, bias, eps):
    parts = (each.bfloat16() for each in (x, residual, weight, bias))
    return norm(*parts, eps).to(x.dtype)


def partial(rows):
    """Leave the remainder of `rows` rows uncomputed."""

    def add_norm(x, residual, weight, bias, eps):
        out, most = torch.empty_like(x), len(x) // rows * rows
        out[:most] = norm(x[:most], residual[:most], weight, bias, eps)
        return out

    return add_norm


def up_to(rows):
    def add_norm(x, residual, weight, bias, eps):
        y = norm(x, residual, weight, bias, eps)
        y[rows:] = 0
        return y

    return add_norm


def wide_rows_in_two_parts(x, residual, weight, bias, eps):
    if x.shape[1] <= 4096:
        return norm(x, residual, weight, bias, eps)
    y = torch.cat([norm(x[:, :4096], residual[:, :4096], weight[:4096], bias[:4096], eps), x[:, 4096:]], 1)
    return y


def by_storage(x, residual, weight, bias, eps):
    """Read x as if it were contiguous."""
    flat = x.as_strided(x.shape, (x.shape[1], 1), x.storage_offset())
    return norm(flat, residual, weight, bias, eps)


def weight_by_storage(x, residual, weight, bias, eps):
    flat = weight.as_strided(weight.shape, (1,), weight.storage_offset())
    return norm(x, residual, flat, bias, eps)


def aligned_start(x, residual, weight, bias, eps):
    """Round the address down to 16 bytes, as a vector load does."""
    offset = x.storage_offset() // 4 * 4
    return norm(x.as_strided(x.shape, x.stride(), offset), residual, weight, bias, eps)


def hides_nan(x, residual, weight, bias, eps):
    return norm(x, residual, weight, bias, eps).nan_to_num()


def modifies_its_inputs(x, residual, weight, bias, eps):
    y = norm(x, residual, weight, bias, eps)
    x.add_(residual)
    return y


def writes_past_the_end(x, residual, weight, bias, eps):
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    out.copy_(norm(x, residual, weight, bias, eps))
    out.as_strided((out.numel() + 8,), (1,), out.storage_offset())[-8:] = 0
    return out


def writes_past_its_input(x, residual, weight, bias, eps):
    y = norm(x, residual, weight, bias, eps)
    weight.as_strided((1,), (1,), weight.storage_offset() + len(weight) + 3).fill_(0)
    return y


def reads_past_the_end(x, residual, weight, bias, eps):
    beyond = weight.as_strided((1,), (1,), weight.storage_offset() + len(weight) + 3)
    return norm(x, residual, weight, bias, eps) + 0 * beyond


def cache_by(key, calls=1):
    """Return an add_norm that returns an earlier result for a known key, after some calls."""
    answers, seen = {}, {}

    def add_norm(x, residual, weight, bias, eps):
        seen[key(x)] = seen.get(key(x), 0) + 1
        y = norm(x, residual, weight, bias, eps)
        return answers.setdefault(key(x), y.clone()).clone() if seen[key(x)] >= calls else y

    return add_norm


def reused_buffer():
    buffers = {}

    def add_norm(x, residual, weight, bias, eps):
        y = norm(x, residual, weight, bias, eps)
        return buffers.setdefault((x.shape, x.dtype), torch.empty_like(y)).copy_(y)

    return add_norm


def copies_weights(version):
    """Return a linear layer that keeps a copy of the weights, by identity or version counter."""
    copies = {}

    def linear(x, lin):
        key = id(lin), lin.weight._version if version else 0
        copies.setdefault(key, (lin, lin.weight.clone(), lin.bias.clone()))
        return F.linear(x, *copies[key][1:])

    return linear


def copies_by_pointer():
    copies = {}

    def linear(x, lin):
        key = lin.weight.data_ptr(), lin.weight.shape, lin.weight.dtype
        return F.linear(x, copies.setdefault(key, lin.weight.clone()), lin.bias)

    return linear


class Lazy(torch.Tensor):
    """A tensor that computes when it is read."""


def lazy(x, residual, weight, bias, eps):
    return norm(x, residual, weight, bias, eps).as_subclass(Lazy)


def zeros_for_the_timer(x, residual, weight, bias, eps):
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "timed_ask":
            return torch.zeros_like(x)
        frame = frame.f_back
    return norm(x, residual, weight, bias, eps)


def not_deterministic(x, residual, weight, bias, eps):
    return norm(x, residual, weight, bias, eps) * (1 + 1e-7 * torch.randn(1))


def changes(setting):
    def add_norm(*arguments):
        setting()
        return norm(*arguments)

    return add_norm


class WrongBackward(torch.autograd.Function):
    """LayerNorm whose backward pass is changed by `how`."""

    how = "ignores statistics"

    @classmethod
    def make(cls, how):
        return type(f"Wrong{how}", (cls,), {"how": how}).apply

    @classmethod
    def forward(cls, ctx, x, residual, weight, bias, eps):
        cls.last = x + residual
        ctx.how, ctx.eps, ctx.kind = cls.how, eps, cls
        ctx.save_for_backward(cls.last, weight)
        return norm(x, residual, weight, bias, eps)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        if ctx.how == "reads the last forward":
            x = ctx.kind.last
        if ctx.how == "reads dy as contiguous":
            dy = dy.as_strided(dy.shape, (dy.shape[1], 1), dy.storage_offset()) if dy.numel() < 2 else _flat(dy)
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
            y = F.layer_norm(leaves[0], weight.shape, leaves[1], None, ctx.eps)
            dx, dweight = torch.autograd.grad(y, leaves, dy)
        if ctx.how == "ignores statistics":
            deviation = ((x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + ctx.eps).sqrt()
            dx = dy * weight / deviation
        if ctx.how == "needs a gradient of x":
            dweight = dweight if ctx.needs_input_grad[0] else torch.zeros_like(dweight)
        if ctx.how == "forgets the residual":
            return dx, torch.zeros_like(dx), dweight, dy.sum(0), None
        return dx, dx, dweight, dy.sum(0), None


def _flat(dy):
    """Return the memory of dy from its first element on, as if it were contiguous."""
    size = min(dy.numel(), dy.untyped_storage().nbytes() // dy.itemsize - dy.storage_offset())
    return torch.cat([dy.as_strided((size,), (1,), dy.storage_offset()), dy.new_zeros(dy.numel() - size)]).view(
        dy.shape
    )


def no_dropout_scale(q, k, v, queries, keys, dropout_p=0.0):
    y = attend(q, k, v, queries, keys, dropout_p)
    return y * (1 - dropout_p)


def ignores_dropout(q, k, v, queries, keys, dropout_p=0.0):
    return attend(q, k, v, queries, keys)


def rows_in_bfloat16(ids, position_ids, word, position, weight, bias, eps):
    return ops.embed(ids, position_ids, word.bfloat16().to(word.dtype), position, weight, bias, eps)


def embed_with(change):
    def embed(ids, position_ids, *rest):
        return ops.embed(*change(ids, position_ids), *rest)

    return embed


def block_with(change):
    """Return a block that runs with changed operations."""
    return lambda x, module, *, layout, queries, ops: change(x, module, layout, queries, ops)


def gelu_in_block(x, module, layout, queries, plain):
    activation, module.ffn.activation = module.ffn.activation, "gelu"
    y = module(x, layout, queries, plain)
    module.ffn.activation = activation
    return y


def three_bfloat16_matmuls(x, lin):
    """Approximate a float32 matmul by three in bfloat16: 16 of 24 significant bits."""
    high, upper = x.bfloat16().float(), lin.weight.bfloat16().float()
    return high @ upper.T + (x - high) @ upper.T + high @ (lin.weight - upper).T + lin.bias


def tf32(x, lin):
    def rounded(y):
        return (y.view(torch.int32) & ~0x1FFF).view(torch.float32)

    return F.linear(rounded(x.contiguous()), rounded(lin.weight.contiguous()), lin.bias)


def half_sum(x, lin):
    """Add partial sums of 16 terms in the dtype."""
    y = lin.bias.expand(len(x), -1)
    for columns, weights in zip(x.split(16, 1), lin.weight.split(16, 1), strict=True):
        y = y + (columns.float() @ weights.float().T).to(x.dtype)
    return y


GRADIENTS = {"gradients": True, "cases": 1}
HALF = {"dtypes": ["bfloat16"]}
WRONG = {
    # attention
    "ignores sequence boundaries": ("attention", ignores_boundaries, INACCURATE),
    "causal": ("attention", with_scores(causal), INACCURATE),
    "no scale": ("attention", with_scores(lambda scores, d: scores), INACCURATE),
    "softmax without the maximum": ("attention", with_scores(scaled, without_maximum), NOT_FINITE),
    "the last key of a second block is missing": ("attention", by_sequence(last_key_missing), INACCURATE),
    "returns v where queries is keys": ("attention", same_queries_and_keys, INACCURATE),
    "a plan cached by T, n and longest": ("attention", plan_cache(), f"{INACCURATE}|raises"),
    "starts of sequences from positions": ("attention", positions_as_offsets, f"{INACCURATE}|raises"),
    "padding without a mask": ("attention", padded_without_mask, INACCURATE),
    "NaN of a neighboring text": ("attention", leaks_nan_of_neighbors, f"{NOT_FINITE}|finite where"),
    "at most 64 sequences": ("attention", at_most_64_sequences, INACCURATE),
    "queries are first tokens": ("attention", first_query_only_tables, INACCURATE),
    "dropout without scaling": ("attention", no_dropout_scale, "the mean of its results", GRADIENTS),
    "ignores dropout": ("attention", ignores_dropout, "it ignores dropout_p", GRADIENTS),
    # embed
    "ignores positions": ("embed", embed_with(lambda ids, at: (ids, at * 0)), INACCURATE),
    "positions count from 0": ("embed", embed_with(lambda ids, at: (ids, torch.arange(len(at)) % 8)), INACCURATE),
    "ids of 15 bits": ("embed", embed_with(lambda ids, at: (ids & 32767, at)), INACCURATE),
    "ids of 16 bits": ("embed", embed_with(lambda ids, at: (ids & 65535, at)), INACCURATE),
    "a table in bfloat16": ("embed", rows_in_bfloat16, INACCURATE),
    # add_norm: arithmetic
    "eps of 1e-5": ("add_norm", layer_norm_with(eps=1e-5), INACCURATE),
    "eps of 1e-12, fixed": ("add_norm", layer_norm_with(eps=1e-12), INACCURATE),
    "no eps": ("add_norm", layer_norm_with(eps=0.0), INACCURATE),
    "E[x²] - E[x]²": ("add_norm", layer_norm_with(one_pass=True), INACCURATE),
    "unbiased variance": ("add_norm", layer_norm_with(unbiased=True), INACCURATE),
    "statistics in bfloat16": ("add_norm", low_precision_statistics, INACCURATE, HALF),
    "bfloat16 inside": ("add_norm", half_inside, INACCURATE),
    "zeros": ("add_norm", lambda x, *rest: torch.zeros_like(x), INACCURATE),
    "hides NaN": ("add_norm", hides_nan, "is finite where the inputs make it NaN"),
    # add_norm: sizes and memory
    "only multiples of 64": ("add_norm", partial(64), NOT_FINITE),
    "only multiples of 128": ("add_norm", partial(128), NOT_FINITE),
    "at most 512 rows": ("add_norm", up_to(512), INACCURATE),
    "at most 2048 rows": ("add_norm", up_to(2048), INACCURATE),
    "at most 65535 rows": ("add_norm", up_to(65535), INACCURATE),
    "rows wider than 4096": ("add_norm", wide_rows_in_two_parts, INACCURATE),
    "uninitialized memory": ("add_norm", lambda x, *rest: torch.empty_like(x), NOT_FINITE),
    "x as if contiguous": ("add_norm", by_storage, f"{INACCURATE}|{NOT_FINITE}"),
    "weight as if contiguous": ("add_norm", weight_by_storage, f"{INACCURATE}|{NOT_FINITE}"),
    "x as if aligned": ("add_norm", aligned_start, f"{INACCURATE}|{NOT_FINITE}"),
    "modifies its inputs": ("add_norm", modifies_its_inputs, "it modifies its input x"),
    "writes past the end": ("add_norm", writes_past_the_end, WRITES),
    "writes past its input": ("add_norm", writes_past_its_input, WRITES),
    "reads past the end": ("add_norm", reads_past_the_end, NOT_FINITE),
    # add_norm: caches, aliases, tricks
    "a result cached by shape": ("add_norm", cache_by(lambda x: x.shape), INACCURATE),
    "a result cached by pointer": ("add_norm", cache_by(lambda x: (x.data_ptr(), x.dtype)), f"{INACCURATE}|dtype"),
    "a result cached after some calls": ("add_norm", cache_by(lambda x: x.shape, 7), CHANGED),
    "a buffer reused between calls": ("add_norm", reused_buffer(), "shares its memory with an earlier output"),
    "returns its input": (
        "add_norm",
        lambda x, residual, *rest: residual,
        "shares its memory with its input residual",
    ),
    "a tensor that computes when read": ("add_norm", lazy, "Lazy: expected a plain tensor"),
    "not deterministic": ("add_norm", not_deterministic, "a second call with the same inputs"),
    "wrong dtype": ("add_norm", lambda x, *rest: norm(x, *rest).double(), "has dtype torch.float64"),
    "wrong shape": ("add_norm", lambda x, *rest: norm(x, *rest).T, "has dtype .* and shape"),
    "a list": (
        "add_norm",
        lambda x, *rest: norm(x, *rest).tolist(),
        "it returns .* outputs|expected a plain tensor",
    ),
    "raises": ("add_norm", lambda x, *rest: x.view(-1, 127), "it raises RuntimeError"),
    "sys.exit": ("add_norm", lambda *arguments: sys.exit(0), r"it calls sys.exit\(0\)"),
    "leaves another default dtype": (
        "add_norm",
        changes(lambda: torch.set_default_dtype(torch.float64)),
        "it changes a setting of its process: the default dtype",
    ),
    "leaves another matmul precision": (
        "add_norm",
        changes(lambda: torch.set_float32_matmul_precision("medium")),
        "it changes a setting of its process: the precision of float32 matmuls",
    ),
    "replaces the clock": (
        "add_norm",
        changes(lambda: setattr(time, "perf_counter", fake_clock)),
        "it replaces time.perf_counter",
    ),
    # gradients
    "gradient without statistics": (
        "add_norm",
        WrongBackward.make("ignores statistics"),
        "gradient of x",
        GRADIENTS,
    ),
    "no gradient of the residual": (
        "add_norm",
        WrongBackward.make("forgets the residual"),
        "gradient of residual",
        GRADIENTS,
    ),
    "state of the last forward pass": (
        "add_norm",
        WrongBackward.make("reads the last forward"),
        "gradient of",
        GRADIENTS,
    ),
    "upstream gradient as if contiguous": (
        "add_norm",
        WrongBackward.make("reads dy as contiguous"),
        "gradient of",
        GRADIENTS,
    ),
    "frozen x": ("add_norm", WrongBackward.make("needs a gradient of x"), "gradient of weight", GRADIENTS),
    "no gradients": (
        "add_norm",
        lambda *arguments: norm(*arguments).detach(),
        "does not require gradients",
        GRADIENTS,
    ),
    "no gradient of the weight": (
        "linear",
        lambda x, lin: F.linear(x, lin.weight.detach(), lin.bias),
        r"gradient of lin\.weight has a relative error",
        GRADIENTS,
    ),
    # linear layers
    "ignores the bias": ("linear", lambda x, lin: x @ lin.weight.T, INACCURATE),
    "prepares without the bias": ("linear", Prepared(lambda lin: lin.weight, lambda x, w: x @ w.T), INACCURATE),
    "a copy of the weights by identity": ("linear", copies_weights(version=False), f"{CHANGED}.*{INACCURATE}"),
    "a copy of the weights by version": ("linear", copies_weights(version=True), f"{CHANGED}.*{INACCURATE}"),
    "a copy of the weights by pointer": ("linear", copies_by_pointer(), INACCURATE),
    "K of at most 768": ("linear", lambda x, lin: F.linear(x[:, :768], lin.weight[:, :768], lin.bias), INACCURATE),
    "TF32": ("linear", tf32, INACCURATE),
    "three bfloat16 matmuls": ("linear", three_bfloat16_matmuls, INACCURATE),
    "partial sums in bfloat16": ("linear", half_sum, INACCURATE, HALF),
    "tanh GELU": ("linear_gelu", lambda x, lin: F.gelu(lin(x), approximate="tanh"), INACCURATE),
    "key and value swapped": ("qkv", lambda x, q, k, v: (q(x), v(x), k(x)), "output 1 has a relative error"),
    "one output for query and key": ("qkv", lambda x, q, k, v: ((y := q(x)), y, v(x)), "output 1"),
    "no GELU": ("feed_forward", lambda x, lin1, lin2, ops: lin2(lin1(x)), INACCURATE),
    # block
    "GELU where the model has ReLU": ("block", block_with(gelu_in_block), INACCURATE),
    "queries of a block are the first": (
        "block",
        block_with(lambda x, m, layout, queries, plain: m(x, layout, layout, plain)[: sum(queries.lengths)]),
        INACCURATE,
    ),
}
fake_clock = functools.partial(float, 0)
