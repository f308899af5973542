"""The pages in docs/ are true: their commands and output, their Python, their links; and the site builds."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from support.arguments import tables
from support.documents import PAGES, blocks, broken_links, commands, run_command, run_python, tree
from support.places import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = {path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
COMMANDS = [
    pytest.param(command, id=f"{name}: {command.line[:60]}") for name in TEXTS for command in commands(TEXTS[name])
]


@pytest.mark.full
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_prints_what_the_page_shows(command, tmp_path, capsys, monkeypatch):
    printed, expected = run_command(command, tmp_path, capsys, monkeypatch)
    assert printed == expected


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if blocks(text, "pycon")])
def test_the_python_session_of_a_page_returns_what_it_shows(name, monkeypatch):
    results = run_python(TEXTS[name], name, monkeypatch)
    assert (results.attempted > 0, results.failed) == (True, 0)


@pytest.mark.parametrize("name", TEXTS)
def test_python_without_output_is_valid(name):
    for code in blocks(TEXTS[name], "python"):
        ast.parse(code)


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert broken_links(path) == []


def test_the_design_page_draws_every_module():
    modules = {
        path.name for path in (ROOT / "minidistil").iterdir() if not path.name.startswith(("_", "py.typed"))
    }
    assert set(tree(TEXTS["design.md"], "minidistil")) == modules


@pytest.mark.full
def test_the_site_builds_without_warnings(tmp_path):
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for page in ("index", "errors", "api/batches", "annotated/ops"):
        assert (tmp_path / f"{page}.html").exists()


def test_the_migration_page_lists_every_argument_and_attribute_that_is_refused():
    """To update the page, replace its tables by the output of PYTHONPATH=tests python -m support.arguments."""
    assert TEXTS["transformers.md"].endswith(f"{tables()}\n")
