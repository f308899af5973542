"""Labels as they stand in files, and a schema that converts them to the targets of a model.

`label_rules.infer_schema` decides the schema from all labels of a data set.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import InputError
from .records import Row

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
PROBLEM_TYPES = (SINGLE, MULTI, REGRESSION)
SEPARATOR = "|"  # between several classes in a string
INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.0*)?")  # up to MAX_INTEGER; 0101 is a code, not an integer
MAX_INTEGER = 10**18
DECIMAL = re.compile(r"[+-]?((0|[1-9][0-9]*)?\.[0-9]+|(0|[1-9][0-9]*)(?=e)|inf)(e[+-]?[0-9]+)?", re.IGNORECASE)
FEW_ROWS, FEW_PERCENT = 5, 2  # that are skipped without a label; MultiNLI's development set has 1.9 %
INVISIBLE = dict.fromkeys((0xAD, 0x200B, 0x2060, 0xFEFF))  # soft hyphen, spaces without width: not in names
JOINERS = {0x200C: None, 0x200D: None}  # invisible characters that emoji and Persian words need
MAX_NAMES = 10  # in a message
MAX_LENGTH = 50  # characters of a label in a message

Target = tuple[float, ...]  # C probabilities; C values from 0 to 1 (multi-label); C numbers (regression)


@dataclasses.dataclass
class Summary:
    """How the labels of some rows were read."""

    targets: list[Target | None] = dataclasses.field(default_factory=list)  # of each row; None: no label
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)  # rows without a label, by what they have
    classes: Counter[int] = dataclasses.field(default_factory=Counter)  # rows of each class, the most probable one
    spellings: dict[int, set[str]] = dataclasses.field(default_factory=dict)  # of each class in the file
    without_class: int = 0  # rows with none of several classes

    @property
    def labeled(self) -> int:
        """Number of rows with a label."""
        return len(self.targets) - self.skipped.total()


@dataclasses.dataclass(frozen=True)
class Schema:
    """What labels mean: how they become targets for a model of C outputs."""

    names: tuple[str, ...]
    problem_type: str
    separator: str = SEPARATOR
    vectors: bool = False  # lists have a value for each class; otherwise the names or ids of some classes
    integers: bool = False  # all labels are integers: "1.0" and 1 are the same
    inferred: bool = False  # the names are the labels of the training data
    unlabeled: frozenset[str] = frozenset()  # labels of rows without a label, besides null and empty strings
    skip_unlabeled: bool = False  # however many rows have no label

    def read(self, rows: Sequence[Row]) -> Summary:
        """Return the targets of rows. Raises InputError for an invalid label, or if many rows have none."""
        summary, unlabeled = Summary(), []
        for row in rows:
            if self.is_unlabeled(row.label):
                summary.targets.append(None)
                summary.skipped[shown(row.label)] += 1
                unlabeled.append(row)
            else:
                target = self._target(row.label, row.place)
                summary.targets.append(target)
                self._count(row.label, target, summary)
        few = max(FEW_ROWS, len(rows) * FEW_PERCENT // 100)
        if few < len(unlabeled) < len(rows) and not self.skip_unlabeled:
            texts = {as_text(row.label) for row in unlabeled if not is_missing(row.label)}
            markers = texts | {"null" for row in unlabeled if is_missing(row.label)}
            keep = f", or --unlabeled={only_missing(texts)} if {listed(sorted(texts))} is a class"
            raise InputError(
                f"{unlabeled[0].place}: the label is {shown(unlabeled[0].label)}: {len(unlabeled):,} of "
                f"{len(rows):,} rows have no label; pass --unlabeled={shlex.quote(','.join(sorted(markers)))} to "
                f"skip them{keep if texts and self.problem_type != REGRESSION else ''}"
            )
        return summary

    def is_unlabeled(self, label: Any) -> bool:
        """Return whether a row with this label has none."""
        if self.problem_type == MULTI and isinstance(label, str) and is_missing(label):
            return False  # none of the classes
        return is_missing(label) or (is_scalar(label) and as_number(label) in self.unlabeled)

    def texts(self, rows: Iterable[Row]) -> Iterator[str]:
        """Yield the names and ids of classes in labeled rows. Raises InputError if a list has anything else."""
        if self.problem_type == REGRESSION or self.vectors:
            return
        for row in rows:
            for item in () if self.is_unlabeled(row.label) else self._items(row.label):
                if not is_scalar(item) or is_missing(item):
                    raise InputError(
                        f"{row.place}: the label is {shown(row.label)}: expected a list of names or ids"
                    )
                check_name(text := as_text(item), f"{row.place}: the label")
                yield text

    def _items(self, label: Any) -> Iterable[Any]:
        if isinstance(label, str) and self.problem_type == MULTI and as_text(label) not in self._by_text:
            return [name for name in label.split(self.separator) if not is_missing(name)]
        return [label] if is_scalar(label) else label

    def _count(self, label: Any, target: Target, summary: Summary) -> None:
        if self.problem_type == REGRESSION:
            return
        single = self.problem_type == SINGLE
        found = [target.index(max(target))] if single else [i for i, value in enumerate(target) if value > 0.5]
        summary.classes.update(found)
        summary.without_class += not found
        if len(found) == 1 and is_scalar(label):
            summary.spellings.setdefault(found[0], set()).add(_spelling(label))

    def _target(self, label: Any, place: str) -> Target:
        if self.problem_type == REGRESSION:
            return self._numbers(label, place)
        if isinstance(label, dict):
            values = self._by_name(label, place)
        elif isinstance(label, list) and self.vectors:
            values = self._vector(label, place)
        elif self.problem_type == MULTI:
            return self._several(label, place)
        elif isinstance(label, list):
            expected = f"one class; pass --problem-type {MULTI} for several"
            raise InputError(f"{place}: the label is {shown(label)}: expected {expected}")
        else:
            return self._one_hot(self._index(label, place))
        return values if self.problem_type == MULTI else _probabilities(values, label, place)

    def _one_hot(self, index: int) -> Target:
        """Return the target of a class: the same tuple for all its rows, to save memory."""
        if index not in self._one_hots:
            self._one_hots[index] = tuple(float(i == index) for i in range(len(self.names)))
        return self._one_hots[index]

    def _several(self, label: Any, place: str) -> Target:
        indices = [self._index(item, place) for item in self._items(label)]
        if len(set(indices)) < len(indices):
            raise InputError(
                f"{place}: the label is {shown(label)}: it names a class twice; lists with a value for each class "
                f"have {len(self.names)} numbers from 0 to 1"
            )
        return tuple(float(i in indices) for i in range(len(self.names)))

    def _vector(self, label: list[Any], place: str) -> Target:
        if len(label) != len(self.names) or not all(map(is_probability, label)):
            fits = len(label) == len(self.names)
            other = f"; pass --problem-type {REGRESSION} for other numbers" if fits else ""
            raise InputError(
                f"{place}: the label is {shown(label)}: expected {len(self.names)} numbers from 0 to 1{other}"
            )
        return tuple(map(float, label))

    def _by_name(self, label: dict[str, Any], place: str) -> Target:
        """Return the probability of each class; 0 for a class that the dict lacks."""
        probabilities = [0.0] * len(self.names)
        for name, value in label.items():
            flag = isinstance(value, bool) and self.problem_type != MULTI
            if flag or isinstance(value, str) or not is_probability(value):
                several = f"; pass --problem-type {MULTI} for true or false" if flag else ""
                raise InputError(
                    f"{place}: the label {shown(name)} has {shown(value)}: expected a probability{several}"
                )
            index = self._index(name, place)
            if probabilities[index]:
                raise InputError(f"{place}: the label is {shown(label)}: it names a class twice")
            probabilities[index] = float(value)
        return tuple(probabilities)

    def _numbers(self, label: Any, place: str) -> Target:
        values = label if isinstance(label, list) else [label]
        try:
            numbers = tuple(float(value) for value in values if not isinstance(value, bool))
        except (TypeError, ValueError, OverflowError):
            numbers = ()
        if len(numbers) != len(self.names) or not all(map(math.isfinite, numbers)):
            raise InputError(
                f"{place}: the label is {shown(label)}: expected a number for each of {len(self.names)} outputs"
            )
        return numbers

    def _index(self, label: Any, place: str) -> int:
        """Return the index of a class by its name, in any case, or by its id."""
        if is_scalar(label):
            text = as_number(label) if self.integers else as_text(label)
            index = self._by_text.get(text, self._by_folded_text.get(text.casefold()))
            if index is None and self._has_ids and INTEGER.fullmatch(text):
                index = int(as_number(text))
            if index is not None and 0 <= index < len(self.names):
                return index
        classes = (
            f"the classes of the training data, {listed(self.names)}" if self.inferred else listed(self.names)
        )
        raise InputError(
            f"{place}: the label is {shown(label)}: expected one of {classes}{', or its id' * self._has_ids}; "
            "pass --labels to train a new head with other labels"
        )

    @functools.cached_property
    def _one_hots(self) -> dict[int, Target]:
        return {}

    @functools.cached_property
    def _by_text(self) -> dict[str, int]:
        return _indices(map(as_text, self.names))

    @functools.cached_property
    def _by_folded_text(self) -> dict[str, int]:
        return _indices(as_text(name).casefold() for name in self.names)

    @functools.cached_property
    def _has_ids(self) -> bool:
        """Whether a label may be an id: not if names are integers, or come from data that have names."""
        return not self.inferred and not any(map(INTEGER.fullmatch, self.names))


def shown(label: Any) -> str:
    """Return a label for a message, shortened."""
    text = "null" if label is None else repr(label)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"


def listed(names: Sequence[str]) -> str:
    """Return the first names for a message."""
    first = ", ".join(name[:MAX_LENGTH] for name in names[:MAX_NAMES])
    return first if len(names) <= MAX_NAMES else f"{first} and {len(names) - MAX_NAMES:,} more"


def _spelling(label: Any) -> str:
    """Return how a file spells a label: with quotes and escapes where the difference would not be seen."""
    if isinstance(label, str) and not unicodedata.is_normalized("NFC", label):
        return ascii(label)  # looks like the name otherwise
    return label if label == as_text(label) else shown(label)


def check_name(name: str, subject: str) -> None:
    """Raise InputError for a class name with control characters or lone surrogates."""
    if not name.translate(JOINERS).isprintable():
        raise InputError(f"{subject} is {shown(name)}: it has characters that cannot be printed; remove them")


def only_missing(markers: Iterable[str]) -> str:
    """Return the --unlabeled that skips null and empty labels, but none of these markers."""
    return "''" if "null" in map(str.casefold, markers) else "null"


def is_scalar(label: Any) -> bool:
    """Return whether a label is neither a list nor an object."""
    return not isinstance(label, list | dict)


def is_missing(label: Any) -> bool:
    """Return whether a label is null, NaN or an empty string."""
    return label is None or label != label or (isinstance(label, str) and not as_text(label))


def is_probability(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1, or the string "0" or "1"."""
    return value in ("0", "1") or (isinstance(value, int | float) and 0 <= value <= 1)


