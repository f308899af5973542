"""The command answers as the pipelines do, and says in one line, with exit code 2, what it cannot do."""

import csv
import dataclasses
import gzip
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import minidistil
from minidistil.cli import answer as answering
from minidistil.cli import main as cli
from minidistil.cli.output import show_progress
from minidistil.cli.sinks import table_rows
from minidistil.cli.training import RECIPE
from minidistil.errors import CheckpointError, InputError
from minidistil.pipelines import base
from minidistil.training.loop import Recipe

LABELS = ["sports", "politics", "business"]
WORDS = "the team won game was held sports politics business man sleeps is awake example this about not a b"
POSITIONS = 64
LINES = ["The team won.", "a man sleeps", "zzz", "it was not held!"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny classifier of random weights in the Hub's format."""
    folder = tmp_path_factory.mktemp("checkpoint")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "!", *WORDS.split()]
    config = minidistil.DistilBertConfig(
        vocab_size=len(vocab),
        max_position_embeddings=POSITIONS,
        n_layers=2,
        n_heads=2,
        dim=16,
        hidden_dim=32,
        id2label={0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"},
        architectures=("DistilBertForSequenceClassification",),
    )
    write_json(folder / "config.json", config.to_dict())
    torch.manual_seed(0)
    shapes = minidistil.DistilBertForSequenceClassification(config, device="meta").state_dict()
    weights = {name: torch.randn(tensor.shape) for name, tensor in shapes.items()}
    for name, tensor in weights.items():
        if name.lower().endswith("norm.weight"):
            tensor.mul_(0.2).add_(1)
        elif tensor.ndim == 2 and "embeddings" not in name:
            tensor.mul_(3 / tensor.shape[1] ** 0.5)  # far from flat
    save_file(weights, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": POSITIONS})
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the checkpoint, to break."""
    return shutil.copytree(folder, tmp_path / "copy")


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def answers(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self):
        """The one line on stderr of a run that failed."""
        assert self.code == 2
        assert self.err.startswith("minidistil: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        return self.err


@pytest.fixture
def command(capsys, monkeypatch, folder):
    """Run the command in this process, on the CPU, with the tiny checkpoint where no other is named."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # undoes what the command sets

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin)
        )
        arguments = [str(argument) for argument in arguments]
        if "--model" not in arguments:
            arguments += ["--model", str(folder)]
        if "--device" not in arguments:
            arguments += ["--device", "cpu"]
        code = cli.main(arguments)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def zero_shot(folder):
    return unpacked("zero-shot-classification", folder)


@pytest.fixture(scope="module")
def classify(folder):
    return unpacked("text-classification", folder)


def unpacked(task, folder):
    """A pipeline whose every batch has the bits of a command's first: a model that it was given stays as it is."""
    model, tokenizer = minidistil.from_pretrained(folder), minidistil.Tokenizer.from_pretrained(folder)
    return minidistil.pipeline(task, model, tokenizer=tokenizer)


def write_json(path, values):
    path.write_text(json.dumps(values))


def assert_close(answers, expected):
    """The same but for the last digits of scores, which depend on what is in a batch together."""
    rows, others = ([json.dumps(without_scores(row)) for row in side] for side in (answers, expected))
    assert rows == others
    for row, other in zip(answers, expected, strict=True):
        assert scores(row) == pytest.approx(scores(other), abs=1e-5)


def without_scores(answer):
    return {key: value for key, value in answer.items() if not key.startswith("score")}


def scores(answer):
    return answer["scores"] if "scores" in answer else [answer["score"]]


# One text


def test_a_text_alone_is_answered_for_people_best_label_first(command, zero_shot):
    result = command("zero-shot", "The team won.", "--labels", "sports,politics,business")
    expected = zero_shot("The team won.", LABELS)
    title, *rows = result.out.splitlines()
    assert (result.code, result.err, title) == (0, "", "The team won.")
    assert [row.split()[0] for row in rows] == expected["labels"]
    assert [row.split()[1] for row in rows] == [f"{score:.3f}" for score in expected["scores"]]


def test_classify_shows_every_label_for_people(command, classify):
    title, *rows = command("classify", "a man sleeps").out.splitlines()
    assert title == "a man sleeps"
    assert [row.split()[0] for row in rows] == [row["label"] for row in classify("a man sleeps", top_k=None)]


def test_a_pair_is_shown_with_both_texts(command, classify):
    title, *rows = command("classify", "a man sleeps", "--pair", "a man is awake").out.splitlines()
    best = classify({"text": "a man sleeps", "text_pair": "a man is awake"})
    assert title == "a man sleeps / a man is awake"
    assert rows[0].split()[:2] == [best["label"], f"{best['score']:.3f}"]


