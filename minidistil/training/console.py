"""Progress of a training run on stderr, and stopping it with Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .progress import progress_bar


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
