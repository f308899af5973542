"""The notebooks are true: every cell runs, in their order, and prints what is written below it."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from support.places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_cells(sources):
    """What each cell prints: all run in one namespace, as in a notebook."""
    names = {"__name__": "__main__"}
    for number, source in enumerate(sources, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, f"cell {number}", "exec"), names)
        yield printed.getvalue()


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_prints_what_the_notebook_says(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    said = ["".join(text for output in cell["outputs"] for text in output["text"]) for cell in cells]
    sources = ["".join(cell["source"]) for cell in cells]
    for source, found, expected in zip(sources, run_cells(sources), said, strict=True):
        assert found == expected, source


def test_there_is_one():
    assert NOTEBOOKS
