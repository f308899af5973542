"""Text → what it names: a label for each token, or for the words and groups that tokens make."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import tokenizers
from torch import Tensor

from ..checks import check_count, check_text
from ..errors import CheckpointError, InputError
from ..layout import Batch
from ..model import DistilBertForTokenClassification, Model
from ..tokenizer import Tokenizer
from .base import Answer, Pipeline, check_inputs, deliver, named_windows

WORD_SCORES: dict[str, Callable[[list[list[float]]], list[float]]] = {  # those of a word, from its tokens'
    "first": lambda rows: rows[0],
    "average": lambda rows: [sum(column) / len(rows) for column in zip(*rows, strict=True)],
    "max": lambda rows: max(rows, key=max),
}
STRATEGIES = ("none", "simple", *WORD_SCORES)
T = TypeVar("T")


class Text(NamedTuple):
    """A text; and the words that it was given as, if it was, with the place where each begins."""

    text: str
    words: Sequence[str] | None = None
    starts: Sequence[int] = ()


class Token(NamedTuple):
    """A token, or a word of several: its place in the text, and how likely each label is."""

    position: int  # among the tokens of its part of the text
    word: str
    start: int
    end: int
    scores: list[float]  # (C,)
    continues: bool = False  # whether it goes on with the word of the token before


class TokenClassification(Pipeline):
    """Find the entities of a text: label its tokens, and join those that belong together."""

    model_class = DistilBertForTokenClassification

    def __init__(self, task: str, model: Model, tokenizer: Tokenizer, **defaults: Any):
        super().__init__(task, model, tokenizer, **defaults)
        self.marks_pieces = bool(getattr(tokenizer.backend.model, "continuing_subword_prefix", None))
        self.unknown_id: int | None = None
        with contextlib.suppress(CheckpointError):  # one that splits down to bytes needs no such token
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

        inputs: a text, a list of them, or any iterable, which is read and answered as a stream.
        aggregation_strategy: "none" labels each token. "simple" joins neighbours of one label, whether it says B-
        or I-; a B- begins anew. "first", "average" and "max" do that with words, each labelled by its first token,
        by the average of its tokens' scores, or by the token that is surest. ignore_labels: labels to leave out,
        as the answer names them; None: "O". stride: a text longer than the model is read in parts that share so
        many tokens; of entities that overlap, the longest stays, or the surest. Not with "none"; None: such a
        text is cut. is_split_into_words: a text is a list of words; a single one is answered in a list.
        delimiter: what joins words to the text that start and end count in. batch_size: parts in a batch at most.

        Returns for each text a list of {"entity", "score", "index", "word", "start", "end"}; of {"entity_group",
        "score", "word", "start", "end"} for strategies other than "none". start and end are places in the text
        as it was given. `InputError` for what is not text, an unknown strategy, a stride too large.
        """
        strategy = _checked_strategy(aggregation_strategy, stride)
        ignored = _checked_labels(ignore_labels)
        check_text(delimiter, "delimiter")
        check_count("batch_size", batch_size)
        check_inputs("inputs", inputs)
        one = isinstance(inputs, str)
        examples: Iterable[Any] = [inputs] if one or (is_split_into_words and _are_words(inputs)) else inputs
        joint = delimiter if is_split_into_words else None
        texts = (_text(example, i, joint) for i, example in enumerate(examples))
        return deliver(inputs, one, self._answers(texts, strategy, ignored, stride, batch_size))

    def outputs(self, batch: Batch) -> Sequence[Tensor]:
        """Give the logits of each sequence's tokens: (L, C)."""
        return self.model(batch).split(batch.layout.lengths)

    def _answers(
        self, texts: Iterable[Text], strategy: str, ignored: list[str], stride: int | None, batch_size: int | None
    ) -> Iterator[list[Answer]]:
        key = "entity" if strategy == "none" else "entity_group"
        for names, window in named_windows(texts, self.window):
            encoded = self._encode(window, names, stride)
            logits = iter(self.infer([tuple(part.ids) for parts in encoded for part in parts], batch_size))
            for text, parts in zip(window, encoded, strict=True):
                found = [e for part in parts for e in self._entities(text, part, next(logits), strategy)]
                kept = [entity for entity in found if entity[key] not in ignored]
                yield kept if len(parts) == 1 else _without_overlaps(kept)

    def _encode(self, window: list[Text], names: list[str], stride: int | None) -> list[list[tokenizers.Encoding]]:
        """Encode texts, each in as many parts as the model reads it in: one, where there is no stride."""
        split = any(text.words is not None for text in window)
        texts: list[Any] = [text.words if split else text.text for text in window]
        encoded = self.tokenizer.encodings(
            texts, max_length=self.limit(), stride=0 if stride is None else stride, names=names, words=split
        )
        if stride is not None:
            return [[first, *first.overflowing] for first in encoded]
        self.warn_of_cut(sum(bool(first.overflowing) for first in encoded), self.limit())
        return [[first] for first in encoded]

    def _entities(self, text: Text, part: tokenizers.Encoding, logits: Tensor, strategy: str) -> list[Answer]:
        """Find the entities of a part of a text, whatever their labels."""
        tokens = self._tokens(text, part, logits.softmax(1).tolist())
        if strategy in WORD_SCORES:
            tokens = (self._word(pieces, strategy) for pieces in _runs(tokens, lambda _, token: token.continues))
        entities = [self._labelled(token) for token in tokens]
        return entities if strategy == "none" else [self._group(run) for run in _runs(entities, _is_one_entity)]

    def _tokens(self, text: Text, part: tokenizers.Encoding, scores: list[list[float]]) -> Iterator[Token]:
        """Give the tokens of a part of a text, without the special ones around it; scores: (L, C)."""
        rows = zip(part.ids, part.offsets, part.word_ids, part.special_tokens_mask, scores, strict=True)
        for position, (token, (start, end), word, special, row) in enumerate(rows):
            if special:
                continue
            if text.words is not None and word is not None:  # its offsets count from the start of the word
                start, end = start + text.starts[word], end + text.starts[word]
            if token == self.unknown_id:
                yield Token(position, text.text[start:end], start, end, row)
            else:
                name = self.tokenizer.backend.id_to_token(token) or ""
                yield Token(position, name, start, end, row, self._continues(name, text.text, start, end))

    def _continues(self, token: str, text: str, start: int, end: int) -> bool:
        """Tell, as transformers does, whether a token goes on with a word: its mark makes it longer than its text.

        Where a tokenizer does not mark pieces, words end at spaces.
        """
        if self.marks_pieces:
            return len(token) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]

    def _word(self, pieces: list[Token], strategy: str) -> Token:
        """Make one token of the pieces of a word."""
        word = self._string([piece.word for piece in pieces])
        scores = WORD_SCORES[strategy]([piece.scores for piece in pieces])
        return Token(pieces[0].position, word, pieces[0].start, pieces[-1].end, scores)

    def _labelled(self, token: Token) -> Answer:
        best = token.scores.index(max(token.scores))
        found = {"entity": self.model.config.id2label[best], "score": token.scores[best]}
        return {**found, "index": token.position, "word": token.word, "start": token.start, "end": token.end}

    def _group(self, entities: list[Answer]) -> Answer:
        """Make one entity of neighbours."""
        label = entities[0]["entity"].split("-", 1)[-1]
        score = sum(entity["score"] for entity in entities) / len(entities)
        word = self._string([entity["word"] for entity in entities])
        start, end = entities[0]["start"], entities[-1]["end"]
        return {"entity_group": label, "score": score, "word": word, "start": start, "end": end}

    def _string(self, tokens: list[str]) -> str:
        decoder = self.tokenizer.backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)