def shown(command, monkeypatch, scores):
    """What people see for an answer of these labels and scores."""
    answer = {"sequence": "text", "labels": list(scores), "scores": list(scores.values())}
    monkeypatch.setattr(answering, "load_pipeline", lambda *_: lambda *_, **__: answer)
    return command("zero-shot", "text", "--labels", "x").out.splitlines()[1:]


def test_bars_are_as_long_as_scores_are_large_and_stand_in_one_column(command, monkeypatch):
    assert shown(command, monkeypatch, {"sport": 0.75, "politics": 0.25, "x": 0.0}) == [
        "  sport     0.750  " + "█" * 18,
        "  politics  0.250  " + "█" * 6,
        "  x         0.000",
    ]


@pytest.mark.parametrize(
    "label",
    ["日本", "\uff46\uff55", "e\u0301te\u0301", "한국", "🏈", "\u0916\u0947\u0932", "\u0e01\u0e35\u0e2c\u0e32"],
    ids=["Chinese", "full-width", "combining", "Korean", "emoji", "Hindi", "Thai"],
)
def test_wide_and_combining_characters_keep_the_bars_in_one_column(command, monkeypatch, label):
    first, second = shown(command, monkeypatch, {label: 0.5, "business": 0.5})
    columns = 0
    for character in first[: first.index("0.500")]:
        mark = unicodedata.category(character) in ("Mn", "Me")
        columns += 0 if mark else 2 if unicodedata.east_asian_width(character) in "WF" else 1
    assert columns == second.index("0.500")


def test_json_is_the_answer_that_python_gives(command, zero_shot, classify):
    text, pair = "the team won", {"text": "the team won", "text_pair": "a game"}
    assert command("zero-shot", text, "--labels", "sports, politics", "--json").answers == [
        zero_shot(text, ["sports", "politics"])
    ]
    assert command("classify", text, "--json").answers == classify(text)
    assert command("classify", text, "--pair", "a game", "--json").answers == [classify(pair)]


def test_json_is_one_line_of_readable_characters(command):
    result = command("zero-shot", "日本\nthe team", "--labels", "é", "--json")
    assert result.out.count("\n") == 1
    assert '"日本\\nthe team"' in result.out
    assert '["é"]' in result.out


def test_template_and_multi_label_are_the_pipelines_own(command, zero_shot):
    call = ("zero-shot", "the team won", "--labels", "sports,politics", "--json")
    plain, template = zero_shot("the team won", LABELS[:2]), "this is not {}!"
    options = {"hypothesis_template": template, "multi_label": True}
    expected = zero_shot("the team won", LABELS[:2], **options)
    assert command(*call, "--template", template, "--multi-label").answers == [expected]
    assert expected["scores"] != plain["scores"]


def test_dtype_is_what_the_model_computes_in(command, folder):
    pipe = minidistil.pipeline("text-classification", folder, dtype="bfloat16", device="cpu")
    assert command("classify", "the team won", "--dtype", "bfloat16", "--json").answers == pipe("the team won")


def test_classify_answers_an_empty_text(command, classify):
    assert command("classify", "", "--json").answers == classify("")


def test_a_text_that_begins_with_a_dash_follows_two_dashes(command, folder, classify):
    result = command("classify", "--json", "--model", folder, "--device", "cpu", "--", "-b")
    assert result.answers == classify("-b")


# Many texts


def test_a_file_of_lines_gives_a_line_of_json_for_each(command, zero_shot, classify, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(LINES) + "\n")
    result = command("zero-shot", "--input", path, "--labels", "sports,politics,business")
    assert result.code == 0
    assert_close(result.answers, zero_shot(LINES, LABELS))
    assert_close(command("classify", "--input", path).answers, classify(LINES))


def test_progress_goes_to_stderr(command, tmp_path):
    result = command("classify", "--input", "-", stdin=b"a\nb\n")
    assert len(result.answers) == 2
    assert result.err.startswith("2 texts, ")


def test_stdin_is_a_dash_and_its_last_line_may_have_no_end(command, classify):
    assert_close(command("classify", "--input", "-", stdin="\n".join(LINES).encode()).answers, classify(LINES))


