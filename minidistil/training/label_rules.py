"""The rules that decide what the labels of a data set mean. docs/training.md has them as a table."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import InputError
from .labels import (
    DECIMAL,
    INTEGER,
    MULTI,
    PROBLEM_TYPES,
    REGRESSION,
    SEPARATOR,
    SINGLE,
    Schema,
    as_number,
    as_text,
    is_missing,
    is_probability,
    is_scalar,
    listed,
    shown,
)
from .records import Row

# words that pandas reads as missing
WORDS = frozenset(("#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"))
OTHER_SEPARATORS = (",", ";")
SPACED = re.compile(r"[+-]?[0-9.]+( [+-]?[0-9.]+)+")  # numbers such as "0 1" or "1 234"
ENCLOSED = ("[]", "{}", "()", '""', "''")
Unlabeled = str | int | Sequence[str | int]  # labels of rows without a label; a string has commas between them
BOOLEANS = ("true", "false")  # in any case
FEW_CLASSES = 5  # more classes than this need two rows each, on average


def infer_schema(
    rows: Sequence[Row],
    eval_rows: Sequence[Row] = (),
    *,
    names: Sequence[str] | None = None,
    problem_type: str | None = None,
    separator: str | None = None,
    unlabeled: Unlabeled | None = None,
) -> Schema:
    """Decide what labels mean, from all rows; their order does not matter.

    Args:
        rows: training data, which sets the names of the classes.
        eval_rows: rows whose labels are written in the same way.
        names: names of the classes; None: those in `rows`.
        problem_type: None: inferred.
        separator: between several classes in a string; None: `|`.
        unlabeled: labels of rows without a label, as a list or separated by commas. Any number of rows is skipped.
            None: inferred, and only a few rows are skipped.

    Raises:
        InputError: if the labels are ambiguous, with the argument that settles it.
    """
    if problem_type not in (None, *PROBLEM_TYPES):
        known = ", ".join(PROBLEM_TYPES)
        raise InputError(f"problem_type is {problem_type!r}: expected one of {known}", subject="problem_type")
    if separator is not None and (not separator or problem_type not in (None, MULTI)):
        expected = f"a character, and the problem type {MULTI}"
        raise InputError(f"label_separator is {separator!r}: expected {expected}", subject="label_separator")
    column = _Column(rows, eval_rows, names)
    meant = problem_type or (MULTI if separator else column.problem_type())
    markers = column.markers(meant) if unlabeled is None else column.chosen_markers(unlabeled)
    if names is None and separator is None and problem_type in (None, MULTI):
        column.refuse_ambiguous(markers)
    schema = Schema(
        tuple(names or ()),
        meant,
        separator or SEPARATOR,
        vectors=column.vectors,
        unlabeled=markers,
        skip_unlabeled=unlabeled is not None,
    )
    texts = Counter(schema.texts(rows))
    integers = all(INTEGER.fullmatch(as_number(text)) for text in (*texts, *schema.texts(eval_rows)))
    schema = dataclasses.replace(schema, integers=integers)
    if names is not None:
        return schema
    if meant == REGRESSION or column.vectors:
        widths = [len(row.label) for row in rows if isinstance(row.label, list)]
        classes = _default_names(max(widths, default=1))
    else:
        classes = sorted(set(map(as_number, texts)), key=int) if integers else _most_common_spellings(texts)
        if problem_type is None and len(classes) > max(FEW_CLASSES, texts.total() / 2):
            raise InputError(
                f"the labels of {len(rows):,} rows are {len(classes):,} classes, such as {listed(classes[:3])}: "
                f"choose another --label-column, or pass --problem-type {meant}, or {REGRESSION} for numbers"
            )
    if meant != REGRESSION and len(classes) < 2:
        found = listed(classes) or "(none)"
        raise InputError(f"the training data has the classes {found}: expected 2, or --problem-type {REGRESSION}")
    if _are_ids(classes):
        classes = _default_names(len(classes))
    return dataclasses.replace(schema, names=tuple(classes), inferred=classes != _default_names(len(classes)))


class _Column:
    """The labels of all rows, by their form."""

    def __init__(self, rows: Sequence[Row], eval_rows: Sequence[Row], names: Sequence[str] | None):
        self.files = [file for file in (rows, eval_rows) if file]
        self.names = None if names is None else {as_text(name).casefold() for name in names}
        self.scalars: dict[str, Row] = {}  # the first row of each
        self.numbers: set[str] = set()  # those of them that JSON has as numbers
        self.lists: list[list[Any]] = []
        self.has_dicts = False
        for row in (row for file in self.files for row in file):
            if isinstance(row.label, list):
                self.lists.append(row.label)
            elif isinstance(row.label, dict):
                self.has_dicts = True
            elif not is_missing(row.label):
                text = as_number(row.label)
                self.scalars.setdefault(text, row)
                if isinstance(row.label, int | float) and not isinstance(row.label, bool):
                    self.numbers.add(text)
        self.vectors = not self.has_dicts and _are_vectors(self.lists)

    def problem_type(self) -> str:
        """Return the problem type that the labels have the form of."""
        if self.vectors:
            one_each = all(0.99 < sum(map(float, label)) < 1.01 for label in self.lists)
            return SINGLE if one_each else MULTI
        if self.lists or any(self._is_joined(text) for text in self.scalars):
            return MULTI
        numbers = self.scalars.keys() - WORDS - {"-"}
        if all(map(_is_number, numbers)) and not all(map(INTEGER.fullmatch, numbers)) and not self.has_dicts:
            return REGRESSION
        return SINGLE

    def _is_joined(self, text: str) -> bool:
        return SEPARATOR in text.strip(SEPARATOR) and text.casefold() not in (self.names or ())

    def chosen_markers(self, unlabeled: Unlabeled) -> frozenset[str]:
        """Return the labels that the user passed as those of rows without a label."""
        values = str(unlabeled).split(",") if isinstance(unlabeled, str | int) else unlabeled
        wanted = {as_number(value).casefold() for value in values}
        return frozenset(text for text in self.scalars if text.casefold() in wanted)

    def markers(self, problem_type: str) -> frozenset[str]:
        """Return the labels that mark rows without a label, such as "-" beside names."""
        candidates = {text for text in self.scalars if text.casefold() not in (self.names or ())}
        words, others = candidates & WORDS, self.scalars.keys() - WORDS
        has_signs = any(not any(map(str.isalnum, text)) for text in others - {"-"})
        dash = candidates & {"-"} if not has_signs else set()  # beside + it is a class
        others = others - dash
        found = words | dash
        if problem_type == REGRESSION:
            return frozenset(found)
        only_scalars = not self.lists and not self.has_dicts
        names = any(not _is_number(text) and text.casefold() not in BOOLEANS for text in others)
        if words and names and only_scalars and self.names is None:
            self._refuse_markers(found)  # None and NA can be names too
        negative = {text for text in candidates & others if text[0] == "-" and INTEGER.fullmatch(text)}
        if only_scalars and all(map(INTEGER.fullmatch, others)) and others != {"-1"}:
            if len(negative) == 1 and others not in (negative, {"-1", "1"}):
                self._refuse_markers(found | negative)  # -1 beside 0 and 1
            return frozenset(found)
        return frozenset(found | negative & {"-1"})

    def _refuse_markers(self, markers: set[str]) -> NoReturn:
        def is_marked(row: Row) -> bool:
            return is_scalar(row.label) and as_number(row.label) in markers

        marks = shlex.quote(",".join(sorted(markers)))
        for file in self.files:
            if all(is_marked(row) or is_missing(row.label) for row in file):
                raise InputError(f"{file[0].place}: none of {len(file):,} rows has a label: all are {marks}")
        rows = [row for file in self.files for row in file]
        row, count = self.scalars[min(markers)], sum(map(is_marked, rows))
        raise InputError(
            f"{row.place}: the label is {shown(row.label)}, as in {count:,} of {len(rows):,} rows: a class, or no "
            f"label? Pass --unlabeled={marks} to skip these rows, or --unlabeled=null to skip only null "
            "and empty labels"
        )

    def refuse_ambiguous(self, markers: frozenset[str]) -> None:
        """Raise InputError for strings that may be lists or numbers, and for numbers beside booleans or names."""
        texts = sorted(self.scalars.keys() - markers)
        joined = any(SEPARATOR in text for text in texts)
        booleans = any(text.casefold() in BOOLEANS for text in texts)
        names = not all(map(_is_number, texts))
        ids = _are_ids(filter(INTEGER.fullmatch, texts))
        for text in texts:
            subject = f"{self.scalars[text].place}: the label is {shown(self.scalars[text].label)}"
            if text[0] + text[-1] in ENCLOSED and len(text) > 1:
                raise InputError(
                    f"{subject}: the brackets or quotes are part of it; write a|b for several classes, use .jsonl "
                    f"for lists, or pass --problem-type {SINGLE} if it is the name of a class"
                )
            mark = (
                " " if SPACED.fullmatch(text) else next((mark for mark in OTHER_SEPARATORS if mark in text), None)
            )
            if mark is not None and not joined:
                raise InputError(
                    f"{subject}: several classes, one class, or a number? Pass --label-separator '{mark}' for "
                    f"several, or --problem-type {SINGLE} for one, or write the number as 1234.5"
                )
            if _is_number(text) and (booleans or (names and (ids or text in self.numbers))):
                others = "true or false" if booleans else "names"
                raise InputError(
                    f"{subject}, but others are {others}: pass --labels if it is the id of one, or "
                    f"--problem-type {SINGLE} if it is another class"
                )


def _are_vectors(lists: Sequence[list[Any]]) -> bool:
    """Return whether lists have a value for each class, such as [0, 1] and [1, 0], and not ids, such as [3]."""
    items = [item for label in lists for item in label]
    if not items:
        return False
    if all(isinstance(item, float) for item in items):  # ids are integers
        return True
    widths = {len(label) for label in lists}
    return len(widths) == 1 and min(widths) > 1 and all(map(is_probability, items))


def _is_number(text: str) -> bool:
    return bool(INTEGER.fullmatch(text) or DECIMAL.fullmatch(text))


def _are_ids(texts: Iterable[str]) -> bool:
    """Return whether texts are the integers from 0 to at least 1, without a gap."""
    found = set(texts)
    return len(found) > 1 and found == {str(i) for i in range(len(found))}


def _default_names(count: int) -> list[str]:
    return [f"LABEL_{i}" for i in range(count)]


def _most_common_spellings(texts: Mapping[str, int]) -> list[str]:
    """Return the names of the classes, sorted: of texts that differ only in case, the most common."""
    spellings: dict[str, str] = {}
    for text in sorted(texts, key=lambda text: (-texts[text], text)):
        spellings.setdefault(text.casefold(), text)
    return sorted(spellings.values())
