"""Inputs that are timed: DistilBERT base shapes, for a few batches of texts or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checks import check_count
from ..errors import InputError
from .cases import LAYERS, Case, case

WIDTH, HIDDEN, HEADS, WORDS, POSITIONS = 768, 3072, 12, 30522, 512  # of DistilBERT base
PAIRS = [15, 37, 50, 51, 20, 55, 27, 70, 59, 44, 58, 45, 101, 24, 115, 25, 22, 60, 34, 46, 28, 16, 43, 37, 25, 25]
PAIRS += [43, 53, 23, 35, 27, 45, 36, 55, 28, 71, 44, 59, 49, 46, 53, 31, 52, 70, 26, 44, 26]  # lengths from MNLI
LENGTHS, EQUAL = ([16], [128], PAIRS), [128] * 16  # of texts; equal lengths only with attention
LINEAR_SHAPES = {  # K and N of each layer
    "qkv": [(WIDTH, WIDTH)],
    "linear": [(WIDTH, WIDTH), (HIDDEN, WIDTH)],
    "linear_gelu": [(WIDTH, HIDDEN)],
}


SWEEPS = {  # values of a sweep, by what it varies
    "tokens": [16, 64, 256, 1024, 4096],  # in texts of at most 128
    "sequences": [1, 4, 16, 64],  # with lengths of MNLI pairs
    "lengths": [8, 32, 128, 512],  # of equal texts, 2,048 tokens in all
}


def timed_cases(op: str) -> dict[str, Case]:
    """Return the cases to time an operation on, by title."""
    shapes = (*LENGTHS, EQUAL) if op in ("attention", "block") else LENGTHS
    return {title: case for lengths in shapes for title, case in _cases(op, title_of(lengths), lengths).items()}


def swept_cases(op: str, over: str, values: Sequence[int] | None = None) -> dict[str, Case]:
    """Return the cases of a sweep, by title, in its order.

    Args:
        over: a key of `SWEEPS`.
        values: of the sweep; None: those of `SWEEPS`.

    Raises InputError for unknown or invalid values, and for lengths of an operation that they do not change.
    """
    if over not in SWEEPS:
        raise InputError(f"unknown sweep {over!r}: expected one of {', '.join(SWEEPS)}")
    if over == "lengths" and op not in ("attention", "block"):
        raise InputError(f"{op} computes each token by itself, whatever the lengths: expected tokens or sequences")
    cases: dict[str, Case] = {}
    for value in SWEEPS[over] if values is None else values:
        check_count(over, value)
        cases |= _cases(op, f"{value} {over}" if over != "lengths" else f"length {value}", _texts(over, value))
    return dict(sorted(cases.items(), key=lambda item: item[0].partition("; ")[2]))  # stable: layer by layer


def _texts(over: str, value: int) -> list[int]:
    """Return the lengths of the texts at a value of a sweep."""
    if over == "tokens":
        return [128] * (value // 128) + [value % 128] * (value % 128 > 0)
    return (
        [PAIRS[i % len(PAIRS)] for i in range(value)] if over == "sequences" else [value] * max(2048 // value, 1)
    )


def _cases(op: str, title: str, lengths: list[int]) -> dict[str, Case]:
    """Return the cases of an operation for texts of these lengths: one for each size of a linear layer."""
    tokens = sum(lengths)
    if op in LINEAR_SHAPES:
        return {
            f"{title}; {k} to {len(LAYERS[op]) * n}": case(op, rows=tokens, inputs=k, outputs=n)
            for k, n in LINEAR_SHAPES[op]
        }
    shapes: dict[str, dict[str, Any]] = {
        "attention": {"lengths": lengths, "heads": HEADS, "head_dim": WIDTH // HEADS},
        "block": {"lengths": lengths, "width": WIDTH, "heads": HEADS, "hidden": HIDDEN},
        "feed_forward": {"rows": tokens, "width": WIDTH, "hidden": HIDDEN},
        "add_norm": {"rows": tokens, "width": WIDTH},
        # full-size tables: small ones would fit into the cache
        "embed": {"tokens": tokens, "width": WIDTH, "words": WORDS, "positions": POSITIONS},
    }
    return {title: case(op, **shapes[op])}


def title_of(lengths: list[int]) -> str:
    """Return the title of texts of these lengths."""
    least, most = min(lengths), max(lengths)
    if len(lengths) == 1:
        return f"1 text of {most} tokens"
    span = most if least == most else f"{least} to {most}"
    return f"{len(lengths)} texts of {span} tokens, {sum(lengths):,} in all"