def test_lines_of_jsonl_bring_labels_of_their_own(command, zero_shot, tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [
        {"text": "the team", "labels": ["sports"]},
        {"text": "a man", "labels": LABELS, "id": 7},
        {"text": "b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = command("zero-shot", "--input", path, "--labels", "game,not held", "--multi-label")
    expected = [zero_shot(row["text"], row.get("labels", ["game", "not held"]), multi_label=True) for row in rows]
    assert_close(result.answers, expected)


def test_lines_of_jsonl_bring_pairs(command, classify, tmp_path):
    rows = [{"text": "the team", "text_pair": "a game"}, {"text": "a man"}, {"text": "b", "text_pair": None}]
    content = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "pairs.jsonl").write_text(content)
    assert_close(command("classify", "--input", tmp_path / "pairs.jsonl").answers, classify(rows))
    assert_close(command("classify", "--input", "-", "--jsonl", stdin=content.encode()).answers, classify(rows))


def test_output_goes_to_a_file(command, classify, tmp_path):
    result = command("classify", "--input", "-", "--output", tmp_path / "answers", stdin=b"a\nb\n")
    assert (result.code, result.out) == (0, "")
    lines = (tmp_path / "answers").read_text(encoding="utf-8").splitlines()
    assert_close([json.loads(line) for line in lines], classify(["a", "b"]))


def test_output_replaces_what_the_file_held(command, tmp_path):
    output = tmp_path / "answers"
    output.write_text("old\n" * 1000)
    command("classify", "--input", "-", "--output", output, stdin=b"a\n")
    assert len(output.read_text().splitlines()) == 1


def test_an_input_without_lines_leaves_an_output_without_lines(command, tmp_path):
    output = tmp_path / "answers"
    output.write_text("an answer of another run\n")
    assert command("classify", "--input", "-", "--output", output, stdin=b"").code == 0
    assert output.read_text() == ""


def test_windows_files_and_marks_of_byte_order_are_read_as_meant(command, classify, tmp_path):
    lines = "\ufeff" + "".join(f"{line}\r\n" for line in LINES)
    rows = "\ufeff" + "".join(json.dumps({"text": line}) + "\r\n" for line in LINES)
    (tmp_path / "texts.txt").write_bytes(lines.encode())
    (tmp_path / "texts.jsonl").write_bytes(rows.encode())
    for name in ("texts.txt", "texts.jsonl"):
        assert_close(command("classify", "--input", tmp_path / name).answers, classify(LINES))
    result = command("zero-shot", "--labels", "sports", "--input", tmp_path / "texts.txt")
    assert [answer["sequence"] for answer in result.answers] == LINES


def test_only_line_feeds_end_a_line_and_spaces_are_text(command):
    text = " \ta\0b\x0bc\x0cd\x1ce\x85f\u2028g\rh \t"
    result = command("zero-shot", "--labels", "sports", "--input", "-", stdin=f"{text}\nthe team\n".encode())
    assert [json.loads(line)["sequence"] for line in result.out.split("\n")[:-1]] == [text, "the team"]


def test_a_long_input_is_answered_in_its_order(command, zero_shot, monkeypatch):
    monkeypatch.setattr(base, "WINDOW", 7)
    lines = [" ".join(WORDS.split()[: 1 + i % 19]) for i in range(50)]
    result = command("zero-shot", "--labels", "sports,not", "--input", "-", stdin="\n".join(lines).encode())
    assert_close(result.answers, [zero_shot(line, ["sports", "not"]) for line in lines])


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zero-shot", "a"], "--labels is missing"),
        (["zero-shot", "a", "--labels", ""], r"candidate_labels[0] is empty"),
        (["zero-shot", "a", "--labels", "a,,b"], r"candidate_labels[1] is empty"),
        (["zero-shot", "a", "--labels", "a", "--template", "nothing"], "hypothesis_template is 'nothing'"),
        (["zero-shot", "a", "--labels", "a", "--template", "{} {}"], "hypothesis_template is '{} {}'"),
        (["zero-shot", "", "--labels", "a"], "is empty"),
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
        (["classify", "a", "--revision", "main"], "revision goes with a Hub id"),
        (["classify", "a", "--model", "./nowhere"], "no folder ./nowhere"),
        (["classify", "--input", "nowhere.txt"], "nowhere.txt"),
        (["classify", "a\udcff"], "lone surrogate"),
        (["classify", "a", "--pair", "\udcff"], "lone surrogate"),
        (["zero-shot", "a\udcff", "--labels", "a"], "lone surrogate"),
        (["zero-shot", "a", "--labels", "b,\udcff"], "candidate_labels[1]"),
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
def test_what_no_verb_knows_is_a_usage_error(arguments, capsys):
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


# Bad checkpoints


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
    """A header that is whole, for data that is not."""
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
    "endless header": (write("model.safetensors", b"\xff" * 64), "model.safetensors is not a readable"),
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
def test_a_broken_checkpoint_is_one_line_that_names_what_is_wrong(command, copy, spoil, message):
    spoil(copy)
    result = command("zero-shot", "the team", "--labels", "sports", "--model", copy)
    assert message in result.error
    assert result.out == ""


def test_a_vocabulary_larger_than_the_models_is_one_line_too(command, copy):
    with (copy / "vocab.txt").open("a") as vocabulary:
        vocabulary.write("banana\n")
    assert command("classify", "the team", "--model", copy).code == 0
    assert "vocab" in command("classify", "the banana", "--model", copy).error


# Bad input


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\xff\n", "line 2 is not UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (b"a\n\xed\xa0\x80\n", "line 2 is not UTF-8: 'utf-8' codec can't decode"),
        (b"a\n\nb\n", "line 2: the text is empty"),
    ],
)
def test_a_bad_line_is_named_with_its_file(command, tmp_path, content, message):
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    result = command("zero-shot", "--labels", "sports", "--input", path)
    assert f"{path}, {message}" in result.error
    assert [answer["sequence"] for answer in result.answers] == ["a"]  # what came before is answered


