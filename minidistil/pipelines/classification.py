"""Text → labels: the model's own, or any labels with a zero-shot model.

Shape: C labels of the model.
"""

from __future__ import annotations

import itertools
import string
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from ..checks import check_count, check_text, plain
from ..errors import CheckpointError, InputError, input_name, warn
from ..tokenizer import Tokenizer, truncation_strategy
from .base import Answer, Engine, Ids, Pipeline, deliver, is_list_like, read_inputs
from .scores import Array, ranked, sigmoid, softmax

CONTRADICTION = (
    "contr",
    "not_entail",
    "non_entail",
)  # label prefixes, in NLI models with three labels and with two


class Classification(Pipeline):
    """Base of both tasks: compute the logits of texts and pairs."""

    def logits(
        self,
        examples: Iterable[tuple[str, str | None]],
        truncation: str,
        max_length: int | None = None,
        batch_size: int | None = None,
        names: Iterator[str] | None = None,
    ) -> Iterator[Array]:
        """Yield the logits (C,) of each text or pair, in order. names: of the examples, for error messages."""
        for window_names, window in self.windows(examples, names):
            sequences = self.encode_pairs(window, window_names, truncation, self.limit(max_length))
            for (row,) in self.engine.run("sequence_logits", sequences, batch_size):
                yield row


class ZeroShotClassification(Classification):
    """Classify with any labels, by the probability that the text entails "This example is LABEL."."""

    def __init__(self, task: str, engine: Engine, tokenizer: Tokenizer, **defaults: Any):
        super().__init__(task, engine, tokenizer, **defaults)
        self.entailment_id = self._label_id("entailment", ("entail",))
        self.contradiction_id = self._label_id("contradiction", CONTRADICTION)

    def _label_id(self, meaning: str, prefixes: tuple[str, ...]) -> int:
        labels = self.config.id2label
        names = {index: label.lower().replace("-", "_").replace(" ", "_") for index, label in labels.items()}
        matches = [index for index, name in names.items() if name.startswith(prefixes)]
        if len(matches) != 1:
            raise CheckpointError(
                f"id2label is {dict(labels)}: zero-shot classification needs one label for {meaning}; "
                "use a natural-language-inference (NLI) model"
            )
        return matches[0]

    def run(
        self,
        sequences: str | Iterable[str],
        candidate_labels: str | Sequence[str] | Iterable[Sequence[str]],
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
        *,
        batch_size: int | None = None,
    ) -> Answer | list[Answer] | Iterator[Answer]:
        """Score each label for each text.

        Args:
            sequences: a text, a list of texts, or any iterable, which is read and answered as a stream.
            candidate_labels: a list of labels, or one string with commas; or a list of labels for each text.
            hypothesis_template: sentence with one {} for the label; {{ and }} are braces.
            multi_label: score each label independently, entailment against contradiction; False: scores sum to 1.
            batch_size: maximum number of sequences per batch.

        Returns {"sequence", "labels", "scores"}, best first, for a text; a list of those for a list; an iterator
        for another iterable. Texts longer than the model takes are truncated, with one warning. Raises InputError
        for missing or empty labels, or a template without {}.
        """
        template = _parts(hypothesis_template)
        texts = read_inputs("sequences", sequences)
        check_count("batch_size", batch_size)
        jobs = _with_labels(texts, candidate_labels)
        answers = self._answers(jobs, template, multi_label, batch_size)
        return deliver(sequences, isinstance(sequences, str), answers)

    def _answers(
        self,
        jobs: Iterator[tuple[str, list[str]]],
        template: tuple[str, str],
        multi_label: bool,
        batch_size: int | None,
    ) -> Iterator[Answer]:
        waiting: deque[tuple[str, list[str]]] = deque()
        names: deque[str] = deque()  # of the text of each pair

        def pairs() -> Iterator[tuple[str, str]]:
            hypotheses: dict[tuple[str, ...], list[str]] = {}
            for i, (text, labels) in enumerate(jobs):
                name = input_name(i, argument="sequences")
                check_text(text, name)
                if tuple(labels) not in hypotheses:
                    hypotheses = {tuple(labels): self._hypotheses(labels, template)}
                waiting.append((text, labels))
                names.extend([name] * len(labels))
                yield from ((text, hypothesis) for hypothesis in hypotheses[tuple(labels)])

        rows = self.logits(pairs(), "only_first", batch_size=batch_size, names=iter(names.popleft, None))
        for row in rows:
            text, labels = waiting.popleft()
            logits = np.stack([row, *itertools.islice(rows, len(labels) - 1)])  # (len(labels), C)
            yield self._answer(text, labels, logits, multi_label)

    def _hypotheses(self, labels: list[str], template: tuple[str, str]) -> list[str]:
        """Insert each label into the template, and check that each hypothesis leaves room for text."""
        before, after = template
        hypotheses = [before + label + after for label in labels]
        limit = self.limit()
        alone = self.tokenizer.encode([""] * len(labels), hypotheses, max_length=limit, truncation="only_second")
        first: dict[Ids, str] = {}
        for label, ids in zip(labels, alone.ids, strict=True):
            if len(ids) >= limit:
                raise InputError(
                    f"label {label[:40]!r} and the template make a hypothesis that leaves no room for text: "
                    f"the model takes {limit} tokens"
                )
            if (other := first.setdefault(tuple(ids), label)) != label:
                warn(
                    f"labels {other[:40]!r} and {label[:40]!r} have the same tokens, and so the same scores: "
                    "use words that are in the vocabulary"
                )
        return hypotheses

    def _answer(self, text: str, labels: list[str], logits: Array, multi_label: bool) -> Answer:
        if multi_label or len(labels) == 1:
            scores = softmax(logits[:, [self.contradiction_id, self.entailment_id]])[:, 1]
        else:
            scores = softmax(logits[:, self.entailment_id])
        order = ranked(scores)
        return {"sequence": str(text), "labels": [labels[i] for i in order], "scores": scores[order].tolist()}


