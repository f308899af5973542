"""Limits of tokenizer.json and of added tokens: a small file must not make texts long, or the library hang.

Only known types of steps are accepted: the library guesses the type of others from their keys. The largest
tokenizers of DistilBERT and BERT checkpoints have 500,000 tokens in 17 MB. Not limited is the time of regular
expressions.
"""

from __future__ import annotations

import base64
import codecs
import itertools
import json
import math
import unicodedata
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
MAX_STEPS = 32  # of a normalizer, a decoder and so on, sequences included
MAX_ADDED = 10_000  # added tokens
MAX_ADDED_LENGTH = 100_000  # characters of all added tokens together
MAX_NORMALIZED_LENGTH = 400_000  # characters that the normalizer makes of all added tokens together
MAX_NORMALIZED = 100  # characters that all steps of a normalizer together make of one character; of ALBERT: 60
MAX_DECODED = 16  # the same for a decoder; of Llama: 5
MAX_UNIGRAM = 5_000_000  # bytes of the tokens of a Unigram vocabulary; of XLM-R: 3,000,000
MAX_PIECE = 100  # characters of a token of Unigram, whose time grows with the longest; SentencePiece makes 16
MAX_PREFIXES = 1_500_000  # different beginnings of them, each of which takes 330 bytes of memory
ONCE = ("ByteLevel", "Metaspace", "TemplateProcessing")  # steps that a part has once, since they lengthen a text
TEMPLATES = {"single": ["A"], "pair": ["A", "B"]}  # the texts of a template
FACTORS = {"BertNormalizer": 3, "ByteLevel": 4, "BPEDecoder": 2, "CTC": 2}  # Chinese, bytes, an empty setting
PARTS = {  # part of tokenizer.json -> the key of the steps of a sequence, and the types of steps
    "normalizer": (
        "normalizers",
        "Sequence BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Strip "
        "StripAccents",
    ),
    "pre_tokenizer": (
        "pretokenizers",
        "Sequence BertPreTokenizer ByteLevel CharDelimiterSplit Digits Metaspace Punctuation Split UnicodeScripts "
        "Whitespace WhitespaceSplit",
    ),
    "post_processor": (
        "processors",
        "Sequence BertProcessing ByteLevel RobertaProcessing TemplateProcessing",
    ),
    "decoder": (
        "decoders",
        "Sequence BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace Replace Strip WordPiece",
    ),
}


def read_text(path: Path) -> str:
    """Return the content of tokenizer.json or vocab.txt."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"it has more than {MAX_BYTES:,} bytes")
    if content.startswith(codecs.BOM_UTF8):  # it would become part of the first token
        raise CheckpointError("it begins with a byte order mark: save it as UTF-8 without one")
    return content.decode()


def check_tokenizer(content: str) -> int:
    """Raise CheckpointError for a tokenizer.json beyond the limits. The library refuses one that is broken.

    Returns the number of characters that the normalizer makes of one character, except for Unicode normalization.
    """
    _check_number("it has", content.count("[") + content.count("{"), 2 * MAX_ENTRIES, "lists and objects")
    values = json.loads(content)
    model = values["model"]
    _check_number("model.merges has", len(model.get("merges") or ()), MAX_ENTRIES, "entries")
    vocabulary = model.get("vocab") or ()
    if isinstance(vocabulary, list):  # of tokens and scores
        vocabulary = [token for token, _ in vocabulary]
        _check_unigram(vocabulary)
    check_vocabulary("model.vocab", vocabulary)
    for field, value in model.items():
        if isinstance(value, str):
            _check_length(f"model.{field}", value)
    word = model.get("max_input_chars_per_word")
    if is_int(word) and word > MAX_WORD:
        raise CheckpointError(f"model.max_input_chars_per_word is {word}: expected at most {MAX_WORD}")
    steps = {part: _checked_steps(part, values.get(part)) for part in PARTS}
    if model.get("dropout"):
        raise CheckpointError(
            f"model.dropout is {model['dropout']!r:.20}: expected null, or a text has other tokens each time"
        )
    for template in steps["post_processor"]:
        for field, expected in TEMPLATES.items() if template["type"] == "TemplateProcessing" else ():
            texts = [piece["Sequence"]["id"] for piece in template[field] if "Sequence" in piece]
            if sorted(texts) != expected:
                raise CheckpointError(
                    f"post_processor.{field} has the texts {', '.join(texts) or 'none'}: "
                    f"expected {' and '.join(expected)}, once each"
                )
    for step in steps["decoder"]:
        if step["type"] == "Strip" and step.get("stop"):
            raise CheckpointError(
                f"stop in a step Strip of the decoder is {step['stop']!r:.20}: expected 0, or the library panics"
            )
    _check_number("the decoder makes of one character up to", _growth(steps["decoder"]), MAX_DECODED, "characters")
    growth = _growth(steps["normalizer"])
    _check_number("the normalizer makes of one character up to", growth, MAX_NORMALIZED, "characters")
    check_added((token["content"] for token in values.get("added_tokens") or ()), growth)
    return growth


def check_vocabulary(place: str, tokens: Collection[str]) -> None:
    """Raise CheckpointError for too many tokens, or a token that is too long."""
    _check_number(f"{place} has", len(tokens), MAX_ENTRIES, "entries")
    _check_length(place, max(tokens, key=len, default=""))


def _check_unigram(tokens: Collection[str]) -> None:
    """Raise CheckpointError for long tokens, and for too much memory of the library's trie."""
    _check_length("model.vocab", max(tokens, key=len, default=""), MAX_PIECE)
    encoded = [token.encode() for token in tokens]
    _check_number("model.vocab has", sum(map(len, encoded)), MAX_UNIGRAM, "bytes of tokens")
    if sum(map(len, encoded)) > MAX_PREFIXES:
        pairs = itertools.pairwise([b"", *sorted(encoded)])
        prefixes = sum(len(token) - _shared(before, token) for before, token in pairs)
        _check_number("model.vocab has", prefixes, MAX_PREFIXES, "different beginnings of tokens")


