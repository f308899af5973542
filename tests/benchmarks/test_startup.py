"""Processes and a batch, compared with transformers; no test asserts a time."""

from __future__ import annotations

import json

import pytest

from minidistil import InputError, MissingDependency
from minidistil.benchmarks import startup
from minidistil.benchmarks.workload import read_pairs
from minidistil.cli.main import main
from minidistil.errors import require
from support.places import OURS, ROOT

PAIRS = ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl"


@pytest.mark.parametrize("line", ["not json", '{"premise": "a"}', "5"])
def test_invalid_pairs_are_refused_before_anything_is_measured(tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(InputError, match=r"pairs\.jsonl: expected lines of JSON with premise and hypothesis"):
        startup.bench("no model is looked for", str(path))


@pytest.mark.full
def test_the_error_of_a_failed_process_has_its_output():
    with pytest.raises(InputError, match="this went wrong"):
        startup._run_process(["python3", "-c", "raise SystemExit('this went wrong')"])


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    with pytest.raises(MissingDependency, match=r"run pip install .*\[peers\]"):
        require("no_such_package", extra="peers")


@pytest.mark.full
def test_a_batch_is_measured_against_transformers():
    report = {}
    row = startup._measure_batch(str(OURS), *read_pairs(str(PAIRS), 4), repeats=1, report=report)
    assert row.minidistil > 0
    assert row.transformers > 0
    assert report["largest difference of a logit"] < 1e-5
    assert report["batch"]["tokens"] <= report["batch"]["padded tokens"]


@pytest.mark.slow
def test_the_report_ends_with_a_line_of_json(capfd):
    assert main(["bench", "--model", str(OURS), "--pairs", str(PAIRS), "--repeats", "1"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert [row["ratio"] > 0 for row in report["rows"]] == [True] * 8


def test_exactly_one_of_pairs_and_train_is_required(capsys):
    for given in ([], ["--pairs", "a.jsonl", "--train", "b.jsonl"]):
        assert main(["bench", "--model", str(OURS), *given]) == 2
        assert "expected either --pairs" in capsys.readouterr().err