def _parts(template: str) -> tuple[str, str]:
    """Return the text before and after the {} of a template. As in str.format, {{ and }} are braces of the text.

    str.format itself is not used: with other fields, a template could read attributes and allocate gigabytes.
    """
    check_text(template, "hypothesis_template")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        parts = []
    fields = [i for i, (_, *field) in enumerate(parts) if field != [None, None, None]]
    if len(fields) != 1 or parts[fields[0]][1:] != ("", "", None):
        raise InputError(
            f"hypothesis_template is {template!r}: expected one {{}} for the label, and no other field",
            subject="hypothesis_template",
        )
    end = fields[0] + 1  # a field belongs to the text before it
    before, after = ("".join(text for text, *_ in part) for part in (parts[:end], parts[end:]))
    return before, after


def _with_labels(texts: Any, labels: Any) -> Iterator[tuple[str, list[str]]]:
    """Return each text with its labels: the same for all, or a list of labels for each text."""
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    if not isinstance(labels, Iterable):
        raise InputError(f"candidate_labels is {type(labels).__name__}: expected labels")
    if not isinstance(labels, Iterator):
        labels = [*map(plain, labels)]
        if not labels or not all(isinstance(group, list | tuple) for group in labels):
            shared = _checked_labels(labels)
            return ((text, shared) for text in texts)
        if is_list_like(texts) and len(texts) != len(labels):
            raise InputError(
                f"there are {len(texts)} texts but {len(labels)} lists of labels: expected one for each text"
            )
    return _with_own_labels(texts, iter(labels))


def _with_own_labels(texts: Iterable[str], label_sets: Iterator[Any]) -> Iterator[tuple[str, list[str]]]:
    for i, text in enumerate(texts):
        labels = plain(next(label_sets, None))
        if not isinstance(labels, list | tuple):
            raise InputError(
                f"the labels of sequences[{i}] are {labels!r}: expected a list of labels for each text"
            )
        yield text, _checked_labels(list(labels))


