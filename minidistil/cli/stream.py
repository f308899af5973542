"""Many texts from a file, and their answers to another: lines of text, lines of JSON, or tables.

An answer is written whole, in the texts' order, and at once: what a run has written when it is stopped is what the
next one need not answer again.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..training.data import ending, read_json, read_lines, read_table

NUMBER = "row"  # the column of an output table that says which text a row is about, counted from 1
Record = dict[str, Any]


class Source:
    """Texts: one in each line, JSON object, or row of a table with a header."""

    def __init__(self, path: str, jsonl: bool = False):
        """Say what is read: a file, or "-" for stdin, of which `jsonl` says that it is JSON whatever its name."""
        self.path = None if path == "-" else Path(path)
        self.name = "stdin" if self.path is None else path
        self.form = "jsonl" if jsonl else ending(path)
        self.done = 0  # texts that an earlier run has answered

    @property
    def structured(self) -> bool:
        """Whether a text comes with names for what it is."""
        return self.form == "jsonl" or self.table

    @property
    def table(self) -> bool:
        """Whether its texts are rows with a header above them."""
        return self.form in ("csv", "tsv")

    def __iter__(self) -> Iterator[tuple[Record, str]]:
        """Give each text's record that is not done, and where it stands."""
        for i, record in enumerate(itertools.islice(self._records(), self.done, None)):
            yield record, self.place(i)

    def place(self, i: int) -> str:
        """Say where the i-th text stands, of those that are not done."""
        return f"{self.name}, {'row' if self.table else 'line'} {self.done + i + 1}"

    @functools.cached_property
    def total(self) -> int | None:
        """How many texts there are; None where that cannot be told: to count those of a pipe would lose them."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            return sum(1 for _ in (self._records() if self.table else read_lines(self.path)))
        except InputError:  # which is said when it is that text's turn
            return None

    def _records(self) -> Iterator[Record]:
        if self.form == "jsonl":
            return read_json(self.path)
        if self.table:
            return (record for record, _ in read_table(self.path, self.form))
        return self._texts()

    def _texts(self) -> Iterator[Record]:
        for number, line in read_lines(self.path):
            if number == 1 and re.match(r'\{\s*"(text|question)"\s*:', line):
                raise InputError(f"{self.name}, line 1 is JSON: give --jsonl, to read its text")
            yield {"text": line.rstrip("\r\n")}


class Sink:
    """Answers: a JSON line each, or in a table a row for each label, word or span, best first."""

    def __init__(self, path: str | None):
        """Say where to: a file, a table if its name says so; None is stdout."""
        self.path = None if path is None else Path(path)
        self.table = ending(path or "") == "csv"
        self.end = 0  # of the file: what is kept of it
        self.columns: list[str] = []  # of the table, once they are known

    def answered(self) -> int:
        """Count the texts that the file answers, and mark where the answer to the last of them ends."""
        if self.path is None or not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            return self._answered_in_table(file) if self.table else self._answered_in_lines(file)

    def _answered_in_lines(self, file: IO[bytes]) -> int:
        count, last = 0, b"null"
        for line in file:
            if line.endswith(b"\n"):  # a run may have stopped amid a line
                count, self.end, last = count + 1, self.end + len(line), line
        try:
            json.loads(last)
        except ValueError:
            where = f"{self.path}, line {count}"
            raise InputError(f"{where} is not an answer: --resume needs what a run before wrote") from None
        return count

    def _answered_in_table(self, file: IO[bytes]) -> int:
        read = 0

        def lines() -> Iterator[str]:
            nonlocal read
            for line in file:
                read += len(line)
                yield line.decode("utf-8", errors="replace")

        rows = csv.reader(lines())
        header = next(rows, [NUMBER])
        if header[0] != NUMBER:
            raise InputError(
                f"{self.path} has no column {NUMBER} at first: --resume needs what a run before wrote"
            )
        last, end = 0, read
        for cells in rows:
            if len(cells) != len(header) or not cells[0].isdecimal():
                break
            if int(cells[0]) != last:
                last, self.end = int(cells[0]), end
            end = read
        self.columns = header[1:] if last > 1 else []
        return max(0, last - 1)  # the last text's rows may not be all there: it is answered again

    def write(self, answers: Iterable[Any], source: Source) -> None:
        """Write the answers to what is not done, and say on stderr how far it is."""
        count, start, shown = 0, time.monotonic(), time.monotonic()
        left = None if source.total is None else source.total - source.done
        with _naming(str(self.path or "stdout")), contextlib.ExitStack() as stack:
            file: IO[str] | None = None
            for answer in answers:
                if file is None:  # only now: what the file held stays if there is no answer
                    file = stack.enter_context(self._open(source.done > 0))
                count += 1
                file.write(self._text_of(answer, source.done + count))
                file.flush()
                if time.monotonic() - shown > 1:
                    shown = time.monotonic()
                    show_progress(count, shown - start, left)
            if file is None:  # no texts, no answers
                stack.enter_context(self._open(source.done > 0))
        show_progress(count, time.monotonic() - start, end="\n")

    def _open(self, resumed: bool) -> contextlib.AbstractContextManager[IO[str]]:
        if self.path is None:
            return contextlib.nullcontext(sys.stdout)
        if resumed:
            os.truncate(self.path, self.end)
        return self.path.open("a" if resumed else "w", encoding="utf-8", errors="backslashreplace", newline="")

    def _text_of(self, answer: Any, number: int) -> str:
        if not self.table:
            return json.dumps(answer, ensure_ascii=False) + "\n"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in rows_of(answer):
            if not self.columns:
                self.columns = list(row)
                writer.writerow([NUMBER, *row])
            if list(row) != self.columns:
                raise InputError(
                    f"{self.path} has the columns {', '.join(self.columns)}, but an answer {', '.join(row)}: "
                    "the run before had other options"
                )
            writer.writerow([number, *row.values()])
        return text.getvalue()


def rows_of(answer: Any) -> list[Record]:
    """Give an answer's rows in a table: one for each label, word or span that it holds; a vector is one."""
    if isinstance(answer, dict) and isinstance(answer.get("labels"), list):
        pairs = zip(answer["labels"], answer["scores"], strict=True)
        return [{"sequence": answer["sequence"], "label": label, "score": score} for label, score in pairs]
    if isinstance(answer, dict):
        return [answer]
    if answer and isinstance(answer[0], float):
        return [{f"x{i}": number for i, number in enumerate(answer, 1)}]
    return [row for part in answer for row in rows_of(part)]


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Say where it was that could not be written, such as to a full disk."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"cannot write to {place}: {error.strerror}") from error


def show_progress(count: int, seconds: float, total: int | None = None, end: str = "") -> None:
    """Say on stderr how many texts of a total are answered, after so many seconds."""
    start = "\r" if sys.stderr.isatty() else ""
    end = end if sys.stderr.isatty() else "\n"
    left = "" if not total or not count else f", {(total - count) * seconds / count:.0f} s left"
    print(
        f"{start}{count} text{'s' * (count != 1)}, {count / max(seconds, 1e-9):.1f} a second{left}",
        end=end,
        file=sys.stderr,
        flush=True,
    )
