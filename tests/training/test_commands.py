"""The commands `train` and `eval`."""

from __future__ import annotations

import json

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
    rows = [{"text": "a film", "label": "-"}, *examples(10)]
    data = str(write(tmp_path / "data.jsonl", rows))
    command = ["eval", str(folder), data, "--zero-shot", "--template", "it was {}", "--device", "cpu"]
    assert cli.main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["examples"], found["labels"], found["template"]) == (10, ["no", "yes"], "it was {}")
    assert "skipped 1 rows without a label" in printed.err
    assert cli.main(["eval", str(folder), data, "--template", "it was {}"]) == 2
    assert "--template requires --zero-shot" in capsys.readouterr().err
    assert cli.main(["eval", str(folder), data, "--zero-shot", "--max-length", "9"]) == 2
    assert "--max-length cannot be combined with --zero-shot" in capsys.readouterr().err
    ids = str(write(tmp_path / "ids.jsonl", [{"text": "a film", "label": 0}]))
    assert cli.main(["eval", str(folder), ids, "--zero-shot"]) == 2
    assert "ids.jsonl, line 1: the label is 0: --zero-shot requires class names" in capsys.readouterr().err