def _shared(first: bytes, second: bytes) -> int:
    """Return the length of the common beginning."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))


def check_added(tokens: Iterable[str], growth: int) -> None:
    """Raise CheckpointError for too many or too long added tokens. growth: of the normalizer."""
    tokens = list(tokens)
    _check_number("it has", len(tokens), MAX_ADDED, "added tokens")
    _check_length("an added token", max(tokens, key=len, default=""))
    _check_number("its added tokens have", sum(map(len, tokens)), MAX_ADDED_LENGTH, "characters")
    length = growth * sum(len(unicodedata.normalize("NFKD", token)) for token in tokens)
    _check_number("its added tokens have, normalized,", length, MAX_NORMALIZED_LENGTH, "characters")


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


def _checked_steps(part: str, value: object) -> list[dict[str, Any]]:
    """Return the steps of a part of a tokenizer in their order, sequences included. Raises CheckpointError."""
    steps = list(itertools.islice(_steps(part, value), MAX_STEPS + 1))
    if len(steps) > MAX_STEPS:
        raise CheckpointError(f"{part} has more than {MAX_STEPS} steps")
    kinds = Counter(step["type"] for step in steps)
    for kind in ONCE:
        _check_number(f"{part} has", kinds[kind], 1, f"steps {kind}")
    _check_lengths(part, value)
    return steps


def _steps(part: str, value: object) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    kind = value.get("type") if isinstance(value, dict) else None
    key, known = PARTS[part]
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in known.split():
        raise CheckpointError(
            f"{part} has a step of type {kind!r:.50}: expected one of {known.replace(' ', ', ')}"
        )
    yield value
    for item in value[key] if kind == "Sequence" else ():
        yield from _steps(part, item)


def _growth(steps: Iterable[dict[str, Any]]) -> int:
    """Return the sum of the lengths that the steps make of one character, on which their time depends.

    Unicode normalization, which makes 18 characters of a rare one, counts only where a step inserts that one.
    """
    length, total = 1, 0
    for step in steps:
        length *= _factor(step)
        total += length
    return total


def _factor(step: dict[str, Any]) -> int:
    """Return the maximum number of characters that a step makes of one character."""
    match step["type"]:
        case "Prepend":
            return 1 + _length(step["prepend"])
        case "Replace":
            literal = step["pattern"].get("String")  # a regular expression may match between characters
            length = _length(step["content"])
            return max(1, math.ceil(length / len(literal))) if literal else 1 + length
        case "Precompiled":
            table = base64.b64decode(step["precompiled_charsmap"] or "")
            trie = int.from_bytes(table[:4], "little")  # bytes, which the library reserves before it reads them
            _check_number("precompiled_charsmap has a trie of", trie, max(0, len(table) - 4), "bytes")
            pieces = table[4 + trie :].split(b"\0")
            return max(1, *(_length(piece.decode(errors="replace")) for piece in pieces))
        case kind:
            return FACTORS.get(kind, 1)


def _length(text: str) -> int:
    """Return the length of a text after Unicode normalization."""
    return len(unicodedata.normalize("NFKD", text))
