"""Format results for a terminal, or as JSON."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

BAR_WIDTH = 24  # characters of the bar for a score of 1
# control characters, line separators, and marks that change the direction of text
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


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
    print(json_line(value))


def json_line(value: Any) -> str:
    """Return a value as one line of readable JSON, in which the characters of `CONTROLS` are escaped."""
    import json  # not needed for --help

    line = json.dumps(value, ensure_ascii=False)
    return CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def one_line(text: str) -> str:
    """Replace the characters of `CONTROLS`, which could move the cursor or change colors, with spaces."""
    return CONTROLS.sub(" ", text)


def display_width(text: str) -> int:
    """Return the width of a text in terminal columns: 2 for a wide character, 0 for a combining one."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in ("Mn", "Me") for character in text)


def pad(text: str, width: int) -> str:
    """Pad a text with spaces on the right to a number of columns."""
    return text + " " * (width - display_width(text))
