"""Records of text files: lines of text, lines of JSON, and rows of tables with a header; gzipped or not.

Lines end in a line feed, or in a carriage return in a file without line feeds. A line, and a row of a table, has
at most MAX_LINE bytes, so that memory stays small whatever a file holds. Blank lines are skipped; but in a file of
texts, or a table of one column, they are empty texts, except at the end.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import InputError

MAX_LINE = 2**24  # bytes of a line; characters of a row of a table, which may span lines
MAX_ROW_LINES = 1_000_000  # of a row of a table
MAX_BLANK = 100_000  # blank lines in a row: gzipped, gigabytes of them are a small file
LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r(?!\Z)|\n)")  # not \r at the end of a part, which \n may follow
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
BOM_AND_SPACES = "\ufeff \t"  # around the name of a column; a file that was appended may begin with them
DELIMITERS = ",;\t|"  # of .csv files: the most frequent in the header
TEXT_COLUMNS = (  # usual columns of a text and its pair, in any case; the first match is used
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("sentence", None),
    ("text", None),
)


class Record(NamedTuple):
    """One record of a file."""

    fields: dict[str, Any]
    place: str  # such as "train.jsonl, line 3"
    size: int  # characters


def file_format(name: str) -> str:
    """Return the format of a file by the ending of its name, without .gz: "jsonl", "csv", "tsv" or another."""
    ending = name.lower().removesuffix(".gz").rpartition(".")[2]
    return "jsonl" if ending in ("ndjson", "json") else ending


def read_records(path: Path | None, format: str) -> Iterator[Record]:
    """Yield the records of a file. Errors name the file and the line.

    path: None reads stdin. format: "jsonl"; "csv", quoted, or "tsv", without quoting, with a header; anything else
    is a text per line, in the field "text".
    """
    name = str(path or "stdin")
    if format == "jsonl":
        return _read_jsonl(path, name)
    if format in ("csv", "tsv"):
        return _read_table(path, name, format)
    return _read_texts(path, name)


def text_columns(
    names: Collection[str], text: str | None = None, pair: str | None = None
) -> tuple[str | None, str | None]:
    """Return the columns of the text and of its pair among the names of all columns, each or None.

    text, pair: columns that the user chose, returned unchanged.
    """
    found = in_any_case(names)
    if text is None:
        for usual, usual_pair in TEXT_COLUMNS:
            if usual in found and found[usual] != pair and (usual_pair is None or usual_pair in found):
                return found[usual], found.get(usual_pair or "") if pair is None else pair
        return None, pair
    return text, found.get("text_pair") if pair is None and text != found.get("text_pair") else pair


def in_any_case(names: Iterable[str]) -> dict[str, str]:
    """Return names by their lowercase form: of those that differ in case only, a lowercase one."""
    return {name.lower(): name for name in sorted(names)}  # capitals sort first


def delimiter_hint(names: Collection[str]) -> str:
    """Return the end of an error about missing columns: the delimiter that seems to separate them."""
    used = [mark for mark in DELIMITERS if len(names) == 1 and mark in next(iter(names))]
    return f"; the columns seem to be separated by {used[0]!r}, which this format does not use" if used else ""


def read_lines(path: Path | None) -> Iterator[tuple[int, str]]:
    """Yield the numbers, from 1, and the lines of a file, line ends included. None: stdin."""
    name, number, blank = path or "stdin", 0, 0
    try:
        with _open(path) as file:
            for number, line in enumerate(_lines(file), 1):
                if len(line) > MAX_LINE:
                    raise InputError(f"{name}, line {number} is too long: expected at most {MAX_LINE:,} bytes")
                blank = blank + 1 if line.isspace() else 0
                if blank > MAX_BLANK:
                    raise InputError(f"{name}, line {number}: expected at most {MAX_BLANK:,} blank lines in a row")
                if number == 1 and _is_utf_16(line):
                    raise InputError(
                        f"{name} is UTF-16: convert it to UTF-8, such as with iconv -f UTF-16 -t UTF-8"
                    )
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}, line {number} is not UTF-8: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {name} after line {number}: {reason}") from error


def _is_utf_16(line: bytes) -> bool:
    """Return whether the first line has a byte order mark, or every other of its first bytes is zero."""
    if line.startswith(UTF_16):
        return True
    whole = len(line) % 2 == 0 or line.endswith(b"\n")  # \n ends a line before its second byte
    return b"\0" in line[:2] and whole and not (any(line[:4:2]) and any(line[1:4:2]))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file, line ends included, or more than MAX_LINE bytes of a longer line."""
    part = file.readline(MAX_LINE + 1)
    if part.endswith(b"\n") or b"\r" not in part:
        yield from itertools.chain([part] * bool(part), iter(lambda: file.readline(MAX_LINE + 1), b""))
        return
    rest = b""
    while part:
        rest += part
        end = 0
        for match in LINE.finditer(rest):
            yield match[0]
            end = match.end()
        rest = rest[end:]
        if len(rest) > MAX_LINE:
            break
        part = file.readline(MAX_LINE + 1)
    if rest:
        yield rest


