"""Progress of long work on stderr: a tqdm bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
from typing import Any

LINE_INTERVAL = 30.0  # seconds between lines where stderr is not a terminal
LINE_FORMAT = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Lines:
    """A file for tqdm that prints each update as a line instead of redrawing the line."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


def progress_bar(
    description: str,
    total: int | None = None,
    *,
    unit: str = "it",
    initial: int = 0,
    leave: bool = True,
    quiet: bool = False,
) -> Any:
    """Return a tqdm bar: `with progress_bar("texts", 100, unit="text") as bar: bar.update()`.

    Where stderr is not a terminal, it prints a line at most every 30 seconds and, with `leave`, one at the end.
    Print other messages with `bar.write(text, file=sys.stderr)`, which does not break the bar.

    Args:
        description: shown before the count.
        total: number of items; None: unknown.
        unit: name of an item, for the rate.
        initial: items that are already done.
        leave: keep the bar, or print the last line, at the end.
        quiet: print nothing.
    """
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # takes 0.2 s to import

    options: dict[str, Any] = {"mininterval": 0.1, "dynamic_ncols": True}
    if not sys.stderr.isatty():
        # delay > 0 suppresses tqdm's first line, before any work is done; position 0 suppresses cursor movements
        options = {"mininterval": LINE_INTERVAL, "bar_format": LINE_FORMAT, "file": _Lines()}
        options |= {"delay": 1e-9, "position": 0}
    # miniters=1: tqdm looks at the clock at every update, so lines stay regular even if items are slow
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        initial=initial,
        leave=leave,
        disable=quiet,
        miniters=1,
        **options,
    )
