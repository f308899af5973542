"""Write the answers to `--input`, as JSON lines or as a table.

Answers are written in the order of the texts, each as a whole and as soon as it is known, so that `--resume` can
continue after the last complete answer.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..io.locks import lock_file
from ..io.text_files import MAX_LINE, csv_rows, file_format
from .output import json_line

NUMBER = "row"  # first column of an output table: the number of the text, from 1
ENDINGS = ("", ".jsonl", ".ndjson", ".json", ".csv")
STREAM = re.compile(r"/dev/(stderr|fd/\d+)|/proc/self/fd/\d+")  # what this process has open, whatever it is
NO_EARLIER_RUN = "--resume requires the output of an earlier run"


@contextlib.contextmanager
def open_sink(path: str | None, source: str, resume: bool = False) -> Iterator[Sink]:
    """Open the destination of the answers, within a `with` block.

    A file is locked, and unchanged until the first answer is written: a run that fails before that removes a file
    that it created. Pipes and devices are written directly.

    Args:
        path: a file, a table if it ends in .csv; None or "-" for stdout.
        source: the input, which must not be overwritten.
        resume: count the answers in the file, and write after them.

    Raises:
        InputError: if the file cannot be written, or another run is writing to it.
    """
    if path == "":
        raise InputError("--output is empty: expected the name of a file, or - for stdout")
    target = None if path in (None, "-", "/dev/stdout") else Path(str(path))
    is_file = target is not None and not STREAM.fullmatch(str(path)) and (target.is_file() or not target.exists())
    if resume and not is_file:
        raise InputError(f"--resume requires an --output that is a file, found {target or 'stdout'}")
    if target is None:
        yield Sink(sys.stdout, "stdout")
        return
    new = not target.exists()
    if is_file and not new and _is_input(target, source):
        raise InputError(f"--output {path} is the input: it would be overwritten while it is read")
    if is_file and target.suffix.lower() not in ENDINGS:
        raise InputError(f"--output {path}: expected a name that ends in .jsonl or .csv")
    with _named_errors(str(path)):
        file = _open(target, wait=is_file)
    sink = Sink(file, str(path))
    locked = False
    try:
        if is_file:
            lock_file(file.fileno(), target)
            locked, sink.end = True, 0
        if resume:
            sink.count_answered()
        yield sink
    finally:
        if new and locked and not sink.begun:
            with contextlib.suppress(OSError):  # Windows removes no open file
                target.resolve().unlink()  # the file, not a link to it
        with _named_errors(str(path)):
            file.close()


def _is_input(path: Path, source: str) -> bool:
    if source != "-":
        return path.samefile(source)
    try:
        return os.path.samestat(path.stat(), os.fstat(0))
    except OSError:  # stdin is closed
        return False


def _open(path: Path, wait: bool) -> IO[str]:
    """Open a file to append to it. wait: False raises an error for a named pipe that no process reads."""
    nonblocking = 0 if wait else getattr(os, "O_NONBLOCK", 0)  # not on Windows

    def opener(name: str, flags: int) -> int:
        file = os.open(name, flags | nonblocking, 0o666)
        if nonblocking:
            os.set_blocking(file, True)
        return file

    return open(path, "a", encoding="utf-8", errors="backslashreplace", newline="", opener=opener)


class Sink:
    """Answers as JSON lines, or as a table with one row per label, word or span, best first."""

    def __init__(self, file: IO[str], name: str):
        """Wrap an open file. name: for messages; its ending sets the format."""
        self.file, self.name = file, name
        self.is_table = file_format(name) == "csv"
        self.columns: list[str] = []  # of the table, or keys of an answer, known from the first answer
        self.answered = 0  # texts that an earlier run answered completely
        self.end: int | None = None  # length of their answers, in bytes; None for stdout, pipes and devices
        self.begun = False  # whether answers have been written

    def count_answered(self) -> None:
        """Count the texts that the file answers completely. Raises InputError for a file of something else."""
        with Path(self.name).open("rb") as file:
            if self.is_table:
                self._count_rows(file)
            else:
                self._count_lines(file)

    def _count_lines(self, file: IO[bytes]) -> None:
        end, last = 0, b"null"
        for line in iter(lambda: file.readline(8 * MAX_LINE), b""):  # a character may take 6 bytes in JSON
            if line[:1] not in (b"{", b"["):
                raise InputError(f"{self.name}, line {self.answered + 1} is not an answer: {NO_EARLIER_RUN}")
            if line.endswith(b"\n"):  # a killed run can leave an incomplete line
                self.answered, end, last = self.answered + 1, end + len(line), line
        try:
            answer = json.loads(last)
        except (ValueError, RecursionError):
            raise InputError(f"{self.name}, line {self.answered} is not an answer: {NO_EARLIER_RUN}") from None
        self.end, self.columns = end, list(answer) if isinstance(answer, dict) else []

    def _count_rows(self, file: IO[bytes]) -> None:
        read = 0

        def lines() -> Iterator[str]:
            nonlocal read
            for line in iter(lambda: file.readline(8 * MAX_LINE), b""):
                read += len(line)
                yield line.decode("utf-8", errors="replace")

        beginning = file.read(len(NUMBER) + 1)
        if not f"{NUMBER},".encode().startswith(beginning):
            raise InputError(f"the first column of {self.name} is not {NUMBER}: {NO_EARLIER_RUN}")
        file.seek(0)
        rows = csv_rows(lines())
        header: list[str] = next(rows, [])
        number, start, end = 0, read, read  # of the latest text: its number, the start and end of its rows
        with contextlib.suppress(csv.Error):
            for cells in rows:
                text = int(cells[0]) if cells and re.fullmatch("[0-9]{1,15}", cells[0]) else 0
                if len(cells) != len(header) or text < max(number, 1):
                    break
                if text != number:
                    number, start = text, end
                end = read
        if end != read < os.fstat(file.fileno()).st_size:  # only the last row may be incomplete
            raise InputError(f"{self.name}, line {rows.line_num} is not a row of answers: {NO_EARLIER_RUN}")
        if number > 1:  # rows of the latest text may be missing: it is answered again
            self.answered, self.end, self.columns = number - 1, start, header[1:]

    def write(self, answers: Iterable[Any], total: int | None, quiet: bool = False) -> None:
        """Write the answers. total: number of texts. Progress goes to stderr, unless `quiet`."""
        from ..training.progress import progress_bar

        quiet = quiet or (self.file is sys.stdout and sys.stdout.isatty())  # the answers show the progress
        bar = progress_bar("texts", total, unit="text", initial=self.answered, leave=False, quiet=quiet)
        with bar, _named_errors(self.name):
            for number, answer in enumerate(answers, self.answered + 1):
                self._write(self._format(answer, number))
                bar.update()
            self._write("")  # no texts, no answers
            bar.leave = True  # not after an error, which is one line

    def _write(self, text: str) -> None:
        if self.end is not None and not self.begun:
            self.file.truncate(self.end)
        self.begun = True
        self.file.write(text)
        self.file.flush()

    def _format(self, answer: Any, number: int) -> str:
        if not self.is_table:
            if isinstance(answer, dict):
                self._check_columns(answer)
            return json_line(answer) + "\n"
        rows: list[list[Any]] = []
        for row in table_rows(answer):
            if not self.columns:
                rows.append([NUMBER, *row])
            self._check_columns(row)
            rows.append([number, *row.values()])
        return "".join(map(csv_line, rows))

    def _check_columns(self, row: dict[str, Any]) -> None:
        """Raise InputError if the answers of an earlier run have other columns."""
        self.columns = self.columns or list(row)
        if list(row) != self.columns:
            raise InputError(
                f"{self.name} has the columns {', '.join(self.columns)}, but the new answer has {', '.join(row)}: "
                "--resume requires the options of the earlier run"
            )


def csv_line(cells: Iterable[Any]) -> str:
    """Return a row of a table. Cells with line breaks of any kind are quoted: a lone carriage return too."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # which quotes the characters of the line end
    return line.getvalue().removesuffix("\r\n") + "\n"


def table_rows(answer: Any) -> list[dict[str, Any]]:
    """Return the table rows of an answer: one per label, word or span. A vector is one row."""
    if isinstance(answer, dict) and isinstance(answer.get("labels"), list):
        pairs = zip(answer["labels"], answer["scores"], strict=True)
        return [{"sequence": answer["sequence"], "label": label, "score": score} for label, score in pairs]
    if isinstance(answer, dict):
        return [answer]
    if answer and isinstance(answer[0], float):
        return [{f"x{i}": number for i, number in enumerate(answer, 1)}]
    return [row for part in answer for row in table_rows(part)]


@contextlib.contextmanager
def _named_errors(destination: str) -> Iterator[None]:
    """Add the destination to errors of writing, such as a full disk."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        nobody = error.errno == errno.ENXIO  # of a named pipe
        reason = "no process reads it; start its reader first" if nobody else error.strerror
        raise InputError(f"cannot write to {destination}: {reason}") from error