def _checked_labels(labels: list[Any]) -> list[str]:
    if not labels:
        raise InputError("candidate_labels is empty: expected at least one label", subject="candidate_labels")
    for i, label in enumerate(labels):
        check_text(label, f"candidate_labels[{i}]")
        if not label.strip():
            raise InputError(
                f"candidate_labels[{i}] is empty: expected the name of a class", subject=f"candidate_labels[{i}]"
            )
    return labels


class TextClassification(Classification):
    """Classify with the labels of the model."""

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Call `run`. As in transformers, the answer for a single text without top_k is in a list."""
        inputs = plain(inputs)
        answer = super().__call__(inputs, **options)
        return [answer] if isinstance(inputs, str) and "top_k" not in options else answer

    def run(
        self,
        inputs: str | dict[str, str] | Iterable[str | dict[str, str]],
        *,
        top_k: int | EllipsisType | None = ...,
        function_to_apply: str | None = None,
        truncation: bool | str | None = True,
        max_length: int | None = None,
        padding: bool | str = False,
        text_pair: str | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Label each text, or pair of texts.

        Args:
            inputs: a text, {"text": ..., "text_pair": ...}, a list of those, or any iterable of them, which is
                read and answered as a stream.
            top_k: number of labels; None: all.
            function_to_apply: "softmax", "sigmoid" or "none"; None: as the model's config implies.
            truncation: True or None, or a strategy of `Tokenizer`; False: a text longer than the model takes is an
                error.
            max_length: tokens to which texts are truncated; None: the model's maximum.
            padding: accepted as in transformers, without effect.
            text_pair: the pair of a single text.
            batch_size: maximum number of sequences per batch.

        Returns {"label", "score"} for each input; with top_k a list of those for each. Raises InputError for
        inputs that are not text.
        """
        del padding
        for name, value in (("top_k", top_k), ("max_length", max_length), ("batch_size", batch_size)):
            check_count(name, None if value is ... else value)
        function = self._function(function_to_apply)
        if text_pair is not None:
            check_text(inputs, "inputs", "a single text with text_pair")
            inputs = {"text": str(inputs), "text_pair": text_pair}
        single = isinstance(inputs, str | dict)
        examples: Iterable[Any] = [inputs] if isinstance(inputs, dict) else read_inputs("inputs", inputs)
        pairs = (_text_and_pair(example, i) for i, example in enumerate(examples))
        strategy = truncation_strategy(True if truncation is None else truncation)
        rows = self.logits(pairs, strategy, max_length, batch_size)
        answers = (self._answer(row, function, top_k) for row in rows)
        return deliver(inputs, single, answers)

    def _function(self, name: str | None) -> str:
        if name is not None:
            if not isinstance(name, str) or name.lower() not in ("softmax", "sigmoid", "none"):
                raise InputError(f"function_to_apply is {name!r}: expected 'softmax', 'sigmoid' or 'none'")
            return name.lower()
        if self.config.problem_type == "regression":
            return "none"
        multi_label = self.config.problem_type == "multi_label_classification"
        return "sigmoid" if multi_label or self.config.num_labels == 1 else "softmax"

    def _answer(self, logits: Array, function: str, top_k: int | EllipsisType | None) -> Any:
        apply = {"softmax": softmax, "sigmoid": sigmoid, "none": lambda x: x}
        scores = apply[function](logits)
        labels = self.config.id2label
        best = [{"label": labels[i], "score": float(scores[i])} for i in ranked(scores)]
        return best[0] if isinstance(top_k, EllipsisType) else best[:top_k]


def _text_and_pair(example: Any, i: int) -> tuple[str, str | None]:
    if not isinstance(example, dict):
        check_text(example, input_name(i), 'a string, or {"text": ..., "text_pair": ...}')
        return example, None
    if "text" not in example or not example.keys() <= {"text", "text_pair"}:
        raise InputError(f"inputs[{i}] has the keys {sorted(example)}: expected text, and text_pair for a pair")
    text, pair = example["text"], example.get("text_pair")
    check_text(text, input_name(i, "text"))
    if pair is not None:
        check_text(pair, input_name(i, "text_pair"))
    return text, pair or None  # as in transformers, an empty pair is no pair
