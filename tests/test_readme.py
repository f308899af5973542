"""The README is true: its tree, its commands and their output, its Python."""

from __future__ import annotations

import doctest
import re
import shlex

import pytest

from minidistil.cli.main import main
from support.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands():
    """Each `$ command` of the console blocks, with the output printed below it."""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.full
@pytest.mark.parametrize(("command", "output"), commands())
def test_a_command_prints_what_the_readme_says(command, output, capsys):
    program, *arguments = shlex.split(command)
    assert program == "minidistil"
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    if arguments[-1] == "--json":  # the last digits of a score are the processor's
        printed, output = (re.sub(r"(0\.\d{4})\d+", r"\1", text) for text in (printed, output))
    assert printed == output


@pytest.mark.full
def test_the_python_examples_give_what_the_readme_says():
    session = doctest.DocTestParser().get_doctest("\n".join(blocks("pycon")), {}, "README", None, 0)
    results = doctest.DocTestRunner().run(session)
    assert results.attempted > 10
    assert results.failed == 0


def test_the_tree_lists_what_there_is():
    (tree,) = blocks("")
    listed = {name.rstrip("/") for name in re.findall(r"^  (\S+)", tree, re.MULTILINE)}
    assert listed == {path.name for path in (ROOT / "minidistil").iterdir() if path.name != "__pycache__"}
    assert all((ROOT / name).exists() for name in re.findall(r"^(\S+)", tree, re.MULTILINE))


def test_the_set_up_commands_are_commands_of_ours():
    set_up, test, hub = blocks("sh")
    assert ".[test]" in test
    for command in (set_up, hub):
        assert ".venv/bin/minidistil zero-shot" in command
