"""The cases of each operation: a fixed list, and random draws.

Each fixed case is the smallest that shows some kind of bug: a remainder, a long sum, a layout, a special value.
The small ones are quick. `draw` adds cases that no kernel was written for, and `shrink` makes a failing one small.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from .cases import LAYERS, LAYOUTS, MAKERS, Case, case

NORM_VALUES = ("mean", "large", "small", "denormal", "nan")
MIXED = [1, 2, 127, 128, 129, 33]  # lengths


def _laid_out(op: str, names: tuple[str, ...], **shape: Any) -> list[Case]:
    """Return a case per layout, and one with the weights in a strided or unaligned layout."""
    cases = [case(op, **shape, layouts=dict.fromkeys(names, layout)) for layout in LAYOUTS[1:]]
    weights = [name for name, x in MAKERS[op](_seeded(), **shape).items() if name.endswith(("weight", "bias"))]
    return [
        *cases,
        *(case(op, **shape, layouts=dict.fromkeys(weights, layout)) for layout in ("alternate", "offset")),
    ]


def _seeded() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


ADD_NORM = [
    *(
        case("add_norm", rows=rows, width=width)
        for rows, width in ((129, 257), (1, 768), (2, 3), (127, 96), (128, 768))
    ),
    *(case("add_norm", rows=rows, width=768) for rows in (511, 513)),
    *(case("add_norm", rows=33, width=768, values=kind) for kind in NORM_VALUES),
    *(case("add_norm", rows=9, width=100, values=kind) for kind in NORM_VALUES),
    case("add_norm", rows=33, width=96, eps=1e-3, values="small"),
    case("add_norm", rows=3000, width=64),
    case("add_norm", rows=70001, width=8),
    case("add_norm", rows=9, width=4099),
    *_laid_out("add_norm", ("x", "residual"), rows=33, width=96),
    case("add_norm", rows=0, width=768),
]
EMBED = [
    *(
        case("embed", tokens=tokens, width=width)
        for tokens, width in ((129, 257), (1, 768), (127, 96), (512, 768))
    ),
    *(case("embed", tokens=33, width=768, values=kind) for kind in NORM_VALUES),
    case("embed", tokens=33, width=96, eps=1e-3, values="small"),
    case("embed", tokens=300, width=8, words=70001, positions=512),
    case("embed", tokens=70001, width=8),
    *_laid_out("embed", ("word", "position"), tokens=33, width=96),
    case("embed", tokens=33, width=96, layouts={"ids": "alternate", "position_ids": "alternate"}),
    case("embed", tokens=0, width=768),
]


def _linear_cases(op: str) -> list[Case]:
    sizes = [
        *((129, 257, 64), (1, 768, 96), (2, 96, 33), (127, 100, 300), (128, 96, 96)),
        *((513, 96, 384), (512, 384, 96), (5, 3072, 64), (3, 1000, 33), (3000, 24, 16), (70001, 8, 8)),
    ]
    return [
        *(case(op, rows=rows, inputs=inputs, outputs=outputs) for rows, inputs, outputs in sizes),
        *(case(op, rows=33, inputs=96, outputs=64, values=kind) for kind in ("mean", "large", "nan")),
        *_laid_out(op, ("x",), rows=33, inputs=96, outputs=64),
        case(op, rows=33, inputs=96, outputs=64, layouts={f"{name}.weight": "transposed" for name in LAYERS[op]}),
        case(op, rows=0, inputs=96, outputs=64),
    ]


FEED_FORWARD = [
    *(
        case("feed_forward", rows=rows, width=width, hidden=hidden)
        for rows, width, hidden in ((129, 100, 257), (1, 96, 384), (2, 33, 100), (127, 96, 384), (5, 800, 1030))
    ),
    *(case("feed_forward", rows=rows, width=32, hidden=64) for rows in (511, 512, 513, 3000)),
    *(case("feed_forward", rows=33, width=96, hidden=384, values=kind) for kind in ("mean", "large", "nan")),
    *_laid_out("feed_forward", ("x",), rows=33, width=96, hidden=64),
    case("feed_forward", rows=0, width=96, hidden=384),
]
ATTENTION = [
    case("attention", lengths=[5, 64, 33, 17]),
    case("attention", lengths=MIXED),
    case("attention", lengths=MIXED, heads=3, head_dim=32, queries="equal"),
    case("attention", lengths=[7, 3, 20], heads=12, queries="first"),
    case("attention", lengths=[7, 3, 20, 40], queries="some"),
    case("attention", lengths=[64] * 4),
    case("attention", lengths=[1] * 7),
    *(case("attention", lengths=[length]) for length in (1, 128, 513)),
    *(case("attention", lengths=[9, 3, 17], padding=padding) for padding in ("wide", "left", "holes")),
    case("attention", lengths=[3, 0, 5]),
    case("attention", lengths=[65, 130], values="sharp"),
    case("attention", lengths=[65, 130], values="flat"),
    case("attention", lengths=[65, 130], values="mean"),
    case("attention", lengths=[5, 33, 9], values="nan"),
    case("attention", lengths=[5, 33, 9], values="inf"),
    *_laid_out("attention", ("q", "k", "v"), lengths=[5, 33, 9]),
    case("attention", sequences=70, longest=9, heads=12, head_dim=16),
    case("attention", sequences=1000, longest=5, heads=1, head_dim=32),
    case("attention", sequences=200, longest=40, heads=1, head_dim=16),
    case("attention", lengths=[]),
]
BLOCK = [
    case("block", lengths=[1, 2, 64, 17]),
    case("block", lengths=[33, 5], width=768, heads=12, hidden=96),
    case("block", lengths=[1]),
    case("block", lengths=[64] * 3),
    case("block", lengths=[9, 3, 17], queries="first"),
    case("block", lengths=[9, 3, 17], queries="some"),
    case("block", lengths=[9, 3, 17], queries="equal", padding="holes"),
    case("block", lengths=[9, 3, 17], activation="relu"),
    case("block", lengths=[9, 3, 17], values="nan"),
    case("block", lengths=[3, 0, 5]),
    *_laid_out("block", ("x",), lengths=[5, 33], width=32),
    case("block", sequences=70, longest=9, width=32),
    case("block", lengths=[]),
]
CASES: dict[str, list[Case]] = {
    "embed": EMBED,
    "add_norm": ADD_NORM,
    **{op: _linear_cases(op) for op in ("qkv", "linear", "linear_gelu")},
    "attention": ATTENTION,
    "feed_forward": FEED_FORWARD,
    "block": BLOCK,
}


def quick_cases(op: str) -> list[Case]:
    """Return the cases that a quick check runs: the small ones that show most bugs."""
    sizes = [_size(each) for each in CASES[op]]
    return [each for each, size in zip(CASES[op], sizes, strict=True) if size < QUICK_ELEMENTS[op]]


def _size(each: Case) -> int:
    """Return the number of elements of the inputs."""
    return sum(x.numel() for x in each.make(0).values() if hasattr(x, "numel"))


QUICK_ELEMENTS = {  # of the inputs: quick cases have fewer
    **{"embed": 30_000, "add_norm": 9_000, "qkv": 20_000, "linear": 10_000, "linear_gelu": 10_000},
    **{"attention": 20_000, "feed_forward": 20_000, "block": 25_000},
}


def draw(op: str, seed: int, quick: bool = False) -> Case:
    """Draw a case at random; quick: one with few elements."""
    rng = random.Random(f"{op} {seed}")
    shape = DRAWS[op](rng)
    while quick and _size(Case(op, shape)) > QUICK_ELEMENTS[op]:
        shape = DRAWS[op](rng)
    inputs = Case(op, shape).make(0)
    floating = [name for name, x in inputs.items() if hasattr(x, "is_floating_point") and x.is_floating_point()]
    chosen = rng.sample(floating, rng.choice([0, 0, 1, 2]) if len(floating) > 1 else 0)
    return Case(op, shape, {name: rng.choice(LAYOUTS[1:]) for name in chosen})


def _tokens(rng: random.Random, most: int = 1500) -> int:
    return round(most ** rng.random())


def _draw_rows(rng: random.Random) -> dict[str, Any]:
    values = rng.choice(["ordinary", "ordinary", "mean", "large"])
    return {"rows": _tokens(rng), "width": rng.randint(3, 800), "values": values, "eps": rng.choice([1e-12, 1e-5])}


def _draw_linear(rng: random.Random) -> dict[str, Any]:
    return {"rows": _tokens(rng), "inputs": rng.randint(1, 300), "outputs": rng.randint(1, 300)}


def _draw_sequences(rng: random.Random, **shape: Any) -> dict[str, Any]:
    longest = _tokens(rng, 200)
    lengths = [rng.randint(0 if rng.random() < 0.1 else 1, longest) for _ in range(_tokens(rng, 30))]
    return {
        "lengths": lengths,
        "queries": rng.choice(["same", "same", "equal", "first", "some"]),
        "padding": rng.choice(["none", "wide", "left", "holes"]),
        **shape,
    }


DRAWS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "embed": lambda rng: {
        **{name: value for name, value in _draw_rows(rng).items() if name != "rows"},
        **{"tokens": _tokens(rng), "words": rng.randint(1, 40000) if rng.random() < 0.2 else rng.randint(1, 300)},
        **{"positions": rng.randint(1, 512)},
    },
    "add_norm": _draw_rows,
    **dict.fromkeys(("qkv", "linear", "linear_gelu"), _draw_linear),
    "feed_forward": lambda rng: {
        "rows": _tokens(rng, 600),
        "width": rng.randint(1, 200),
        "hidden": rng.randint(1, 300),
    },
    "attention": lambda rng: _draw_sequences(
        rng, heads=rng.randint(1, 5), head_dim=rng.choice([16, 32, 64]), values=rng.choice(["ordinary", "sharp"])
    ),
    "block": lambda rng: _draw_sequences(
        rng, width=(heads := rng.randint(1, 4)) * rng.choice([8, 16]), heads=heads, hidden=rng.randint(1, 100)
    ),
}


def shrink(failing: Case, fails: Callable[[Case], bool], most: int = 30) -> Case:
    """Return a smaller case that also fails, after at most this many trials."""
    trials = 0
    while True:
        for smaller in _smaller(failing):
            if trials == most:
                return failing
            trials += 1
            if fails(smaller):
                failing = smaller
                break
        else:
            return failing


def _smaller(each: Case) -> Iterator[Case]:
    """Yield cases that are one step simpler: without a layout or an option, with fewer or smaller numbers."""
    for name in each.layouts:
        yield Case(each.op, each.shape, {key: x for key, x in each.layouts.items() if key != name})
    for name, value in each.shape.items():
        if isinstance(value, list):
            halves = [value[: len(value) // 2], value[len(value) // 2 :], [(x + 1) // 2 for x in value]]
            choices: list[Any] = [half for half in halves if half and half != value]
        elif isinstance(value, int):
            choices = [x for x in (value // 2, value - 1) if x > (name == "width")]
            if name in ("heads", "width", "head_dim", "longest", "sequences") and each.op in (
                "attention",
                "block",
            ):
                choices = []
        else:
            simple = {"queries": "same", "padding": "none", "values": "ordinary", "eps": 1e-12}
            choices = [simple[name]] if name in simple and value != simple[name] else []
        for choice in choices:
            yield Case(each.op, {**each.shape, name: choice}, each.layouts)
