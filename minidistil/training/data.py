"""Labeled examples from files."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..checks import check_text, is_int
from ..config import DistilBertConfig
from ..errors import InputError, require

TEXTS = (  # the columns of texts and their pairs that data sets have; the first that a file has are taken
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("sentence", None),
    ("text", None),
)
LABELS = ("label", "labels", "gold_label", "score", "is_duplicate")
UNLABELLED = (None, -1, "-1", "-")  # what GLUE and SNLI write where there is no label
SEVERAL = "|"  # between the labels of one cell of a table


class Row(NamedTuple):
    """A row of a file, its label as it is written there."""

    text: str
    pair: str | None
    label: Any
    place: str  # such as "train.jsonl, line 3"


@dataclasses.dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with what a model of C outputs should make of it."""

    text: str
    pair: str | None
    label: tuple[float, ...]  # C probabilities, or C times 0 or 1 (several labels), or C values (regression)
    place: str


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold what; None: those that data sets usually have, see `TEXTS` and `LABELS`."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    def find(self, names: Sequence[str], where: str) -> tuple[str, str | None, str]:
        """Choose among the columns that there are; `InputError` where some are missing."""
        text, pair = self.text, self.pair
        if text is None:
            usual = [(t, p) for t, p in TEXTS if t in names and t != pair and (p is None or p in names)]
            text, usual_pair = usual[0] if usual else (None, None)
            pair = usual_pair if pair is None else pair
        label = self.label or next((name for name in LABELS if name in names), None)
        missing = [name for name in (text, pair, label) if name is not None and name not in names]
        if text is None or label is None or missing:
            what = ", ".join(missing) or ("a text" if text is None else "a label")
            raise InputError(
                f"{where} has the columns {', '.join(map(str, names)) or 'of nothing'}, but none for {what}: "
                "name them by text_column, pair_column and label_column"
            )
        return text, pair, label


def read_rows(source: str | Path, columns: Columns | None = None) -> list[Row]:
    """Read all rows of a file, or of a data set on the Hub.

    source: a .jsonl, .csv or .tsv file, or a gzip of one, as the name says: JSON objects a line; a table with a
    header, quoted as CSV is; a table between tabs without any quoting, as GLUE's are. Or "hub:NAME:SPLIT", or
    "hub:NAME:CONFIG:SPLIT", through the package `datasets`. `InputError` says which file and line is broken.
    """
    columns = columns or Columns()
    source = str(source)
    records = _from_hub(source) if source.startswith("hub:") else _from_file(Path(source))
    rows: list[Row] = []
    found: tuple[str, str | None, str] | None = None
    for record, place in records:
        if found is None:
            found = columns.find(list(record), source)
        rows.append(_row(record, found, place))
    if not rows:
        raise InputError(f"{source} holds no examples")
    return rows


def _row(record: Mapping[str, Any], columns: tuple[str, str | None, str], place: str) -> Row:
    text, pair, label = columns
    for name in columns:
        if name is not None and name not in record:
            raise InputError(f"{place} has no {name}: expected it beside {', '.join(record) or 'nothing'}")
    check_text(record[text], f"{place}: {text}")
    if pair is not None:
        check_text(record[pair], f"{place}: {pair}")
    if isinstance(record[label], str):
        check_text(record[label], f"{place}: {label}")
    return Row(record[text], None if pair is None else record[pair], record[label], place)


def ending(name: str) -> str:
    """Give the form that a file's name says, of it or of what is gzipped in it: jsonl, csv, tsv, or any other."""
    found = name.lower().removesuffix(".gz").rpartition(".")[2]
    return "jsonl" if found in ("ndjson", "json") else found


def _from_file(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    form = ending(path.name)
    if form == "jsonl":
        return ((record, f"{path}, line {number}") for number, record in enumerate(read_json(path), 1))
    if form in ("csv", "tsv"):
        return read_table(path, form)
    raise InputError(f"{path}: expected a name that ends in .jsonl, .csv or .tsv, or one of them with .gz")


def read_lines(path: Path | None) -> Iterator[tuple[int, str]]:
    """Give a file's lines with their numbers, line ends included; None is stdin."""
    name, number = path or "stdin", 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}, line {number} is not UTF-8: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {name}, after line {number}: {error}") from error


