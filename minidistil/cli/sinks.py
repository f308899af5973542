"""Write the answers to `--input`, as JSON lines or as a table.

Answers are written in the order of the texts, each as a whole and as soon as it is known, so that `--resume` can
continue after the last complete answer.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..training.records import file_format
from .sources import Source

NUMBER = "row"  # first column of an output table: the number of the text, from 1


class Sink:
    """Answers as JSON lines, or as a table with one row per label, word or span, best first."""

    def __init__(self, path: str | None):
        """Set the destination, without opening it. path: a file, a table if it ends in .csv; None for stdout."""
        self.path = None if path is None else Path(path)
        self.is_table = file_format(path or "") == "csv"
        self.end = 0  # length of the complete answers, in bytes: a resumed run writes after them
        self.columns: list[str] = []  # of the table, known from the first answer

    def count_answered(self) -> int:
        """Return the number of texts that the file answers completely, and set `end`."""
        if self.path is None or not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            return self._count_rows(file) if self.is_table else self._count_lines(file)

    def _count_lines(self, file: IO[bytes]) -> int:
        count, last = 0, b"null"
        for line in file:
            if line.endswith(b"\n"):  # a killed run can leave an incomplete line
                count, self.end, last = count + 1, self.end + len(line), line
        try:
            json.loads(last)
        except ValueError:
            raise InputError(
                f"{self.path}, line {count} is not an answer: --resume requires the output of an earlier run"
            ) from None
        return count

    def _count_rows(self, file: IO[bytes]) -> int:
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
                f"the first column of {self.path} is not {NUMBER}: --resume requires the output of an earlier run"
            )
        last, end = 0, read
        for cells in rows:
            if len(cells) != len(header) or not cells[0].isdecimal():
                break
            if int(cells[0]) != last:
                last, self.end = int(cells[0]), end
            end = read
        self.columns = header[1:] if last > 1 else []
        return max(0, last - 1)  # some rows of the last text may be missing: it is answered again

    def write(self, answers: Iterable[Any], source: Source, quiet: bool = False) -> None:
        """Write the answers to the texts of `source`. Progress goes to stderr, unless `quiet`."""
        from ..training.progress import progress_bar

        count = source.skipped
        quiet = quiet or (self.path is None and sys.stdout.isatty())  # the answers themselves show the progress
        bar = progress_bar("texts", source.total, unit="text", initial=count, leave=False, quiet=quiet)
        with _name_write_errors(str(self.path or "stdout")), contextlib.ExitStack() as stack:
            stack.enter_context(bar)
            file: IO[str] | None = None
            for answer in answers:
                if file is None:  # opened with the first answer: a run that fails before it changes nothing
                    file = stack.enter_context(self._open(source.skipped > 0))
                count += 1
                file.write(self._format(answer, count))
                file.flush()
                bar.update()
            if file is None:  # no texts, no answers
                stack.enter_context(self._open(source.skipped > 0))
            bar.leave = True  # not after an error, which is one line

    def _open(self, resume: bool) -> contextlib.AbstractContextManager[IO[str]]:
        if self.path is None:
            return contextlib.nullcontext(sys.stdout)
        if resume:
            os.truncate(self.path, self.end)
        return self.path.open("a" if resume else "w", encoding="utf-8", errors="backslashreplace", newline="")

    def _format(self, answer: Any, number: int) -> str:
        if not self.is_table:
            return json.dumps(answer, ensure_ascii=False) + "\n"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in table_rows(answer):
            if not self.columns:
                self.columns = list(row)
                writer.writerow([NUMBER, *row])
            if list(row) != self.columns:
                raise InputError(
                    f"{self.path} has the columns {', '.join(self.columns)}, but the new answer has "
                    f"{', '.join(row)}: --resume requires the options of the earlier run"
                )
            writer.writerow([number, *row.values()])
        return text.getvalue()


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
def _name_write_errors(destination: str) -> Iterator[None]:
    """Add the destination to errors of writing, such as a full disk."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"cannot write to {destination}: {error.strerror}") from error
