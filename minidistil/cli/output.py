"""Format results for a terminal, or as JSON."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

BAR_WIDTH = 24  # characters of the bar for a score of 1


def score_lines(title: str, scores: Iterable[tuple[str, float]]) -> Iterator[str]:
    """Yield a title, and below it a line per label with its score and a bar."""
    rows = [(one_line(label), score) for label, score in scores]
    width = max((display_width(label) for label, _ in rows), default=0)
    yield one_line(title)
    if not rows:
        yield "  (nothing found)"
    for label, score in rows:
        bar = "█" * round(BAR_WIDTH * min(max(score, 0.0), 1.0))
        yield f"  {pad(label, width)}  {score:.3f}  {bar}".rstrip()


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    import json  # not needed for --help

    print(json.dumps(value, ensure_ascii=False))


def one_line(text: str) -> str:
    """Replace line breaks and control characters, which could move the cursor or change colors, with spaces."""
    return "".join(
        " " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in text
    )


def display_width(text: str) -> int:
    """Return the width of a text in terminal columns: 2 for a wide character, 0 for a combining one."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in ("Mn", "Me") for character in text)


def pad(text: str, width: int) -> str:
    """Pad a text with spaces on the right to a number of columns."""
    return text + " " * (width - display_width(text))