BAD_ROWS = {
    "not JSON": (b"{", "line 2 is not JSON: "),
    "an empty line": (b"", "line 2 is empty: "),
    "not UTF-8": (b'{"text": "\xff"}', "line 2 is not UTF-8: 'utf-8' codec can't decode"),
    "a list": (b'["a"]', "line 2: expected a JSON object, found list"),
    "deep": (b"[" * 100_000, "line 2 is not JSON: "),
    "no text": (b'{"texts": "a"}', "line 2 has no field text: the fields are texts"),
    "a number": (b'{"text": 5}', "line 2: text is 5: expected a string"),
    "a lone surrogate": (b'{"text": "\\ud800"}', "line 2"),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
@pytest.mark.parametrize(
    "verb", [["zero-shot", "--labels", "sports"], ["classify"]], ids=["zero-shot", "classify"]
)
def test_a_bad_line_of_jsonl_is_named_with_its_file(command, tmp_path, verb, row, message):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + row + b'\n{"text": "b"}\n')
    result = command(*verb, "--input", path)
    assert f"{path}, {message}" in result.error
    assert len(result.answers) == 1


@pytest.mark.parametrize(
    "row", ['"labels": "a,b"', '"labels": []', '"labels": null', '"labels": [5]', '"labels": [""]']
)
def test_bad_labels_of_a_line_are_named_with_the_line(command, row):
    result = command("zero-shot", "--jsonl", "--input", "-", stdin=f'{{"text": "a", {row}}}\n'.encode())
    assert "stdin, line 1" in result.error


def test_a_line_without_labels_needs_those_of_the_command(command):
    result = command("zero-shot", "--jsonl", "--input", "-", stdin=b'{"text": "a"}\n')
    assert "stdin, line 1: labels is None" in result.error


def test_a_bad_second_text_is_named_with_its_line(command):
    result = command("classify", "--jsonl", "--input", "-", stdin=b'{"text": "a", "text_pair": 5}\n')
    assert "stdin, line 1: text_pair is 5: expected a string" in result.error


def test_an_input_that_is_a_folder_is_named(command, tmp_path):
    assert f"cannot read {tmp_path}" in command("classify", "--input", tmp_path).error


def test_a_missing_input_is_named_even_where_the_output_exists(command, tmp_path):
    (tmp_path / "answers").write_text("old\n")
    missing = tmp_path / "missing.txt"
    result = command("classify", "--input", missing, "--output", tmp_path / "answers")
    assert f"cannot read {missing}" in result.error


# Bad output


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
def test_a_run_that_fails_before_its_first_answer_keeps_what_the_output_held(command, tmp_path, options, stdin):
    output = tmp_path / "answers"
    output.write_text("kept\n")
    result = command("zero-shot", "--labels", "a", "--input", "-", "--output", output, *options, stdin=stdin)
    assert result.error
    assert output.read_text() == "kept\n"


@pytest.mark.parametrize(("options", "stdin"), FAILURES)
def test_a_run_that_fails_before_its_first_answer_makes_no_file(command, tmp_path, options, stdin):
    output = tmp_path / "answers"
    result = command("zero-shot", "--labels", "a", "--input", "-", "--output", output, *options, stdin=stdin)
    assert result.error
    assert not output.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_a_full_disk_is_one_line(command):
    result = command("classify", "--input", "-", "--output", "/dev/full", stdin=b"a\n")
    assert result.code == 2
    assert "No space left" in result.err.splitlines()[-1]


