"""What each operation is asked, and how far from the truth an answer may lie.

An implementation may err `k` times as much as plain PyTorch errs in the same dtype, on the same inputs, against
float64: in the norm of all elements, and in the worst of them. Plain PyTorch may err by nothing at all, so a
rounding of each output is allowed in any case. Each operation says why its k is what it is.

Letters in shapes: T tokens, D, K and N widths, H heads, d width of a head.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DistilBertConfig
from ..errors import InputError
from ..layout import Layout
from ..model import Block
from ..ops import Ops, Product
from . import reference as truth

Inputs: TypeAlias = dict[str, Any]  # tensors by the names of the operation's arguments, and what else it takes
EPS = 1e-12
HOSTILE = ("large mean", "large", "small", "denormal")  # kinds of numbers, beside ordinary ones


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of inputs: the same name and seed give the same numbers."""

    name: str
    make: Callable[[torch.Generator], Inputs]  # in float64, on the CPU
    gradients: bool = True  # whether gradients are asked for on it too
    apart: tuple[str, ...] = ()  # inputs whose rows lie apart in memory, as columns of one result do


@dataclasses.dataclass(frozen=True)
class Operation:
    """How to ask an operation, and what the truth is."""

    name: str
    call: Callable[[Any, Inputs], Callable[[], Any]]  # of an implementation: what is timed; products are prepared
    forward: Callable[[Inputs], list[np.ndarray]]  # all in float64
    backward: Callable[[Inputs, list[np.ndarray]], dict[str, np.ndarray]]  # by the input's name
    cases: list[Case]
    k: float
    why: str
    rough: dict[str, tuple[Any, float]] = dataclasses.field(default_factory=dict)  # by precision: plain, and its k

    @property
    def plain(self) -> Any:
        """What PyTorch does, and `ops.py` shows."""
        return WHOLE.get(self.name) or getattr(Ops(), self.name)

    def run(self, value: Any, inputs: Inputs) -> tuple[Tensor, ...]:
        """Ask an implementation once, for all of its outputs."""
        return as_tuple(self.call(value, inputs)())

    def yardstick(self, precision: str | None) -> tuple[Any, float]:
        """What an implementation's error is measured by, and how many times as much it may err."""
        if precision is None:
            return self.plain, self.k
        if precision not in self.rough:
            raise InputError(f"{self.name} has no plain form in {precision} to be judged by: leave precision out")
        return self.rough[precision]


def as_tuple(found: Any) -> tuple[Any, ...]:
    """Give what an implementation gives as several outputs, if it is one."""
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def in_turn(wide: Product, narrow: Product) -> Product:
    """Make a feed-forward of two products, the first with GELU in it."""
    return Product(
        lambda lin1, lin2: (wide.prepare(lin1), narrow.prepare(lin2)),
        lambda x, states: narrow.run(wide.run(x, states[0]), states[1]),
        live=wide.live and narrow.live,
    )


def _function(*names: str) -> Callable[[Any, Inputs], Callable[[], Any]]:
    return lambda value, i: lambda: value(*(i[name] for name in names))


def _apart(case: Case, *names: str) -> Case:
    return dataclasses.replace(case, name=f"{case.name}, {' '.join(names)} columns of one result", apart=names)


