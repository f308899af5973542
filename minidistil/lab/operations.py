"""Per operation: how to call it, its reference, its test cases and its tolerance.

The error of an implementation may be up to k× the error of plain PyTorch in the same dtype and on the same inputs,
both relative to the float64 reference: in the L2 norm, and in the largest element. One rounding of the output is
always allowed, since plain PyTorch's error can be 0. `why` explains the k of each operation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DistilBertConfig
from ..errors import InputError
from ..model import Block
from ..ops import Ops
from . import reference
from .cases import (
    EXTREME,
    Case,
    Inputs,
    add_norm_case,
    attention_case,
    block_case,
    embed_case,
    feed_forward_case,
    linear_case,
    with_strides,
)

Arrays = dict[str, np.ndarray]
LAYERS = {  # names of the linear layers among the arguments of an operation
    "qkv": ("q_lin", "k_lin", "v_lin"),
    "linear": ("lin",),
    "linear_gelu": ("lin",),
    "feed_forward": ("lin1", "lin2"),
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation: how to call it, and its reference."""

    name: str
    bind: Callable[[Any, Inputs], Callable[[], Any]]  # implementation and inputs -> the call to time
    forward: Callable[[Inputs], list[np.ndarray]]  # the reference, in float64
    backward: Callable[[Inputs, list[np.ndarray]], Arrays]  # reference gradients, by name of the input
    cases: list[Case]
    k: float
    why: str  # reason for this k
    # by precision: plain implementation and k
    rounded: dict[str, tuple[Any, float]] = dataclasses.field(default_factory=dict)

    @property
    def plain(self) -> Any:
        """Return the plain PyTorch implementation of `ops.py`."""
        return getattr(Ops, self.name)

    def run(self, implementation: Any, inputs: Inputs) -> tuple[Tensor, ...]:
        """Call an implementation once, and return its outputs as a tuple."""
        return as_tuple(self.bind(implementation, inputs)())

    def baseline(self, precision: str | None) -> tuple[Any, float]:
        """Return the implementation that the tolerance is based on, and the factor k."""
        if precision is None:
            return self.plain, self.k
        if precision not in self.rounded:
            raise InputError(
                f"{self.name} has no {precision} baseline, which precision={precision!r} requires: omit precision"
            )
        return self.rounded[precision]


def as_tuple(result: Any) -> tuple[Any, ...]:
    """Return the outputs of an implementation as a tuple, even a single output."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _bind_tensors(*names: str) -> Callable[[Any, Inputs], Callable[[], Any]]:
    return lambda implementation, i: lambda: implementation(*(i[name] for name in names))


def _bind_layers(op: str, **context: Any) -> Callable[[Any, Inputs], Callable[[], Any]]:
    def bind(implementation: Any, i: Inputs) -> Callable[[], Any]:
        x, layers = i["x"], [_linear(i[f"{name}.weight"], i[f"{name}.bias"]) for name in LAYERS[op]]
        return lambda: implementation(x, *layers, **context)

    return bind


def _bind_block(implementation: Any, i: Inputs) -> Callable[[], Any]:
    hidden, width = i["ffn.lin1.weight"].shape
    module = Block(DistilBertConfig(dim=width, hidden_dim=hidden, n_heads=i["heads"])).eval()
    for name in reference.block_layers(width, hidden):
        _set_weights(module.get_submodule(name), i[f"{name}.weight"], i[f"{name}.bias"])
    x, context = i["x"], {"layout": i["keys"], "queries": i["queries"], "ops": Ops()}
    return lambda: implementation(x, module, **context)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight), device="meta").eval()
    _set_weights(layer, weight, bias)
    return layer


def _set_weights(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Register tensors as the parameters of a layer, without a copy. Only an nn.Parameter has gradients."""
    for name, x in (("weight", weight), ("bias", bias)):
        layer.register_parameter(name, x if isinstance(x, nn.Parameter) else nn.Parameter(x, requires_grad=False))


# LayerNorm(x + residual)


def _add_norm_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    dx, dweight, dbias = reference.layer_norm_backward(dys[0], i["x"] + i["residual"], i["weight"], i["eps"])
    return {"x": dx, "residual": dx, "weight": dweight, "bias": dbias}


