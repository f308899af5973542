"""Text → labels: the model's own, or any that the user thinks of."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count, check_text
from ..errors import CheckpointError, InputError
from ..model import DistilBertForSequenceClassification, Model
from ..tokenizer import Tokenizer
from .base import Answer, Ids, Pipeline, check_inputs, deliver, named_windows, ranked, strategy_of

CONTRADICTION = ("contradict", "not_entail", "non_entail")  # in models of three labels, and of two


class Classification(Pipeline):
    """What the two tasks share: logits of texts and of pairs."""

    model_class = DistilBertForSequenceClassification

    def logits(
        self,
        examples: Iterable[tuple[str, str | None]],
        truncation: str,
        max_length: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Tensor]:
        """Give the logits (C,) of each text or pair, in order."""
        for names, window in named_windows(examples, self.window):
            yield from self.infer(self._encode(window, names, truncation, self.limit(max_length)), batch_size)

    def _encode(
        self, window: list[tuple[str, str | None]], names: list[str], truncation: str, max_length: int
    ) -> list[Ids]:
        ids: dict[int, Ids] = {}
        truncated = 0
        for paired in (False, True):
            chosen = [i for i, (_, pair) in enumerate(window) if (pair is not None) == paired]
            if not chosen:
                continue
            encoded = self.tokenizer.encode(
                [window[i][0] for i in chosen],
                [window[i][1] or "" for i in chosen] if paired else None,
                max_length=max_length,
                truncation=truncation,
                names=[names[i] for i in chosen],
            )
            ids.update(zip(chosen, map(tuple, encoded.ids), strict=True))
            truncated += encoded.truncated
        self.warn_of_cut(truncated, max_length)
        return [ids[i] for i in range(len(window))]


class ZeroShotClassification(Classification):
    """Classify with labels that nobody trained on: does the text entail "This example is LABEL."?"""

    def __init__(self, task: str, model: Model, tokenizer: Tokenizer, **defaults: Any):
        super().__init__(task, model, tokenizer, **defaults)
        self.entailment_id = self._label_id("entailment", ("entail",))
        self.contradiction_id = self._label_id("contradiction", CONTRADICTION)

    def _label_id(self, meaning: str, beginnings: tuple[str, ...]) -> int:
        labels = self.model.config.id2label
        names = {index: label.lower().replace("-", "_").replace(" ", "_") for index, label in labels.items()}
        found = [index for index, name in names.items() if name.startswith(beginnings)]
        if len(found) != 1:
            raise CheckpointError(
                f"id2label is {dict(labels)}: zero-shot classification needs one label for {meaning}; "
                "is this a model of natural-language inference?"
            )
        return found[0]

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

        sequences: a text, a list of them, or any iterable, which is read and answered as a stream.
        candidate_labels: labels for all, as a list or one string with commas; or a list of labels for each
        text. hypothesis_template: has {} where the label goes. multi_label: each label alone, entailment
        against contradiction; otherwise the labels share 1. batch_size: sequences in a batch at most.

        Returns {"sequence", "labels", "scores"}, best first, for a text; a list of those for a list; an
        iterator for another iterable. A text longer than the model is cut. `InputError` for an empty text,
        no or empty labels, a template without {}.
        """
        _check_template(hypothesis_template)
        check_inputs("sequences", sequences)
        check_count("batch_size", batch_size)
        one = isinstance(sequences, str)
        texts: Iterable[str] = [sequences] if isinstance(sequences, str) else sequences
        jobs = _with_labels(texts, candidate_labels)
        answers = self._answers(jobs, hypothesis_template, multi_label, batch_size)
        return deliver(sequences, one, answers)

    def _answers(
        self,
        jobs: Iterator[tuple[str, list[str]]],
        template: str,
        multi_label: bool,
        batch_size: int | None,
    ) -> Iterator[Answer]:
        waiting: deque[tuple[str, list[str]]] = deque()

        def pairs() -> Iterator[tuple[str, str]]:
            hypotheses: dict[tuple[str, ...], list[str]] = {}
            for i, (text, labels) in enumerate(jobs):
                check_text(text, f"sequences[{i}]")
                if not text:
                    raise InputError(f"sequences[{i}] is empty: there is nothing to classify")
                if tuple(labels) not in hypotheses:
                    hypotheses = {tuple(labels): self._hypotheses(labels, template)}
                waiting.append((text, labels))
                yield from ((text, hypothesis) for hypothesis in hypotheses[tuple(labels)])

        rows = self.logits(pairs(), "only_first", batch_size=batch_size)
        for row in rows:
            text, labels = waiting.popleft()
            logits = torch.stack([row, *itertools.islice(rows, len(labels) - 1)])  # (labels, C)
            yield self._answer(text, labels, logits, multi_label)

    def _hypotheses(self, labels: list[str], template: str) -> list[str]:
        """Put each label into the template; each must leave room for a token of text."""
        hypotheses = [template.format(label) for label in labels]
        alone = self.tokenizer.encode([""] * len(labels), hypotheses, max_length=10**9, truncation="error")
        for label, ids in zip(labels, alone.ids, strict=True):
            if len(ids) >= self.limit():
                raise InputError(
                    f"label {label[:40]!r} makes a hypothesis of {len(ids)} tokens, "
                    f"which leaves no room for text: the model reads {self.limit()}"
                )
        return hypotheses

    def _answer(self, text: str, labels: list[str], logits: Tensor, multi_label: bool) -> Answer:
        if multi_label or len(labels) == 1:
            against = logits[:, [self.contradiction_id, self.entailment_id]]
            scores = against.softmax(1)[:, 1].tolist()
        else:
            scores = logits[:, self.entailment_id].softmax(0).tolist()
        order = ranked(scores)
        return {"sequence": text, "labels": [labels[i] for i in order], "scores": [scores[i] for i in order]}


