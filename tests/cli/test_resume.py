"""--resume continues a stopped run from its output."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

import minidistil
from minidistil.cli import answer as answering
from minidistil.cli import main as cli
from minidistil.pipelines import base
from minidistil.pipelines.inference import Engine
from support.cli import (
    ODD,
    WORDS,
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
    assert output.read_bytes() == whole


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
    whole = output.read_bytes()
    output.unlink()
    slow = "import minidistil.model as m, time, sys; f = m.Transformer.forward\n"
    slow += "m.Transformer.forward = lambda *a, **k: (time.sleep(0.3), f(*a, **k))[1]\n"
    slow += "from minidistil.cli.main import main; sys.exit(main(sys.argv[1:]))"
    slowly = [sys.executable, "-c", slow, *many(folder, tmp_path)]
    with subprocess.Popen(slowly, stderr=subprocess.DEVNULL) as process:
        while not has_content(output):
            assert process.poll() is None
        process.kill()
    assert 0 < len(output.read_bytes()) < len(whole)
    assert subprocess.run([*command, "--resume"], capture_output=True, check=False).returncode == 0
    assert output.read_bytes() == whole


def test_errors_of_a_resumed_run_name_the_line_of_the_file(folder, tmp_path, capsys):
    (tmp_path / "texts.txt").write_bytes(b"The team won.\na man\n\xff\n")
    (tmp_path / "answers.jsonl").write_text('{"sequence": "", "labels": [], "scores": []}\n', encoding="utf-8")
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
        ('{"text": "a"}\n', "has the columns text, but the new answer has label, score"),
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


@pytest.fixture
def several_blocks(monkeypatch):
    """Answer 5 texts or fewer together, with one pipeline for all runs."""
    monkeypatch.setattr(base, "FIRST_WINDOW", 2)
    monkeypatch.setattr(base, "WINDOW", 5)
    pipes = {}

    def load(task, options, *_):
        if task not in pipes:
            pipes[task] = minidistil.pipeline(task, options.model, device="cpu")
        return pipes[task]

    monkeypatch.setattr(answering, "load_pipeline", load)


VERBS = {
    "classify": ["classify"],
    "top 3": ["classify", "--top-k", "3"],
    "zero-shot": ["zero-shot", "--labels", "a,b,日本"],
    "tag": ["tag"],
    "embed": ["embed", "--pooling", "mean"],
}


@pytest.mark.usefixtures("several_blocks")
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_run_cut_at_any_byte_resumes_to_the_same_bytes(folder, heads, tmp_path, verb, kind):
    source = table(tmp_path / "texts.csv", ["text"], *([f"{text}{i % 5}"] for i, text in enumerate(ODD * 4)))
    output = tmp_path / f"answers.{kind}"
    model = str(heads.get(verb[0], folder))
    command = [*verb, "--quiet", "--model", model, "--input", str(source), "--output", str(output)]
    assert cli.main(command) == 0
    whole = output.read_bytes()
    odd = [i + k for i, byte in enumerate(whole) if byte >= 128 or byte in b'\n"' for k in (0, 1)]
    cuts = {
        *range(25),
        len(whole),
        *random.Random(0).choices(odd, k=30),
        *random.Random(0).choices(range(len(whole)), k=15),
    }
    for cut in sorted(cuts):
        output.write_bytes(whole[:cut])
        assert cli.main([*command, "--resume"]) == 0
        assert output.read_bytes() == whole


@pytest.mark.usefixtures("several_blocks")
def test_a_resumed_run_computes_only_the_block_of_the_next_text(folder, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("".join(f"a {'b ' * i}\n" for i in range(20)))
    output = tmp_path / "answers.jsonl"
    command = ["classify", "--model", str(folder), "--input", str(tmp_path / "texts.txt"), "--output", str(output)]
    assert cli.main(command) == 0
    whole = output.read_bytes()
    computed = []
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, *a, **k: computed.append(len(a[1])) or run(self, *a, **k))
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:13]))
    assert cli.main([*command, "--resume"]) == 0
    assert output.read_bytes() == whole
    assert [count for count in computed if count] == [
        5,
        4,
    ]  # blocks of 2, 4, 5, 5 and 4 texts: 13 answers end in the fourth
    computed.clear()
    assert cli.main([*command, "--resume"]) == 0
    assert output.read_bytes() == whole
    assert not any(computed)


NOT_ANSWERS = [  # of a table
    (b"text,label\na,b\n", "the first column of"),
    (b"rows", "the first column of"),
    (b"\x93NUMPY\x01", "the first column of"),
    (b"row,label\n1,a\nx,b\n2,c\n", "line 3 is not a row of answers"),
    (b"row,label\n2,a\n1,b\n3,c\n", "line 3 is not a row of answers"),
    (b"row,label\n1,a\n1,b,c\n3,c\n", "line 3 is not a row of answers"),
    (b"row,label\n1,a\n" + b"9" * 5000 + b",b\n3,c\n", "line 3 is not a row of answers"),
    (b"row,label\n1,a\rb\n2,c\n3,d\n", "is not a row of answers"),
]


@pytest.mark.parametrize(("content", "message"), NOT_ANSWERS)
def test_a_table_that_is_no_output_is_refused_and_unchanged(folder, tmp_path, capsys, content, message):
    source = table(tmp_path / "texts.csv", ["text"], ["a"], ["b"], ["c"])
    output = tmp_path / "answers.csv"
    output.write_bytes(content)
    command = ["classify", "--model", str(folder), "--input", str(source), "--resume", "--output", str(output)]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "--resume requires the output of an earlier run" in error
    assert output.read_bytes() == content


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