ADD_NORM = Operation(
    "add_norm",
    _bind_tensors("x", "residual", "weight", "bias", "eps"),
    forward=lambda i: [reference.layer_norm(i["x"] + i["residual"], i["weight"], i["bias"], i["eps"])],
    backward=_add_norm_backward,
    cases=[
        *(add_norm_case(rows, width) for rows, width in ((1, 768), (2, 3), (127, 96), (128, 768), (129, 257))),
        *(add_norm_case(rows, 768) for rows in (511, 512)),
        *(add_norm_case(33, 768, kind) for kind in EXTREME),
        with_strides(add_norm_case(33, 96), "x", "residual"),
        add_norm_case(0, 768),
    ],
    k=2,
    why="one sum over a row: its order can double the error; low-precision statistics add more than that",
)


# LayerNorm(word[ids] + position[position_ids])


def _embedded(i: Inputs) -> np.ndarray:
    return i["word"][i["ids"]] + i["position"][i["position_ids"]]


def _embed_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    dx, dweight, dbias = reference.layer_norm_backward(dys[0], _embedded(i), i["weight"], i["eps"])
    dword = reference.rows_backward(dx, i["ids"], len(i["word"]))
    dposition = reference.rows_backward(dx, i["position_ids"], len(i["position"]))
    return {"word": dword, "position": dposition, "weight": dweight, "bias": dbias}


EMBED = Operation(
    "embed",
    _bind_tensors("ids", "position_ids", "word", "position", "weight", "bias", "eps"),
    forward=lambda i: [reference.layer_norm(_embedded(i), i["weight"], i["bias"], i["eps"])],
    backward=_embed_backward,
    cases=[
        *(embed_case(tokens, width) for tokens, width in ((1, 768), (127, 96), (129, 257), (512, 768))),
        *(embed_case(33, 768, kind) for kind in EXTREME),
        embed_case(0, 768),
    ],
    k=2,
    why=ADD_NORM.why,
)


# Linear layers


def _linears(op: str) -> Callable[[Inputs], list[np.ndarray]]:
    return lambda i: [reference.linear(i["x"], i[f"{name}.weight"], i[f"{name}.bias"]) for name in LAYERS[op]]


def _linears_backward(op: str) -> Callable[[Inputs, list[np.ndarray]], Arrays]:
    def backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
        gradients: Arrays = {"x": np.zeros_like(i["x"])}
        for name, dy in zip(LAYERS[op], dys, strict=True):
            weight, bias = f"{name}.weight", f"{name}.bias"
            dx, gradients[weight], gradients[bias] = reference.linear_backward(dy, i["x"], i[weight])
            gradients["x"] = gradients["x"] + dx
        return gradients

    return backward


def _linear_cases(op: str) -> list[Case]:
    sizes = [
        (1, 768, 96),
        (2, 96, 33),
        (127, 100, 300),
        (128, 96, 96),
        (129, 257, 64),
        (511, 96, 384),
        (512, 384, 96),
    ]
    return [
        *(linear_case(*size, layers=LAYERS[op]) for size in sizes),
        *(linear_case(33, 96, 64, kind, LAYERS[op]) for kind in ("large mean", "large")),
        with_strides(linear_case(33, 96, 64, layers=LAYERS[op]), "x"),
        linear_case(0, 96, 64, layers=LAYERS[op]),
    ]


def _round_to_8_bits(x: Tensor) -> Tensor:
    """Round the values of each row to 255 levels, scaled to the largest value of the row."""
    scale = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round() * scale


def _linear_8_bits(x: Tensor, lin: nn.Linear) -> Tensor:
    """Compute a linear layer in float32 on 8-bit rounded values. The rounding is nearly all of its error."""
    weight, bias = _round_to_8_bits(lin.weight.float()), lin.bias.float()
    return F.linear(_round_to_8_bits(x.float()), weight, bias).to(x.dtype)


def _linear_gelu_8_bits(x: Tensor, lin: nn.Linear) -> Tensor:
    return F.gelu(_linear_8_bits(x, lin))


K_8_BITS = 1.5  # the error of rounding is the same for all implementations; with 7 bits it would be 2×
SUM = "a sum of K terms, in any order of blocks, in float32 or, in bfloat16, rounded once more"

LINEAR = Operation(
    "linear",
    _bind_layers("linear"),
    _linears("linear"),
    _linears_backward("linear"),
    _linear_cases("linear"),
    3,
    SUM,
    {"int8": (_linear_8_bits, K_8_BITS)},
)
QKV = Operation(
    "qkv",
    _bind_layers("qkv"),
    _linears("qkv"),
    _linears_backward("qkv"),
    _linear_cases("qkv"),
    3,
    SUM,
    {"int8": (lambda x, *lins: tuple(_linear_8_bits(x, lin) for lin in lins), K_8_BITS)},
)


