"""The reference as an implementation, which each page begins with: arrays in float64, for torch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..ops import Product
from .registry import REFERENCE, implementation, refuse_gradients

ABOUT = "NumPy in float64, as the formula says: what all the others are judged by"


def as_array(x: Any) -> Any:
    """Give a tensor as NumPy has it, numbers in float64; anything else as it is."""
    if not isinstance(x, Tensor):
        return x
    return x.detach().cpu().double().numpy() if x.is_floating_point() else x.cpu().numpy()


def reference(op: str, run: Callable[..., Any]) -> None:
    """Register a function of what the operation takes, tensors as arrays, as its reference."""

    def operation(*given: Any, **options: Any) -> Any:
        tensors = [x for x in (*given, *options.values()) if isinstance(x, Tensor)]
        refuse_gradients(f"{op} {REFERENCE}", *tensors)
        arrays = {name: as_array(x) for name, x in options.items()}
        return _rounded(run(*map(as_array, given), **arrays), next(x for x in tensors if x.is_floating_point()))

    implementation(op, REFERENCE, about=ABOUT)(operation)


def reference_product(op: str, run: Callable[..., Any], prepare: Callable[..., Any] | None = None) -> None:
    """Register a function of x and of what `prepare` made of the layers, their weights and biases by default."""

    def product(x: Tensor, state: Any, *given: Any) -> Any:
        refuse_gradients(f"{op} {REFERENCE}", x)
        return _rounded(run(as_array(x), state, *given), x)

    implementation(op, REFERENCE, about=ABOUT)(Product(prepare or _layers, product))


def weights_of(layer: nn.Module) -> tuple[Any, Any]:
    """Give a copy of a layer's weight and bias, as arrays. `InputError` for a layer in 8 bits."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point():
        raise InputError(
            f"this layer is stored in 8 bits, which the {REFERENCE} does not read: load another dtype"
        )
    return as_array(weight).copy(), as_array(bias).copy()


def _layers(*lins: nn.Linear) -> list[tuple[Any, Any]]:
    return [weights_of(lin) for lin in lins]


def _rounded(found: Any, like: Tensor) -> Any:
    if isinstance(found, tuple):
        return tuple(_rounded(one, like) for one in found)
    return torch.from_numpy(found).to(like)
