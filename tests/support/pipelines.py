"""Texts, labels, and pipelines of minidistil and of transformers, for the tests of the pipelines."""

from __future__ import annotations

import functools

import transformers
from hypothesis import example, settings
from hypothesis import strategies as st

import minidistil

ZERO_SHOT, CLASSIFY = "zero-shot-classification", "text-classification"
NLI = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")
LABELS = ["sports", "politics", "business"]
TEXTS = [
    "The team won the game.",
    "A man sleeps",
    "it was not held!",
    "Is the election about politics, or business? A man is awake and it was the team that won.",
    "zzz",
]
POSITIONS = 64
WORDS = "the team won game election was held sports politics business man sleeps is awake example this about not a"


def ours(task, model, **options):
    return minidistil.pipeline(task, model, device="cpu", **options)


@functools.cache
def theirs(task, folder, **options):
    return transformers.pipeline(task, model=str(folder), device="cpu", **options)


def by_label(answer):
    return dict(zip(answer["labels"], answer["scores"], strict=True))


def record_batches(monkeypatch, pipe):
    """Return a list, to which each forward pass of the model appends the lengths of its sequences."""
    seen = []
    forward = pipe.model.forward
    monkeypatch.setattr(pipe.model, "forward", lambda batch: seen.append(batch.layout.lengths) or forward(batch))
    return seen


FRAGMENTS = st.sampled_from(["The ", "team", " won", "[SEP]", "[sep]", "[MASK] ", "##a", "\0", "\u0301", "\u65e5"])
ANY_TEXT = st.lists(FRAGMENTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=6).map(
    "".join
)


def with_examples(test):
    for text in (
        "a\0b",
        "\0",
        "\u200b\ufeff",
        "e\u0301\u00e9\u0130",
        "\U0001f3c8\u2764\ufe0f",
        "\ufffd\u2028\x85",
    ):
        test = example(text=text)(test)
    return settings(max_examples=40, deadline=None, derandomize=True)(test)


PAIR = {"text": "a man sleeps", "text_pair": "a man is awake"}
