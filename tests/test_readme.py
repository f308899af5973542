"""The README is true: its tree, its commands and their output, its Python."""

from __future__ import annotations

import re

import pytest

from support.documents import Command, blocks, commands, run_command, run_python, tree
from support.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown_commands():
    """The quick start's command with the block of text below it, and the console blocks."""
    set_up, text = blocks(README, "sh")[0], blocks(README, "text")[0]
    yield Command("minidistil" + set_up.rpartition(".venv/bin/minidistil")[2], text, "")
    yield from commands(README)


@pytest.mark.full
@pytest.mark.parametrize("command", shown_commands(), ids=lambda command: command.line.strip()[:60])
def test_a_command_prints_what_the_readme_shows(command, tmp_path, capsys, monkeypatch):
    printed, expected = run_command(command, tmp_path, capsys, monkeypatch)
    assert printed == expected


@pytest.mark.full
def test_the_python_examples_return_what_the_readme_shows(monkeypatch):
    results = run_python(README, "README", monkeypatch)
    assert results.attempted > 10
    assert results.failed == 0


def test_the_tree_lists_what_there_is():
    assert set(tree(README, "minidistil")) == {
        path.name for path in (ROOT / "minidistil").iterdir() if path.name != "__pycache__"
    }
    (drawn,) = blocks(README, "")
    assert all((ROOT / name).exists() for name in re.findall(r"^(\S+)", drawn, re.MULTILINE))


def test_the_set_up_commands_are_commands_of_ours():
    set_up, test, hub = blocks(README, "sh")
    assert ".[test]" in test
    for command in (set_up, hub):
        assert ".venv/bin/minidistil zero-shot" in command
