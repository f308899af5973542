"""What a run prints on stderr, and how Ctrl-C stops it."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

INTERVAL = 2.0  # seconds between progress lines


class StopRequest:
    """Ctrl-C or SIGTERM during a run: after the first the step is finished and saved; the second stops at once."""

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


class Progress:
    """Prints loss, learning rate, tokens/s and the time left, at most every two seconds."""

    def __init__(self, total: int, step: int, enabled: bool):
        self.total, self.first_step, self.enabled = total, step, enabled
        self.begin = self.last = time.monotonic()
        self.tokens, self.loss = 0, math.nan

    def update(self, record: Mapping[str, Any]) -> None:
        """Add the record of a step, and print a line if one is due."""
        step = record["step"]
        self.tokens += record["tokens"]
        self.loss = record["loss"] if math.isnan(self.loss) else self.loss + 0.05 * (record["loss"] - self.loss)
        now = time.monotonic()
        if not self.enabled or (now - self.last < INTERVAL and step < self.total):
            return
        left = (now - self.begin) / (step - self.first_step) * (self.total - step)
        on_terminal = sys.stderr.isatty()
        print(
            f"{chr(13) if on_terminal else ''}step {step} of {self.total}, loss {self.loss:.4f}, "
            f"learning rate {record['learning_rate']:.2e}, {self.tokens / (now - self.last):,.0f} tokens/s, "
            f"{left / 60:.1f} min left ",
            end="" if on_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
        self.last, self.tokens = now, 0

    def close(self) -> None:
        """End the line on a terminal."""
        if self.enabled and sys.stderr.isatty():
            print(file=sys.stderr)
