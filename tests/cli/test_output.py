"""Output to files and terminals, and runs that fail or are interrupted."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minidistil.cli import answer as answering
from minidistil.cli.sinks import table_rows
from minidistil.pipelines import base
from support.cli import (
    POSITIONS,
    assert_close,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_output_goes_to_a_file(command, classify, tmp_path):
    result = command("classify", "--input", "-", "--output", tmp_path / "answers", stdin=b"a\nb\n")
    assert (result.code, result.out) == (0, "")
    lines = (tmp_path / "answers").read_text(encoding="utf-8").splitlines()
    assert_close([json.loads(line) for line in lines], classify(["a", "b"]))


def test_output_overwrites_the_file(command, tmp_path):
    output = tmp_path / "answers"
    output.write_text("old\n" * 1000)
    command("classify", "--input", "-", "--output", output, stdin=b"a\n")
    assert len(output.read_text().splitlines()) == 1


def test_an_empty_input_leaves_an_empty_output(command, tmp_path):
    output = tmp_path / "answers"
    output.write_text("an answer of another run\n")
    assert command("classify", "--input", "-", "--output", output, stdin=b"").code == 0
    assert output.read_text() == ""


@pytest.mark.parametrize("output", ["missing/answers", "."])
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    command, tmp_path, monkeypatch, output
):
    monkeypatch.setattr(answering, "load_pipeline", lambda *_: pytest.fail("the model was loaded"))
    path = tmp_path / output
    assert f"cannot write to {path}" in command("classify", "--input", "-", "--output", path, stdin=b"a\n").error


@pytest.mark.parametrize("link", [False, True])
def test_an_output_that_is_the_input_is_refused(command, tmp_path, link):
    path, output = tmp_path / "texts.txt", tmp_path / ("link" if link else "texts.txt")
    path.write_text("a\n")
    if link:
        output.symlink_to(path)
    assert "is the input" in command("classify", "--input", path, "--output", output).error
    assert path.read_text() == "a\n"


FAILURES = [
    (["--model", "./nowhere"], b"a\n"),
    (["--dtype", "int3"], b"a\n"),
    (["--labels", "a,"], b"a\n"),
    (["--template", "nothing"], b"a\n"),
    ([], b"\xff\n"),
]


@pytest.mark.parametrize(("options", "stdin"), FAILURES)
def test_a_run_that_fails_before_its_first_answer_keeps_the_output(command, tmp_path, options, stdin):
    output = tmp_path / "answers"
    output.write_text("kept\n")
    result = command("zero-shot", "--labels", "a", "--input", "-", "--output", output, *options, stdin=stdin)
    assert result.error
    assert output.read_text() == "kept\n"


@pytest.mark.parametrize(("options", "stdin"), FAILURES)
def test_a_run_that_fails_before_its_first_answer_creates_no_file(command, tmp_path, options, stdin):
    output = tmp_path / "answers"
    result = command("zero-shot", "--labels", "a", "--input", "-", "--output", output, *options, stdin=stdin)
    assert result.error
    assert not output.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_a_full_disk_is_a_one_line_error(command):
    result = command("classify", "--input", "-", "--output", "/dev/full", stdin=b"a\n")
    assert result.code == 2
    assert "No space left" in result.err.splitlines()[-1]


def test_output_is_utf8_regardless_of_the_terminal(command, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert command("zero-shot", "日本", "--labels", "é").code == 0
    assert written.getvalue().decode().startswith("日本\n  é  ")


def test_a_run_that_fails_later_keeps_the_answers_so_far(command, tmp_path):
    output = tmp_path / "answers"
    assert command("classify", "--input", "-", "--output", output, stdin=b"a\nb\n\xff\n").error
    assert len([json.loads(line) for line in output.read_text().splitlines()]) == 2


def test_an_interrupted_run_leaves_complete_lines(command, tmp_path, monkeypatch):
    class Typist(io.BytesIO):
        """Interrupts after 10 lines."""

        lines = 0

        def readline(self, size=-1):
            self.lines += 1
            if self.lines > 10:
                raise KeyboardInterrupt
            return b"the team won\n"

    monkeypatch.setattr(base, "WINDOW", 4)
    result = command("classify", "--input", "-", "--output", tmp_path / "answers", stdin=Typist())
    assert (result.code, result.out) == (130, "")
    assert result.err.splitlines()[-1].startswith("minidistil: interrupted")
    content = (tmp_path / "answers").read_text()
    assert content.endswith("\n")
    assert len([json.loads(line) for line in content.splitlines()]) == 8  # two whole windows


def start(*arguments, **options):
    """Start the command in a process that handles Ctrl-C, even if the process of the tests ignores it."""
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from minidistil.cli.main import main; sys.exit(main())"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment, **pipes, **options)


@pytest.mark.full
def test_control_c_stops_a_long_run_after_a_complete_line(folder):
    arguments = ["classify", "--model", str(folder), "--device", "cpu", "--input", "-"]
    with start(*arguments, stdin=subprocess.PIPE) as process:
        process.stdin.write(b"the team won\n" * 3 * base.WINDOW + b"team " * 100 + b"\n")
        process.stdin.flush()  # stdin stays open, as for a user who has not finished
        first = [process.stdout.readline() for _ in range(10)]
        process.send_signal(signal.SIGINT)
        rest, err = process.stdout.read(), process.stderr.read().decode()
    assert process.returncode == 130
    lines = b"".join([*first, rest])
    assert lines.endswith(b"\n")
    assert {json.loads(line)["label"] for line in lines.splitlines()} <= {"ENTAILMENT", "NEUTRAL", "CONTRADICTION"}
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "minidistil: interrupted; the lines written so far are complete"


@pytest.mark.full
def test_a_closed_pipe_prints_no_error_and_a_warning_is_one_line(folder, tmp_path):
    path = tmp_path / "texts.txt"  # its answers exceed the buffer of a pipe
    path.write_text("team " * 100 + "\n" + "the team won\n" * 4 * base.WINDOW)
    with start("classify", "--model", str(folder), "--device", "cpu", "--input", str(path)) as process:
        json.loads(process.stdout.readline())
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 141  # 128 + SIGPIPE
    lines = [line for line in err.splitlines() if not line.startswith("texts: ")]  # progress, on a slow machine
    assert lines == [f"minidistil: texts longer than {POSITIONS} tokens are truncated"]


def test_control_characters_do_not_reach_the_terminal(command, verb):
    assert command("classify", "a\x1b[31m\nman").out.startswith("a [31m man\n")
    shown = verb("answer", "who\twon", "--context", "the\nman\nsleeps", "--top-k", "9").out
    assert shown.startswith("who won\n")
    assert all(line.startswith("  ") for line in shown.splitlines()[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--input", "texts.txt", "--text-column", "a"],
            "--text-column requires an --input in .jsonl, .csv or .tsv",
        ),
        (["a text", "--text-column", "a"], "--text-column requires an --input in .jsonl, .csv or .tsv"),
        (["--input", "texts.txt", "--output", "a.jsonl.gz"], "expected a name that ends in .jsonl or .csv"),
        (["--input", "texts.txt", "--output", "a.tsv"], "expected a name that ends in .jsonl or .csv"),
    ],
)
def test_options_that_do_not_fit_the_files_are_refused(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a\n")
    result = command("classify", *arguments)
    assert message in result.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt"]


def test_words_spans_and_vectors_become_rows():
    words = [{"word": "a", "score": 0.5}, {"word": "b", "score": 0.4}]
    assert table_rows(words) == words
    assert table_rows([words, words]) == words * 2  # of two masks
    assert table_rows([]) == []  # no names in a text
    assert table_rows([0.5, 0.25]) == [{"x1": 0.5, "x2": 0.25}]