def numbers(kind: str, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Draw numbers of a kind; every kind can be told in float16 too."""
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    if kind == "large mean":  # where E[x²] − E[x]² cancels
        return x + 60 * torch.randn(shape[0], 1, generator=draw, dtype=torch.float64).sign()
    return x * {"ordinary": 1.0, "large": 300.0, "small": 3e-6, "denormal": 1e-39}[kind]


def norm_weights(width: int, draw: torch.Generator) -> Inputs:
    """Draw what scales and shifts after a normalisation: two of (D,)."""
    weight = 1 + 0.3 * torch.randn(width, generator=draw, dtype=torch.float64)
    return {"weight": weight, "bias": 0.3 * torch.randn(width, generator=draw, dtype=torch.float64)}


# LayerNorm(x + residual)


def add_norm_case(rows: int, width: int, kind: str = "ordinary") -> Case:
    """Ask for a sum of two (T, D), normalised, of numbers of a kind."""

    def make(draw: torch.Generator) -> Inputs:
        x = numbers(kind, (rows, width), draw)
        residual = numbers("ordinary" if kind == "large mean" else kind, (rows, width), draw)
        return {"x": x, "residual": residual, **norm_weights(width, draw), "eps": EPS}

    return Case(f"{rows} x {width}, {kind}", make, gradients=kind in ("ordinary", "large mean"))


def _add_norm_backward(i: Inputs, dys: list[np.ndarray]) -> dict[str, np.ndarray]:
    dx, dweight, dbias = truth.layer_norm_backward(dys[0], i["x"] + i["residual"], i["weight"], i["eps"])
    return {"x": dx, "residual": dx, "weight": dweight, "bias": dbias}


ADD_NORM = Operation(
    "add_norm",
    _function("x", "residual", "weight", "bias", "eps"),
    forward=lambda i: [truth.layer_norm(i["x"] + i["residual"], i["weight"], i["bias"], i["eps"])],
    backward=_add_norm_backward,
    cases=[
        *(add_norm_case(rows, width) for rows, width in ((1, 768), (2, 3), (127, 96), (128, 768), (129, 257))),
        *(add_norm_case(rows, 768) for rows in (511, 512)),
        *(add_norm_case(33, 768, kind) for kind in HOSTILE),
        _apart(add_norm_case(33, 96), "x", "residual"),
        add_norm_case(0, 768),
    ],
    k=2,
    why="one sum over a row, in any order: the order alone can double an error, low-precision statistics do more",
)


# word[ids] + position[positions], normalised


def embed_case(tokens: int, width: int, kind: str = "ordinary") -> Case:
    """Ask for tokens (T,), the first and the last word of the table among them."""

    def make(draw: torch.Generator) -> Inputs:
        words, places = 211, 64
        ids = torch.randint(words, (tokens,), generator=draw)
        ids[:1], ids[-1:] = 0, words - 1
        positions = torch.arange(tokens) % places
        tables = {"word": numbers(kind, (words, width), draw), "position": numbers(kind, (places, width), draw)}
        return {"ids": ids, "positions": positions, **tables, **norm_weights(width, draw), "eps": EPS}

    return Case(f"{tokens} x {width}, {kind}", make, gradients=kind == "ordinary")


def _embed_backward(i: Inputs, dys: list[np.ndarray]) -> dict[str, np.ndarray]:
    x = i["word"][i["ids"]] + i["position"][i["positions"]]
    dx, dweight, dbias = truth.layer_norm_backward(dys[0], x, i["weight"], i["eps"])
    dword = truth.rows_backward(dx, i["ids"], len(i["word"]))
    dposition = truth.rows_backward(dx, i["positions"], len(i["position"]))
    return {"word": dword, "position": dposition, "weight": dweight, "bias": dbias}


EMBED = Operation(
    "embed",
    _function("ids", "positions", "word", "position", "weight", "bias", "eps"),
    forward=lambda i: [truth.layer_norm(i["word"][i["ids"]] + i["position"][i["positions"]], *_norm_of(i))],
    backward=_embed_backward,
    cases=[
        *(embed_case(tokens, width) for tokens, width in ((1, 768), (127, 96), (129, 257), (512, 768))),
        *(embed_case(33, 768, kind) for kind in HOSTILE),
        embed_case(0, 768),
    ],
    k=2,
    why=ADD_NORM.why,
)


def _norm_of(i: Inputs) -> tuple[Any, ...]:
    return i["weight"], i["bias"], i["eps"]


# Products


def product_case(rows: int, inputs: int, outputs: int, kind: str = "ordinary", parts: int = 1) -> Case:
    """Ask for the product of x (T, K) with so many weights (N, K)."""

    def make(draw: torch.Generator) -> Inputs:
        found: Inputs = {"x": numbers(kind, (rows, inputs), draw)}
        for part in range(parts):
            weight = torch.randn(outputs, inputs, generator=draw, dtype=torch.float64) / inputs**0.5
            found |= {f"weight{part}": weight, f"bias{part}": torch.randn(outputs, generator=draw).double()}
        return found

    return Case(f"{rows} x {inputs} to {outputs}, {kind}", make, gradients=kind == "ordinary")


def _layers(i: Inputs) -> list[nn.Linear]:
    layers = []
    for part in itertools.takewhile(lambda part: f"weight{part}" in i, itertools.count()):
        weight, bias = i[f"weight{part}"], i[f"bias{part}"]
        layers.append(nn.Linear(weight.shape[1], len(weight), device="meta"))
        _fill(layers[-1], weight, bias)
    return layers


def _fill(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Put tensors where a layer has parameters: gradients reach them."""
    del layer.weight, layer.bias
    layer.weight, layer.bias = weight, bias


def _product(value: Any, i: Inputs) -> Callable[[], Any]:
    x, state = i["x"], value.prepare(*_layers(i))
    return lambda: value.run(x, state)


def _products(i: Inputs) -> list[np.ndarray]:
    count = sum(name.startswith("weight") for name in i)
    return [truth.linear(i["x"], i[f"weight{part}"], i[f"bias{part}"]) for part in range(count)]


def _products_backward(i: Inputs, dys: list[np.ndarray]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {"x": np.zeros_like(i["x"])}
    for part, dy in enumerate(dys):
        dx, found[f"weight{part}"], found[f"bias{part}"] = truth.linear_backward(dy, i["x"], i[f"weight{part}"])
        found["x"] = found["x"] + dx
    return found


PRODUCT_CASES = [
    (1, 768, 96),
    (2, 96, 33),
    (127, 100, 300),
    (128, 96, 96),
    (129, 257, 64),
    (511, 96, 384),
    (512, 384, 96),
]
SUMS = (
    "a sum of K products, which blocks may add in any order and keep in float32 or, in bfloat16, round once more"
)


def _product_cases(parts: int = 1) -> list[Case]:
    return [
        *(product_case(*shape, parts=parts) for shape in PRODUCT_CASES),
        *(product_case(33, 96, 64, kind, parts) for kind in ("large mean", "large")),
        _apart(product_case(33, 96, 64, parts=parts), "x"),
        product_case(0, 96, 64, parts=parts),
    ]


def _in_8_bits(x: Tensor) -> Tensor:
    """Round each row to 255 steps of one size, to its largest number, and back."""
    scale = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round() * scale


def _plain8(run: Callable[[list[Tensor]], Any]) -> tuple[Product, float]:
    """Products of numbers rounded to 8 bits, by plain PyTorch in float32, and k.

    The rounding is the error, and the same whoever does it; of 7 bits it would be twice as large.
    """

    def rounded(x: Tensor, lins: tuple[nn.Linear, ...]) -> Any:
        parts = [F.linear(_in_8_bits(x.float()), _in_8_bits(lin.weight.float()), lin.bias.float()) for lin in lins]
        return run([part.to(x.dtype) for part in parts])

    return Product(lambda *lins: lins, rounded), 1.5


LINEAR = Operation(
    "linear",
    _product,
    _products,
    _products_backward,
    _product_cases(),
    3,
    SUMS,
    {"int8": _plain8(lambda parts: parts[0])},
)
QKV = Operation(
    "qkv", _product, _products, _products_backward, _product_cases(3), 3, SUMS, {"int8": _plain8(tuple)}
)


def _gelu_backward(i: Inputs, dys: list[np.ndarray]) -> dict[str, np.ndarray]:
    return _products_backward(i, [truth.gelu_backward(dys[0], _products(i)[0])])


LINEAR_GELU = Operation(
    "linear_gelu",
    _product,
    lambda i: [truth.gelu(_products(i)[0])],
    _gelu_backward,
    _product_cases(),
    3,
    f"{SUMS}; the exact GELU adds a rounding, the tanh form errs by 5e-4",
    {"int8": _plain8(lambda parts: F.gelu(parts[0]))},
)


# The feed-forward: two products, GELU between them


def feed_forward_case(rows: int, width: int, hidden: int, kind: str = "ordinary") -> Case:
    """Ask for (T, D) through a hidden width, and back."""

    def make(draw: torch.Generator) -> Inputs:
        wide, narrow = (
            product_case(rows, *sizes, kind).make(draw) for sizes in ((width, hidden), (hidden, width))
        )
        return wide | {"weight1": narrow["weight0"], "bias1": narrow["bias0"]}

    return Case(f"{rows} x {width} to {hidden} and back, {kind}", make, gradients=kind == "ordinary")


FEEDS = "x", "weight0", "bias0", "weight1", "bias1"


def _feed_forward(i: Inputs) -> list[np.ndarray]:
    return [truth.feed_forward(*(i[name] for name in FEEDS))]


def _feed_forward_backward(i: Inputs, dys: list[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(FEEDS, truth.feed_forward_backward(dys[0], *(i[name] for name in FEEDS)), strict=True))


FEED_FORWARD = Operation(
    "feed_forward",
    _product,
    _feed_forward,
    _feed_forward_backward,
    [
        *(feed_forward_case(*shape) for shape in ((1, 96, 384), (2, 33, 100), (127, 96, 384), (129, 100, 257))),
        *(feed_forward_case(rows, 96, 384) for rows in (511, 512, 513)),
        *(feed_forward_case(33, 96, 384, kind) for kind in ("large mean", "large")),
        _apart(feed_forward_case(33, 96, 384), "x"),
        feed_forward_case(0, 96, 384),
    ],
    4,
    f"two sums, the second over the first one's roundings: {SUMS}",
    {"int8": (in_turn(LINEAR_GELU.rough["int8"][0], LINEAR.rough["int8"][0]), LINEAR.rough["int8"][1])},
)


# Attention


def attention_case(
    name: str, lengths: list[int], heads: int = 2, width: int = 64, first: bool = False, kind: str = "ordinary"
) -> Case:
    """Ask for sequences of these lengths; `first`: only their first tokens ask."""

    def make(draw: torch.Generator) -> Inputs:
        keys = Layout.from_lengths(lengths)
        queries = keys.first if first and keys.first else keys
        shape = (sum(lengths), heads, width)
        scale = {"ordinary": 1.0, "sharp": 12.0, "flat": 1e-39, "large mean": 1.0}[kind]
        q, k, v = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(3))
        k = k + 4 if kind == "large mean" else k  # moves all scores of a query alike: the shares stay
        q = queries.pick(q)
        return {"q": scale * q, "k": k, "v": v, "queries": queries, "keys": keys}

    return Case(name, make, gradients=kind == "ordinary" and not first)


def _spans(i: Inputs) -> truth.Spans:
    return truth.spans_of(i["queries"], i["keys"])


def _attention_backward(i: Inputs, dys: list[np.ndarray]) -> dict[str, np.ndarray]:
    found = truth.attention_backward(dys[0], i["q"], i["k"], i["v"], _spans(i))
    return dict(zip("qkv", found, strict=True))


RAGGED = [1, 2, 127, 128, 129, 33]
ATTENTION = Operation(
    "attention",
    _function("q", "k", "v", "queries", "keys"),
    forward=lambda i: [truth.attention(i["q"], i["k"], i["v"], _spans(i))],
    backward=_attention_backward,
    cases=[
        attention_case("ragged", RAGGED),
        attention_case("ragged, heads of 32", RAGGED[::-1], heads=3, width=32),
        attention_case("equal lengths", [64] * 4),
        *(attention_case(f"one sequence of {length}", [length]) for length in (1, 127, 128, 511, 512)),
        attention_case("a thousand sequences", [1 + i % 5 for i in range(1000)], heads=1, width=32),
        attention_case("first tokens ask", RAGGED, first=True),
        _apart(attention_case("ragged", [5, 64, 33]), "q", "k", "v"),
        attention_case("an empty sequence amid others", [3, 0, 5]),
        attention_case("sharp: one key takes all", [65, 130], kind="sharp"),
        attention_case("flat: denormal queries", [65, 130], kind="flat"),
        attention_case("keys with a large mean", [65, 130], kind="large mean"),
    ],
    k=3,
    why="shares may be rounded to the dtype before the product with v, or not; blocks are summed in any order",
)


# A block: all of these, but for the embeddings


def block_case(
    name: str, lengths: list[int], width: int = 64, heads: int = 2, hidden: int = 128, first: bool = False
) -> Case:
    """Ask for sequences of these lengths; `first`: only their first tokens ask."""

    def make(draw: torch.Generator) -> Inputs:
        layout = Layout.from_lengths(lengths)
        found: Inputs = {"x": numbers("ordinary", (sum(lengths), width), draw)}
        for part, shape in truth.block_layers(width, hidden).items():
            weight = torch.randn(shape, generator=draw, dtype=torch.float64) / shape[-1] ** 0.5
            layer = norm_weights(width, draw) if len(shape) == 1 else {"weight": weight, "bias": weight[:, 0]}
            found |= {f"{part}.{kind}": value.clone() for kind, value in layer.items()}
        queries = layout.first if first and layout.first else layout
        return found | {"queries": queries, "keys": layout, "heads": heads}

    return Case(name, make, gradients=not first and sum(lengths) > 0)


def _block_of(i: Inputs) -> Block:
    """Make a `model.Block` of the weights."""
    hidden, width = i["ffn.lin1.weight"].shape
    block = Block(DistilBertConfig(dim=width, hidden_dim=hidden, n_heads=i["heads"])).eval()
    for part in truth.block_layers(width, hidden):
        _fill(block.get_submodule(part), i[f"{part}.weight"], i[f"{part}.bias"])
    return block


def _block(value: Any, i: Inputs) -> Callable[[], Any]:
    x, state = i["x"], value.prepare(_block_of(i))
    return lambda: value.run(x, state, i["keys"], i["queries"])


def _plain_block(x: Tensor, block: Block, layout: Layout, queries: Layout) -> Tensor:
    return block(x, layout, Ops(), queries)


BLOCK = Operation(
    "block",
    _block,
    forward=lambda i: [truth.block(i["x"], i, _spans(i), i["heads"])],
    backward=lambda i, dys: truth.block_backward(dys[0], i["x"], i, _spans(i), i["heads"]),
    cases=[
        block_case("ragged", [1, 2, 64, 17]),
        block_case("ragged, heads of 32 and 768 wide", [33, 5], width=768, heads=24, hidden=96),
        block_case("one token", [1]),
        block_case("no sequences", []),
        block_case("equal lengths", [64] * 3),
        block_case("first tokens ask", [1, 2, 64, 17], first=True),
        block_case("an empty sequence amid others", [3, 0, 5]),
        _apart(block_case("ragged", [5, 33]), "x"),
    ],
    k=4,
    why="six operations one after the other, each of which may err as it may alone",
)

WHOLE = {  # larger parts, as the operations that they are made of do them
    "feed_forward": in_turn(Ops().linear_gelu, Ops().linear),
    "block": Product(lambda block: block, _plain_block, live=True),
}
ALL = {found.name: found for found in (EMBED, QKV, LINEAR, LINEAR_GELU, ADD_NORM, ATTENTION, FEED_FORWARD, BLOCK)}
