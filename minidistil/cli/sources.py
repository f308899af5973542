"""Read the texts of `--input`, in blocks that are answered together."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

from ..checks import check_text
from ..errors import InputError
from ..io.text_files import (
    MAX_LINE,
    TEXT_COLUMNS,
    Record,
    delimiter_hint,
    file_format,
    in_any_case,
    read_lines,
    read_records,
)


class Source:
    """A stream of records: one per line, JSON object, or row of a table with a header."""

    def __init__(self, path: str, jsonl: bool = False):
        """Set the input, without opening it. path: a file, or "-" for stdin. jsonl: ignore its extension."""
        if not path:
            raise InputError("--input is empty: expected the name of a file, or - for stdin")
        self.path = None if path == "-" else Path(path)
        self.format = "jsonl" if jsonl else file_format(path)

    @property
    def is_table(self) -> bool:
        """Whether the input is a table with a header."""
        return self.format in ("csv", "tsv")

    @property
    def has_fields(self) -> bool:
        """Whether records have named fields beside the text."""
        return self.format == "jsonl" or self.is_table

    def blocks(self) -> Iterator[list[Record]]:
        """Yield the records in blocks, which grow so that the first answers do not wait for many texts.

        The blocks depend only on the contents of the input: a resumed run answers the same texts together, and so
        with the same scores to the last bit. If a record is invalid, those before it are yielded first.
        """
        from ..pipelines import base  # imports NumPy

        block: list[Record] = []
        limit, size = min(base.FIRST_WINDOW, base.WINDOW), 0
        try:
            for record in self._read():
                block.append(record)
                size += record.size
                if len(block) == limit or size >= MAX_LINE:
                    yield block
                    block, limit, size = [], min(2 * limit, base.WINDOW), 0
        except InputError:
            yield block
            raise
        yield block

    @functools.cached_property
    def total(self) -> int | None:
        """Number of texts. None for a pipe, which can be read only once."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            if self.format == "jsonl":  # without parsing it
                return sum(not line.isspace() for _, line in read_lines(self.path))
            return sum(1 for _ in self._read())
        except InputError:  # raised again when that record is read
            return None

    def has_at_most(self, count: int) -> bool:
        """Return whether the input is a file of at most this many texts; not a pipe, which is read only once."""
        if self.path is None or not self.path.is_file():
            return False
        try:
            return sum(1 for _ in itertools.islice(self._read(), count + 1)) <= count
        except InputError:  # raised again when that record is read
            return False

    def _read(self) -> Iterator[Record]:
        return read_records(self.path, self.format)


def single_text(record: Record, column: str | None) -> str:
    """Return the text of a record, for a verb that takes no pairs. column: None: a usual name of a single text."""
    found = in_any_case(record.fields)
    usual = (found[text] for text, pair in TEXT_COLUMNS if pair is None and text in found)
    return text_of(record, column or next(usual, None))


def text_of(record: Record, column: str | None, remedy: str = "name it with --text-column") -> str:
    """Return a field of a record. Raises InputError unless it is a text. column: None if none is usual."""
    if column is None or column not in record.fields:
        wanted = "a text" if column is None else column
        names = ", ".join(record.fields) or "(none)"
        raise InputError(
            f"{record.place} has the columns {names}, but no column for {wanted}: {remedy}"
            f"{delimiter_hint(record.fields)}"
        )
    text = record.fields[column]
    check_text(text, f"{record.place}: {column}")
    return str(text)