@functools.lru_cache(10_000, typed=True)  # 1, 1.0 and True are different labels
def as_text(label: Any) -> str:
    """Return a label as a name, without extra spaces; 1.0 becomes "1": tools write ids as floats beside null."""
    if isinstance(label, float) and label.is_integer() and abs(label) < MAX_INTEGER:
        return str(int(label))
    return unicodedata.normalize("NFC", " ".join(str(label).translate(INVISIBLE).split()))


@functools.lru_cache(10_000, typed=True)
def as_number(label: Any) -> str:
    """Return a label as a name; the strings "1.0", "+1" and "1.0e+00" become "1". "1e1" may be a code."""
    text = as_text(label)
    if INTEGER.fullmatch(text):
        return str(int(text.partition(".")[0]))
    if "." not in text or not DECIMAL.fullmatch(text):
        return text
    number = float(text)
    return f"{number:.0f}" if number.is_integer() and abs(number) < MAX_INTEGER else text


def _probabilities(values: Target, label: Any, place: str) -> Target:
    """Return values that add up to 1."""
    total = sum(values)
    if not 0.99 < total < 1.01:
        raise InputError(
            f"{place}: the probabilities of {shown(label)} add up to {total:.3f}, not to 1; pass "
            f"--problem-type {MULTI} if several classes can apply"
        )
    return tuple(value / total for value in values)


def _indices(texts: Iterable[str]) -> dict[str, int]:
    """Return the index of each text that occurs once."""
    texts = list(texts)
    counts = Counter(texts)
    return {text: i for i, text in enumerate(texts) if counts[text] == 1}
