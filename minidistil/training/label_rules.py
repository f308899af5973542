"""The rules that decide what the labels of a data set mean. docs/training.md has them as a table."""

from __future__ import annotations

import dataclasses
import html
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
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
    only_missing,
    shown,
)
from .records import Row

# words for a missing label, or a repeated header; in any case, decorated or not, such as N.A., (none) and no label
WORDS = {"label", "missing", "na", "nan", "nat", "nil", "none", "null", "undefined", "unlabeled", "unlabelled"}
WORDS |= {"nolabel", "notlabeled", "notlabelled", "npnan", "pdna", "pdnat"}
DECORATION = re.compile(r"[\s#/\\._()\[\]{}<>-]+")
FAILURE = re.compile(r"#[A-Z0-9/]+[!?]")  # of a spreadsheet: #REF!
DASHES = re.compile("[-\u2010-\u2015\u2212]+")  # hyphens, dashes and the minus sign
OTHER_SEPARATORS = ",;\uff0c\uff1b\u3001\uff5c\u060c\u061b"  # then the wide, ideographic and Arabic ones
TOKEN = re.compile(r"\\[nrt]|<br\s*/?>|[^\W_]+|[\W_]")  # of a name: a word or a mark; \n may be written out
JOINS = {"and", "or", "und", "oder", "et", "ou", "y", "e", "och", "og", "en", "plus", "vs"}  # besides marks
MAX_TOKENS = 30  # of a class that is joined with others, and between two
SEVERAL_NUMBERS = re.compile(r"[+-]?[0-9.]+(([ ,;]) ?[+-]?[0-9.]+)+")  # or one, such as "1 234" and "1,5"
ENTITY = re.compile(r"&#?\w+;")  # of HTML, such as &amp;
SERIALIZED = re.compile(  # a list, a tuple, a dict, or a string in quotes; [NSFW] and (unknown) are names
    r"""\[(['"{[].*|[-+.\d][-+.\de\s]*|[^,]*,.*|)\]|\((['"].*['"],?|[-+.\d]+,.*|)\)|\{.*\}|"[^"]*"|'[^']*'"""
)
Unlabeled = str | int | Sequence[str | int]  # labels of rows without a label; a string has commas between them
BOOLEANS = ("true", "false")  # in any case
FEW_CLASSES = 5  # more classes than this need two rows each, on average
FEW_DECIMALS = 10  # percent of rows
CODE = re.compile("[0-9]+e[0-9]+", re.IGNORECASE)  # 1e5, a number only beside numbers with a decimal point


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
    chosen = None if unlabeled is None else column.chosen_markers(unlabeled)
    meant = problem_type or (MULTI if separator else column.problem_type(chosen))
    markers = column.markers(meant) if chosen is None else chosen
    if names is None and separator is None and problem_type in (None, MULTI):
        column.refuse_ambiguous(meant, markers)
    if names is None and problem_type is None and meant == REGRESSION:
        column.refuse_few_decimals(markers)
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
        classes = _default_names(_width(rows))
    else:
        classes = sorted(set(map(as_number, texts)), key=int) if integers else _most_common_spellings(texts)
    numeric = column.vectors or (meant == SINGLE and bool(texts) and all(map(_is_number, texts)))
    as_numbers = f", or --problem-type {REGRESSION} for numbers" if numeric else ""
    if problem_type is None and len(classes) > max(FEW_CLASSES, texts.total() / 2) and texts:
        raise InputError(
            f"the labels of {len(rows):,} rows are {len(classes):,} classes, such as {listed(classes[:3])}: "
            f"choose another --label-column, or pass --problem-type {meant}{as_numbers}"
        )
    if meant != REGRESSION and len(classes) < 2:
        skipped = listed(sorted({shown(row.label) for row in rows if schema.is_unlabeled(row.label)}))
        if not classes and skipped:
            raise InputError(f"none of {len(rows):,} rows of the training data has a label: all are {skipped}")
        found = f"only the class {classes[0]}" if classes else "no class"
        merged = f" (written {listed(sorted(texts))})" if len(texts) > 1 else ""
        raise InputError(
            f"the training data has {found}{merged}{f', and rows without a label: {skipped}' if skipped else ''}; "
            f"expected 2 classes: pass --labels with all names{as_numbers}"
        )
    if _are_ids(classes):
        classes = _default_names(len(classes))
    return dataclasses.replace(schema, names=tuple(classes), inferred=classes != _default_names(len(classes)))


