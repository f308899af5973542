"""Output to files and terminals, and runs that fail or are interrupted."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from minidistil.cli import answer as answering
from minidistil.cli.sinks import open_sink, table_rows
from minidistil.io.text_files import csv_rows
from minidistil.pipelines import base
from support.cli import (
    POSITIONS,
    assert_close,
    rows_in,
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


def test_an_empty_name_of_a_file_is_refused(command):
    error = command("classify", "--input", "-", "--output", "", stdin=b"a\n").error
    assert "--output is empty: expected the name of a file, or - for stdout" in error
    assert (
        "--input is empty: expected the name of a file, or - for stdin" in command("classify", "--input", "").error
    )


def test_a_link_to_itself_is_an_error(command, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert f"cannot write to {loop}: " in command("classify", "--input", "-", "--output", loop, stdin=b"a\n").error
    assert f"cannot read {loop}: no such file" in command("classify", "--input", loop).error


@pytest.mark.parametrize("link", [False, True])
def test_an_output_that_is_the_input_is_refused(command, tmp_path, link):
    path, output = tmp_path / "texts.txt", tmp_path / ("link" if link else "texts.txt")
    path.write_text("a\n")
    if link:
        output.symlink_to(path)
    assert "is the input" in command("classify", "--input", path, "--output", output).error
    assert path.read_text() == "a\n"


def test_an_output_that_is_read_from_stdin_is_refused(folder, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("a\n")
    arguments = ["classify", "--model", str(folder), "--device", "cpu", "--input", "-", "--output", str(path)]
    with path.open("rb") as stdin, start(*arguments, stdin=stdin) as process:
        assert "is the input: it would be overwritten while it is read" in process.stderr.read().decode()
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


@pytest.mark.parametrize("exists", [True, False], ids=["link", "dangling link"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_link_as_output_is_kept_and_written_through(command, tmp_path, exists, fails):
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    if exists:
        target.write_text("kept\n")
    link.symlink_to(target)
    result = command("classify", "--input", "-", "--output", link, stdin=b"\xff\n" if fails else b"a\n")
    assert result.code == (2 if fails else 0)
    assert link.is_symlink()
    if fails:
        assert target.read_text() == "kept\n" if exists else not target.exists()
    else:
        assert json.loads(target.read_text())["label"]


def test_a_link_to_a_missing_folder_is_an_error(command, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "missing" / "answers")
    error = command("classify", "--input", "-", "--output", tmp_path / "link", stdin=b"a\n").error
    assert f"cannot write to {tmp_path / 'link'}: No such file or directory" in error
    assert (tmp_path / "link").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["pipe", "pipe.csv"])
def test_a_named_pipe_is_written_to_its_reader(command, tmp_path, name):
    pipe = tmp_path / name
    os.mkfifo(pipe)
    error = command("classify", "--input", "-", "--output", pipe, stdin=b"a\n").error
    assert f"cannot write to {pipe}: no process reads it; start its reader first" in error
    (tmp_path / "texts.txt").write_text("a\n")
    error = command("classify", "--input", tmp_path / "texts.txt", "--output", pipe, "--resume").error
    assert f"--resume requires an --output that is a file, found {pipe}" in error
    with subprocess.Popen([sys.executable, "-c", f"print(open({str(pipe)!r}).read())"], stdout=-1) as reader:
        while (result := command("classify", "--input", "-", "--output", pipe, stdin=b"a\nb\n")).code:
            assert "no process reads it" in result.error  # it has not started yet
        lines = reader.stdout.read().splitlines()
    assert len(lines) == (4 if name == "pipe.csv" else 3)  # with a header; print adds an empty line
    assert pipe.is_fifo()


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_the_output_may_be_stdout(command, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a\nb\n")
    result = command("classify", "--input", "texts.txt", "--output", output)
    assert len(result.answers) == 2
    error = command("classify", "--input", "texts.txt", "--output", output, "--resume").error
    assert "--resume requires an --output that is a file, found stdout" in error
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_a_file_that_is_open_already_is_not_truncated(command, tmp_path):
    with (tmp_path / "log").open("w") as log:
        log.write("kept\n")
        log.flush()
        assert command("classify", "--input", "-", "--output", f"/dev/fd/{log.fileno()}", stdin=b"a\n").code == 0
    first, second = (tmp_path / "log").read_text().splitlines()
    assert (first, json.loads(second).keys()) == ("kept", {"label", "score"})


def test_devices_are_written_directly(command):
    assert command("classify", "--input", "-", "--output", os.devnull, stdin=b"a\n").code == 0
    assert Path(os.devnull).exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_without_permission_is_named_and_kept(command, tmp_path):
    path, folder = tmp_path / "answers", tmp_path / "folder"
    path.write_text("kept\n")
    path.chmod(0o400)
    folder.mkdir(mode=0o500)
    for output in (path, folder / "answers"):
        error = command("classify", "--input", "-", "--output", output, stdin=b"a\n").error
        assert f"cannot write to {output}: Permission denied" in error
    assert path.read_text() == "kept\n"


def test_two_runs_do_not_write_into_one_file(command, tmp_path):
    output = tmp_path / "answers.jsonl"
    with open_sink(str(output), "-") as sink:
        sink.write([{"label": "of the first run"}], None, quiet=True)
        error = command("classify", "--input", "-", "--output", output, stdin=b"a\n").error
        assert f"another run is writing to {output}: wait until it has finished, or choose another output" in error
    assert json.loads(output.read_text()) == {"label": "of the first run"}
    assert command("classify", "--input", "-", "--output", output, stdin=b"a\n").code == 0


def test_an_unknown_ending_of_the_output_is_refused(command, tmp_path):
    for name in ("a.txt", "a.parquet", "a.csv.gz", "a.xlsx"):
        error = command("classify", "--input", "-", "--output", tmp_path / name, stdin=b"a\n").error
        assert f"--output {tmp_path / name}: expected a name that ends in .jsonl or .csv" in error
    assert list(tmp_path.iterdir()) == []


HARD = [
    *(
        "a\rb",
        "a\nb",
        "a\r\nb",
        'q"x',
        '"',
        "\ufeffmark",
        "=1+1",
        "@SUM(A1)",
        "a\0b",
        "a,b;c\td|e",
        " both ",
        "\r",
    ),
    *(
        "a\u2028b\u2029c\x85d\x0be\x0c",
        "日本 🏈",
        "NA",
        "null",
        "long " * 50_000,
        "\\",
        "'",
        "\x1b[31m",
        "-1",
        "#c",
        "",
    ),
]


@pytest.mark.filterwarnings("ignore:texts longer than")
def test_any_text_survives_a_table(command, tmp_path):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in HARD)
    output = tmp_path / "a.csv"
    call = ("zero-shot", "--labels", "sports", "--jsonl", "--input", "-", "--output", output)
    assert command(*call, stdin=rows.encode()).code == 0
    csv_rows([])  # raises the size limit of cells
    assert [row["sequence"] for row in rows_in(output)] == HARD
    for engine in ("c", "python"):
        table = pandas.read_csv(output, keep_default_na=False, dtype=str, engine=engine)
        assert table["sequence"].tolist() == HARD
    result = command("zero-shot", "--labels", "sports", "--input", output, "--text-column", "sequence")
    assert [answer["sequence"] for answer in result.answers] == HARD  # and is read as input


@pytest.mark.filterwarnings("ignore:texts longer than")
def test_each_answer_on_stdout_is_one_line_without_control_characters(command):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in HARD)
    result = command("zero-shot", "--labels", "sports", "--jsonl", "--input", "-", stdin=rows.encode())
    assert [json.loads(line)["sequence"] for line in result.out.splitlines()] == HARD
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", result.out)


def test_words_spans_and_vectors_become_rows():
    words = [{"word": "a", "score": 0.5}, {"word": "b", "score": 0.4}]
    assert table_rows(words) == words
    assert table_rows([words, words]) == words * 2  # of two masks
    assert table_rows([]) == []  # no names in a text
    assert table_rows([0.5, 0.25]) == [{"x1": 0.5, "x2": 0.25}]