def _open(path: Path | None) -> IO[bytes]:
    if path is None:
        return sys.stdin.buffer
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def read_json(path: Path | None) -> Iterator[dict[str, Any]]:
    """Give the objects of a file of JSON lines; None is stdin."""
    for number, line in read_lines(path):
        place = f"{path or 'stdin'}, line {number}"
        if not line.strip():
            raise InputError(f"{place} is empty: expected a JSON object")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{place}: expected a JSON object, found {type(record).__name__}")
        yield record


def read_table(path: Path | None, form: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Give a table's rows by the names in its header, and where each begins: "csv", or "tsv" without quoting."""
    dialect: dict[str, Any] = {"strict": True} if form == "csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader((line for _, line in read_lines(path)), **dialect)
    header: list[str] | None = None
    start = 1  # a quoted cell may go over several lines
    name = path or "stdin"
    try:
        for cells in reader:
            if header is None:
                header = cells
                if twice := {column for column in header if header.count(column) > 1}:
                    raise InputError(f"{name} has two columns {' and '.join(sorted(twice))}: expected one of each")
            elif len(cells) != len(header):
                raise InputError(f"{name}, line {start} has {len(cells)} cells: the header has {len(header)}")
            else:
                yield dict(zip(header, cells, strict=True)), f"{name}, line {start}"
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, line {start} is not a row of a table: {error}") from error


def _from_hub(source: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Read a data set through the package `datasets`; ids of labels become the names that it has for them."""
    _, *parts = re.split(r":(?![^[]*\])", source)  # a split may be train[:1%]
    if len(parts) not in (2, 3) or not all(parts):
        raise InputError(f"{source}: expected hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT")
    datasets = require("datasets", "datasets")
    name, *config, split = parts
    try:
        found = datasets.load_dataset(name, *config, split=split)
    except Exception as error:  # each kind of repository fails in a way of its own
        raise InputError(f"cannot read {source}: {' '.join(str(error).split())}") from error
    classes = {  # of a column, or of the lists in it
        column: inner.names
        for column, feature in found.features.items()
        if isinstance(inner := getattr(feature, "feature", feature), datasets.ClassLabel)
    }
    for number, record in enumerate(found, 1):
        yield (
            record | {column: _name(record[column], names) for column, names in classes.items()},
            (f"{source}, row {number}"),
        )


def _name(label: Any, names: Sequence[str]) -> Any:
    """Give the name of an id, or the names of a list of them; what is no id stays."""
    if isinstance(label, list):
        return [_name(one, names) for one in label]
    return names[label] if is_int(label) and label >= 0 else label


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a model's outputs are called, and how labels in files become numbers for them."""

    names: tuple[str, ...]
    problem_type: str

    @classmethod
    def of(cls, config: DistilBertConfig) -> Labels:
        """Give the labels of a model."""
        usual = "regression" if config.num_labels == 1 else "single_label_classification"
        return cls(tuple(config.id2label[i] for i in range(config.num_labels)), config.problem_type or usual)

    @classmethod
    def found_in(cls, rows: Sequence[Row], problem_type: str | None = None) -> Labels:
        """Give the labels that a new head needs, in sorted order: names, or LABEL_n where rows hold ids alone."""
        labels = [row.label for row in rows if problem_type == "regression" or row.label not in UNLABELLED]
        several = [label for label in labels if isinstance(label, list)]
        if problem_type is None and labels and all(map(_is_value, labels)):
            problem_type = "regression"
        problem_type = problem_type or ("multi_label_classification" if several else "single_label_classification")
        widths = {len(label) for label in several if problem_type == "regression" or _is_vector(label)}
        if problem_type == "regression" or widths:  # numbers for each output, which have no names
            return cls(tuple(f"LABEL_{i}" for i in range(max(widths, default=1))), problem_type)
        for row in rows:
            if isinstance(row.label, str) and not row.label.strip() and problem_type.startswith("single"):
                raise InputError(f"{row.place}: the label is empty: expected a name, or - where there is none")
        seen = {_written(name) for label in labels for name in _named(label, problem_type)}
        if seen and all(map(_is_id, seen)):
            names = [f"LABEL_{i}" for i in range(max(map(int, seen)) + 1)]
        else:
            names = sorted(seen)
        if len(names) < 2:
            raise InputError(f"the examples have {len(names)} labels: expected 2 or more, or regression")
        return cls(tuple(names), problem_type)

    def read(self, rows: Iterable[Row]) -> tuple[list[Example], int]:
        """Turn rows into examples; the second value counts those without a label, which are left out."""
        parse = {
            "single_label_classification": self._single,
            "multi_label_classification": self._several,
            "regression": self._values,
        }[self.problem_type]
        missing = (None, "-") if self.problem_type == "regression" else UNLABELLED
        examples, unlabelled = [], 0
        for row in rows:
            if not isinstance(row.label, list | dict) and row.label in missing:
                unlabelled += 1
            else:
                examples.append(Example(row.text, row.pair, parse(row.label, row.place), row.place))
        return examples, unlabelled

    def _single(self, label: Any, place: str) -> tuple[float, ...]:
        if not isinstance(label, dict):
            index = self._index(label, place)
            return tuple(float(i == index) for i in range(len(self.names)))
        shares = self._shares(label, place)
        if not 0.99 < sum(shares) < 1.01:
            raise InputError(f"{place}: the probabilities of {label} add up to {sum(shares):.3f}, not to 1")
        return tuple(share / sum(shares) for share in shares)

    def _several(self, label: Any, place: str) -> tuple[float, ...]:
        if isinstance(label, dict):
            return self._shares(label, place)
        if isinstance(label, list) and _is_vector(label):
            if len(label) != len(self.names) or not all(0 <= share <= 1 for share in label):
                raise InputError(f"{place}: the label is {label}: expected {len(self.names)} numbers from 0 to 1")
            return tuple(label)
        chosen = [self._index(name, place) for name in _named(label, self.problem_type)]
        if len(set(chosen)) < len(chosen):
            raise InputError(f"{place}: the label is {label}: it names one twice; 0.0 and 1.0 are no ids")
        return tuple(float(i in chosen) for i in range(len(self.names)))

    def _values(self, label: Any, place: str) -> tuple[float, ...]:
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

    def _shares(self, label: dict[str, Any], place: str) -> tuple[float, ...]:
        """Read a probability for each of some labels."""
        shares = [0.0] * len(self.names)
        for name, share in label.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise InputError(f"{place}: the label {name} has {share!r}: expected a probability")
            shares[self._index(name, place)] = float(share)
        return tuple(shares)

    def _index(self, label: Any, place: str) -> int:
        """Find a label by its name, in any case, or by its id."""
        name = _written(label)
        for choices in (self.names, tuple(choice.casefold() for choice in self.names)):
            wanted = name if choices is self.names else name.casefold()
            if choices.count(wanted) == 1:
                return choices.index(wanted)
        if _is_id(name) and int(name) < len(self.names):
            return int(name)
        raise InputError(f"{place}: the label is {label!r}: expected one of {', '.join(self.names)}, or its id")


def _written(label: Any) -> str:
    """Write a label as names are; 1.0 is 1, as tools write ids among which some are missing."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _is_value(label: Any) -> bool:
    """Whether a label is a number that is no id: 2.5, or as a table has it, 2.500."""
    if isinstance(label, str):
        return re.fullmatch(r"\s*[+-]?\d*\.\d+\s*", label) is not None
    return isinstance(label, float)


def _is_id(name: str) -> bool:
    return name.isdecimal() and len(name) <= 6  # a longer one would ask for millions of labels


def _is_vector(label: list[Any]) -> bool:
    """Whether a list holds a number for each label, as transformers has them, and not the ids of some."""
    return bool(label) and all(isinstance(share, float) for share in label)


def _named(label: Any, problem_type: str) -> Iterable[Any]:
    """Give the labels that one row names."""
    if isinstance(label, str) and problem_type == "multi_label_classification":
        return [name.strip() for name in label.split(SEVERAL) if name.strip()]
    return label if isinstance(label, list | dict) else [label]
