"""Match the tensor names in a file with the parameter names of a model.

The rules in the tables below rename or drop the names that older versions of transformers, TensorFlow and BERT
have saved. Names are compared without the encoder's prefix, so files match models with and without a head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import CheckpointError


class Rule(NamedTuple):
    """Rename or drop the names that match a pattern."""

    reason: str
    pattern: str
    replacement: str | None  # of the match; None: the name is dropped


LAYER = r"^encoder\.layer\.(\d+)\."
RENAMES = (
    Rule("wrapped by DataParallel or torch.compile", r"(^|\.)(?:(?:module|_orig_mod)\.)+", r"\1"),
    Rule("the encoder's prefix", r"^(?:distilbert|bert)\.", ""),
    Rule("a LayerNorm weight, by its TensorFlow name", r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight"),
    Rule("a LayerNorm bias, by its TensorFlow name", r"(LayerNorm|layer_norm)\.beta$", r"\1.bias"),
    Rule("position ids, which old versions saved", r"^embeddings\.position_ids$", None),
)
BERT = (  # after RENAMES, for BERT checkpoints
    Rule("the pooler, which DistilBERT lacks", r"^pooler\.", None),
    Rule("next-sentence prediction, which DistilBERT lacks", r"^cls\.seq_relationship\.", None),
    Rule("query", LAYER + r"attention\.self\.query\.", r"transformer.layer.\1.attention.q_lin."),
    Rule("key", LAYER + r"attention\.self\.key\.", r"transformer.layer.\1.attention.k_lin."),
    Rule("value", LAYER + r"attention\.self\.value\.", r"transformer.layer.\1.attention.v_lin."),
    Rule(
        "attention output",
        LAYER + r"attention\.output\.dense\.",
        r"transformer.layer.\1.attention.out_lin.",
    ),
    Rule("attention LayerNorm", LAYER + r"attention\.output\.LayerNorm\.", r"transformer.layer.\1.sa_layer_norm."),
    Rule("first feed-forward layer", LAYER + r"intermediate\.dense\.", r"transformer.layer.\1.ffn.lin1."),
    Rule("second feed-forward layer", LAYER + r"output\.dense\.", r"transformer.layer.\1.ffn.lin2."),
    Rule("output LayerNorm", LAYER + r"output\.LayerNorm\.", r"transformer.layer.\1.output_layer_norm."),
    Rule("masked LM transform", r"^cls\.predictions\.transform\.dense\.", "vocab_transform."),
    Rule("masked LM LayerNorm", r"^cls\.predictions\.transform\.LayerNorm\.", "vocab_layer_norm."),
    Rule("masked LM projector", r"^cls\.predictions\.decoder\.", "vocab_projector."),
    Rule("masked LM bias, under its other name", r"^cls\.predictions\.bias$", "vocab_projector.bias"),
)
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"  # of BERT; the first row is added to every position
PROJECTOR = "vocab_projector.weight"  # the word embeddings, if the config ties them
OTHER_HEAD = "the head of another task"
HEADS = {  # a prefix that only this head has -> the prefixes of all its names
    "vocab_": ("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
    "qa_outputs.": ("qa_outputs.",),
    "pre_classifier.": ("pre_classifier.", "classifier."),
    "classifier.": ("classifier.",),  # where there is no pre_classifier
}


class Plan(NamedTuple):
    """The source of each parameter, and the other names in the file."""

    sources: dict[str, str]  # parameter -> name in the file
    segments: str | None  # name in the file of BERT's segment embeddings
    dropped: dict[str, str]  # name in the file -> reason
    missing: list[str]  # parameters
    unexpected: list[str]  # names in the file


def plan(names: Iterable[str], parameters: Iterable[str], *, bert: bool, tied: bool, pooled: bool = False) -> Plan:
    """Match the names in a file with the parameters of a model.

    Args:
        names: in the file.
        parameters: names in the model.
        bert: whether the file is a BERT checkpoint.
        tied: whether the projector and the word embeddings may be loaded as each other.
        pooled: whether the classifier in the file reads a pooler, so that it cannot be loaded.

    Raises CheckpointError if two names map to the same parameter.
    """
    needed = {_without_prefix(name): name for name in parameters}
    incoming, dropped = _rename(names, (*RENAMES, *BERT) if bert else RENAMES)
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


def _rename(names: Iterable[str], rules: Iterable[Rule]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names in the file by their new names, and the dropped names with the reason."""
    incoming: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for name in names:
        renamed = name
        for rule in rules:
            if not re.search(rule.pattern, renamed):
                continue
            if rule.replacement is None:
                dropped[name] = rule.reason
                break
            renamed = re.sub(rule.pattern, rule.replacement, renamed)
        else:
            other = incoming.setdefault(renamed, name)
            if other != name and sorted(map(_is_decoder_bias, (name, other))) != [False, True]:
                raise CheckpointError(f"{other} and {name} both map to {renamed}: expected one of them")
            if _is_decoder_bias(name):
                incoming[renamed] = name
    return incoming, dropped


def tied_name(name: str) -> str:
    """Return one name for all names in a file of the same weight, or of weights that the model ties."""
    renamed = next(iter(_rename([name], (*RENAMES, *BERT))[0]), name)
    return WORDS if renamed == PROJECTOR else renamed


def _is_decoder_bias(name: str) -> bool:
    """Return whether this is the name that BERT reads, if a file has two names for the same bias."""
    return name.endswith("cls.predictions.decoder.bias")


def _without_prefix(name: str) -> str:
    return name.removeprefix("distilbert.")


def _heads(names: Iterable[str]) -> set[str]:
    """Return the heads that these names belong to."""
    heads = {head for head in HEADS for name in names if name.startswith(head)}
    return heads - {"classifier."} if "pre_classifier." in heads else heads
