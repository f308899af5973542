"""Show the comments beside the fields of a dataclass or NamedTuple in the API reference."""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

FIELD = re.compile(r"    (\w+): [^#]+  # (.+)")


def add_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Append a list of the fields that have a comment to the docstring of their class."""
    if what == "class" and hasattr(obj, "__annotations__"):
        fields = filter(None, map(FIELD.fullmatch, inspect.getsource(obj).splitlines()))
        entries = [f"* **{field[1]}**: {field[2]}" for field in fields if field[1] in obj.__annotations__]
        lines += ["", "Fields:", "", *entries, ""] if entries else []


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon reads the docstring."""
    app.connect("autodoc-process-docstring", add_fields, priority=400)
    return {"parallel_read_safe": True}
