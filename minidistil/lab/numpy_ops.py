"""The NumPy float64 reference, registered as an implementation of each operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..reference import Array
from .registry import REFERENCE, implementation, refuse_gradients

ABOUT = "the formula in NumPy and float64: the reference for all others"


def as_array(x: Any) -> Any:
    """Convert a tensor to NumPy, floating point to float64. Return other values unchanged."""
    if not isinstance(x, Tensor):
        return x
    return x.detach().cpu().double().numpy() if x.is_floating_point() else x.cpu().numpy()


def layer_arrays(layer: nn.Module) -> tuple[Array, Array]:
    """Return the weight and bias of a layer as arrays. Raises InputError for a layer in 8 bits."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point():
        raise InputError(
            f"the {REFERENCE} implementation cannot read 8-bit weights: load the checkpoint in another dtype"
        )
    return as_array(weight), as_array(layer.bias)


def register_reference(op: str, run: Callable[..., Any]) -> None:
    """Register a function of arrays as the reference of an operation.

    run gets the operation's arguments: tensors as arrays, layers as (weight, bias), others unchanged.
    """

    def operation(*arguments: Any, **context: Any) -> Any:
        tensors = [x for x in arguments if isinstance(x, Tensor)]
        parameters = [p for x in arguments if isinstance(x, nn.Module) for p in x.parameters()]
        refuse_gradients(f"{op} {REFERENCE}", *tensors, *parameters)
        like = next(x for x in tensors if x.is_floating_point())
        with np.errstate(all="ignore"):  # NaN stays NaN
            return _as_tensors(run(*map(_as_argument, arguments), **context), like)

    implementation(op, REFERENCE, about=ABOUT)(operation)


def _as_argument(x: Any) -> Any:
    return layer_arrays(x) if isinstance(x, nn.Module) and hasattr(x, "weight") else as_array(x)


def _as_tensors(result: Any, like: Tensor) -> Any:
    if isinstance(result, tuple):
        return tuple(_as_tensors(part, like) for part in result)
    return torch.from_numpy(result).to(like)
