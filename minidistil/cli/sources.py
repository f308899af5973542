"""Read the texts of `--input`: lines of text, lines of JSON, or rows of a table."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..checks import check_text
from ..errors import InputError
from ..training.records import file_format, read_jsonl, read_lines, read_table, separator_hint


class Record(NamedTuple):
    """One text of the input, with the fields beside it."""

    fields: dict[str, Any]
    location: str  # such as "texts.jsonl, line 3"

    def text(self, key: str) -> str:
        """Return a field. Raises InputError, which names the location, unless it is a text."""
        text = self.fields.get(key)
        if text is None:
            names = ", ".join(self.fields) or "none"
            hint = separator_hint([*self.fields]) or "; choose one with --text-column"
            raise InputError(f"{self.location} has no field {key}: the fields are {names}{hint}")
        if not isinstance(text, str):
            raise InputError(f"{self.location}: {key} is {text!r}: expected a string")
        check_text(text, f"{self.location}: {key}")
        return text


class Source:
    """A stream of records: one per line, JSON object, or row of a table with a header."""

    def __init__(self, path: str, jsonl: bool = False):
        """Set the input, without opening it. path: a file, or "-" for stdin. jsonl: ignore its extension."""
        self.path = None if path == "-" else Path(path)
        self.name = "stdin" if self.path is None else path
        self.format = "jsonl" if jsonl else file_format(path)
        self.skipped = 0  # texts that an earlier run answered

    @property
    def is_table(self) -> bool:
        """Whether the input is a table with a header."""
        return self.format in ("csv", "tsv")

    @property
    def has_fields(self) -> bool:
        """Whether records have named fields beside the text."""
        return self.format == "jsonl" or self.is_table

    def __iter__(self) -> Iterator[Record]:
        """Yield the records after the skipped ones."""
        for i, fields in enumerate(itertools.islice(self._read(), self.skipped, None)):
            yield Record(fields, self.location(i))

    def location(self, i: int) -> str:
        """Return the file and line of record i, counted from the first that is not skipped."""
        return f"{self.name}, {'row' if self.is_table else 'line'} {self.skipped + i + 1}"

    @functools.cached_property
    def total(self) -> int | None:
        """Number of texts, including skipped ones. None for a pipe, which can be read only once."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            return sum(1 for _ in (self._read() if self.is_table else read_lines(self.path)))
        except InputError:  # raised again when that record is read
            return None

    def _read(self) -> Iterator[dict[str, Any]]:
        if self.format == "jsonl":
            return read_jsonl(self.path)
        if self.is_table:
            return (fields for fields, _ in read_table(self.path, self.format))
        return self._read_text()

    def _read_text(self) -> Iterator[dict[str, Any]]:
        for number, line in read_lines(self.path):
            if number == 1 and re.match(r'\{\s*"(text|question)"\s*:', line):
                raise InputError(f"{self.name}, line 1 is JSON: pass --jsonl to read its fields")
            yield {"text": line.rstrip("\r\n")}