def _runs(items: Iterable[T], goes_on: Callable[[T, T], bool]) -> list[list[T]]:
    """Cut a list before each item that does not go on with the one before it."""
    runs: list[list[T]] = []
    for item in items:
        if runs and goes_on(runs[-1][-1], item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _is_one_entity(before: Answer, after: Answer) -> bool:
    """Tell whether neighbours have one label, whether it says B- or I-; a B- begins anew."""
    return not after["entity"].startswith("B-") and _tag(before["entity"]) == _tag(after["entity"])


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _without_overlaps(entities: list[Answer]) -> list[Answer]:
    """Of entities that overlap, as those of two parts of a text do, keep the longest, or else the surest."""
    kept: list[Answer] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
        else:
            kept[-1] = max(kept[-1], entity, key=lambda found: (found["end"] - found["start"], found["score"]))
    return kept


def _text(example: Any, i: int, delimiter: str | None) -> Text:
    """Take an input in: a text, or, with a delimiter, a list of words."""
    if delimiter is None:
        check_text(example, f"inputs[{i}]")
        return Text(example)
    if not isinstance(example, list | tuple):
        raise InputError(f"inputs[{i}] is {type(example).__name__}: expected a list of words")
    for j, word in enumerate(example):
        check_text(word, f"inputs[{i}][{j}]")
    starts = itertools.accumulate((len(word) + len(delimiter) for word in example), initial=0)
    return Text(delimiter.join(example), example, list(starts))


def _are_words(inputs: object) -> bool:
    """Tell a single text, as a list of words, from a list of texts."""
    return isinstance(inputs, list | tuple) and bool(inputs) and all(isinstance(word, str) for word in inputs)


def _checked_strategy(name: object, stride: object) -> str:
    strategy = name.lower() if isinstance(name, str) else name
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise InputError(f"aggregation_strategy is {name!r}: expected one of {', '.join(STRATEGIES)}")
    if strategy == "none" and stride is not None:
        raise InputError("stride needs an aggregation_strategy: only entities can be chosen where parts overlap")
    return strategy


def _checked_labels(labels: Any) -> list[str]:
    if labels is None:
        return ["O"]
    listed: list[Any] = [None] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
    if not all(isinstance(label, str) for label in listed):
        raise InputError(f"ignore_labels is {labels!r}: expected a list of labels")
    return listed
