"""Text → entities: a label for each token, or for words and groups of words.

Shapes: L tokens of a sequence, C labels.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import tokenizers

from ..checks import check_count, check_text
from ..errors import CheckpointError, InputError, input_name
from ..tokenizer import Tokenizer
from .base import Answer, Engine, Pipeline, deliver, is_list_like, read_inputs
from .scores import Array, softmax

WORD_SCORES: dict[str, Callable[[list[list[float]]], list[float]]] = {  # scores of a word from those of its tokens
    "first": lambda rows: rows[0],
    "average": lambda rows: [sum(column) / len(rows) for column in zip(*rows, strict=True)],
    "max": lambda rows: max(rows, key=max),
}
STRATEGIES = ("none", "simple", *WORD_SCORES)
T = TypeVar("T")


class Text(NamedTuple):
    """A text, with its words if the input is split."""

    text: str
    words: Sequence[str] | None = None  # if the input is split into words
    starts: Sequence[int] = ()  # offset of each word in the text


class Token(NamedTuple):
    """A token, or a word of several tokens, with the scores of its labels."""

    position: int  # index among the tokens of its part of the text
    word: str
    start: int  # offset in the text
    end: int
    scores: list[float]  # (C,)
    continues: bool = False  # whether it continues the word of the previous token


class TokenClassification(Pipeline):
    """Label the tokens of a text, and group them into entities."""

    def __init__(self, task: str, engine: Engine, tokenizer: Tokenizer, **defaults: Any):
        super().__init__(task, engine, tokenizer, **defaults)
        self.has_subword_prefix = bool(getattr(tokenizer.backend.model, "continuing_subword_prefix", None))
        self.unknown_id: int | None = None
        with contextlib.suppress(CheckpointError):  # a byte-level tokenizer has no such token
            self.unknown_id = tokenizer.id_of("unk_token")

    def run(
        self,
        inputs: str | Iterable[str] | Iterable[Sequence[str]],
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Iterable[str] | None = None,
        stride: int | None = None,
        is_split_into_words: bool = False,
        delimiter: str = " ",
        batch_size: int | None = None,
    ) -> Any:
        """Find the entities of each text.

        Args:
            inputs: a text, a list of texts, or any iterable, which is read and answered as a stream.
            aggregation_strategy: "none" labels each token. "simple" groups adjacent tokens of the same label,
                whether it is prefixed B- or I-; a B- starts a new group. "first", "average" and "max" group words,
                each labeled by its first token, by the mean of its tokens' scores, or by the token with the
                highest score.
            ignore_labels: labels to skip, as they are in the answer; None: "O".
            stride: read a text longer than the model takes in parts that share this many tokens. Of overlapping
                entities the longest is kept, or the one with the highest score. Not with "none". None: truncate.
            is_split_into_words: each text is a list of words; a single text is answered in a list.
            delimiter: joins the words to the text that start and end refer to.
            batch_size: maximum number of parts per batch.

        Returns for each text a list of {"entity", "score", "index", "word", "start", "end"}; of {"entity_group",
        "score", "word", "start", "end"} for strategies other than "none". start and end are offsets in the text.
        Raises InputError for inputs that are not text, an unknown strategy, or a stride that is too large.
        """
        strategy = _checked_strategy(aggregation_strategy, stride)
        ignored = _checked_labels(ignore_labels)
        check_text(delimiter, "delimiter")
        check_count("batch_size", batch_size)
        examples = read_inputs("inputs", inputs)
        if is_split_into_words and _are_words(inputs):
            examples = [inputs]
        separator = delimiter if is_split_into_words else None
        texts = (_text(example, i, separator) for i, example in enumerate(examples))
        answers = self._answers(texts, strategy, ignored, stride, batch_size)
        return deliver(inputs, isinstance(inputs, str), answers)

    def _answers(
        self, texts: Iterable[Text], strategy: str, ignored: list[str], stride: int | None, batch_size: int | None
    ) -> Iterator[list[Answer]]:
        key = "entity" if strategy == "none" else "entity_group"
        for names, window in self.windows(texts):
            encoded = self._encode(window, names, stride)
            sequences = [tuple(part.ids) for parts in encoded for part in parts]
            logits = iter(self.engine.run("token_logits", sequences, batch_size))
            for text, parts in zip(window, encoded, strict=True):
                entities = [e for part in parts for e in self._entities(text, part, next(logits), strategy)]
                kept = [entity for entity in entities if entity[key] not in ignored]
                yield kept if len(parts) == 1 else _without_overlaps(kept)

    def _encode(self, window: list[Text], names: list[str], stride: int | None) -> list[list[tokenizers.Encoding]]:
        """Encode each text in parts that fit the model; in one part without a stride."""
        split = any(text.words is not None for text in window)
        texts: list[Any] = [text.words if split else text.text for text in window]
        encoded = self.tokenizer.encodings(texts, max_length=self.limit(), stride=stride, names=names, words=split)
        if stride is not None:
            return [[first, *first.overflowing] for first in encoded]
        self.warn_truncated(sum(bool(first.overflowing) for first in encoded), self.limit())
        return [[first] for first in encoded]

    def _entities(self, text: Text, part: tokenizers.Encoding, logits: Array, strategy: str) -> list[Answer]:
        """Return the entities of a part of a text, ignored labels included. logits: (L, C)."""
        tokens = self._tokens(text, part, softmax(logits).tolist())
        if strategy in WORD_SCORES:
            tokens = (self._word(pieces, strategy) for pieces in _runs(tokens, lambda _, token: token.continues))
        entities = [self._labeled(token) for token in tokens]
        return entities if strategy == "none" else [self._group(run) for run in _runs(entities, _same_entity)]

    def _tokens(self, text: Text, part: tokenizers.Encoding, scores: list[list[float]]) -> Iterator[Token]:
        """Yield the tokens of a part of a text, without special tokens. scores: (L, C)."""
        rows = zip(part.ids, part.offsets, part.word_ids, part.special_tokens_mask, scores, strict=True)
        for index, (token_id, (start, end), word, special, row) in enumerate(rows):
            if special:
                continue
            if text.words is not None and word is not None:  # offsets count from the start of the word
                start, end = start + text.starts[word], end + text.starts[word]
            if token_id == self.unknown_id:
                yield Token(index, text.text[start:end], start, end, row)
            else:
                token = self.tokenizer.backend.id_to_token(token_id) or ""
                yield Token(index, token, start, end, row, self._continues(token, text.text, start, end))

    def _continues(self, token: str, text: str, start: int, end: int) -> bool:
        """Return whether a token continues a word, as transformers decides it.

        A prefix such as ## makes the token longer than its text. Without a prefix, words end at spaces.
        """
        if self.has_subword_prefix:
            return len(token) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]

    def _word(self, pieces: list[Token], strategy: str) -> Token:
        """Merge the tokens of a word into one."""
        word = self._string([piece.word for piece in pieces])
        scores = WORD_SCORES[strategy]([piece.scores for piece in pieces])
        return Token(pieces[0].position, word, pieces[0].start, pieces[-1].end, scores)

    def _labeled(self, token: Token) -> Answer:
        best = token.scores.index(max(token.scores))
        entity = {"entity": self.config.id2label[best], "score": token.scores[best]}
        return {**entity, "index": token.position, "word": token.word, "start": token.start, "end": token.end}

    def _group(self, entities: list[Answer]) -> Answer:
        """Merge adjacent entities into one."""
        label = entities[0]["entity"].split("-", 1)[-1]
        score = sum(entity["score"] for entity in entities) / len(entities)
        word = self._string([entity["word"] for entity in entities])
        start, end = entities[0]["start"], entities[-1]["end"]
        return {"entity_group": label, "score": score, "word": word, "start": start, "end": end}

    def _string(self, tokens: list[str]) -> str:
        decoder = self.tokenizer.backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)


def _runs(items: Iterable[T], continues: Callable[[T, T], bool]) -> list[list[T]]:
    """Split items into runs. continues(previous, item): whether the item belongs to the previous item's run."""
    runs: list[list[T]] = []
    for item in items:
        if runs and continues(runs[-1][-1], item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _same_entity(before: Answer, after: Answer) -> bool:
    """Return whether adjacent tokens belong to one entity: the same label without B- and I-, and no new B-."""
    return not after["entity"].startswith("B-") and _tag(before["entity"]) == _tag(after["entity"])


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _without_overlaps(entities: list[Answer]) -> list[Answer]:
    """Keep the longest of overlapping entities, or the one with the highest score."""
    kept: list[Answer] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
        else:
            kept[-1] = max(kept[-1], entity, key=lambda e: (e["end"] - e["start"], e["score"]))
    return kept


def _text(example: Any, i: int, delimiter: str | None) -> Text:
    """Check one input: a text, or with a delimiter a list of words."""
    if delimiter is None:
        check_text(example, input_name(i))
        return Text(example)
    if not is_list_like(example):
        raise InputError(f"inputs[{i}] is {type(example).__name__}: expected a list of words")
    for j, word in enumerate(example):
        check_text(word, f"inputs[{i}][{j}]")
    starts = itertools.accumulate((len(word) + len(delimiter) for word in example), initial=0)
    return Text(delimiter.join(example), list(example), list(starts))


def _are_words(inputs: Any) -> bool:
    """Return whether the inputs are a single text as a list of words, not a list of texts."""
    return is_list_like(inputs) and len(inputs) > 0 and all(isinstance(word, str) for word in inputs)


def _checked_strategy(name: object, stride: object) -> str:
    strategy = name.lower() if isinstance(name, str) else name
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise InputError(
            f"aggregation_strategy is {name!r}: expected one of {', '.join(STRATEGIES)}",
            subject="aggregation_strategy",
        )
    if strategy == "none" and stride is not None:
        raise InputError(
            "stride requires aggregation_strategy other than 'none': tokens of overlapping parts cannot be merged",
            subject="stride",
        )
    return strategy


def _checked_labels(labels: Any) -> list[str]:
    if labels is None:
        return ["O"]
    listed: list[Any] = [None] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
    if not all(isinstance(label, str) for label in listed):
        raise InputError(f"ignore_labels is {labels!r}: expected a list of labels")
    return listed
