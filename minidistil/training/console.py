"""What a training run reports on stderr: how labels were read, and its progress. Stopping it with Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import printable
from .labels import JOINERS, MAX_LENGTH, MULTI, REGRESSION, SINGLE, Schema, Summary, listed
from .progress import progress_bar

MEANINGS = {SINGLE: "one class per text", MULTI: "several classes per text", REGRESSION: "numbers"}
MAX_CLASSES = 20  # of a report


class StopRequest:
    """Record Ctrl-C and SIGTERM: the first lets a run finish and save its step, the second stops it at once."""

    def __init__(self) -> None:
        self.received = False

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle the signals, within a `with` block."""
        signals = (signal.SIGINT, signal.SIGTERM)
        try:
            former = [signal.signal(number, self._receive) for number in signals]
        except ValueError:  # only the main thread receives signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in zip(signals, former, strict=True):
                signal.signal(number, handler)

    def _receive(self, *_: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True


class TrainingProgress:
    """A progress bar with the smoothed loss, the learning rate and tokens/s."""

    def __init__(self, total: int, step: int, quiet: bool):
        """Show the bar. step: steps that are already done."""
        self.bar = progress_bar("training", total, unit="step", initial=step, quiet=quiet)
        self.quiet = quiet
        self.loss, self.tokens, self.seconds = math.nan, 0, 0.0

    def update(self, record: Mapping[str, Any]) -> None:
        """Add the record of a step."""
        self.tokens, self.seconds = self.tokens + record["tokens"], self.seconds + record["seconds"]
        self.loss = record["loss"] if math.isnan(self.loss) else self.loss + 0.05 * (record["loss"] - self.loss)
        rate = self.tokens / self.seconds
        figures = f"loss {self.loss:.4f}, learning rate {record['learning_rate']:.2e}, {rate:,.0f} tokens/s"
        self.bar.set_postfix_str(figures, refresh=False)
        self.bar.update()

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.quiet:
            self.bar.write(text, file=sys.stderr)


def label_report(schema: Schema, rows: Summary, eval_rows: Summary | None = None) -> str:
    """Format how labels were read: the problem type, the rows of each class, and the rows without a label.

    Args:
        schema: what labels mean.
        rows: training data, or the only data.
        eval_rows: evaluation data.
    """
    summaries = [rows] if eval_rows is None else [rows, eval_rows]
    lines = [["", "rows"] if eval_rows is None else ["", "training", "evaluation"]]
    if schema.problem_type == REGRESSION:
        lines.append(["labeled", *(f"{summary.labeled:,}" for summary in summaries)])
        numbers = [[number for target in s.targets if target for number in target] for s in summaries]
        for name, function in (("lowest", min), ("highest", max)):
            lines.append([name, *(f"{function(values):g}" if values else "" for values in numbers)])
    else:
        lines += _class_lines(schema, summaries)
    if any(summary.skipped for summary in summaries):
        markers = listed(sorted({marker for summary in summaries for marker in summary.skipped}))
        counts = [f"{summary.skipped.total():,}" for summary in summaries]
        lines.append(["skipped", *counts, f"no label: {_in_terminal(markers)}"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(summaries) + 1)]
    outputs = f"{len(schema.names):,} {'per text' if schema.problem_type == REGRESSION else 'classes'}"
    text = f"labels: {MEANINGS[schema.problem_type]} ({schema.problem_type}), {outputs}"
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=False)]
        text += "\n" + "  ".join(["", first.ljust(widths[0]), *cells, *rest[len(cells) :]]).rstrip()
    return text


def _in_terminal(text: str) -> str:
    """Return a text without characters that could move the cursor. Joiners stay: names need them."""
    return text if text.translate(JOINERS).isprintable() else printable(text)


def _class_lines(schema: Schema, summaries: list[Summary]) -> Iterator[list[str]]:
    """Yield the name of each class, its rows, and how the file spells it if that differs."""
    first, *_ = summaries
    largest = sorted(range(len(schema.names)), key=lambda i: -first.classes[i])[:MAX_CLASSES]
    for i in sorted(largest):
        name = _in_terminal(schema.names[i])
        spellings = set[str]().union(*(summary.spellings.get(i, ()) for summary in summaries))
        written = [f"written {_in_terminal(listed(sorted(spellings)))}"] if spellings - {name} else []
        yield [name[:MAX_LENGTH], *(f"{summary.classes[i]:,}" for summary in summaries), *written]
    if len(largest) < len(schema.names):
        yield [
            f"{len(schema.names) - len(largest):,} more",
            *(f"{summary.classes.total() - sum(summary.classes[i] for i in largest):,}" for summary in summaries),
        ]
    if any(summary.without_class for summary in summaries):
        yield ["no class", *(f"{summary.without_class:,}" for summary in summaries)]
