"""Labeled examples: rows with their labels converted to the targets of a model."""

from __future__ import annotations

import dataclasses
import re
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..config import DistilBertConfig
from ..errors import InputError
from .records import Row

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

UNLABELED = (None, -1, "-1", "-")  # missing labels in GLUE and SNLI
SEPARATOR = "|"  # between several labels in a cell of a table
TOKENIZED_AT_ONCE = 10_000  # examples


@dataclasses.dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with the target of a model of C outputs."""

    text: str
    pair: str | None
    label: tuple[float, ...]  # C probabilities; C values from 0 to 1 (multi-label); C numbers (regression)
    place: str  # such as "train.jsonl, line 3"


@dataclasses.dataclass(frozen=True)
class Labels:
    """The names of a model's outputs, and how labels in files become targets for them."""

    names: tuple[str, ...]
    problem_type: str

    @classmethod
    def from_config(cls, config: DistilBertConfig) -> Labels:
        """Return the labels of a model."""
        default = "regression" if config.num_labels == 1 else "single_label_classification"
        return cls(tuple(config.id2label[i] for i in range(config.num_labels)), config.problem_type or default)

    @classmethod
    def from_rows(cls, rows: Sequence[Row], problem_type: str | None = None) -> Labels:
        """Return the labels for a new head, sorted: names, or LABEL_0, LABEL_1, ... if the rows have only ids."""
        labels = [row.label for row in rows if problem_type == "regression" or row.label not in UNLABELED]
        lists = [label for label in labels if isinstance(label, list)]
        if problem_type is None and labels and all(map(_is_number, labels)):
            problem_type = "regression"
        problem_type = problem_type or ("multi_label_classification" if lists else "single_label_classification")
        widths = {len(label) for label in lists if problem_type == "regression" or _is_vector(label)}
        if problem_type == "regression" or widths:  # a number for each output, without names
            return cls(tuple(f"LABEL_{i}" for i in range(max(widths, default=1))), problem_type)
        for row in rows:
            if isinstance(row.label, str) and not row.label.strip() and problem_type.startswith("single"):
                raise InputError(f"{row.place}: the label is empty: expected a name, or - for an unlabeled row")
        seen = {_as_name(name) for label in labels for name in _split(label, problem_type)}
        if seen and all(map(_is_id, seen)):
            names = [f"LABEL_{i}" for i in range(max(map(int, seen)) + 1)]
        else:
            names = sorted(seen)
        if len(names) < 2:
            raise InputError(
                f"the examples have {len(names)} labels: expected at least 2, or problem_type 'regression'"
            )
        return cls(tuple(names), problem_type)

    def read(self, rows: Iterable[Row]) -> tuple[list[Example], int]:
        """Return the examples of the labeled rows, and the number of rows without a label."""
        parse = {
            "single_label_classification": self._probabilities,
            "multi_label_classification": self._several,
            "regression": self._numbers,
        }[self.problem_type]
        missing = (None, "-") if self.problem_type == "regression" else UNLABELED
        examples, unlabeled = [], 0
        for row in rows:
            if not isinstance(row.label, list | dict) and row.label in missing:
                unlabeled += 1
            else:
                examples.append(Example(row.text, row.pair, parse(row.label, row.place), row.place))
        return examples, unlabeled

    def _probabilities(self, label: Any, place: str) -> tuple[float, ...]:
        if not isinstance(label, dict):
            index = self._index(label, place)
            return tuple(float(i == index) for i in range(len(self.names)))
        probabilities = self._by_name(label, place)
        total = sum(probabilities)
        if not 0.99 < total < 1.01:
            raise InputError(f"{place}: the probabilities of {label} add up to {total:.3f}, not to 1")
        return tuple(probability / total for probability in probabilities)

    def _several(self, label: Any, place: str) -> tuple[float, ...]:
        if isinstance(label, dict):
            return self._by_name(label, place)
        if isinstance(label, list) and _is_vector(label):
            if len(label) != len(self.names) or not all(0 <= value <= 1 for value in label):
                raise InputError(f"{place}: the label is {label}: expected {len(self.names)} numbers from 0 to 1")
            return tuple(label)
        indices = [self._index(name, place) for name in _split(label, self.problem_type)]
        if len(set(indices)) < len(indices):
            raise InputError(
                f"{place}: the label is {label}: it names a label twice; to set a value for each label, write "
                "floats such as 0.0 and 1.0"
            )
        return tuple(float(i in indices) for i in range(len(self.names)))

    def _numbers(self, label: Any, place: str) -> tuple[float, ...]:
        values = label if isinstance(label, list) else [label]
        try:
            numbers = tuple(float(value) for value in values)
        except (TypeError, ValueError, OverflowError):
            numbers = ()
        if len(numbers) != len(self.names) or not all(abs(number) < float("inf") for number in numbers):
            raise InputError(
                f"{place}: the label is {label!r}: expected a number for each of {len(self.names)} outputs"
            )
        return numbers

    def _by_name(self, label: dict[str, Any], place: str) -> tuple[float, ...]:
        """Return the probability of each label; 0 for a label that the dict lacks."""
        probabilities = [0.0] * len(self.names)
        for name, value in label.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"{place}: the label {name} has {value!r}: expected a probability")
            probabilities[self._index(name, place)] = float(value)
        return tuple(probabilities)

    def _index(self, label: Any, place: str) -> int:
        """Return the index of a label by its name, in any case, or by its id."""
        name = _as_name(label)
        for names in (self.names, tuple(name.casefold() for name in self.names)):
            wanted = name if names is self.names else name.casefold()
            if names.count(wanted) == 1:
                return names.index(wanted)
        if _is_id(name) and int(name) < len(self.names):
            return int(name)
        raise InputError(
            f"{place}: the label is {label!r}: expected one of {', '.join(self.names)}, or its id; "
            "pass labels= to train a new head with other labels"
        )