class _Column:
    """The labels of all rows, by their form."""

    def __init__(self, rows: Sequence[Row], eval_rows: Sequence[Row], names: Sequence[str] | None):
        self.files = [file for file in (rows, eval_rows) if file]
        self.names = None if names is None else {as_text(name).casefold() for name in names}
        self.scalars: dict[str, Row] = {}  # the first row of each
        self.counts: Counter[str] = Counter()  # rows of each
        self.numbers: set[str] = set()  # those of them that JSON has as numbers
        self.lists: list[list[Any]] = []
        self.missing: set[str] = set()  # how null, NaN and empty labels are written
        self.has_dicts = self.has_flags = False
        for row in (row for file in self.files for row in file):
            if isinstance(row.label, list):
                self.lists.append(row.label)
            elif isinstance(row.label, dict):
                self.has_dicts = True
                self.has_flags |= any(isinstance(value, bool) for value in row.label.values())
            elif is_missing(row.label):
                self.missing.add(as_text(row.label).casefold())
            else:
                text = as_number(row.label)
                self.scalars.setdefault(text, row)
                self.counts[text] += 1
                if isinstance(row.label, int | float) and not isinstance(row.label, bool):
                    self.numbers.add(text)
        self.vectors = not self.has_dicts and _are_vectors(self.lists)

    def problem_type(self, markers: frozenset[str] | None) -> str:
        """Return the problem type that the labels have the form of. markers: those that the user passed."""
        words, _, dashes = self.marks()
        texts = self.scalars.keys() - (words | dashes if markers is None else markers)
        if self.vectors:
            one_each = all(0.99 < sum(map(float, label)) < 1.01 for label in self.lists)
            return SINGLE if one_each else MULTI
        if self.lists or self.has_flags or any(map(self._is_joined, texts)):
            return MULTI
        if all(map(_is_number, texts)) and any(map(_has_decimals, texts)) and not self.has_dicts:
            return REGRESSION
        return SINGLE

    def _is_joined(self, text: str) -> bool:
        return SEPARATOR in text.strip(SEPARATOR) and text.casefold() not in (self.names or ())

    def chosen_markers(self, unlabeled: Unlabeled) -> frozenset[str]:
        """Return the labels that the user passed as those of rows without a label."""
        values = str(unlabeled).split(",") if isinstance(unlabeled, str | int) else unlabeled
        wanted = {as_number(value).casefold() for value in values}
        known = {text.casefold() for text in self.scalars}
        allowed = known | self.missing | {"", "null"}
        absent = [as_text(value) for value in values if as_number(value).casefold() not in allowed]
        whole = as_text(",".join(map(str, values))).casefold()
        if whole in known and (absent or wanted == {""}):
            wanted = {whole}  # a label with a comma
        elif absent:
            raise InputError(f"unlabeled has {listed(absent)}: no row has this label", subject="unlabeled")
        return frozenset(text for text in self.scalars if text.casefold() in wanted)

    def marks(self) -> tuple[set[str], set[str], set[str]]:
        """Return the labels that can mean "no label": words, others such as "?" and "#REF!", and dashes."""
        texts = {text for text in self.scalars if text.casefold() not in (self.names or ())}
        words = {text for text in texts if DECORATION.sub("", text.casefold()) in WORDS}
        failures = {text for text in texts if FAILURE.fullmatch(text)}
        signs = {text for text in self.scalars if not any(map(str.isalnum, text))}
        dashes = {text for text in texts & signs if DASHES.fullmatch(text)}
        points = {text for text in texts & signs - dashes if _is_punctuation(text)}
        if (
            signs - dashes - points  # such as + and emoji
            or len({text[0] for text in points}) > 1
            or (len(signs) > 1 and signs == self.scalars.keys() - words)
        ):
            return words, failures, set()  # signs are classes
        return words, points | failures, dashes

    def markers(self, problem_type: str) -> frozenset[str]:
        """Return the labels that mark rows without a label, such as "-" beside names."""
        words, points, dashes = self.marks()
        found, others = words | dashes, self.scalars.keys() - words - dashes
        if problem_type == REGRESSION:
            return frozenset(found)
        only_scalars = not self.lists and not self.has_dicts
        names = {text for text in others - points if not _is_number(text)}
        ask_words = words and only_scalars and any(text.casefold() not in BOOLEANS for text in names)
        if self.names is None and (ask_words or (points and (names or not only_scalars))):
            self._refuse_markers(found | points)  # None and NA can be names too
        candidates = {text for text in others if text.casefold() not in (self.names or ())}
        negative = {text for text in candidates if text.startswith("-") and INTEGER.fullmatch(text)}
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
            f"label? Pass --unlabeled={marks} to skip these rows, or --unlabeled={only_missing(markers)} to skip "
            "only null and empty labels"
        )

    def refuse_ambiguous(self, problem_type: str, markers: frozenset[str]) -> None:
        """Raise InputError for strings that may be several classes, and for numbers beside booleans or names."""
        texts = {text: self.scalars[text] for text in sorted(self.scalars.keys() - markers)}
        several = problem_type == MULTI
        joined = several and any(SEPARATOR in text for text in texts)
        parts = texts
        if joined:
            pairs = ((part, row) for text, row in texts.items() for part in text.split(SEPARATOR))
            parts = {as_number(part): row for part, row in pairs if not is_missing(part)}
        keep = f"--label-separator '{SEPARATOR}'" if several else f"--problem-type {SINGLE}"
        items = [item for items in self.lists for item in items if isinstance(item, str)]
        separator = not joined  # whether --label-separator can settle it
        _refuse_several(parts, _marks_between(parts, [*parts, *items]), keep, separator)
        self._refuse_mixed(parts, markers, keep)
        for text, row in (texts | parts).items():
            if SERIALIZED.fullmatch(text):
                raise InputError(
                    f"{_subject(row)}: the brackets or quotes are part of it; write a|b for several classes, use "
                    f".jsonl for lists, or pass {keep} if it is the name of a class"
                )
        if not joined:
            _refuse_several(texts, _separators([*texts, *items]), keep, separator)

    def refuse_few_decimals(self, markers: frozenset[str]) -> None:
        """Raise InputError if numbers may be classes, such as 0, 1 and one 0.5, or versions: 1.1 and 1.10."""
        texts = self.scalars.keys() - markers
        integers = {text for text in texts if INTEGER.fullmatch(text)}
        decimals = texts - integers
        rows, rows_of_decimals = (sum(self.counts[text] for text in group) for group in (texts, decimals))
        repeated = rows - rows_of_decimals >= 2 * max(len(integers), 1)
        few = len(texts) <= FEW_CLASSES and len(decimals) <= len(integers)
        plain = [text for text in decimals if "e" not in text.casefold()]
        digits = {len(text.partition(".")[2]) for text in plain}
        versions = digits == {1, 2} and any(text.endswith("0") for text in plain)
        same = len(set(map(float, plain))) < len(plain)
        if versions or same or (repeated and (few or rows_of_decimals * 100 <= rows * FEW_DECIMALS)):
            raise InputError(
                f"{_subject(self.scalars[min(decimals)])}: a number, or a class? {rows_of_decimals:,} of {rows:,} "
                f"labels have decimals; pass --problem-type {REGRESSION} for numbers, or --problem-type {SINGLE} "
                "for classes"
            )

    def _refuse_mixed(self, texts: Mapping[str, Row], markers: frozenset[str], keep: str) -> None:
        """Raise InputError for numbers beside names or booleans, unless all are strings and have digits, as 3+."""
        numbers = sorted(filter(_is_number, texts))
        if not any(map(_has_decimals, numbers)):
            numbers = [text for text in numbers if not CODE.fullmatch(text)]
        others = sorted(texts.keys() - set(numbers))
        if not others:
            return
        booleans = any(text.casefold() in BOOLEANS for text in others)
        ids = _are_ids(text for text in numbers if INTEGER.fullmatch(text))
        decimals = not all(map(INTEGER.fullmatch, numbers))
        doubtful = numbers if booleans or ids else [text for text in numbers if text in self.numbers - {"-1"}]
        if not decimals and not doubtful:
            others = [text for text in others if FAILURE.fullmatch(text) or not any(map(str.isnumeric, text))]
        if 0 < len(others) < len(numbers) and not booleans:
            marks = sorted(markers | {as_number(texts[text].label) for text in others})
            remedy = (
                "write a number such as 1234.5" if decimals else "pass --labels if the numbers are ids of names"
            )
            if len(marks) == 1 or "," not in "".join(marks):
                remedy += f", or pass --unlabeled={shlex.quote(','.join(marks))} to skip such rows"
            raise InputError(
                f"{_subject(texts[others[0]])}, but most are numbers: {remedy}, or pass {keep} if it is a class"
            )
        if doubtful:
            raise InputError(
                f"{_subject(texts[doubtful[0]])}, but others are {'true or false' if booleans else 'names'}: pass "
                f"--labels if it is the id of one, or {keep} if it is another class"
            )


