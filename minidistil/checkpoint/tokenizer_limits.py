"""Limits of tokenizer.json and of added tokens: a small file must not make texts long, or the library hang.

The largest tokenizers of DistilBERT and BERT checkpoints have 500,000 tokens in 17 MB. Not limited is the time of
regular expressions.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..checks import is_int
from ..errors import CheckpointError

MAX_BYTES = 20_000_000  # of tokenizer.json or vocab.txt
MAX_ENTRIES = 600_000  # of a vocabulary, or merges
MAX_LENGTH = 1_000  # characters of a token, a pattern or another string
MAX_TABLE = 1_000_000  # characters of SentencePiece's table of normalizations, in base 64
MAX_WORD = 1_000  # characters of a word in WordPiece, whose time grows with the cube of the length
MAX_ITEMS = 64  # of other lists, such as the steps of a normalizer
MAX_ADDED = 10_000  # added tokens
MAX_ADDED_LENGTH = 100_000  # characters of all added tokens together
MAX_GROWTH = 1_500  # characters that all steps of a normalizer together make of one character
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
ONCE = ("ByteLevel", "Metaspace", "TemplateProcessing")  # steps that a part has once, since they lengthen a text
UNICODE = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 2, "BertNormalizer": 4}  # longest results


def read_text(path: Path) -> str:
    """Return the content of tokenizer.json or vocab.txt."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"it has more than {MAX_BYTES:,} bytes")
    return content.decode()


def check_tokenizer(content: str) -> None:
    """Raise CheckpointError for a tokenizer.json beyond the limits. The library refuses one that is broken."""
    _check_number("it has", content.count("[") + content.count("{"), 2 * MAX_ENTRIES, "lists and objects")
    values = json.loads(content)
    model = values["model"]
    _check_number("model.merges has", len(model.get("merges") or ()), MAX_ENTRIES, "entries")
    vocabulary = model.get("vocab") or ()
    pairs = isinstance(vocabulary, list)  # of tokens and scores
    check_vocabulary("model.vocab", [token for token, _ in vocabulary] if pairs else vocabulary)
    for field, value in model.items():
        if isinstance(value, str):
            _check_length(f"model.{field}", value)
    word = model.get("max_input_chars_per_word")
    if is_int(word) and word > MAX_WORD:
        raise CheckpointError(f"model.max_input_chars_per_word is {word}: expected at most {MAX_WORD}")
    check_added(token["content"] for token in values.get("added_tokens") or ())
    for part in PARTS:
        _check_lengths(part, values.get(part))
        kinds = Counter(step["type"] for step in _steps(values.get(part)))
        _check_number(f"{part} has", kinds.total(), MAX_ITEMS, "steps")
        for kind in ONCE:
            _check_number(f"{part} has", kinds[kind], 1, f"steps {kind}")
    for template in _steps(values.get("post_processor")):
        for field in ("single", "pair"):
            texts = [piece["Sequence"]["id"] for piece in template.get(field) or () if "Sequence" in piece]
            if len(texts) > len(set(texts)):
                raise CheckpointError(f"post_processor.{field} repeats a text")
    growth = total = 1
    for step in _steps(values.get("normalizer")):
        growth *= _growth(step)
        total += growth - 1  # the time of a step grows with the length of its result
        _check_number("the normalizer makes of one character up to", total, MAX_GROWTH, "characters")


def check_vocabulary(place: str, tokens: Collection[str]) -> None:
    """Raise CheckpointError for too many tokens, or a token that is too long."""
    _check_number(f"{place} has", len(tokens), MAX_ENTRIES, "entries")
    _check_length(place, max(tokens, key=len, default=""))


def check_added(tokens: Iterable[str]) -> None:
    """Raise CheckpointError for too many or too long added tokens."""
    tokens = list(tokens)
    _check_number("it has", len(tokens), MAX_ADDED, "added tokens")
    _check_length("an added token", max(tokens, key=len, default=""))
    _check_number("its added tokens have", sum(map(len, tokens)), MAX_ADDED_LENGTH, "characters")


def _check_lengths(place: str, value: object) -> None:
    """Raise CheckpointError for a string or a list that is too long, at any depth."""
    if isinstance(value, str):
        _check_length(place, value, MAX_TABLE if place.endswith(".precompiled_charsmap") else MAX_LENGTH)
    elif isinstance(value, dict | list):
        _check_number(f"{place} has", len(value), MAX_ITEMS, "items")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_lengths(f"{place}.{str(key)[:50]}", item)


def _check_length(place: str, value: str, limit: int = MAX_LENGTH) -> None:
    if len(value) > limit:
        _check_number(f"{place}, {value[:20]!r}…, has", len(value), limit, "characters")


def _check_number(subject: str, number: int, limit: int, unit: str) -> None:
    if number > limit:
        raise CheckpointError(f"{subject} {number:,} {unit}: expected at most {limit:,}")


def _steps(value: object) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part of a tokenizer in their order, those in sequences included."""
    if isinstance(value, dict) and "type" in value:
        yield value
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _steps(item)


def _growth(step: dict[str, Any]) -> int:
    """Return the maximum number of characters that a step makes of one character."""
    content, pattern = step.get("content"), step.get("pattern")
    match step.get("type"):
        case "Prepend":
            return 1 + len(step.get("prepend") or "")
        case "Replace" if isinstance(content, str) and isinstance(pattern, dict):
            literal = pattern.get("String")  # a regular expression may match between characters
            return max(1, math.ceil(len(content) / len(literal))) if literal else 1 + len(content)
        case "Precompiled":
            table = base64.b64decode(step.get("precompiled_charsmap") or "")
            pieces = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")  # after a trie
            return max(1, *(len(piece.decode(errors="replace")) for piece in pieces))
        case kind:
            return UNICODE.get(str(kind), 1)
