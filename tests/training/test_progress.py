"""Progress is a bar on a terminal, occasional lines elsewhere, and nothing with `quiet`."""

from __future__ import annotations

import io
import sys

import pytest

from minidistil.training import progress
from minidistil.training.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(**options):
    """Do four items of work, with a message after the second."""
    with progress_bar("texts", 4, unit="text", **options) as bar:
        for i in range(4):
            bar.update()
            if i == 1 and not bar.disable:
                bar.write("half", file=sys.stderr)


def test_a_terminal_shows_a_bar_that_is_redrawn(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    work()
    shown = sys.stderr.getvalue()
    assert "\rtexts:   0%|" in shown
    assert "half\n" in shown
    assert "4/4" in shown.split("\r")[-1]
    assert shown.endswith("\n")


def test_a_terminal_is_cleared_at_the_end_without_leave(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    work(leave=False)
    assert sys.stderr.getvalue().split("\r")[-2].strip() == ""
    assert sys.stderr.getvalue().endswith("\r")


def test_without_a_terminal_one_line_is_printed_at_the_end(capsys):
    work()
    message, last = capsys.readouterr().err.splitlines()
    assert message == "half"
    assert last.startswith("texts: 4/4 [")
    assert "text/s" in last
    work(leave=False)
    assert capsys.readouterr().err == "half\n"


def test_without_a_terminal_lines_are_printed_at_intervals(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    work(leave=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if line != "half"]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]


def test_without_a_terminal_nested_bars_do_not_move_the_cursor(capsys):
    with progress_bar("outer", 1) as outer, progress_bar("inner", 1, leave=False) as inner:
        inner.update()
        outer.update()
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_quiet_prints_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    work(quiet=True)
    assert sys.stderr.getvalue() == ""