def _subject(row: Row) -> str:
    return f"{row.place}: the label is {shown(row.label)}"


def _refuse_several(texts: Mapping[str, Row], marks: Mapping[str, str], keep: str, separator: bool) -> None:
    """Raise InputError for a text that may be several classes.

    Args:
        texts: a row for each text.
        marks: what stands between the classes of texts, see `_marks_between`.
        keep: options for which the text is one class.
        separator: whether --label-separator is not set yet.
    """
    for text, row in texts.items():
        mark = marks.get(text.casefold())
        if mark is not None:
            separator = separator and len(set(marks.values())) == 1 and mark != "" and mark in str(row.label)
            several = f"Pass --label-separator '{mark}' for" if separator else f"Write {SEPARATOR} between"
            number = ", or write the number as 1234.5" if SEVERAL_NUMBERS.fullmatch(text) else ""
            raise InputError(
                f"{_subject(row)}: several classes, or one? {several} several, or pass {keep} for one{number}"
            )


def _separators(texts: Iterable[str]) -> dict[str, str]:
    """Return the mark that may join numbers, or classes of which another text has one too, in each text."""
    texts = {text.casefold() for text in texts}
    found = {text: numbers[2] for text in texts if (numbers := SEVERAL_NUMBERS.fullmatch(text))}
    for mark in OTHER_SEPARATORS:
        parts = {text: [part.strip() for part in ENTITY.sub("", text).split(mark)] for text in texts}
        counts = Counter(part for several in parts.values() for part in set(several))
        for text, several in parts.items():
            if len(several) > 1 and any(part and counts[part] > 1 for part in several):
                found.setdefault(text, mark)
    return found


