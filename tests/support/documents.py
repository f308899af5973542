"""Markdown pages, and what tests check in them: commands with their output, Python sessions, links."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from minidistil.cli.main import main
from minidistil.lab import registry
from support.forked import fork_children
from support.places import ROOT

PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MEASURED = re.compile(r"\d+(\.\d+)?(e-\d+|%)")  # an error or a percentage, which differs by processor


class Command(NamedTuple):
    """A `$ command` of a console block, the output printed below it, and the Python block above it."""

    line: str
    output: str
    code: str


def blocks(text: str, language: str) -> list[str]:
    """The contents of a page's code blocks in one language."""
    return [content for name, content in FENCE.findall(text) if name == language]


def commands(text: str) -> Iterator[Command]:
    """The commands of a page's console blocks."""
    code = ""
    for language, content in FENCE.findall(text):
        if language == "python":
            code = content
        if language == "console":
            for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
                line, _, output = part.partition("\n")
                yield Command(line, output, code)


def run_command(command: Command, folder: Path, capsys, monkeypatch) -> tuple[str, str]:
    """Run a command; return its output and the page's. A Python file that it names holds the block above it."""
    program, *arguments = shlex.split(command.line)
    assert program == "minidistil"
    monkeypatch.chdir(ROOT)
    if arguments[0] == "lab":  # what a page registers is for its own commands
        registry.implementations()
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
        fork_children(monkeypatch)
    for name in arguments:
        if name.endswith(".py"):
            (folder / name).write_text(command.code, encoding="utf-8")
            monkeypatch.chdir(folder)
    assert main(arguments) == ("REJECTED" in command.output)
    printed, expected = capsys.readouterr().out, command.output
    if arguments[-1] == "--json":  # the last digits of a score are the processor's
        printed, expected = (re.sub(r"(0\.\d{4})\d+", r"\1", text) for text in (printed, expected))
    if arguments[0] == "lab":
        printed, expected = (MEASURED.sub("…", text) for text in (printed, expected))
    return printed, expected


def run_python(text: str, name: str, monkeypatch) -> doctest.TestResults:
    """Run a page's pycon blocks as one session; differences are printed."""
    monkeypatch.chdir(ROOT)
    session = doctest.DocTestParser().get_doctest("\n".join(blocks(text, "pycon")), {}, name, None, 0)
    return doctest.DocTestRunner().run(session)


def broken_links(path: Path) -> list[str]:
    """The links of a page to files and headings of this repository that do not exist."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    broken = []
    for target in re.findall(r"(?<!`)\]\(<?([^)\s>]+)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def tree(text: str, package: str) -> list[str]:
    """The names below a package in the tree that a page draws."""
    (drawn,) = [block for block in blocks(text, "") if block.startswith(f"{package}/")]
    return [name.rstrip("/") for name in re.findall(r"^  (\S+)", drawn, re.MULTILINE)]


def anchors(path: Path) -> set[str]:
    """The names that GitHub and Sphinx give to a page's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
