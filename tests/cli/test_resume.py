"""--resume continues a stopped run from its output."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from minidistil.cli import main as cli
from support.cli import (
    ODD,
    WORDS,
    rows_in,
    table,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def many(folder, tmp_path, *options):
    """Classify 200 different lines from a file into another."""
    lines = [" ".join(WORDS.split()[i % 7 : 1 + i % 20]) + f" {'a ' * (i % 31)}" for i in range(200)]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["classify", "--model", str(folder), "--input", str(tmp_path / "texts.txt"), "--output"]
    return [*command, str(tmp_path / "answers.jsonl"), *options]


@pytest.mark.parametrize("cut", [0, 1, 57, 3000, 10**6])
def test_a_stopped_run_resumes_after_its_last_answer(folder, tmp_path, cut):
    assert cli.main(many(folder, tmp_path)) == 0
    output = tmp_path / "answers.jsonl"
    whole = output.read_bytes()
    output.write_bytes(whole[:cut])  # at any byte, also within a line
    assert cli.main(many(folder, tmp_path, "--resume")) == 0
    resumed = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    expected = [json.loads(line) for line in whole.splitlines()]
    assert [answer["label"] for answer in resumed] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in resumed] == pytest.approx([a["score"] for a in expected], abs=1e-5)
    assert output.read_bytes().startswith(whole[:cut].rpartition(b"\n")[0])


def has_content(path):
    """Return whether a file exists and is not empty; another process may delete it."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


@pytest.mark.full
def test_a_killed_run_resumes_to_the_answers_of_an_uninterrupted_run(folder, tmp_path):
    command = [sys.executable, "-m", "minidistil", *many(folder, tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    output = tmp_path / "answers.jsonl"
    expected = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    output.unlink()
    slow = "import minidistil.model as m, time, sys; f = m.Transformer.forward\n"
    slow += "m.Transformer.forward = lambda *a, **k: (time.sleep(0.3), f(*a, **k))[1]\n"
    slow += "from minidistil.cli.main import main; sys.exit(main(sys.argv[1:]))"
    slowly = [sys.executable, "-c", slow, *many(folder, tmp_path)]
    with subprocess.Popen(slowly, stderr=subprocess.DEVNULL) as process:
        while not has_content(output):
            assert process.poll() is None
        process.kill()
    assert 0 < len(output.read_bytes().splitlines()) < len(expected)
    assert subprocess.run([*command, "--resume"], capture_output=True, check=False).returncode == 0
    resumed = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [answer["label"] for answer in resumed] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in resumed] == pytest.approx([a["score"] for a in expected], abs=1e-5)


def test_errors_of_a_resumed_run_name_the_line_of_the_file(folder, tmp_path, capsys):
    (tmp_path / "texts.txt").write_bytes(b"The team won.\na man\n\xff\n")
    (tmp_path / "answers.jsonl").write_text('{"label": "x"}\n', encoding="utf-8")
    command = ["zero-shot", "--labels", "a,b", "--model", str(folder), "--input", str(tmp_path / "texts.txt")]
    assert cli.main([*command, "--output", str(tmp_path / "answers.jsonl"), "--resume"]) == 2
    assert "texts.txt, line 3 is not UTF-8" in capsys.readouterr().err


def test_an_output_that_cannot_be_resumed_is_refused_and_unchanged(folder, tmp_path, capsys):
    command = many(folder, tmp_path, "--resume")
    output = tmp_path / "answers.jsonl"
    for content, message in (
        ("my notes", "line 1 is not an answer: --resume requires the output of an earlier run"),
        ("{}\nmy notes\n", "line 2 is not an answer"),
        ("{notes}\n", "line 1 is not an answer"),
        ("my notes\nmore", "line 1 is not an answer: --resume requires the output of an earlier run"),
        ("{}\n" * 201, "has 201 answers, but"),
    ):
        output.write_text(content, encoding="utf-8")
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err
        assert output.read_text(encoding="utf-8") == content
    for arguments in (["--input", str(tmp_path / "texts.txt")], ["a text"]):
        assert cli.main(["classify", "--model", str(folder), *arguments, "--resume"]) == 2
        assert "--resume requires --input FILE and --output FILE" in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize("verb", [["classify"], ["classify", "--top-k", "3"], ["zero-shot", "--labels", "a,b"]])
def test_a_table_resumes_after_a_cut_at_any_byte(folder, tmp_path, verb):
    source = table(tmp_path / "texts.csv", ["text"], *([text] for text in ODD * 3))
    output = tmp_path / "answers.csv"
    command = [*verb, "--model", str(folder), "--input", str(source), "--output", str(output)]
    assert cli.main(command) == 0
    whole, expected = output.read_bytes(), rows_in(output)
    for cut in range(0, len(whole) + 1, 7):
        output.write_bytes(whole[:cut])
        assert cli.main([*command, "--resume"]) == 0
        resumed = rows_in(output)
        for row, other in zip(resumed, expected, strict=True):
            assert float(row.pop("score")) == pytest.approx(float(other["score"]), abs=1e-5)
            assert row == {key: value for key, value in other.items() if key != "score"}


def test_a_table_from_another_program_is_not_resumed(folder, tmp_path, capsys):
    source = table(tmp_path / "texts.csv", ["text"], ["a"], ["b"], ["c"])
    command = ["classify", "--model", str(folder), "--input", str(source), "--resume", "--output"]
    for header, message in (
        (["label", "score"], "is not row: --resume requires the output of an earlier run"),
        (["row", "sequence", "score"], "has the columns sequence, score, but the new answer has label, score"),
    ):
        output = table(tmp_path / "answers.csv", header, *([i, 0, 0][: len(header)] for i in (1, 2)))
        assert cli.main([*command, str(output)]) == 2
        assert message in capsys.readouterr().err
