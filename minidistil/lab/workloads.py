"""Inputs that are timed: DistilBERT base shapes for a short text, a longer text and a batch of MNLI pairs."""

from __future__ import annotations

import dataclasses

import torch

from ..layout import Layout
from .cases import (
    Case,
    Inputs,
    add_norm_case,
    attention_case,
    block_case,
    embed_case,
    feed_forward_case,
    linear_case,
)
from .operations import LAYERS

WIDTH, HIDDEN, HEADS, WORDS, POSITIONS = 768, 3072, 12, 30522, 512  # of DistilBERT base
PAIRS = [15, 37, 50, 51, 20, 55, 27, 70, 59, 44, 58, 45, 101, 24, 115, 25, 22, 60, 34, 46, 28, 16, 43, 37, 25, 25]
PAIRS += [43, 53, 23, 35, 27, 45, 36, 55, 28, 71, 44, 59, 49, 46, 53, 31, 52, 70, 26, 44, 26]  # lengths from MNLI
LENGTHS, EQUAL = ([16], [128], PAIRS), [128] * 16  # of texts; equal lengths only with attention
LINEAR_SHAPES = {  # K and N of each layer
    "qkv": [(WIDTH, WIDTH)],
    "linear": [(WIDTH, WIDTH), (HIDDEN, WIDTH)],
    "linear_gelu": [(WIDTH, HIDDEN)],
}


def timed_cases(op: str) -> list[Case]:
    """Return the cases to time an operation on."""
    cases = []
    for lengths in (*LENGTHS, EQUAL) if op in ("attention", "block") else LENGTHS:
        title, tokens = title_of(lengths), sum(lengths)
        if op == "attention":
            cases.append(attention_case(title, lengths, HEADS, WIDTH // HEADS))
        elif op == "block":
            cases.append(block_case(title, lengths, WIDTH, HEADS, HIDDEN))
        elif op == "feed_forward":
            cases.append(dataclasses.replace(feed_forward_case(tokens, WIDTH, HIDDEN), name=title))
        elif op == "add_norm":
            cases.append(dataclasses.replace(add_norm_case(tokens, WIDTH), name=title))
        elif op == "embed":
            cases.append(_embed_case(title, lengths))
        for inputs, outputs in LINEAR_SHAPES.get(op, ()):
            case = linear_case(tokens, inputs, outputs, layers=LAYERS[op])
            name = f"{title}; {inputs} to {len(LAYERS[op]) * outputs}"
            cases.append(dataclasses.replace(case, name=name))
    return cases


def title_of(lengths: list[int]) -> str:
    """Return the title of texts of these lengths."""
    least, most = min(lengths), max(lengths)
    if len(lengths) == 1:
        return f"1 text of {most} tokens"
    span = most if least == most else f"{least} to {most}"
    return f"{len(lengths)} texts of {span} tokens, {sum(lengths):,} in all"


def _embed_case(title: str, lengths: list[int]) -> Case:
    """Return a case with full-size embedding tables: small ones would fit into the cache."""
    case = embed_case(sum(lengths), WIDTH, words=WORDS, positions=POSITIONS)

    def make(generator: torch.Generator) -> Inputs:
        return {**case.make(generator), "position_ids": Layout.from_lengths(lengths).position_ids}

    return Case(title, make)
