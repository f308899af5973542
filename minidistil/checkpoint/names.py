"""Which tensor of a file is which parameter of a model: the Hub's names, in every form that was ever saved.

Each incoming name is kept, renamed or dropped by a rule of the tables below; anything else is an error. Names
are compared without the encoder's prefix, so it does not matter whether file and model have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import CheckpointError


class Rule(NamedTuple):
    """What becomes of the names that a pattern is found in."""

    reason: str
    pattern: str
    becomes: str | None  # what the found part is replaced with; None: the name is dropped


LAYER = r"^encoder\.layer\.(\d+)\."
REPAIRS = (
    Rule("wrapped by DataParallel or torch.compile", r"(^|\.)(?:(?:module|_orig_mod)\.)+", r"\1"),
    Rule("the encoder's prefix", r"^(?:distilbert|bert)\.", ""),
    Rule("a norm's weight, by its name in TensorFlow", r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight"),
    Rule("a norm's bias, by its name in TensorFlow", r"(LayerNorm|layer_norm)\.beta$", r"\1.bias"),
    Rule("0, 1, 2, ..., which old versions saved", r"^embeddings\.position_ids$", None),
)
BERT = (  # after REPAIRS, for a BERT's files
    Rule("the pooler, which DistilBERT lacks", r"^pooler\.", None),
    Rule("next-sentence prediction, which DistilBERT lacks", r"^cls\.seq_relationship\.", None),
    Rule("the queries' product", LAYER + r"attention\.self\.query\.", r"transformer.layer.\1.attention.q_lin."),
    Rule("the keys' product", LAYER + r"attention\.self\.key\.", r"transformer.layer.\1.attention.k_lin."),
    Rule("the values' product", LAYER + r"attention\.self\.value\.", r"transformer.layer.\1.attention.v_lin."),
    Rule(
        "attention's last product",
        LAYER + r"attention\.output\.dense\.",
        r"transformer.layer.\1.attention.out_lin.",
    ),
    Rule("attention's norm", LAYER + r"attention\.output\.LayerNorm\.", r"transformer.layer.\1.sa_layer_norm."),
    Rule("the widening product", LAYER + r"intermediate\.dense\.", r"transformer.layer.\1.ffn.lin1."),
    Rule("the narrowing product", LAYER + r"output\.dense\.", r"transformer.layer.\1.ffn.lin2."),
    Rule("the layer's norm", LAYER + r"output\.LayerNorm\.", r"transformer.layer.\1.output_layer_norm."),
    Rule("the masked words' transform", r"^cls\.predictions\.transform\.dense\.", "vocab_transform."),
    Rule("the masked words' norm", r"^cls\.predictions\.transform\.LayerNorm\.", "vocab_layer_norm."),
    Rule("the masked words' product", r"^cls\.predictions\.decoder\.", "vocab_projector."),
    Rule("its bias, under its other name", r"^cls\.predictions\.bias$", "vocab_projector.bias"),
)
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"  # a BERT's; the first row is part of every position
PROJECTOR = "vocab_projector.weight"  # the word table again, where the config ties them
OTHER_HEAD = "the head of another task"
HEADS = {  # the beginning of a name that only this head has -> those of all its names
    "vocab_": ("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
    "qa_outputs.": ("qa_outputs.",),
    "pre_classifier.": ("pre_classifier.", "classifier."),
    "classifier.": ("classifier.",),  # where there is no pre_classifier
}


class Plan(NamedTuple):
    """Where each parameter comes from, and what becomes of the other names in the file."""

    sources: dict[str, str]  # parameter -> name in the file
    segments: str | None  # the name in the file of a BERT's segments
    dropped: dict[str, str]  # name in the file -> reason
    missing: list[str]  # parameters
    unexpected: list[str]  # names in the file


def plan(found: Iterable[str], parameters: Iterable[str], *, bert: bool, tied: bool, pooled: bool = False) -> Plan:
    """Match the names in a file with the parameters that a model needs.

    bert: whether it is a BERT's file. tied: whether projector and word table may stand for each other. pooled:
    whether the file's classifier reads a pooler, so that it cannot be kept. `CheckpointError` where two names
    mean one parameter.
    """
    needed = {_without_prefix(name): name for name in parameters}
    incoming, dropped = _repair(found, (*REPAIRS, *BERT) if bert else REPAIRS)
    kept = _heads(needed) - ({"classifier."} if pooled else set())
    for head in sorted(_heads(incoming) - kept):
        for name in [name for name in incoming if name.startswith(HEADS[head])]:
            dropped[incoming.pop(name)] = OTHER_HEAD
    if tied and PROJECTOR in needed:
        for name, other in ((PROJECTOR, WORDS), (WORDS, PROJECTOR)):
            if other in incoming:
                incoming.setdefault(name, incoming[other])
    segments = incoming.pop(SEGMENTS, None) if bert else None
    missing = [needed[name] for name in needed if name not in incoming]
    if bert and segments is None:
        missing.append(SEGMENTS)
    return Plan(
        sources={needed[name]: incoming[name] for name in needed if name in incoming},
        segments=segments,
        dropped=dropped,
        missing=missing,
        unexpected=[incoming[name] for name in incoming if name not in needed],
    )


def _repair(found: Iterable[str], rules: Iterable[Rule]) -> tuple[dict[str, str], dict[str, str]]:
    """Give the file's names by their repaired ones, and the dropped ones with the reason."""
    incoming: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for name in found:
        repaired = name
        for rule in rules:
            if not re.search(rule.pattern, repaired):
                continue
            if rule.becomes is None:
                dropped[name] = rule.reason
                break
            repaired = re.sub(rule.pattern, rule.becomes, repaired)
        else:
            other = incoming.setdefault(repaired, name)
            if other != name and sorted(map(_is_decoder_bias, (name, other))) != [False, True]:
                raise CheckpointError(f"{other} and {name} are both {repaired}: expected one of them")
            if _is_decoder_bias(name):
                incoming[repaired] = name
    return incoming, dropped


def _is_decoder_bias(name: str) -> bool:
    """Whether it is the name that a BERT computes with, of two for one bias."""
    return name.endswith("cls.predictions.decoder.bias")


def _without_prefix(name: str) -> str:
    return name.removeprefix("distilbert.")


def _heads(names: Iterable[str]) -> set[str]:
    """Tell the heads that these names belong to, by what only each of them has."""
    heads = {head for head in HEADS for name in names if name.startswith(head)}
    return heads - {"classifier."} if "pre_classifier." in heads else heads