def _marks_between(texts: Iterable[str], classes: Iterable[str]) -> dict[str, str]:
    """Return what stands between the classes in each text of several, in lowercase; "" if it varies."""
    names = {name.casefold() for name in classes}
    found = {}
    for text in map(str.casefold, texts):
        if _is_number(text) or text.replace(".", "").isdigit():  # 1.2.1 is a section
            continue
        mark = _mark_between(html.unescape(text), names)
        if mark is not None:
            found[text] = mark if any(map(str.isalnum, mark)) else mark.strip() or mark
    return found


def _mark_between(text: str, names: Set[str]) -> str | None:
    """Return what stands between the names that make up a text, "" if it varies; None if it has only one name.

    Names may have marks of their own: C++ C, #a #b, and (a)(b) without a mark between.
    """
    if text.isascii() and not any(map(str.isalnum, text)):  # <= and !?
        return None
    tokens = TOKEN.findall(text)
    seen = set()
    todo: list[tuple[int, int, str | None, str | None]] = [(0, 0, "", None)]
    while todo:
        start, end, name, found = todo.pop()  # end: of the last name; name: None after two that differ
        between = "".join(tokens[end:start])
        marks = between if found in (None, between) else ""
        if start == len(tokens) and name is None:
            return marks if between else found
        if start == len(tokens) or (start, end == start, name) in seen:
            continue
        seen.add((start, end == start, name))
        if start - end < MAX_TOKENS and (tokens[start] in JOINS or not tokens[start].isalnum()):
            todo.append((start + 1, end, name, found))
        if end == start > 0 and tokens[start][0] == tokens[start - 1][-1]:  # three stars
            continue
        part = ""
        for stop in range(start + 1, min(start + MAX_TOKENS, len(tokens)) + 1):
            part += tokens[stop - 1]
            if part in names:
                todo.append((stop, stop, part if name in ("", part) else None, marks if start > 0 else None))
    return None


def _width(rows: Sequence[Row]) -> int:
    """Return the number of outputs: the length of lists, or 1. Raises InputError if lengths differ."""
    lists = [row for row in rows if isinstance(row.label, list)]
    widths = Counter(len(row.label) for row in lists)
    width = max(widths, key=lambda width: (widths[width], width), default=1)
    for row in lists:
        if len(row.label) != width:
            raise InputError(f"{_subject(row)}: expected {width} numbers, as in other lists")
    return width


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


def _is_punctuation(text: str) -> bool:
    """Return whether a text has only punctuation, and is not an empty list or string."""
    return all(unicodedata.category(c)[0] == "P" for c in text) and not SERIALIZED.fullmatch(text)


def _has_decimals(text: str) -> bool:
    return not INTEGER.fullmatch(text) and not CODE.fullmatch(text)


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
