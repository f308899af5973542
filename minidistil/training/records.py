"""Rows of labeled texts from JSONL, CSV and TSV files, gzipped or not, and from data sets on the Hub."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..checks import check_text, is_int
from ..errors import InputError, require

TEXT_COLUMNS = (  # usual columns of a text and its pair; the first match is used
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("sentence", None),
    ("text", None),
)
LABEL_COLUMNS = ("label", "labels", "gold_label", "score", "is_duplicate")


class Row(NamedTuple):
    """A row of a file, with its label unchanged."""

    text: str
    pair: str | None
    label: Any
    place: str  # such as "train.jsonl, line 3"


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns to read. None: a usual name, see `TEXT_COLUMNS` and `LABEL_COLUMNS`."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    def find(self, names: Sequence[str], source: str) -> tuple[str, str | None, str]:
        """Return the columns of text, pair and label among `names`. Raises InputError if one is missing."""
        text, pair = self.text, self.pair
        if text is None:
            usual = [(t, p) for t, p in TEXT_COLUMNS if t in names and t != pair and (p is None or p in names)]
            text, usual_pair = usual[0] if usual else (None, None)
            pair = usual_pair if pair is None else pair
        label = self.label or next((name for name in LABEL_COLUMNS if name in names), None)
        missing = [name for name in (text, pair, label) if name is not None and name not in names]
        if text is None or label is None or missing:
            wanted = ", ".join(missing) or ("a text" if text is None else "a label")
            raise InputError(
                f"{source} has the columns {', '.join(map(str, names)) or '(none)'}, but no column for {wanted}: "
                f"set text_column, pair_column or label_column{separator_hint(names)}"
            )
        return text, pair, label


def separator_hint(names: Sequence[str]) -> str:
    """Return a hint for a table whose only column looks like several, separated by another character."""
    used = [mark for mark in (";", "|", "\t") if len(names) == 1 and mark in names[0]]
    return f"; the columns seem to be separated by {used[0]!r}, where .csv expects a comma" if used else ""


def read_rows(source: str | Path, columns: Columns | None = None) -> list[Row]:
    """Read all rows of a file, or of a data set on the Hub.

    Args:
        source: a .jsonl file with one JSON object per line; a .csv file with a header; a .tsv file with a header
            and without quoting, as GLUE's; each may end in .gz. Or hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT, which
            needs the package `datasets`.
        columns: names of the columns to read.

    Raises:
        InputError: for a file or line that cannot be read, with its name and number.
    """
    columns = columns or Columns()
    source = str(source)
    records = _from_hub(source) if source.startswith("hub:") else _from_file(Path(source))
    rows: list[Row] = []
    names: tuple[str, str | None, str] | None = None
    for record, place in records:
        if names is None:
            names = columns.find(list(record), source)
        rows.append(_row(record, names, place))
    if not rows:
        raise InputError(f"{source} has no examples")
    return rows


def _row(record: Mapping[str, Any], columns: tuple[str, str | None, str], place: str) -> Row:
    text, pair, label = columns
    for name in columns:
        if name is not None and name not in record:
            raise InputError(f"{place} has no {name}: its fields are {', '.join(record) or '(none)'}")
    check_text(record[text], f"{place}: {text}")
    if pair is not None:
        check_text(record[pair], f"{place}: {pair}")
    if isinstance(record[label], str):
        check_text(record[label], f"{place}: {label}")
    return Row(record[text], None if pair is None else record[pair], record[label], place)


def file_format(name: str) -> str:
    """Return the format of a file by the ending of its name, without .gz: "jsonl", "csv", "tsv" or another."""
    ending = name.lower().removesuffix(".gz").rpartition(".")[2]
    return "jsonl" if ending in ("ndjson", "json") else ending


def _from_file(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    format = file_format(path.name)
    if format == "jsonl":
        return ((record, f"{path}, line {number}") for number, record in enumerate(read_jsonl(path), 1))
    if format in ("csv", "tsv"):
        return read_table(path, format)
    raise InputError(f"{path}: expected a file name that ends in .jsonl, .csv or .tsv, or one of these and .gz")


def read_lines(path: Path | None) -> Iterator[tuple[int, str]]:
    """Yield the numbers, from 1, and the lines of a file, line ends included. None: stdin."""
    name, number = path or "stdin", 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}, line {number} is not UTF-8: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {name} after line {number}: {error}") from error


def _open(path: Path | None) -> IO[bytes]:
    if path is None:
        return sys.stdin.buffer
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def read_jsonl(path: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file. None: stdin."""
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


def read_table(path: Path | None, format: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the rows of a table as dicts keyed by its header, each with its file name and line number.

    format: "csv", or "tsv", which has no quoting. None as a path: stdin.
    """
    dialect: dict[str, Any] = (
        {"strict": True} if format == "csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    )
    reader = csv.reader((line for _, line in read_lines(path)), **dialect)
    header: list[str] | None = None
    start = 1  # a quoted cell may span several lines
    name = path or "stdin"
    try:
        for cells in reader:
            if header is None:
                header = cells
                if twice := {column for column in header if header.count(column) > 1}:
                    raise InputError(f"{name} has two columns {' and '.join(sorted(twice))}: names must differ")
            elif len(cells) != len(header):
                raise InputError(f"{name}, line {start} has {len(cells)} cells: the header has {len(header)}")
            else:
                yield dict(zip(header, cells, strict=True)), f"{name}, line {start}"
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, line {start} is not a row of a table: {error}") from error


def _from_hub(source: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the rows of a data set, read by the package `datasets`, with label ids replaced by their names."""
    _, *parts = re.split(r":(?![^[]*\])", source)  # a split may be train[:1%]
    if len(parts) not in (2, 3) or not all(parts):
        raise InputError(f"{source}: expected hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT")
    datasets = require("datasets", "datasets")
    name, *config, split = parts
    try:
        dataset = datasets.load_dataset(name, *config, split=split)
    except Exception as error:  # repositories raise many kinds
        raise InputError(f"cannot read {source}: {' '.join(str(error).split())}") from error
    classes = {  # of a column, or of the lists in it
        column: inner.names
        for column, feature in dataset.features.items()
        if isinstance(inner := getattr(feature, "feature", feature), datasets.ClassLabel)
    }
    for number, record in enumerate(dataset, 1):
        yield (
            record | {column: _name(record[column], names) for column, names in classes.items()},
            f"{source}, row {number}",
        )


def _name(label: Any, names: Sequence[str]) -> Any:
    """Return the name of a label id, or the names of a list of ids; return anything else unchanged."""
    if isinstance(label, list):
        return [_name(item, names) for item in label]
    return names[label] if is_int(label) and label >= 0 else label
