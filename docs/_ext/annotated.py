"""A directive that shows a Python file beside its own comments and docstrings: `{annotated} minidistil/ops.py`."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


def parts(source: str) -> Iterator[tuple[list[str], str]]:
    """Yield notes and code of each part: a function or class with its docstring, or what follows a comment."""
    lines = source.splitlines()
    comments = {i for i, line in enumerate(lines) if line.lstrip().startswith("#")}
    docstrings: dict[int, str] = {}  # line -> the docstring that begins there, or "" within one
    starts = {0, *(i for i in comments if i - 1 not in comments)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module):
            if (text := ast.get_docstring(node)) is not None:
                first = node.body[0]
                docstrings |= dict.fromkeys(range(first.lineno - 1, first.end_lineno or 0), "")
                docstrings[first.lineno - 1] = text
            if not isinstance(node, ast.Module):
                first_line = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
                starts |= {first_line} - {i + 1 for i in comments}  # a comment directly above belongs to it
    for start, end in itertools.pairwise([*sorted(starts), len(lines)]):
        comment = "\n".join(lines[i].lstrip(" #") for i in range(start, end) if i in comments)
        notes = [comment, *(docstrings.get(i, "") for i in range(start, end))]
        code = "\n".join(lines[i] for i in range(start, end) if i not in comments and i not in docstrings)
        yield [note for note in notes if note], re.sub("\n{3,}", "\n\n", code.strip("\n"))


class Annotated(SphinxDirective):
    """Notes on the left, code on the right."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Build a row for each part."""
        rows = []
        for notes, code in parts((ROOT / self.arguments[0]).read_text(encoding="utf-8")):
            note, block = nodes.container(classes=["note"]), nodes.literal_block(code, code, language="python")
            self.state.nested_parse(StringList("\n\n".join(notes).splitlines()), 0, note)
            rows.append(nodes.container("", note, block, classes=["annotated"]))
        return list[nodes.Node](rows)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("annotated", Annotated)
    return {"parallel_read_safe": True}
