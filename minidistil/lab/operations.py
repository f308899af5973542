"""Per operation: how to call it, its reference, and the factor of its tolerance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..config import DistilBertConfig
from ..model import Block
from ..ops import Ops
from . import reference
from .cases import LAYERS, Inputs
from .rounding import stored

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation: how to call it, and its reference."""

    name: str
    bind: Callable[[Any, Inputs], Callable[..., Any]]  # implementation and inputs -> the call to time
    forward: Callable[[Inputs], list[np.ndarray]]  # the reference, in float64
    backward: Callable[[Inputs, list[np.ndarray]], Arrays]  # reference gradients, by name of the input
    why: str = "one rounding more per operation, or another order of a sum"  # reason for this k
    k: float = 2.0  # allowed error / error of a straightforward kernel

    @property
    def plain(self) -> Any:
        """Return the plain PyTorch implementation of `ops.py`."""
        return getattr(Ops, self.name)

    def run(self, implementation: Any, inputs: Inputs) -> tuple[Tensor, ...]:
        """Call an implementation once, and return its outputs as a tuple."""
        return as_tuple(self.bind(implementation, inputs)())


def as_tuple(result: Any) -> tuple[Any, ...]:
    """Return the outputs of an implementation as a tuple, even a single output."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _bind_tensors(*names: str) -> Callable[[Any, Inputs], Callable[..., Any]]:
    return lambda implementation, i: lambda **context: implementation(*(i[name] for name in names), **context)


def _bind_layers(op: str, **context: Any) -> Callable[[Any, Inputs], Callable[..., Any]]:
    def bind(implementation: Any, i: Inputs) -> Callable[..., Any]:
        x, layers = i["x"], [_linear(i[f"{name}.weight"], i[f"{name}.bias"]) for name in LAYERS[op]]
        return lambda: implementation(x, *layers, **context)

    return bind


def _bind_block(implementation: Any, i: Inputs) -> Callable[..., Any]:
    hidden, width = i["ffn.lin1.weight"].shape
    config = DistilBertConfig(dim=width, hidden_dim=hidden, n_heads=i["heads"], activation=i["activation"])
    module = Block(config).eval()
    for name in reference.block_layers(width, hidden):
        _set_weights(module.get_submodule(name), i[f"{name}.weight"], i[f"{name}.bias"])
    x, context = i["x"], {"layout": i["keys"], "queries": i["queries"], "ops": Ops()}

    def call(dropout_p: float = 0.0) -> Any:
        module.train(dropout_p > 0)
        module.attention.dropout = module.ffn.dropout = dropout_p
        return implementation(x, module, **context)

    return call


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight), device="meta").eval()
    _set_weights(layer, weight, bias)
    return layer


def _set_weights(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Register tensors as the parameters of a layer, without a copy. Only an nn.Parameter has gradients."""
    for name, x in (("weight", weight), ("bias", bias)):
        layer.register_parameter(name, x if isinstance(x, nn.Parameter) else nn.Parameter(x, requires_grad=False))


# LayerNorm(x + residual)


def _added(i: Inputs) -> np.ndarray:
    return stored(i["x"] + i["residual"])


def _add_norm_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    dx, dweight, dbias = reference.layer_norm_backward(dys[0], _added(i), i["weight"], i["eps"])
    return {"x": dx, "residual": dx, "weight": dweight, "bias": dbias}


ADD_NORM = Operation(
    "add_norm",
    _bind_tensors("x", "residual", "weight", "bias", "eps"),
    lambda i: [reference.layer_norm(_added(i), i["weight"], i["bias"], i["eps"])],
    _add_norm_backward,
)


# LayerNorm(word[ids] + position[position_ids])


def _embedded(i: Inputs) -> np.ndarray:
    return stored(i["word"][i["ids"]] + i["position"][i["position_ids"]])


def _embed_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    dx, dweight, dbias = reference.layer_norm_backward(dys[0], _embedded(i), i["weight"], i["eps"])
    dx = stored(dx)
    dword = reference.rows_backward(dx, i["ids"], len(i["word"]))
    dposition = reference.rows_backward(dx, i["position_ids"], len(i["position"]))
    return {"word": dword, "position": dposition, "weight": dweight, "bias": dbias}


EMBED = Operation(
    "embed",
    _bind_tensors("ids", "position_ids", "word", "position", "weight", "bias", "eps"),
    lambda i: [reference.layer_norm(_embedded(i), i["weight"], i["bias"], i["eps"])],
    _embed_backward,
)


# Linear layers


def _linears(op: str) -> Callable[[Inputs], list[np.ndarray]]:
    return lambda i: [reference.linear(i["x"], i[f"{name}.weight"], i[f"{name}.bias"]) for name in LAYERS[op]]


def _linears_backward(op: str) -> Callable[[Inputs, list[np.ndarray]], Arrays]:
    def backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
        gradients: Arrays = {}
        for name, dy in zip(LAYERS[op], dys, strict=True):
            weight, bias = f"{name}.weight", f"{name}.bias"
            dx, gradients[weight], gradients[bias] = reference.linear_backward(dy, i["x"], i[weight])
            gradients["x"] = stored(gradients["x"] + stored(dx)) if "x" in gradients else dx
        return gradients

    return backward


def _linear_gelu_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    hidden = stored(_linears("linear_gelu")(i)[0])
    return _linears_backward("linear_gelu")(i, [stored(reference.gelu_backward(dys[0], hidden))])


LINEAR, QKV = (Operation(op, _bind_layers(op), _linears(op), _linears_backward(op)) for op in ("linear", "qkv"))
LINEAR_GELU = Operation(
    "linear_gelu",
    _bind_layers("linear_gelu"),
    lambda i: [reference.gelu(stored(_linears("linear_gelu")(i)[0]))],
    _linear_gelu_backward,
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
)


# Attention


def _spans(i: Inputs) -> reference.Spans:
    return reference.spans_of(i["queries"], i["keys"])


def _attention_backward(i: Inputs, dys: list[np.ndarray]) -> Arrays:
    return dict(zip("qkv", reference.attention_backward(dys[0], i["q"], i["k"], i["v"], _spans(i)), strict=True))


ATTENTION = Operation(
    "attention",
    _bind_tensors("q", "k", "v", "queries", "keys"),
    lambda i: [reference.attention(i["q"], i["k"], i["v"], _spans(i))],
    _attention_backward,
)


# Block: all operations except the embeddings


def _block(i: Inputs) -> reference.Block:
    return reference.Block(i["x"], i, i["queries"], i["keys"], i["heads"], i["activation"])


BLOCK = Operation("block", _bind_block, lambda i: [_block(i).out], lambda i, dys: _block(i).backward(dys[0]))

ALL = {each.name: each for each in (EMBED, QKV, LINEAR, LINEAR_GELU, ADD_NORM, ATTENTION, FEED_FORWARD, BLOCK)}