def tokenize(tokenizer: Tokenizer, examples: Sequence[Example], max_length: int) -> list[array[int]]:
    """Return the token ids of each example, truncated."""
    ids = [array("i") for _ in examples]
    for paired in (False, True):
        chosen = [i for i, example in enumerate(examples) if (example.pair is not None) == paired]
        for start in range(0, len(chosen), TOKENIZED_AT_ONCE):
            block = chosen[start : start + TOKENIZED_AT_ONCE]
            encoded = tokenizer.encode(
                [examples[i].text for i in block],
                [examples[i].pair or "" for i in block] if paired else None,
                max_length=max_length,
                names=[examples[i].place for i in block],
            )
            for i, sequence in zip(block, encoded.ids, strict=True):
                ids[i] = array("i", sequence)
    return ids


def _as_name(label: Any) -> str:
    """Return a label as a name; 1.0 becomes "1", since tools write ids as floats if some are missing."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _is_number(label: Any) -> bool:
    """Return whether a label is a number and not an id: 2.5, or 2.500 in a table."""
    if isinstance(label, str):
        return re.fullmatch(r"\s*[+-]?\d*\.\d+\s*", label) is not None
    return isinstance(label, float)


def _is_id(name: str) -> bool:
    return name.isdecimal() and len(name) <= 6  # a larger id would mean millions of labels


def _is_vector(label: list[Any]) -> bool:
    """Return whether a list has a float for each label, as in transformers, rather than ids of some labels."""
    return bool(label) and all(isinstance(value, float) for value in label)


def _split(label: Any, problem_type: str) -> Iterable[Any]:
    """Return the labels of one row."""
    if isinstance(label, str) and problem_type == "multi_label_classification":
        return [name.strip() for name in label.split(SEPARATOR) if name.strip()]
    return label if isinstance(label, list | dict) else [label]