def csv_rows(lines: Iterable[str], **dialect: Any) -> Any:
    """Return a `csv.reader` that takes cells of up to MAX_LINE characters.

    This raises `csv.field_size_limit`, 131,072 by default, for the whole process: all readers share it.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    return csv.reader(lines, **dialect)


def _open(path: Path | None) -> IO[bytes]:
    if path is None:
        return sys.stdin.buffer
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _read_texts(path: Path | None, name: str) -> Iterator[Record]:
    blank = 0  # lines before the current one
    for number, line in read_lines(path):
        text = line.rstrip("\r\n")
        if number == 1 and _is_object(text):
            raise InputError(f"{name}, line 1 is JSON: pass --jsonl to read its fields")
        if not text:
            blank += 1
            continue
        yield from _empty("text", name, range(number - blank, number))
        yield Record({"text": text}, f"{name}, line {number}", len(text))
        blank = 0


def _empty(column: str, name: str, lines: Iterable[int]) -> Iterator[Record]:
    """Yield the records of blank lines, which are known not to be at the end of the file."""
    return (Record({column: ""}, f"{name}, line {line}", 0) for line in lines)


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _read_jsonl(path: Path | None, name: str) -> Iterator[Record]:
    for number, line in read_lines(path):
        if line.isspace():
            continue
        place = f"{name}, line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:  # its text names a line of its own
            raise InputError(f"{place} is not JSON: {error.msg} at character {error.pos + 1}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place} is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InputError(f"{place}: expected a JSON object, found {type(fields).__name__}")
        yield Record(fields, place, len(line))


def _read_table(path: Path | None, name: str, format: str) -> Iterator[Record]:
    start, size = 1, 0  # first line and characters of the current row: a quoted cell may span lines

    def read() -> Iterator[str]:
        nonlocal size
        for number, line in read_lines(path):
            size += len(line)
            if size > MAX_LINE or number - start >= MAX_ROW_LINES:
                raise InputError(
                    f"{name}, line {start}: the row is too long: expected at most {MAX_LINE:,} characters and "
                    f"{MAX_ROW_LINES:,} lines; a quote may be missing"
                )
            yield line

    lines = read()
    first = next(lines, "")
    rows = csv_rows(itertools.chain([first], lines), **_dialect(first, format))
    header: list[str] = []
    unnamed: list[int] = []
    blank = 0  # lines before the current row
    try:
        for cells in rows:
            if not cells or (len(header) != 1 and len(cells) == 1 and not cells[0].strip()):
                blank += 1
            elif not header:
                header, blank = [column.strip() for column in cells], 0
                unnamed = [i for i, column in enumerate(header) if not column]
                if twice := [column for column, count in Counter(header).items() if column and count > 1]:
                    raise InputError(f"{name} has two columns {' and '.join(twice)}: names must differ")
            elif len(header) > 1 and [cell.strip(BOM_AND_SPACES) for cell in cells] == header:
                raise InputError(f"{name}, line {start} repeats the header: remove it")
            elif len(cells) != len(header):
                raise InputError(
                    f"{name}, line {start} has {len(cells)} cells: the header has {len(header)}"
                    f"{delimiter_hint(cells)}"
                )
            elif len(unnamed) > 1 and any(cells[i].strip() for i in unnamed):  # spreadsheets add empty columns
                raise InputError(
                    f"{name}, line {start} has a value in one of {len(unnamed)} columns without a name: name them"
                )
            else:
                if len(header) == 1:  # as in a file of texts
                    yield from _empty(header[0], name, range(start - blank, start))
                yield Record(dict(zip(header, cells, strict=True)), f"{name}, line {start}", size)
                blank = 0
            start, size = rows.line_num + 1, 0
    except csv.Error as error:
        reason = "it has a carriage return outside quotes" if "new-line" in str(error) else error
        raise InputError(f"{name}, line {start} is not a row of a table: {reason}") from error


def _dialect(header: str, format: str) -> dict[str, Any]:
    if format == "tsv":
        return {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    unquoted = re.sub('"[^"]*"', "", header)
    return {"delimiter": max(DELIMITERS, key=unquoted.count), "strict": True}
