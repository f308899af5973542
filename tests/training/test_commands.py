"""The commands `train` and `eval`."""

from __future__ import annotations

import csv
import json
import re

import pytest

import minidistil
from minidistil.cli import main as cli
from minidistil.training.run import Interrupted, Run
from support.runs import SMALL, VOCAB, examples, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.full
def test_the_commands_train_and_evaluate(encoder, texts, tmp_path, capsys):
    output = str(tmp_path / "out")
    command = ["train", str(encoder), str(texts), "--output", output, "--eval-data", str(texts), "--epochs", "2"]
    command += ["--batch-size", "4", "--learning-rate", "1e-3", "--max-length", "16", "--device", "cpu"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "training: 12/12 [" in printed.err
    assert "tokens/s" in printed.err
    assert printed.out.startswith("examples     24\n")
    assert f"minidistil train {encoder} {texts}" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")

    assert cli.main(["eval", output, str(texts), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == printed.out
    assert cli.main(["eval", output, str(texts), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert found["confusion"] == run["evaluation"][0]["metrics"]["confusion"]


def test_the_command_in_the_card_includes_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert cli._program() == ["torchrun", "--nproc-per-node", "4", "-m", "minidistil"]


def test_an_interrupted_command_prints_how_to_resume(encoder, texts, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise Interrupted("stopped after step 3: continue with --resume")

    monkeypatch.setattr(Run, "train", stop)
    assert (
        cli.main(["train", str(encoder), str(texts), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 130
    )
    expected = "minidistil: interrupted: stopped after step 3: continue with --resume"
    assert capsys.readouterr().err.splitlines()[-1] == expected


def test_zero_shot_is_evaluated_with_the_labels_of_the_data(tmp_path, capsys):
    names = {0: "entailment", 1: "neutral", 2: "contradiction"}
    config = minidistil.DistilBertConfig(**SMALL, id2label=names)
    folder = tmp_path / "nli"
    minidistil.DistilBertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    opinions = {"yes": "good", "no": "bad"}
    rows = [{"text": row["text"], "label": opinions[row["label"]]} for row in examples(10)]
    rows += [{"text": "a film", "label": label} for label in ("-", None)]
    data = str(write(tmp_path / "data.jsonl", rows))
    command = ["eval", str(folder), data, "--zero-shot", "--template", "it was {}", "--device", "cpu"]
    assert cli.main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["examples"], found["labels"], found["template"]) == (10, ["bad", "good"], "it was {}")
    assert "  skipped     2  no label: '-', null\n" in printed.err
    assert cli.main(["eval", str(folder), data, "--template", "it was {}"]) == 2
    assert "--template requires --zero-shot" in capsys.readouterr().err
    assert cli.main(["eval", str(folder), data, "--zero-shot", "--max-length", "9"]) == 2
    assert "--max-length cannot be combined with --zero-shot" in capsys.readouterr().err
    for labels, found in (([0, 1], "numbers"), (["a|b", "c"], "multi_label_classification")):
        other = str(write(tmp_path / "other.jsonl", [{"text": "a film", "label": label} for label in labels]))
        assert cli.main(["eval", str(folder), other, "--zero-shot"]) == 2
        assert f"other.jsonl: the labels are {found}: --zero-shot requires" in capsys.readouterr().err


# Labels


def labeled(path, *labels):
    """Write as many texts as labels, in the format of the file's ending."""
    texts = [row["text"] for row in examples(len(labels))]
    if path.suffix == ".jsonl":
        return str(
            write(path, [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)])
        )
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return str(path)


def trained(encoder, data, output, *options):
    """Run `train` for one step; return its exit code."""
    command = ["train", str(encoder), data, "--output", str(output), "--epochs", "1", "--device", "cpu", *options]
    return cli.main(command)


REPORTS = {
    "names": (
        ["pos", " pos", "POS", "pos", "neg", "neg", "-", None],
        "labels: one class per text (single_label_classification), 2 classes\n"
        "           rows\n"
        "  neg         2\n"
        "  pos         4  written ' pos', POS, pos\n"
        "  skipped     2  no label: '-', null\n",
    ),
    "several classes": (
        ["a|b", "a", "", "b"],
        "labels: several classes per text (multi_label_classification), 2 classes\n"
        "            rows\n"
        "  a            2\n"
        "  b            2\n"
        "  no class     1\n",
    ),
    "numbers": (
        [0.5, 3.75, 2, None],
        "labels: numbers (regression), 1 per text\n"
        "           rows\n"
        "  labeled     3\n"
        "  lowest    0.5\n"
        "  highest  3.75\n"
        "  skipped     1  no label: null\n",
    ),
    "one-hot lists": (
        [[0, 1], [1, 0], [0, 1]],
        "labels: one class per text (single_label_classification), 2 classes\n"
        "           rows\n"
        "  LABEL_0     1\n"
        "  LABEL_1     2\n",
    ),
}


@pytest.mark.parametrize(("labels", "report"), REPORTS.values(), ids=REPORTS.keys())
def test_train_and_eval_report_what_labels_mean(encoder, tmp_path, capsys, labels, report):
    data = labeled(tmp_path / "data.jsonl", *labels)
    assert trained(encoder, data, tmp_path / "out") == 0
    assert capsys.readouterr().err.startswith(report)
    assert cli.main(["eval", str(tmp_path / "out"), data, "--device", "cpu"]) == 0
    assert report in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path / "out"), data, "--device", "cpu", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_both_files_are_reported(encoder, tmp_path, capsys):
    data = labeled(tmp_path / "train.csv", "0.0", "1.0", "", "1.0")
    other = labeled(tmp_path / "dev.jsonl", 1, "0", None, None)
    assert trained(encoder, data, tmp_path / "out", "--eval-data", other) == 0
    assert capsys.readouterr().err.startswith(
        "labels: one class per text (single_label_classification), 2 classes\n"
        "           training  evaluation\n"
        "  LABEL_0         1           1  written 0, 0.0\n"
        "  LABEL_1         2           1  written 1, 1.0\n"
        "  skipped         1           2  no label: '', null\n"
    )


SETTLED = {
    "-1 beside ids": ("jsonl", [-1, 0, 1, 0], ["--unlabeled=-1"], ["LABEL_0", "LABEL_1"]),
    "-1 as a class": ("jsonl", [-1, 0, 1, 0], ["--unlabeled", "null"], ["-1", "0", "1"]),
    "-1 as a class by name": ("csv", [-1, 0, 1, 0], ["--labels=-1,0,1"], ["-1", "0", "1"]),
    "words for missing labels": ("csv", ["a", "b", "nan", "NA"], ["--unlabeled=NA,nan"], ["a", "b"]),
    "many rows without a label": ("csv", ["a", "b", *[""] * 6], ["--unlabeled=null"], ["a", "b"]),
    "a class called null": ("csv", ["a", "b", "null"], ["--unlabeled="], ["a", "b", "null"]),
    "- as a class": ("csv", ["a", "b", *["-"] * 6], ["--unlabeled=null"], ["-", "a", "b"]),
    "a mark among decimals": ("csv", ["0.5", "1.5", "?"], ["--unlabeled=?"], ["LABEL_0"]),
    "a decimal comma": ("csv", ["0.5", "1.5", "4,5"], ["--unlabeled=4,5"], ["LABEL_0"]),
    "joined names in quotes": ("csv", ["'a'|b", "c"], ["--label-separator", "|"], ["'a'", "b", "c"]),
    "one class": ("csv", ["a", "A"], ["--labels", "a,b"], ["a", "b"]),
    "a separator": ("csv", ["a;b", "a"], ["--label-separator", ";"], ["a", "b"]),
    "names with a comma": ("csv", ["a, b", "a"], ["--problem-type", "single_label_classification"], ["a", "a, b"]),
    "a list in a cell": ("csv", ["[0]", "[1]"], ["--problem-type", "single_label_classification"], ["[0]", "[1]"]),
    "booleans and integers": (
        "csv",
        ["true", "1"],
        ["--problem-type", "single_label_classification"],
        ["1", "true"],
    ),
    "numbers": ("csv", [*range(8)], ["--problem-type", "regression"], ["LABEL_0"]),
    "probabilities": (
        "jsonl",
        [{"a": 0.9, "b": 0.9}, {"a": 1}],
        ["--problem-type", "multi_label_classification"],
        ["a", "b"],
    ),
}


@pytest.mark.parametrize(("ending", "labels", "options", "names"), SETTLED.values(), ids=SETTLED.keys())
def test_a_refusal_names_the_option_that_settles_it(encoder, tmp_path, capsys, ending, labels, options, names):
    data = labeled(tmp_path / f"data.{ending}", *labels)
    assert trained(encoder, data, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert message.startswith("minidistil: ")
    assert message.count("\n") == 1
    flag, *_ = re.split("[= ]", options[0])
    assert flag in message or (flag == "--labels" and "--unlabeled" in message)
    assert not (tmp_path / "out").exists()
    assert trained(encoder, data, tmp_path / "out", *options) == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert run["model"]["labels"] == names


def test_eval_refuses_ambiguous_labels_as_train_does(encoder, tmp_path, capsys):
    assert trained(encoder, labeled(tmp_path / "train.jsonl", 0, 1), tmp_path / "out") == 0
    data = labeled(tmp_path / "dev.jsonl", -1, 0, 1)
    capsys.readouterr()
    assert cli.main(["eval", str(tmp_path / "out"), data, "--device", "cpu"]) == 2
    assert "dev.jsonl, line 1: the label is -1, as in 1 of 3 rows" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path / "out"), data, "--device", "cpu", "--unlabeled=-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 2
    several = ["--problem-type", "multi_label_classification"]
    data = labeled(tmp_path / "several.jsonl", [0, 1], [1])
    assert cli.main(["eval", str(tmp_path / "out"), data, "--device", "cpu", *several, "--json"]) == 0
    assert "f1_micro" in json.loads(capsys.readouterr().out)


def test_a_label_that_only_the_evaluation_data_has_is_refused(encoder, tmp_path, capsys):
    data = labeled(tmp_path / "train.jsonl", "a", "b")
    other = labeled(tmp_path / "dev.jsonl", "a", "c")
    assert trained(encoder, data, tmp_path / "out", "--eval-data", other) == 2
    assert "dev.jsonl, line 2: the label is 'c': expected one of the classes of the training data, a, b" in (
        capsys.readouterr().err
    )
    assert trained(encoder, data, tmp_path / "out", "--eval-data", other, "--labels", "a,b,c") == 0
    assert "  c         0           1\n" in capsys.readouterr().err
