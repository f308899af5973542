"""Help, version, and errors for bad arguments and checkpoints: one line on stderr, exit code 2."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import minidistil
from minidistil.cli import main as cli
from minidistil.cli.training import RECIPE
from minidistil.cli.verbs import VERBS
from minidistil.errors import CheckpointError, InputError
from minidistil.pipelines import pipeline_class
from minidistil.training import Recipe
from support.cli import (
    write_json,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zero-shot", "a"], "--labels is missing"),
        (["zero-shot", "a", "--labels", ""], r"--labels[0] is empty"),
        (["zero-shot", "a", "--labels", "a,,b"], r"--labels[1] is empty"),
        (["zero-shot", "a", "--labels", "a", "--template", "nothing"], "--template is 'nothing'"),
        (["zero-shot", "a", "--labels", "a", "--template", "{} {}"], "--template is '{} {}'"),
        (["zero-shot", "--labels", "a"], "either one text or --input FILE"),
        (["classify"], "either one text or --input FILE"),
        (["classify", "a", "--input", "-"], "either one text or --input FILE"),
        (["classify", "a", "--output", "answers"], "--output and --jsonl require --input FILE"),
        (["classify", "a", "--jsonl"], "--output and --jsonl require --input FILE"),
        (["classify", "--input", "-", "--pair", "a"], "--pair cannot be combined with --input"),
        (["classify", "a", "--dtype", "int3"], "dtype is 'int3'"),
        (["classify", "a", "--device", "banana"], "device is 'banana'"),
        (["classify", "a", "--device", "cuda:99"], "device is 'cuda:99'"),
        (["classify", "a", "--device", "hpu"], "device is 'hpu'"),
        (["classify", "a", "--revision", "main"], "revision is 'main', but "),
        (["classify", "a", "--model", "./nowhere"], "no folder ./nowhere"),
        (["classify", "--input", "nowhere.txt"], "nowhere.txt"),
        (["classify", "a\udcff"], "lone surrogate"),
        (["classify", "a", "--pair", "\udcff"], "lone surrogate"),
        (["zero-shot", "a\udcff", "--labels", "a"], "lone surrogate"),
        (["zero-shot", "a", "--labels", "b,\udcff"], "--labels[1]"),
        (["zero-shot", "a", "--labels", "b", "--template", "\udcff {}"], "lone surrogate"),
        (["zero-shot", "a", "--labels", "team " * 99], "no room for text"),
    ],
)
def test_a_bad_argument_is_one_line_on_stderr_and_exit_code_2(command, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command(*arguments)
    assert message in result.error
    assert result.out == ""


@pytest.mark.parametrize(
    "arguments", [[], ["banana"], ["classify", "a"], ["classify", "a", "--model", "m", "--banana"]]
)
def test_unknown_arguments_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: minidistil" in capsys.readouterr().err


def test_debug_shows_where_an_error_came_from(command, copy):
    with pytest.raises(InputError, match="either one text"):
        command("classify", "--debug")
    with pytest.raises(InputError, match="hypothesis_template"):
        command("zero-shot", "a", "--labels", "a", "--template", "nothing", "--debug")
    (copy / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        command("classify", "a", "--model", copy, "--debug")


def change_config(**values):
    def change(folder):
        write_json(folder / "config.json", {**json.loads((folder / "config.json").read_text()), **values})

    return change


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def change_weights(change):
    def edit(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def cut(length):
    return lambda folder: os.truncate(folder / "model.safetensors", length)


def promise_more(folder):
    """Cut the data, not the header."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-400])


BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "config not JSON": (write("config.json", b'{"dim": '), "config.json"),
    "config not an object": (write("config.json", b"[]"), "config.json: expected a JSON object"),
    "config not UTF-8": (write("config.json", b"\xff\xfe{}"), "config.json"),
    "another model": (change_config(model_type="roberta"), "model_type is 'roberta'"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "empty weights": (write("model.safetensors", b""), "model.safetensors is not a readable"),
    "no header": (cut(4), "model.safetensors is not a readable"),
    "half a header": (cut(100), "model.safetensors is not a readable"),
    "garbage": (write("model.safetensors", b"\x10\0\0\0\0\0\0\0not json at all!"), "model.safetensors is not a"),
    "endless header": (write("model.safetensors", b"\xff" * 64), "model.safetensors has too many bytes of"),
    "less than promised": (promise_more, "model.safetensors is not a readable"),
    "weights are a folder": (
        lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()),
        "model.safetensors",
    ),
    "missing name": (change_weights(lambda t: t.pop("pre_classifier.bias")), "missing: pre_classifier.bias"),
    "unexpected name": (change_weights(lambda t: t.update(banana=torch.ones(2))), "unexpected: banana"),
    "another shape": (
        change_weights(lambda t: t.update({"classifier.bias": torch.ones(5)})),
        "of another shape: classifier.bias [5] (expected [3])",
    ),
    "integers": (
        change_weights(lambda t: t.update({"classifier.bias": torch.ones(3, dtype=torch.int64)})),
        "classifier.bias (I64)",
    ),
    "no tokenizer": (lambda folder: (folder / "vocab.txt").unlink(), "no tokenizer.json or vocab.txt"),
    "no [CLS]": (write("vocab.txt", b"[PAD]\n[UNK]\n[SEP]\nthe\n"), "has no [CLS]"),
    "vocabulary not UTF-8": (write("vocab.txt", b"[PAD]\n\xff\xff\n"), "vocab.txt is not a readable"),
    "tokenizer not JSON": (write("tokenizer.json", b"{"), "tokenizer.json is not a readable"),
    "settings not JSON": (write("tokenizer_config.json", b"{"), "tokenizer_config.json is not readable"),
    "no entailment": (
        change_config(id2label={"0": "A", "1": "B", "2": "C"}, label2id={"A": 0, "B": 1, "C": 2}),
        "one label for entailment",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_checkpoint_is_a_one_line_error(command, copy, spoil, message):
    spoil(copy)
    arguments = ("zero-shot", "the team", "--labels", "sports", "--model", copy)
    result = command(*arguments)
    assert message in result.error
    assert result.out == ""
    assert command(*arguments, device=None) == result


def test_a_token_id_beyond_the_vocabulary_is_a_one_line_error(command, copy):
    with (copy / "vocab.txt").open("a") as vocabulary:
        vocabulary.write("banana\n")
    for device in ("cpu", None):
        assert command("classify", "the team", "--model", copy, device=device).code == 0
        assert "vocab" in command("classify", "the banana", "--model", copy, device=device).error


UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
EVIL = "\x1b]0;title\x07\x9b31m\u202e\u2028\u200b"
HOSTILE = {
    "tensor names": change_weights(lambda t: t.update({EVIL: torch.ones(2)})),
    "a model type": change_config(model_type=EVIL),
    "labels": change_config(id2label={"0": EVIL, "1": "b", "2": "c"}, label2id={EVIL: 0, "b": 1, "c": 2}),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_text_of_a_checkpoint_does_not_reach_the_terminal_raw(command, copy, spoil):
    spoil(copy)
    result = command("zero-shot", "the team", "--labels", "sports", "--model", copy)
    assert result.code == 2
    assert "title" in result.err
    assert not UNPRINTABLE.search(result.err)
    with pytest.raises(CheckpointError) as caught:
        minidistil.pipeline("zero-shot-classification", copy, device="cpu")
    assert not UNPRINTABLE.search(str(caught.value))


def test_labels_of_a_checkpoint_do_not_reach_the_terminal_raw(command, copy):
    HOSTILE["labels"](copy)
    for options in ([], ["--json"]):
        result = command("classify", "a man", "--model", copy, "--top-k", 3, *options)
        assert "title" in result.out
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]", result.out)


DATA = {
    "keys": f'{{{json.dumps(EVIL)}: "a", "title": 1}}',
    "labels": f'{{"text": "a", "labels": [{json.dumps(EVIL)}, 5, "title"]}}',
    "a huge key": '{"title": 1, "' + "k" * 1_000_000 + '": 1}',
    "an input's name": f'{{"text": "a", "labels": ["title", "inputs[{"9" * 5000}]", ""]}}',
    "another input's name": '{"text": "a", "labels": ["title", "inputs[3]", "sequences[2]", "top_k", ""]}',
}


@pytest.mark.parametrize("line", DATA.values(), ids=DATA)
def test_text_of_the_input_does_not_reach_the_terminal_raw(command, line):
    result = command("zero-shot", "--jsonl", "--input", "-", stdin=line.encode())
    assert "stdin, line 1" in result.error
    assert "title" in result.error
    assert not UNPRINTABLE.search(result.error)
    assert len(result.error) < 2_100


def test_text_that_looks_like_an_argument_or_an_input_is_shown_as_it_is(command):
    result = command("zero-shot", "--jsonl", "--input", "-", stdin=DATA["another input's name"].encode())
    assert "labels is ['title', 'inputs[3]', 'sequences[2]', 'top_k', '']" in result.error
    assert (
        "--template is 'top_k inputs[0]'"
        in command("zero-shot", "a", "--labels", "b", "--template", "top_k inputs[0]").error
    )


def test_a_file_name_does_not_reach_the_terminal_raw(command, tmp_path):
    (tmp_path / f"{EVIL}.jsonl").write_text("{")
    error = command("classify", "--input", tmp_path / f"{EVIL}.jsonl").error
    assert "title" in error
    assert not UNPRINTABLE.search(error)
    assert not UNPRINTABLE.search(command("classify", "--input", "missing\udcff\x1b").error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["classify", "the", "team", "won", "--model", "m"],
            "unrecognized arguments: team won; put a text of several",
        ),
        (["classify", "a", "--model", "m", "--reso"], "unrecognized arguments: --reso\n"),
        (["train", "m", "d", "--output", "o", "--epoch", "3"], "unrecognized arguments: --epoch 3\n"),
        (["classify", "a", "--model", "m", "--\x1b[31m"], "unrecognized arguments: --\\x1b[31m\n"),
    ],
)
def test_words_without_quotes_and_abbreviated_options_are_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_imports_neither_torch_nor_numpy():
    program = """
import runpy, sys
for arguments in (["--help"], ["zero-shot", "--help"], ["classify", "--help"]):
    sys.argv[1:] = arguments
    try:
        runpy.run_module("minidistil", run_name="__main__")
    except SystemExit as stopped:
        assert stopped.code == 0
print(sorted({"torch", "numpy", "tokenizers", "safetensors", "huggingface_hub"} & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
    for word in (
        "zero-shot",
        "classify",
        "--labels",
        "--template",
        "--multi-label",
        "--pair",
        "--input",
        "--output",
    ):
        assert word in run.stdout


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"minidistil {minidistil.__version__}\n"


@pytest.mark.parametrize(("name", "default"), [(name, default) for name, _, default, _ in RECIPE])
def test_the_help_of_train_shows_the_defaults_of_the_recipe(name, default):
    assert getattr(Recipe(), name.replace("-", "_")) == default


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_the_help_of_a_verb_shows_the_defaults_of_its_pipeline(verb):
    parameters = inspect.signature(pipeline_class(verb.task).run).parameters
    for flag, keywords in verb.call_options.items():
        name = keywords.get("dest", flag.removeprefix("--").replace("-", "_"))
        shown = re.search(r"\(default: (.*)\)", keywords["help"])
        if shown is not None and parameters[name].default not in (None, ...):
            assert shown[1] == str(parameters[name].default)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zero-shot", "a", "--labels", "b", "--template", ""], "--template is ''"),
        (["classify", "a", "--model", "minidistil-mnli", "--top-k", "0"], "--top-k is 0"),
        (["embed", "a", "--model", "minidistil-mnli"], "--pooling is None"),
    ],
)
def test_errors_name_the_option_rather_than_the_argument_in_python(command, arguments, message):
    assert message in command(*arguments).error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batch-size", 0),
        ("--learning-rate", -1),
        ("--eval-steps", 0),
        ("--problem-type", "x"),
        ("--metric", "x"),
    ],
)
def test_errors_of_train_name_the_option(capsys, copy, tmp_path, option, value):
    (tmp_path / "a.csv").write_text("text,label\na,ENTAILMENT\nb,NEUTRAL\nc,CONTRADICTION\n")
    arguments = ["train", copy, tmp_path / "a.csv", "--output", tmp_path / "out", option, value, "--device", "cpu"]
    assert cli.main([*map(str, arguments)]) == 2
    assert f"minidistil: {option} is " in capsys.readouterr().err