def _linear_gelu_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    (hidden,) = _linears("linear_gelu")(i)
    return _linears_backward("linear_gelu")(i, [reference.gelu_backward(dys[0], hidden)])


LINEAR_GELU = Operation(
    "linear_gelu",
    _bind_layers("linear_gelu"),
    lambda i: [reference.gelu(_linears("linear_gelu")(i)[0])],
    _linear_gelu_backward,
    _linear_cases("linear_gelu"),
    3,
    f"{SUM}; the exact GELU adds one rounding, the tanh approximation would have an error of 5e-4",
    {"int8": (_linear_gelu_8_bits, K_8_BITS)},
)


# Feed-forward: two linear layers with GELU between them

FFN_NAMES = ("x", *(f"{name}.{part}" for name in LAYERS["feed_forward"] for part in ("weight", "bias")))


def _feed_forward_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    gradients = reference.feed_forward_backward(dys[0], *(i[name] for name in FFN_NAMES))
    return dict(zip(FFN_NAMES, gradients, strict=True))


FEED_FORWARD = Operation(
    "feed_forward",
    _bind_layers("feed_forward", ops=Ops()),
    lambda i: [reference.feed_forward(*(i[name] for name in FFN_NAMES))],
    _feed_forward_backward,
    [
        *(feed_forward_case(*size) for size in ((1, 96, 384), (2, 33, 100), (127, 96, 384), (129, 100, 257))),
        *(feed_forward_case(rows, 96, 384) for rows in (511, 512, 513)),
        *(feed_forward_case(33, 96, 384, kind) for kind in ("large mean", "large")),
        with_strides(feed_forward_case(33, 96, 384), "x"),
        feed_forward_case(0, 96, 384),
    ],
    4,
    f"two matmuls, the second on rounded results of the first: {SUM}",
    {"int8": (lambda x, lin1, lin2, ops: _linear_8_bits(_linear_gelu_8_bits(x, lin1), lin2), K_8_BITS)},
)


# Attention


def _spans(i: Inputs) -> reference.Spans:
    return reference.spans_of(i["queries"], i["keys"])


def _attention_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    return dict(zip("qkv", reference.attention_backward(dys[0], i["q"], i["k"], i["v"], _spans(i)), strict=True))


MIXED = [1, 2, 127, 128, 129, 33]  # lengths
ATTENTION = Operation(
    "attention",
    _bind_tensors("q", "k", "v", "queries", "keys"),
    forward=lambda i: [reference.attention(i["q"], i["k"], i["v"], _spans(i))],
    backward=_attention_backward,
    cases=[
        attention_case("mixed lengths", MIXED),
        attention_case("mixed lengths, heads of 32", MIXED[::-1], heads=3, width=32),
        attention_case("equal lengths", [64] * 4),
        *(attention_case(f"one sequence of {length}", [length]) for length in (1, 127, 128, 511, 512)),
        attention_case("a thousand sequences", [1 + i % 5 for i in range(1000)], heads=1, width=32),
        attention_case("queries are first tokens", MIXED, first=True),
        with_strides(attention_case("mixed lengths", [5, 64, 33]), "q", "k", "v"),
        attention_case("an empty sequence between others", [3, 0, 5]),
        attention_case("large scores: one key gets all the weight", [65, 130], kind="sharp"),
        attention_case("denormal queries: equal weights", [65, 130], kind="flat"),
        attention_case("keys with a large mean", [65, 130], kind="large mean"),
    ],
    k=3,
    why="attention weights may be rounded to the dtype before the matmul with v; blocks are summed in any order",
)


# Block: all operations except the embeddings

BLOCK = Operation(
    "block",
    _bind_block,
    forward=lambda i: [reference.block(i["x"], i, _spans(i), i["heads"])],
    backward=lambda i, dys: reference.block_backward(dys[0], i["x"], i, _spans(i), i["heads"]),
    cases=[
        block_case("mixed lengths", [1, 2, 64, 17]),
        block_case("mixed lengths, 24 heads of 32", [33, 5], width=768, heads=24, hidden=96),
        block_case("one token", [1]),
        block_case("no sequences", []),
        block_case("equal lengths", [64] * 3),
        block_case("queries are first tokens", [1, 2, 64, 17], first=True),
        block_case("an empty sequence between others", [3, 0, 5]),
        with_strides(block_case("mixed lengths", [5, 33]), "x"),
    ],
    k=4,
    why="a sequence of operations, each with its own tolerance",
)

ALL = {each.name: each for each in (EMBED, QKV, LINEAR, LINEAR_GELU, ADD_NORM, ATTENTION, FEED_FORWARD, BLOCK)}
