"""One text, or a few, are answered in NumPy without importing torch, with the same output."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

import minidistil
from minidistil.cli import answer as answering
from minidistil.cli import options as cli_options
from minidistil.pipelines import numpy_engine
from support.cli import CONTEXT, HEADS, LABELS, assert_close

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = "The team won a game."
COMMANDS = {
    "zero-shot": ["zero-shot", TEXT, "--labels", ",".join(LABELS)],
    "zero-shot multi-label": ["zero-shot", TEXT, "--labels", "sports,politics", "--multi-label"],
    "classify": ["classify", TEXT],
    "classify a pair": ["classify", TEXT, "--pair", "a man sleeps"],
    "fill-mask": ["fill-mask", "the [MASK] won a [MASK]"],
    "fill-mask targets": ["fill-mask", "the [MASK] won", "--targets", "man,team"],
    "tag": ["tag", CONTEXT, "--aggregation-strategy", "simple"],
    "answer": ["answer", "who won", "--context", CONTEXT * 9, "--top-k", "3"],
    "embed": ["embed", TEXT, "--pooling", "mean"],
    "embed normalized": ["embed", TEXT, "--pooling", "weightedmean", "--normalize"],
}
CHILD = """
import contextlib, io, json, sys
from minidistil.cli.main import main
outputs = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(arguments)
    outputs.append([code, out.getvalue(), "torch" in sys.modules])
print(json.dumps(outputs))
"""


@pytest.fixture(scope="module")
def model(folder, heads):
    """Return the checkpoint of a verb."""
    return lambda verb: str(heads[verb] if verb in HEADS else folder)


@pytest.fixture(scope="module")
def few_texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("few") / "texts.txt"
    path.write_text("The team won.\na man sleeps\n")
    return ["classify", "--input", str(path)]


@pytest.fixture(scope="module")
def outputs(model, few_texts):
    """Run all commands in one process: the exit code, stdout, and whether torch is imported, of each."""
    commands = {**COMMANDS, "few texts": few_texts}
    runs = {(name, *more): [*command, *more] for name, command in commands.items() for more in ((), ("--json",))}
    arguments = [[*command, "--model", model(command[0])] for command in runs.values()]
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(arguments), capture_output=True, text=True, check=True
    )
    return dict(zip(runs, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_text_is_answered_without_torch_and_with_the_same_output(name, outputs, command, model):
    arguments = [*COMMANDS[name], "--model", model(COMMANDS[name][0])]
    assert outputs[name,] == [0, command(*arguments).out, False]
    code, out, imported = outputs[name, "--json"]
    assert (code, imported) == (0, False)
    [answer], [expected] = ([json.loads(line)] for line in (out, command(*arguments, "--json").out))
    same(answer, expected)


def same(answer, expected):
    """Compare answers: numbers within 1e-5, and everything else exactly."""
    if isinstance(expected, float):
        assert answer == pytest.approx(expected, abs=1e-5)
    elif isinstance(expected, list):
        assert len(answer) == len(expected)
        for item, expected_item in zip(answer, expected, strict=True):
            same(item, expected_item)
    elif isinstance(expected, dict):
        assert list(answer) == list(expected)
        same([*answer.values()], [*expected.values()])
    else:
        assert answer == expected


def test_a_few_texts_are_answered_without_torch(outputs, few_texts, command):
    code, out, imported = outputs["few texts",]
    assert (code, imported) == (0, False)
    assert_close([json.loads(line) for line in out.splitlines()], command(*few_texts).answers)


def in_numpy(monkeypatch, command, *arguments, **options):
    """Run a command; return whether NumPy was asked to answer, and torch was not."""
    asked = []
    load, in_torch = cli_options.load_pipeline, numpy_engine._in_torch
    monkeypatch.setattr(
        answering, "load_pipeline", lambda task, given, numpy: asked.append(numpy) or load(task, given, numpy)
    )
    monkeypatch.setattr(numpy_engine, "_in_torch", lambda *given: asked.append(False) or in_torch(*given))
    assert command(*arguments, device=None, **options).code == 0
    return all(asked)


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (["classify", "a man"], b"", True),
        (["classify", "a man", "--device", "cpu"], b"", False),
        (["classify", "a man", "--dtype", "float32"], b"", False),
        (["classify", "--input", "-"], b"a man\n", False),
    ],
)
def test_torch_answers_where_an_option_or_a_stream_needs_it(monkeypatch, command, arguments, stdin, expected):
    assert in_numpy(monkeypatch, command, *arguments, stdin=stdin) is expected


@pytest.mark.parametrize(("texts", "expected"), [(answering.FEW, True), (answering.FEW + 1, False)])
@pytest.mark.parametrize("name", ["texts.txt", "texts.jsonl"])
def test_torch_answers_many_texts(monkeypatch, command, tmp_path, texts, expected, name):
    line = json.dumps({"text": "a man"}) if name.endswith("jsonl") else "a man"
    (tmp_path / name).write_text(f"{line}\n" * texts)
    assert in_numpy(monkeypatch, command, "classify", "--input", tmp_path / name) is expected


def test_torch_answers_where_there_are_many_tokens(monkeypatch, command, model):
    arguments = ("answer", "who won", "--model", model("answer"), "--context")
    context = random.Random(0).choices(CONTEXT.split(), k=2000)
    assert in_numpy(monkeypatch, command, *arguments, " ".join(context[:100])) is True
    assert in_numpy(monkeypatch, command, *arguments, " ".join(context)) is False


def test_torch_reads_files_that_numpy_cannot(monkeypatch, command, copy):
    model = minidistil.from_pretrained(copy).bfloat16()
    model.save_pretrained(copy)
    assert in_numpy(monkeypatch, command, "classify", "a man", "--model", copy) is False


def test_a_record_that_cannot_be_read_is_named_as_before(command, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a man"}\nnot json\n')
    result = command("classify", "--input", path, device=None)
    assert result.code == 2
    assert "texts.jsonl, line 2" in result.err.splitlines()[-1]
    assert len(result.answers) == 1


def test_numpy_is_imported_with_one_thread_and_the_environment_is_restored(monkeypatch):
    for before, inside in ((None, "1"), ("3", "3")):
        monkeypatch.delenv(cli_options.BLAS_THREADS, raising=False)
        if before is not None:
            monkeypatch.setenv(cli_options.BLAS_THREADS, before)
        with cli_options._one_thread():
            assert cli_options.os.environ[cli_options.BLAS_THREADS] == inside
        assert cli_options.os.environ.get(cli_options.BLAS_THREADS) == before