def _check_template(template: str) -> None:
    try:
        works = template.format("a") != template.format("b")
    except (IndexError, KeyError, ValueError, AttributeError, TypeError):
        works = False
    if not works:
        raise InputError(f"hypothesis_template is {template!r}: expected one {{}} where the label goes")


def _with_labels(texts: Iterable[str], labels: Any) -> Iterator[tuple[str, list[str]]]:
    """Give each text its labels: one set for all, or as many sets as texts."""
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    if not isinstance(labels, Iterable):
        raise InputError(f"candidate_labels is {type(labels).__name__}: expected labels")
    if not isinstance(labels, Iterator):
        labels = list(labels)
        if not labels or not all(isinstance(group, list | tuple) for group in labels):
            shared = _checked_labels(labels)
            return ((text, shared) for text in texts)
        if isinstance(texts, Sequence) and len(texts) != len(labels):
            raise InputError(f"there are {len(texts)} texts but {len(labels)} sets of labels")
    return _with_own_labels(texts, iter(labels))


def _with_own_labels(texts: Iterable[str], label_sets: Iterator[Any]) -> Iterator[tuple[str, list[str]]]:
    for i, text in enumerate(texts):
        labels = next(label_sets, None)
        if not isinstance(labels, list | tuple):
            raise InputError(
                f"the labels of sequences[{i}] are {labels!r}: expected a list of labels for each text"
            )
        yield text, _checked_labels(list(labels))


def _checked_labels(labels: list[Any]) -> list[str]:
    if not labels:
        raise InputError("candidate_labels is empty: expected at least one label")
    for i, label in enumerate(labels):
        check_text(label, f"candidate_labels[{i}]")
        if not label.strip():
            raise InputError(f"candidate_labels[{i}] is empty: expected the name of a class")
    return labels


class TextClassification(Classification):
    """Classify with the labels that the model was trained on."""

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Answer: see `run`; a single text, without top_k in the call, in a list, as transformers does."""
        answer = super().__call__(inputs, **options)
        return [answer] if isinstance(inputs, str) and "top_k" not in options else answer

    def run(
        self,
        inputs: str | dict[str, str] | Iterable[str | dict[str, str]],
        *,
        top_k: int | EllipsisType | None = ...,
        function_to_apply: str | None = None,
        truncation: bool | str = True,
        max_length: int | None = None,
        padding: bool | str = False,
        text_pair: str | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Label each text, or pair of texts.

        inputs: a text, {"text": ..., "text_pair": ...}, a list of those, or any iterable of them, which is
        read and answered as a stream. top_k: how many labels; None: all. function_to_apply: "softmax",
        "sigmoid" or "none"; None: what the model's config implies. truncation: True or a strategy of
        `Tokenizer`; False: a text longer than the model is an error. padding: taken, as transformers does, but
        every value gives the same answer. text_pair: the pair of a single text. batch_size: sequences in a
        batch at most.

        Returns {"label", "score"} for each input; with top_k a list of those for each. `InputError` for what
        is not text.
        """
        del padding
        if not isinstance(inputs, dict):
            check_inputs("inputs", inputs)
        for name, value in (("top_k", top_k), ("max_length", max_length), ("batch_size", batch_size)):
            check_count(name, None if value is ... else value)
        function = self._function(function_to_apply)
        if text_pair is not None:
            check_text(inputs, "inputs", "a single text beside text_pair")
            inputs = {"text": str(inputs), "text_pair": text_pair}
        one = isinstance(inputs, str | dict)
        examples: Iterable[Any] = [inputs] if one else inputs
        pairs = (_text_and_pair(example, i) for i, example in enumerate(examples))
        rows = self.logits(pairs, strategy_of(truncation), max_length, batch_size)
        answers = (self._answer(row, function, top_k) for row in rows)
        return deliver(inputs, one, answers)

    def _function(self, name: str | None) -> str:
        if name is not None:
            if not isinstance(name, str) or name.lower() not in ("softmax", "sigmoid", "none"):
                raise InputError(f"function_to_apply is {name!r}: expected 'softmax', 'sigmoid' or 'none'")
            return name.lower()
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        several = config.problem_type == "multi_label_classification"
        return "sigmoid" if several or config.num_labels == 1 else "softmax"

    def _answer(self, logits: Tensor, function: str, top_k: int | EllipsisType | None) -> Any:
        apply = {"softmax": lambda x: x.softmax(0), "sigmoid": torch.sigmoid, "none": lambda x: x}
        scores = apply[function](logits).tolist()
        labels = self.model.config.id2label
        best = [{"label": labels[i], "score": scores[i]} for i in ranked(scores)]
        return best[0] if isinstance(top_k, EllipsisType) else best[:top_k]


def _text_and_pair(example: Any, i: int) -> tuple[str, str | None]:
    if not isinstance(example, dict):
        check_text(example, f"inputs[{i}]", 'a string, or {"text": ..., "text_pair": ...}')
        return example, None
    if "text" not in example or not example.keys() <= {"text", "text_pair"}:
        raise InputError(f"inputs[{i}] has the keys {sorted(example)}: expected text, and text_pair for a pair")
    text, pair = example["text"], example.get("text_pair")
    check_text(text, f"inputs[{i}]['text']")
    if pair is not None:
        check_text(pair, f"inputs[{i}]['text_pair']")
    return text, pair or None  # an empty pair is none, as in transformers
