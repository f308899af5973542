"""Test inputs for the operations. A case is an operation, its shapes, and how the inputs lie in memory.

The name of a case spells out its shapes, and `parse` reads it back: `lab check --case "rows=33 width=768"`.

Shapes: T tokens (rows), D, K and N widths, H heads, d head width.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import InputError
from ..layout import Layout
from .reference import block_layers

Inputs: TypeAlias = dict[str, Any]  # tensors by name (of layers: "lin.weight", "lin.bias"), and context
EPS = 1e-12
LAYERS = {  # names of the linear layers among the arguments of an operation
    "qkv": ("q_lin", "k_lin", "v_lin"),
    "linear": ("lin",),
    "linear_gelu": ("lin",),
    "feed_forward": ("lin1", "lin2"),
}
LAYOUTS = ("contiguous", "columns", "alternate", "transposed", "offset", "expanded")  # see `arena.strides_of`
SCALES = {"ordinary": 1.0, "mean": 1.0, "large": 300.0, "small": 3e-6, "denormal": 1e-39, "nan": 1.0}


@dataclasses.dataclass(frozen=True)
class Case:
    """A generator of inputs: the arguments of the operation's function in `MAKERS`."""

    op: str
    shape: Mapping[str, Any]
    layouts: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of inputs that are not contiguous

    @property
    def name(self) -> str:
        """Return the shapes and layouts as text."""
        shape = (f"{name}={_text(value)}" for name, value in self.shape.items())
        return " ".join([*shape, *(f"{name}:{layout}" for name, layout in self.layouts.items())])

    @property
    def gradients(self) -> bool:
        """Return whether gradients are checked: not for extreme values and many tokens.

        In half precision PyTorch adds the gradients of LayerNorm's weights in half, which fails for many tokens.
        """
        ordinary = self.shape.get("values", "ordinary") in ("ordinary", "mean")
        return ordinary and not self.large and "expanded" not in self.layouts.values()  # equal rows: equal errors

    @property
    def large(self) -> bool:
        """Return whether the case is too large to check more than once, in one dtype."""
        return self.shape.get("rows", self.shape.get("tokens", 0)) > 5000

    def make(self, seed: int) -> Inputs:
        """Draw inputs, in float64 on the CPU. The same seed draws the same inputs."""
        inputs = MAKERS[self.op](torch.Generator().manual_seed(seed), **self.shape)
        for name, layout in self.layouts.items():
            if layout == "expanded":  # every row is the first
                inputs[name] = inputs[name][:1].expand(inputs[name].shape)
        return inputs


def case(op: str, *, layouts: Mapping[str, str] | None = None, **shape: Any) -> Case:
    """Return a case of an operation."""
    return Case(op, shape, layouts or {})


def parse(op: str, text: str) -> Case:
    """Return the case with this name. Raises InputError for unknown shapes, values and layouts."""
    known = inspect.signature(MAKERS[op]).parameters
    shape: dict[str, Any] = {}
    layouts: dict[str, str] = {}
    for word in text.split():
        key, separator, value = word.partition("=")
        if separator and key in known and key != "generator":
            shape[key] = _value(value)
        elif ":" in word and word.rpartition(":")[2] in LAYOUTS:
            name, layout = word.rsplit(":", 1)
            layouts[name] = layout
        else:
            names = ", ".join(name for name in known if name != "generator")
            raise InputError(
                f"case {text!r} of {op}: {word!r} is neither a shape nor a layout: expected such as rows=33 or "
                f"x:transposed, with the shapes {names} and the layouts {', '.join(LAYOUTS)}"
            )
    read = Case(op, shape, layouts)
    try:
        inputs = read.make(0)
    except (TypeError, KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"case {text!r} of {op} has invalid shapes: {error}") from error
    if unknown := [name for name in layouts if not isinstance(inputs.get(name), Tensor)]:
        tensors = ", ".join(name for name, x in inputs.items() if isinstance(x, Tensor))
        raise InputError(f"case {text!r} of {op}: unknown input {unknown[0]!r}, expected one of {tensors}")
    return read


