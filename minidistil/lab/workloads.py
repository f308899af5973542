"""Inputs that are timed: DistilBERT base shapes for a short text, a longer text and a batch of MNLI pairs."""

from __future__ import annotations

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


def timed_cases(op: str) -> dict[str, Case]:
    """Return the cases to time an operation on, by title."""
    cases = {}
    for lengths in (*LENGTHS, EQUAL) if op in ("attention", "block") else LENGTHS:
        title, tokens = title_of(lengths), sum(lengths)
        if op == "attention":
            cases[title] = case(op, lengths=lengths, heads=HEADS, head_dim=WIDTH // HEADS)
        elif op == "block":
            cases[title] = case(op, lengths=lengths, width=WIDTH, heads=HEADS, hidden=HIDDEN)
        elif op == "feed_forward":
            cases[title] = case(op, rows=tokens, width=WIDTH, hidden=HIDDEN)
        elif op == "add_norm":
            cases[title] = case(op, rows=tokens, width=WIDTH)
        elif op == "embed":  # full-size tables: small ones would fit into the cache
            cases[title] = case(op, tokens=tokens, width=WIDTH, words=WORDS, positions=POSITIONS)
        for inputs, outputs in LINEAR_SHAPES.get(op, ()):
            name = f"{title}; {inputs} to {len(LAYERS[op]) * outputs}"
            cases[name] = case(op, rows=tokens, inputs=inputs, outputs=outputs)
    return cases


def title_of(lengths: list[int]) -> str:
    """Return the title of texts of these lengths."""
    least, most = min(lengths), max(lengths)
    if len(lengths) == 1:
        return f"1 text of {most} tokens"
    span = most if least == most else f"{least} to {most}"
    return f"{len(lengths)} texts of {span} tokens, {sum(lengths):,} in all"