def test_output_is_utf8_whatever_the_terminal_says(command, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert command("zero-shot", "日本", "--labels", "é").code == 0
    assert written.getvalue().decode().startswith("日本\n  é  ")


def test_a_run_that_fails_later_leaves_the_answers_before(command, tmp_path):
    output = tmp_path / "answers"
    assert command("classify", "--input", "-", "--output", output, stdin=b"a\nb\n\xff\n").error
    assert len([json.loads(line) for line in output.read_text().splitlines()]) == 2


# Interruptions


def test_an_interrupted_run_leaves_complete_lines(command, tmp_path, monkeypatch):
    class Typist(io.BytesIO):
        """Gives up after 10 lines."""

        def __iter__(self):
            yield from itertools.repeat(b"the team won\n", 10)
            raise KeyboardInterrupt

    monkeypatch.setattr(base, "WINDOW", 4)
    result = command("classify", "--input", "-", "--output", tmp_path / "answers", stdin=Typist())
    assert (result.code, result.out) == (130, "")
    assert result.err.splitlines()[-1].startswith("minidistil: interrupted")
    content = (tmp_path / "answers").read_text()
    assert content.endswith("\n")
    assert len([json.loads(line) for line in content.splitlines()]) == 8  # two whole windows


def start(*arguments, **options):
    """The command in a process of its own, which hears Ctrl-C even where the tests' own process does not."""
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from minidistil.cli.main import main; sys.exit(main())"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment, **pipes, **options)


def test_control_c_stops_a_long_run_between_lines(folder):
    arguments = ["classify", "--model", str(folder), "--device", "cpu", "--input", "-"]
    with start(*arguments, stdin=subprocess.PIPE) as process:
        process.stdin.write(b"the team won\n" * 3 * base.WINDOW + b"team " * 100 + b"\n")
        process.stdin.flush()  # and stdin stays open: there may be more to come
        first = [process.stdout.readline() for _ in range(10)]
        process.send_signal(signal.SIGINT)
        rest, err = process.stdout.read(), process.stderr.read().decode()
    assert process.returncode == 130
    lines = b"".join([*first, rest])
    assert lines.endswith(b"\n")
    assert {json.loads(line)["label"] for line in lines.splitlines()} <= {"ENTAILMENT", "NEUTRAL", "CONTRADICTION"}
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "minidistil: interrupted; the lines written so far are complete"


def test_a_closed_pipe_is_quiet_and_warnings_are_one_line(folder, tmp_path):
    path = tmp_path / "texts.txt"  # its answers are more than a pipe holds
    path.write_text("team " * 100 + "\n" + "the team won\n" * 4 * base.WINDOW)
    with start("classify", "--model", str(folder), "--device", "cpu", "--input", str(path)) as process:
        json.loads(process.stdout.readline())
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 141  # as a program that SIGPIPE ends
    lines = [line for line in err.splitlines() if " texts, " not in line]  # progress, on a slow machine
    assert lines == [f"minidistil: texts longer than {POSITIONS} tokens are cut"]


def test_help_takes_neither_torch_nor_numpy():
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


# The verbs of the other heads


HEADS = {
    "fill-mask": ("fill-mask", minidistil.DistilBertForMaskedLM),
    "tag": ("token-classification", minidistil.DistilBertForTokenClassification),
    "answer": ("question-answering", minidistil.DistilBertForQuestionAnswering),
    "embed": ("sentence-embedding", minidistil.DistilBertModel),
}
CONTEXT = "the man sleeps . the team won a game"


@pytest.fixture(scope="module")
def heads(folder, tmp_path_factory):
    """A tiny checkpoint for each verb, with the classifier's tokenizer."""
    folders = {}
    for verb, (_, cls) in HEADS.items():
        folders[verb] = shutil.copytree(folder, tmp_path_factory.mktemp("heads") / verb)
        config = dataclasses.replace(
            minidistil.from_pretrained(folder).config, id2label={0: "O", 1: "B-MAN"}, n_layers=1
        )
        torch.manual_seed(1)
        model = cls(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
        model.save_pretrained(folders[verb])
    return folders


@pytest.fixture
def verb(command, heads):
    """Run a verb with its checkpoint."""
    return lambda name, *arguments, **options: command(name, *arguments, "--model", heads[name], **options)


@pytest.fixture
def pipe(heads):
    """The pipeline behind a verb."""
    return lambda name: minidistil.pipeline(HEADS[name][0], heads[name], device="cpu")


def test_fill_mask_shows_the_words_for_each_mask(verb, pipe):
    text = "the [MASK] won a [MASK]"
    expected = pipe("fill-mask")(text, top_k=2)
    lines = verb("fill-mask", text, "--top-k", 2).out.splitlines()
    assert lines[0] == f"{text} (mask 1 of 2)"
    assert lines[3] == f"{text} (mask 2 of 2)"
    assert [line.split()[0] for line in (*lines[1:3], *lines[4:])] == [
        row["token_str"] for rows in expected for row in rows
    ]
    assert verb("fill-mask", "the [MASK] won").out.startswith("the [MASK] won\n  ")


def test_fill_mask_chooses_from_targets(verb, pipe):
    result = verb("fill-mask", "the [MASK] won", "--targets", "man, team", "--json")
    assert_close(json.loads(result.out), pipe("fill-mask")("the [MASK] won", targets=["man", "team"]))


def test_tag_shows_each_word_with_its_label(verb, pipe):
    arguments = ("--aggregation-strategy", "simple")
    entities = pipe("tag")(CONTEXT, aggregation_strategy="simple")
    assert entities
    lines = verb("tag", CONTEXT, *arguments).out.splitlines()
    assert lines[0] == CONTEXT
    assert [line.split("  ")[1] for line in lines[1:]] == [entity["word"] for entity in entities]
    assert all(" MAN  " in line for line in lines[1:])
    assert_close(json.loads(verb("tag", CONTEXT, *arguments, "--json").out), entities)
    assert [row["entity"] for row in json.loads(verb("tag", CONTEXT, "--json").out)]


def test_tag_finds_nothing_in_a_text_without_entities(verb):
    assert verb("tag", "").out == "\n  (nothing found)\n"
    assert verb("tag", "", "--json").out == "[]\n"


def test_answer_shows_the_answers_in_their_context(verb, pipe):
    expected = pipe("answer")(question="who won", context=CONTEXT, top_k=3)
    lines = verb("answer", "who won", "--context", CONTEXT, "--top-k", 3).out.splitlines()
    assert lines[0] == "who won"
    assert [line.strip().rsplit("  ", 2)[0].strip() for line in lines[1:]]
    assert all(line.strip().startswith(answer["answer"]) for line, answer in zip(lines[1:], expected, strict=True))
    assert_close(json.loads(verb("answer", "who won", "--context", CONTEXT, "--top-k", 3, "--json").out), expected)


def test_an_impossible_answer_is_shown_as_none(verb):
    result = verb("answer", "who", "--context", "a", "--handle-impossible-answer", "--top-k", 5)
    assert "  (no answer)  " in result.out


def test_answer_reads_questions_with_one_context_or_their_own(verb, pipe):
    expected = pipe("answer")(question=["who won", "who sleeps"], context=CONTEXT)
    result = verb("answer", "--input", "-", "--context", CONTEXT, stdin=b"who won\nwho sleeps\n")
    assert_close(result.answers, expected)
    rows = [{"question": "who won", "context": CONTEXT}, {"question": "who sleeps"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    result = verb("answer", "--input", "-", "--jsonl", "--context", CONTEXT, stdin=lines)
    assert_close(result.answers, expected)


def test_embed_shows_some_of_a_vector_and_gives_all_of_it_in_json(verb, pipe):
    vector = pipe("embed")("the team won", pooling="mean", normalize=True)
    shown = verb("embed", "the team won", "--pooling", "mean", "--normalize").out
    assert shown.startswith(f"the team won\n  16 dimensions, norm 1.000: {vector[0]:.4f} ")
    result = verb("embed", "the team won", "--pooling", "mean", "--normalize", "--json")
    assert json.loads(result.out) == pytest.approx(vector.tolist(), abs=1e-6)
    result = verb("embed", "--input", "-", "--pooling", "cls", stdin=b"a man\nthe team\n")
    for row, text in zip(result.answers, ["a man", "the team"], strict=True):
        assert row == pytest.approx(pipe("embed")(text, pooling="cls").tolist(), abs=1e-5)


@pytest.mark.parametrize(("name", "line"), [("fill-mask", "the [MASK] won"), ("tag", CONTEXT)])
def test_many_texts_are_answered_as_one_by_one(verb, pipe, name, line):
    result = verb(name, "--input", "-", stdin=f"{line}\n{line} a\n".encode())
    for row, text in zip(result.answers, [line, f"{line} a"], strict=True):
        assert_close(row, pipe(name)(text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill-mask", "the team won"], "the text has no [MASK]"),
        (["fill-mask", "a [MASK]", "--top-k", "0"], "top_k is 0"),
        (["tag", "a", "--aggregation-strategy", "best"], "aggregation_strategy is 'best'"),
        (["answer", "who won"], "--context is missing"),
        (["answer", "who won", "--context", ""], "the context is empty"),
        (["embed", "a"], "pooling is None, and the checkpoint does not say it"),
    ],
)
def test_what_the_other_verbs_cannot_do_is_one_line(verb, arguments, message):
    assert message in verb(*arguments).error


def test_a_line_without_a_context_is_named(verb):
    result = verb("answer", "--input", "-", "--jsonl", stdin=b'{"question": "who won"}\n')
    assert "stdin, line 1 has no field context: the fields are question" in result.error


@pytest.mark.parametrize(
    ("name", "stdin", "message"),
    [
        ("fill-mask", b"a [MASK]\n\n", "stdin, line 2: the text has no [MASK]"),
        ("answer", b"who\n\n", "stdin, line 2: the question is empty"),
    ],
)
def test_what_a_pipeline_says_of_an_input_names_its_line(verb, name, stdin, message):
    more = ["--context", CONTEXT] if name == "answer" else []
    result = verb(name, "--input", "-", *more, stdin=stdin)
    assert message in result.err.splitlines()[-1]
    assert result.code == 2


# What a terminal is shown, and what a program gets


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"minidistil {minidistil.__version__}\n"


def test_control_characters_do_not_reach_the_terminal(command, verb):
    assert command("classify", "a\x1b[31m\nman").out.startswith("a [31m man\n")
    shown = verb("answer", "who\twon", "--context", "the\nman\nsleeps", "--top-k", "9").out
    assert shown.startswith("who won\n")
    assert all(line.startswith("  ") for line in shown.splitlines()[1:])


def test_classify_gives_as_many_labels_as_are_asked_for(command, classify):
    expected = classify("a man", top_k=2)
    assert_close(json.loads(command("classify", "a man", "--top-k", 2, "--json").out), expected)
    assert len(command("classify", "a man", "--top-k", 2).out.splitlines()) == 3
    [answer] = command("classify", "--top-k", 2, "--input", "-", stdin=b"a man\n").answers
    assert_close(answer, expected)


@pytest.mark.parametrize("name", ["texts.JSONL", "texts.ndjson", "texts.json"])
def test_jsonl_has_several_names(command, classify, tmp_path, name):
    (tmp_path / name).write_text('{"text": "a man"}\n')
    assert_close(command("classify", "--input", tmp_path / name).answers, [classify("a man")[0]])


@pytest.mark.parametrize(
    ("stdin", "options", "message"),
    [
        (b'{"text": "a man"}\n', [], "stdin, line 1 is JSON: pass --jsonl"),
        (b'{"text": "a"}\n\n', ["--jsonl"], "stdin, line 2 is empty"),
        (b"{'text': 1}\n", ["--jsonl"], "stdin, line 1 is not JSON"),
        (b'{"txt": "a"}\n', ["--jsonl"], "stdin, line 1 has no field text: the fields are txt"),
        ("a".encode("utf-16"), [], "stdin, line 1 is not UTF-8"),
    ],
)
def test_lines_of_the_wrong_kind_are_said_to_be_so(command, stdin, options, message):
    result = command("classify", "--input", "-", *options, stdin=stdin)
    assert message in result.err.splitlines()[-1]
    assert result.code == 2


def many(folder, tmp_path, *options):
    """Classify 200 different lines from a file into another."""
    lines = [" ".join(WORDS.split()[i % 7 : 1 + i % 20]) + f" {'a ' * (i % 31)}" for i in range(200)]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["classify", "--model", str(folder), "--input", str(tmp_path / "texts.txt"), "--output"]
    return [*command, str(tmp_path / "answers.jsonl"), *options]


@pytest.mark.parametrize("cut", [0, 1, 57, 3000, 10**6])
def test_a_run_that_was_stopped_goes_on_where_it_stopped(folder, tmp_path, cut):
    assert cli.main(many(folder, tmp_path)) == 0
    output = tmp_path / "answers.jsonl"
    whole = output.read_bytes()
    output.write_bytes(whole[:cut])  # at any byte: amid a line too
    assert cli.main(many(folder, tmp_path, "--resume")) == 0
    again = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    expected = [json.loads(line) for line in whole.splitlines()]
    assert [answer["label"] for answer in again] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in again] == pytest.approx([a["score"] for a in expected], abs=1e-5)
    assert output.read_bytes().startswith(whole[:cut].rpartition(b"\n")[0])


def written(path):
    """Whether there is something in a file, which may come and go meanwhile."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def test_a_killed_run_goes_on_and_gives_what_an_uninterrupted_one_does(folder, tmp_path):
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
        while not written(output):
            assert process.poll() is None
        process.kill()
    assert 0 < len(output.read_bytes().splitlines()) < len(expected)
    assert subprocess.run([*command, "--resume"], capture_output=True, check=False).returncode == 0
    again = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [answer["label"] for answer in again] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in again] == pytest.approx([a["score"] for a in expected], abs=1e-5)


def test_errors_of_a_resumed_run_name_the_line_of_the_file(folder, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("The team won.\na man\n\n", encoding="utf-8")
    (tmp_path / "answers.jsonl").write_text('{"label": "x"}\n', encoding="utf-8")
    command = ["zero-shot", "--labels", "a,b", "--model", str(folder), "--input", str(tmp_path / "texts.txt")]
    assert cli.main([*command, "--output", str(tmp_path / "answers.jsonl"), "--resume"]) == 2
    assert "texts.txt, line 3: the text is empty" in capsys.readouterr().err


def test_what_cannot_be_resumed_is_refused_and_left_as_it_is(folder, tmp_path, capsys):
    command = many(folder, tmp_path, "--resume")
    output = tmp_path / "answers.jsonl"
    for held, message in (
        ("my notes\nmore", "line 1 is not an answer: --resume requires the output of an earlier run"),
        ("1\n" * 201, "has 201 answers, but"),
    ):
        output.write_text(held, encoding="utf-8")
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err
        assert output.read_text(encoding="utf-8") == held
    for given in (["--input", str(tmp_path / "texts.txt")], ["a text"]):
        assert cli.main(["classify", "--model", str(folder), *given, "--resume"]) == 2
        assert "--resume requires --input FILE and --output FILE" in capsys.readouterr().err


def test_the_progress_says_how_long_it_takes_yet(capsys):
    show_progress(50, 10.0, 200)
    assert capsys.readouterr().err == "50 texts, 5.0 texts/s, 30 s left\n"


# Tables


def table(path, *rows, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def rows_in(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


ODD = ["The team won.", 'two\nlines, and a "quote"', " ", "Ünïcode 日本 😀"]


def test_a_table_is_read_and_answered_by_a_table(command, classify, tmp_path):
    source = table(tmp_path / "texts.csv", ["id", "text"], *([i, text] for i, text in enumerate(ODD)))
    assert command("classify", "--input", source, "--output", tmp_path / "a.csv").code == 0
    found = rows_in(tmp_path / "a.csv")
    assert [row["row"] for row in found] == ["1", "2", "3", "4"]
    assert_close([{"label": row["label"], "score": float(row["score"])} for row in found], classify(ODD))


def test_a_row_for_each_label_and_the_labels_of_a_cell(command, zero_shot, tmp_path):
    source = table(tmp_path / "texts.csv", ["text", "labels"], ["The team won.", "sports, politics"], ["a", "x"])
    assert command("zero-shot", "--input", source, "--output", tmp_path / "a.csv").code == 0
    found = rows_in(tmp_path / "a.csv")
    assert [(row["row"], row["sequence"]) for row in found] == [("1", "The team won.")] * 2 + [("2", "a")]
    expected = zero_shot("The team won.", ["sports", "politics"])
    assert [row["label"] for row in found[:2]] == expected["labels"]
    assert [float(row["score"]) for row in found[:2]] == pytest.approx(expected["scores"], abs=1e-6)


@pytest.mark.parametrize(("name", "delimiter"), [("texts.csv", ","), ("texts.tsv", "\t")])
def test_the_column_of_the_text_is_named(command, classify, tmp_path, name, delimiter):
    source = table(tmp_path / name, ["review", "text_pair"], ["a man", "b"], ["c", ""], delimiter=delimiter)
    result = command("classify", "--input", source, "--text-column", "review")
    pair = {"text": "a man", "text_pair": "b"}
    assert_close(result.answers, [classify(pair), classify("c")[0]])
    result = command("classify", "--input", source)
    assert f"{source}, row 1 has no field text: the fields are review, text_pair" in result.error


def test_gzipped_input_is_read(command, classify, tmp_path):
    for name, held in (
        ("t.txt.gz", "a man\n"),
        ("t.jsonl.gz", '{"text": "a man"}\n'),
        ("t.csv.gz", "text\na man\n"),
    ):
        (tmp_path / name).write_bytes(gzip.compress(held.encode()))
        assert_close(command("classify", "--input", tmp_path / name).answers, [classify("a man")[0]])


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
def test_what_does_not_go_with_the_files_is_refused(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a\n")
    result = command("classify", *arguments)
    assert message in result.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt"]


@pytest.mark.parametrize("verb", [["classify"], ["classify", "--top-k", "3"], ["zero-shot", "--labels", "a,b"]])
def test_a_table_goes_on_at_whatever_byte_it_was_cut(folder, tmp_path, verb):
    source = table(tmp_path / "texts.csv", ["text"], *([text] for text in ODD * 3))
    output = tmp_path / "answers.csv"
    command = [*verb, "--model", str(folder), "--input", str(source), "--output", str(output)]
    assert cli.main(command) == 0
    whole, expected = output.read_bytes(), rows_in(output)
    for cut in range(0, len(whole) + 1, 7):
        output.write_bytes(whole[:cut])
        assert cli.main([*command, "--resume"]) == 0
        found = rows_in(output)
        for row, other in zip(found, expected, strict=True):
            assert float(row.pop("score")) == pytest.approx(float(other["score"]), abs=1e-5)
            assert row == {key: value for key, value in other.items() if key != "score"}


def test_a_table_of_others_is_not_gone_on_with(folder, tmp_path, capsys):
    source = table(tmp_path / "texts.csv", ["text"], ["a"], ["b"], ["c"])
    command = ["classify", "--model", str(folder), "--input", str(source), "--resume", "--output"]
    for header, message in (
        (["label", "score"], "is not row: --resume requires the output of an earlier run"),
        (["row", "sequence", "score"], "has the columns sequence, score, but the new answer has label, score"),
    ):
        output = table(tmp_path / "answers.csv", header, *([i, 0, 0][: len(header)] for i in (1, 2)))
        assert cli.main([*command, str(output)]) == 2
        assert message in capsys.readouterr().err


def test_words_spans_and_vectors_have_rows_of_their_own():
    words = [{"word": "a", "score": 0.5}, {"word": "b", "score": 0.4}]
    assert table_rows(words) == words
    assert table_rows([words, words]) == words * 2  # of two masks
    assert table_rows([]) == []  # no names in a text
    assert table_rows([0.5, 0.25]) == [{"x1": 0.5, "x2": 0.25}]


# Help


@pytest.mark.parametrize(("name", "default"), [(name, default) for name, _, default, _ in RECIPE])
def test_the_help_of_train_shows_the_defaults_of_the_recipe(name, default):
    assert getattr(Recipe(), name.replace("-", "_")) == default
