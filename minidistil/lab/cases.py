"""Test inputs for the operations: ordinary and extreme values, in many sizes.

Shapes: T tokens, D, K and N widths, H heads, d head width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..layout import Layout
from .reference import block_layers

Inputs: TypeAlias = dict[str, Any]  # tensors by name (of layers: "lin.weight", "lin.bias"), and context
EPS = 1e-12
EXTREME = ("large mean", "large", "small", "denormal")  # kinds of values, besides "ordinary"


@dataclasses.dataclass(frozen=True)
class Case:
    """A generator of inputs. The same seed draws the same values."""

    name: str
    make: Callable[[torch.Generator], Inputs]  # in float64, on the CPU
    gradients: bool = True  # whether gradients are also checked
    strided: tuple[str, ...] = ()  # non-contiguous inputs: columns of a larger tensor


def linear_weights(inputs: Inputs) -> list[Tensor]:
    """Return the weights of all linear layers among the inputs: each (N, K)."""
    return [x for name, x in inputs.items() if name.endswith(".weight") and x.ndim == 2]


def with_strides(case: Case, *names: str) -> Case:
    """Return the case with some inputs as columns of a larger tensor (non-contiguous)."""
    return dataclasses.replace(case, name=f"{case.name}, {' '.join(names)} non-contiguous", strided=names)


def draw_values(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw values of a kind. All except the denormal values are representable in float16."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "large mean":  # E[x²] − E[x]² suffers from cancellation
        return x + 60 * torch.randn(shape[0], 1, generator=generator, dtype=torch.float64).sign()
    return x * {"ordinary": 1.0, "large": 300.0, "small": 3e-6, "denormal": 1e-39}[kind]


def norm_weights(width: int, generator: torch.Generator) -> Inputs:
    """Draw the weight and bias of a LayerNorm, each (D,)."""
    weight = 1 + 0.3 * torch.randn(width, generator=generator, dtype=torch.float64)
    return {"weight": weight, "bias": 0.3 * torch.randn(width, generator=generator, dtype=torch.float64)}


def add_norm_case(rows: int, width: int, kind: str = "ordinary") -> Case:
    """Return a case for `add_norm`: x and residual (T, D)."""

    def make(generator: torch.Generator) -> Inputs:
        x = draw_values(kind, (rows, width), generator)
        residual = draw_values("ordinary" if kind == "large mean" else kind, (rows, width), generator)
        return {"x": x, "residual": residual, **norm_weights(width, generator), "eps": EPS}

    return Case(f"{rows} x {width}, {kind}", make, gradients=kind in ("ordinary", "large mean"))


def embed_case(tokens: int, width: int, kind: str = "ordinary", words: int = 211, positions: int = 64) -> Case:
    """Return a case for `embed`: ids (T,), including the first and last row of the table."""

    def make(generator: torch.Generator) -> Inputs:
        ids = torch.randint(words, (tokens,), generator=generator)
        ids[:1], ids[-1:] = 0, words - 1
        tables = {
            "word": draw_values(kind, (words, width), generator),
            "position": draw_values(kind, (positions, width), generator),
        }
        position_ids = torch.arange(tokens) % positions
        return {"ids": ids, "position_ids": position_ids, **tables, **norm_weights(width, generator), "eps": EPS}

    return Case(f"{tokens} x {width}, {kind}", make, gradients=kind == "ordinary")


def linear_case(
    rows: int, inputs: int, outputs: int, kind: str = "ordinary", layers: Sequence[str] = ("lin",)
) -> Case:
    """Return a case for linear layers with these names: x (T, K), each weight (N, K)."""

    def make(generator: torch.Generator) -> Inputs:
        drawn: Inputs = {"x": draw_values(kind, (rows, inputs), generator)}
        for layer in layers:
            weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5
            bias = torch.randn(outputs, generator=generator).double()
            drawn |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
        return drawn

    return Case(f"{rows} x {inputs} to {outputs}, {kind}", make, gradients=kind == "ordinary")


def feed_forward_case(rows: int, width: int, hidden: int, kind: str = "ordinary") -> Case:
    """Return a case for `feed_forward`: x (T, D)."""

    def make(generator: torch.Generator) -> Inputs:
        first = linear_case(rows, width, hidden, kind, ["lin1"]).make(generator)
        second = linear_case(rows, hidden, width, kind, ["lin2"]).make(generator)
        return second | first  # x of the first layer

    return Case(f"{rows} x {width} to {hidden} and back, {kind}", make, gradients=kind == "ordinary")


def attention_case(
    name: str, lengths: list[int], heads: int = 2, width: int = 64, first: bool = False, kind: str = "ordinary"
) -> Case:
    """Return a case for `attention` over sequences of these lengths.

    first: only the first token of each sequence is a query.
    """

    def make(generator: torch.Generator) -> Inputs:
        keys = Layout.from_lengths(lengths)
        queries = keys.first_tokens() if first else keys
        shape = (sum(lengths), heads, width)
        scale = {"ordinary": 1.0, "sharp": 12.0, "flat": 1e-39, "large mean": 1.0}[kind]
        q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
        k = k + 4 if kind == "large mean" else k  # shifts all scores of a query equally: the weights do not change
        q = queries.select(q)
        return {"q": scale * q, "k": k, "v": v, "queries": queries, "keys": keys}

    return Case(name, make, gradients=kind == "ordinary" and not first)


def block_case(
    name: str, lengths: list[int], width: int = 64, heads: int = 2, hidden: int = 128, first: bool = False
) -> Case:
    """Return a case for `block` over sequences of these lengths.

    first: only the first token of each sequence is a query.
    """

    def make(generator: torch.Generator) -> Inputs:
        layout = Layout.from_lengths(lengths)
        drawn: Inputs = {"x": draw_values("ordinary", (sum(lengths), width), generator)}
        for layer, shape in block_layers(width, hidden).items():
            weight = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
            of_norm = len(shape) == 1
            weights = norm_weights(width, generator) if of_norm else {"weight": weight, "bias": weight[:, 0]}
            drawn |= {f"{layer}.{part}": value.clone() for part, value in weights.items()}
        queries = layout.first_tokens() if first else layout
        return drawn | {"queries": queries, "keys": layout, "heads": heads}

    return Case(name, make, gradients=not first and sum(lengths) > 0)
