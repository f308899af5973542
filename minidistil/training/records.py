"""Rows of labeled texts, from files of records and from data sets on the Hub."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..checks import check_text, is_int
from ..errors import InputError, require
from ..io.text_files import Record, delimiter_hint, file_format, in_any_case, read_records, text_columns

LABEL_COLUMNS = ("label", "labels", "gold_label", "class", "score", "is_duplicate")


class Row(NamedTuple):
    """A row of a file, with its label unchanged."""

    text: str
    pair: str | None
    label: Any
    place: str  # such as "train.jsonl, line 3"


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns to read. None: a usual name, see `text_files.TEXT_COLUMNS` and `LABEL_COLUMNS`."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    def find(self, names: Collection[str], place: str) -> tuple[str, str | None, str]:
        """Return the columns of text, pair and label among `names`. Raises InputError if one is missing."""
        text, pair = text_columns(names, self.text, self.pair)
        found = in_any_case(names)
        label = self.label or next((found[name] for name in LABEL_COLUMNS if name in found), None)
        missing = [name for name in (text, pair, label) if name is not None and name not in names]
        if text is None or label is None or missing:
            wanted = ", ".join(missing) or ("a text" if text is None else "a label")
            raise InputError(
                f"{place} has the columns {', '.join(names) or '(none)'}, but no column for {wanted}: name it "
                f"with --text-column, --pair-column or --label-column, or in Python Columns{delimiter_hint(names)}"
            )
        return text, pair, label


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
    rows: list[Row] = []
    names: list[str] | None = None  # of the columns of the previous record
    for record in _from_hub(source) if source.startswith("hub:") else _from_file(Path(source)):
        if names != list(record.fields):
            names = list(record.fields)
            found = columns.find(names, record.place if rows else source)
        rows.append(_row(record, *found))
    if not rows:
        raise InputError(f"{source} has no examples")
    return rows


def _row(record: Record, text: str, pair: str | None, label: str) -> Row:
    fields = record.fields
    for name in (text, pair) if pair is not None else (text,):
        check_text(fields[name], f"{record.place}: {name}")
    if isinstance(fields[label], str):
        check_text(fields[label], f"{record.place}: {label}")
    return Row(fields[text], None if pair is None else fields[pair], fields[label], record.place)


def _from_file(path: Path) -> Iterator[Record]:
    format = file_format(path.name)
    if format not in ("jsonl", "csv", "tsv"):
        raise InputError(
            f"{path}: expected a file name that ends in .jsonl, .csv or .tsv, or one of these and .gz"
        )
    return read_records(path, format)


def _from_hub(source: str) -> Iterator[Record]:
    """Yield the rows of a data set, read by the package `datasets`, with label ids replaced by their names."""
    _, *parts = re.split(r":(?![^[]*\])", source)  # a split may be train[:1%]
    if len(parts) not in (2, 3) or not all(parts):
        raise InputError(f"{source}: expected hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT")
    datasets = require("datasets", "datasets")
    name, *config, split = parts
    try:
        dataset = datasets.load_dataset(name, *config, split=split)
    except Exception as error:  # repositories raise many kinds
        raise InputError(f"cannot read {source}: {error}") from error
    classes = {  # of a column, or of the lists in it
        column: inner.names
        for column, feature in dataset.features.items()
        if isinstance(inner := getattr(feature, "feature", feature), datasets.ClassLabel)
    }
    for number, record in enumerate(dataset, 1):
        fields = record | {column: _name(record[column], names) for column, names in classes.items()}
        yield Record(fields, f"{source}, row {number}", 0)


def _name(label: Any, names: Sequence[str]) -> Any:
    """Return the name of a label id, or the names of a list of ids; None for -1, which marks unlabeled rows."""
    if isinstance(label, list):
        return [_name(item, names) for item in label]
    if label == -1:
        return None
    return names[label] if is_int(label) and label >= 0 else label
