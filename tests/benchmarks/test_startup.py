"""The benchmark counts what it says it counts; no test asserts a time."""

from __future__ import annotations

import json

import pytest
import torch

import minidistil
from minidistil import Batch, DistilBertConfig, InputError, MissingDependency
from minidistil.benchmarks import startup as bench
from minidistil.cli.main import main
from minidistil.errors import require
from support.places import OURS, ROOT
from support.twins import twins

PAIRS = ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl"


def test_the_operations_of_one_layer_counted_by_hand():
    """Two tokens, one of them asked for: query, key and value, two scores and sums, then one token's products."""
    config = DistilBertConfig(n_layers=1, dim=4, hidden_dim=8, n_heads=1)
    qkv, scores_and_sums, out, ffn, head = 3 * 2 * 2 * 16, 2 * (2 * 4 * 2), 2 * 16, 2 * (2 * 32), 2 * 4 * (4 + 2)
    assert bench.product_operations(config, [2]) == qkv + scores_and_sums + out + ffn + head


def test_the_operations_counted_are_those_that_torch_runs():
    from torch.utils.flop_counter import FlopCounterMode

    mine, _ = twins()
    lengths = [17, 5, 128, 128]
    batch = Batch.from_lists([[1] * length for length in lengths])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        mine(batch)
    products = sum(count for op, count in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    width, heads = mine.config.dim, mine.config.n_layers - 1
    attend = heads * 4 * width * sum(n * n for n in lengths) + 4 * width * sum(lengths)
    assert bench.product_operations(mine.config, lengths) == products + attend


def test_turns_rotate_and_the_first_round_is_a_warm_up():
    order = []
    calls = [lambda i=i: order.append(i) or len(order) for i in range(3)]
    results = bench._take_turns(calls, repeats=2)
    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert results == [[6, 8], [4, 9], [5, 7]]


@pytest.mark.parametrize("line", ["not json", '{"premise": "a"}', "5"])
def test_pairs_that_are_none_are_refused_before_anything_is_measured(tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(InputError, match=r"pairs\.jsonl: expected lines of JSON with premise and hypothesis"):
        bench.bench("no model is looked for", str(path))


def test_a_process_that_fails_says_why():
    with pytest.raises(InputError, match="this went wrong"):
        bench._process(["python3", "-c", "raise SystemExit('this went wrong')"])


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    with pytest.raises(MissingDependency, match=r"pip install 'minidistil\[peers\]'"):
        require("no_such_package", extra="peers")


def test_a_batch_is_measured_against_transformers():
    report = {}
    row = bench._batch(str(OURS), *bench.read_pairs(str(PAIRS), 4), repeats=1, report=report)
    assert row.ours > 0
    assert row.theirs > 0
    assert report["largest difference of a logit"] < 1e-5
    assert report["batch"]["tokens"] <= report["batch"]["padded tokens"]


@pytest.mark.slow
def test_the_report_ends_with_a_line_of_json(capfd):
    assert main(["bench", "--model", str(OURS), "--pairs", str(PAIRS), "--repeats", "1"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert [row["ratio"] > 0 for row in report["rows"]] == [True] * 5


def test_answers_or_training_are_measured_not_both(capsys):
    for given in ([], ["--pairs", "a.jsonl", "--train", "b.jsonl"]):
        assert main(["bench", "--model", str(OURS), *given]) == 2
        assert "give either --pairs" in capsys.readouterr().err


@pytest.mark.slow
def test_training_is_measured_beside_the_trainers(capsys):
    command = ["bench", "--model", str(OURS), "--train", str(PAIRS), "--steps", "2", "--repeats", "1"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["ratio"] > 0 for row in report["rows"]] == [True, True]
    assert report["parameters"] == sum(p.numel() for p in minidistil.from_pretrained(OURS).parameters())


def test_training_needs_enough_examples(tmp_path):
    with pytest.raises(InputError, match="has 128 examples: 5 steps need 160"):
        bench.bench_training("no model is looked for", str(PAIRS), steps=5)


def test_a_training_process_that_fails_says_why():
    with pytest.raises(InputError, match="this went wrong"):
        bench._training(["python3", "-c", "raise SystemExit('this went wrong')"])
