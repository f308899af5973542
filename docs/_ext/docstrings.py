"""Adapt docstrings and pages to Sphinx."""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

REPOSITORY = "https://github.com/minidistil/minidistil/blob/main"
FIELD = re.compile(r"    (\w+): [^#]+  # (.+)")


def adapt(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape asterisks, mark indented code as such, and list the fields of a dataclass that have a comment."""
    if what == "property":
        lines[:] = [line.replace(": ", " \u2013 ") for line in lines]  # napoleon reads type: text
    code = False
    for i, line in enumerate(lines):
        code = line.startswith("    ") if code or (i > 1 and lines[i - 2].endswith("::")) else False
        if not code:
            lines[i] = line.replace("*", "\\*")
            if line.endswith(":") and i + 2 < len(lines) and not lines[i + 1] and lines[i + 2].startswith("    "):
                lines[i] += ":"
    if what == "class" and hasattr(obj, "__annotations__"):
        fields = filter(None, map(FIELD.fullmatch, inspect.getsource(obj).splitlines()))
        entries = [f"* `{field[1]}`: {field[2]}" for field in fields if field[1] in obj.__annotations__]
        lines += ["", "Fields:", "", *entries, ""] if entries else []


def adapt_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Remove the blank line at the end of a Python session, and point links out of docs/ to the repository."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")
    if "/" not in name:
        source[0] = source[0].replace("](../", f"]({REPOSITORY}/")


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon reads a docstring, and before a page is parsed."""
    app.connect("source-read", adapt_page)
    app.connect("autodoc-process-docstring", adapt, priority=400)
    return {"parallel_read_safe": True}
