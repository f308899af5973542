"""Every notebook cell runs, in order, and prints the output that is stored below it."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from support.places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_cells(sources):
    """Yield the output of each cell. All cells run in one namespace, as in a notebook."""
    names = {"__name__": "__main__"}
    for number, source in enumerate(sources, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, f"cell {number}", "exec"), names)
        yield printed.getvalue()


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_prints_its_stored_output(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    stored = ["".join(text for output in cell["outputs"] for text in output["text"]) for cell in cells]
    sources = ["".join(cell["source"]) for cell in cells]
    for source, printed, expected in zip(sources, run_cells(sources), stored, strict=True):
        assert printed == expected, source


def test_there_is_a_notebook():
    assert NOTEBOOKS
