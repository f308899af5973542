"""Training, compared with transformers' Trainer; no test asserts a time."""

from __future__ import annotations

import json

import pytest

import minidistil
from minidistil import InputError
from minidistil.benchmarks import training
from minidistil.cli.main import main
from support.places import OURS, ROOT

PAIRS = ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl"


@pytest.mark.slow
def test_training_is_compared_with_transformers_trainer(capsys):
    command = ["bench", "--model", str(OURS), "--train", str(PAIRS), "--steps", "2", "--repeats", "1"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["ratio"] > 0 for row in report["rows"]] == [True, True]
    assert report["parameters"] == sum(p.numel() for p in minidistil.from_pretrained(OURS).parameters())


def test_training_needs_enough_examples(tmp_path):
    with pytest.raises(InputError, match="has 128 examples: 5 steps need 160"):
        training.bench_training("no model is looked for", str(PAIRS), steps=5)


@pytest.mark.full
def test_the_error_of_a_failed_training_process_has_its_output():
    with pytest.raises(InputError, match="this went wrong"):
        training._run_process(["python3", "-c", "raise SystemExit('this went wrong')"])