def _text(value: Any) -> str:
    return ",".join(map(str, value)) + "," * (len(value) < 2) if isinstance(value, list) else str(value)


def _value(text: str) -> Any:
    if "," in text:
        return [int(part) for part in text.split(",") if part]
    for kind in (int, float) if text[:1].isdigit() else ():
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def linear_weights(inputs: Inputs) -> list[Tensor]:
    """Return the weights of all linear layers among the inputs: each (N, K)."""
    return [x for name, x in inputs.items() if name.endswith(".weight") and x.ndim == 2]


def draw_values(kind: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw values of a kind. All except the denormal values are representable in float16."""
    x = torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * SCALES[kind]
    if kind == "mean":  # E[x²] − E[x]² suffers from cancellation
        x += 60 * torch.randn(shape[0], 1, generator=generator, dtype=torch.float64).sign()
    if kind == "nan":
        x[len(x) // 2] = torch.nan
    return x


def norm_weights(width: int, generator: torch.Generator) -> Inputs:
    """Draw the weight and bias of a LayerNorm, each (D,)."""
    weight = 1 + 0.3 * torch.randn(width, generator=generator, dtype=torch.float64)
    return {"weight": weight, "bias": 0.3 * torch.randn(width, generator=generator, dtype=torch.float64)}


def make_add_norm(
    generator: torch.Generator, *, rows: int, width: int, values: str = "ordinary", eps: float = EPS
) -> Inputs:
    """Draw x and residual (T, D), and the weights of the norm."""
    x = draw_values(values, (rows, width), generator)
    residual = draw_values("ordinary" if values in ("mean", "nan") else values, (rows, width), generator)
    return {"x": x, "residual": residual, **norm_weights(width, generator), "eps": eps}


def make_embed(
    generator: torch.Generator,
    *,
    tokens: int,
    width: int,
    words: int = 211,
    positions: int = 64,
    values: str = "ordinary",
    eps: float = EPS,
) -> Inputs:
    """Draw ids (T,), including the first and last row of the table, positions in any order, and the tables."""
    ids = torch.randint(words, (tokens,), generator=generator)
    ids[:1], ids[-1:] = 0, words - 1
    position_ids = torch.randint(positions, (tokens,), generator=generator)
    word = draw_values(values, (words, width), generator)
    position = draw_values("ordinary" if values == "nan" else values, (positions, width), generator)
    if values == "nan":
        ids[tokens // 2] = words // 2
    tables = {"word": word, "position": position}
    return {"ids": ids, "position_ids": position_ids, **tables, **norm_weights(width, generator), "eps": eps}


def _make_linear(layers: Sequence[str]) -> Callable[..., Inputs]:
    def make(
        generator: torch.Generator, *, rows: int, inputs: int, outputs: int, values: str = "ordinary"
    ) -> Inputs:
        """Draw x (T, K) and, for each layer, weight (N, K) and bias (N,)."""
        drawn: Inputs = {"x": draw_values(values, (rows, inputs), generator)}
        for layer in layers:
            weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5
            bias = torch.randn(outputs, generator=generator).double()
            drawn |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
        return drawn

    return make


def make_feed_forward(
    generator: torch.Generator, *, rows: int, width: int, hidden: int, values: str = "ordinary"
) -> Inputs:
    """Draw x (T, D) and two layers, to F and back."""
    first = _make_linear(["lin1"])(generator, rows=rows, inputs=width, outputs=hidden, values=values)
    second = _make_linear(["lin2"])(generator, rows=rows, inputs=hidden, outputs=width)
    return second | first  # x of the first layer


def make_layouts(
    generator: torch.Generator,
    lengths: Sequence[int] | None,
    sequences: int,
    longest: int,
    queries: str,
    padding: str,
) -> tuple[Layout, Layout]:
    """Draw the layouts of queries and keys.

    Args:
        lengths: of the sequences, which are shuffled: the same number of tokens, with other boundaries.
        sequences, longest: number and maximum of lengths that are drawn, without `lengths`.
        queries: "same": one object for queries and keys, as the model passes; "equal": another with equal values;
            "first": the first token of each sequence; "some": a random subset.
        padding: "none"; "wide": the padded row is longer than the longest sequence; "left" or "holes": of a mask.
    """
    if lengths is None:
        fixed = torch.Generator().manual_seed(sequences)  # the same shapes for every seed
        lengths = torch.randint(1, longest + 1, (sequences,), generator=fixed).tolist()
    order = torch.randperm(len(lengths), generator=generator).tolist()
    lengths = [lengths[i] for i in order]
    width = max(lengths, default=0) + (0 if padding == "none" else 5)
    if padding in ("left", "holes"):
        mask = torch.zeros(len(lengths), width, dtype=torch.bool)
        for row, length in zip(mask, lengths, strict=True):
            row[
                torch.randperm(width, generator=generator)[:length]
                if padding == "holes"
                else slice(width - length, None)
            ] = True
        keys = Layout.from_mask(mask)
    else:
        keys = Layout.from_lengths(lengths, width)
    if queries == "first":
        return keys.first_tokens(), keys
    if queries == "some":
        tokens = torch.randperm(sum(lengths), generator=generator)[: -(-2 * sum(lengths) // 5)]
        return keys.subset(tokens.sort().values), keys
    return {"same": keys, "equal": dataclasses.replace(keys)}[queries], keys


def make_attention(
    generator: torch.Generator,
    *,
    lengths: Sequence[int] | None = None,
    sequences: int = 3,
    longest: int = 9,
    heads: int = 2,
    head_dim: int = 64,
    values: str = "ordinary",
    queries: str = "same",
    padding: str = "none",
) -> Inputs:
    """Draw q (Tq, H, d), k and v (T, H, d), and their layouts.

    values: "sharp": scores above 88, whose exponential overflows float32; "flat": scores of almost 0; "nan" and
    "inf": in one sequence, the others must not notice.
    """
    of_queries, of_keys = make_layouts(generator, lengths, sequences, longest, queries, padding)
    shape = (sum(of_keys.lengths), heads, head_dim)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    if values == "mean":  # shifts all scores of a query equally: the weights do not change
        k += 4
    elif values in ("nan", "inf"):
        row = of_keys.lengths.index(max(of_keys.lengths))
        k[int(of_keys.cu_seqlens_cpu[row])] = v[int(of_keys.cu_seqlens_cpu[row])] = float(values)
    q = of_queries.select(q) * {"sharp": 40.0, "flat": 1e-39}.get(values, 1.0)
    return {"q": q, "k": k, "v": v, "queries": of_queries, "keys": of_keys}


def make_block(
    generator: torch.Generator,
    *,
    lengths: Sequence[int] | None = None,
    sequences: int = 3,
    longest: int = 9,
    width: int = 64,
    heads: int = 2,
    hidden: int = 128,
    values: str = "ordinary",
    queries: str = "same",
    padding: str = "none",
    activation: str = "gelu",
) -> Inputs:
    """Draw x (T, D), the layouts, and the weights of a block. values: "nan" is in one sequence."""
    of_queries, of_keys = make_layouts(generator, lengths, sequences, longest, queries, padding)
    drawn: Inputs = {"x": torch.randn(sum(of_keys.lengths), width, generator=generator, dtype=torch.float64)}
    if values == "nan":
        drawn["x"][0] = torch.nan
    for layer, shape in block_layers(width, hidden).items():
        weight = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
        weights = norm_weights(width, generator) if len(shape) == 1 else {"weight": weight, "bias": weight[:, 0]}
        drawn |= {f"{layer}.{part}": value.clone() for part, value in weights.items()}
    return drawn | {"queries": of_queries, "keys": of_keys, "heads": heads, "activation": activation}


MAKERS: dict[str, Callable[..., Inputs]] = {
    "embed": make_embed,
    **{op: _make_linear(layers) for op, layers in LAYERS.items()},
    "add_norm": make_add_norm,
    "attention": make_attention,
    "feed_forward": make_feed_forward,
    "block": make_block,
}
