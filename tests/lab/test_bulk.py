"""`lab bulk`: the same logits as transformers, every row of the report, and refused arguments."""

from __future__ import annotations

import json
import re

import pytest
import torch

from minidistil import InputError
from minidistil.cli.main import main
from minidistil.lab import bulk
from support.places import OURS, ROOT

PAIRS = str(ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"TOKENS": (64, 256), "TEXTS": (2, 4), "SQUARE": {"cpu": 32, "cuda": 32}}.items():
        monkeypatch.setattr(bulk, name, value)
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)  # compilation takes half a minute


@pytest.mark.full
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_every_row_is_timed_and_the_logits_match(capsys, dtype, tolerance):
    command = ["lab", "bulk", str(OURS), PAIRS, "--dtype", dtype, "--texts", "5", "--seconds", "0", "--json"]
    assert main(command) == 0
    *printed, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert report["largest difference"] < tolerance
    assert [re.sub(r", \d+ .*", "", row["name"]) for row in report["rows"]] == [
        "minidistil, sorted",
        "minidistil, unsorted",
        "transformers SDPA, unsorted",
        "transformers SDPA, sorted",
        "transformers compiled, sorted",
    ]
    assert (report["texts"], report["rows"][0]["ratio"]) == (5, 1.0)
    for row, line in zip(report["rows"], printed[3:8], strict=True):
        assert f"{row['name']} " in line
        assert row["tokens per second"] == pytest.approx(report["tokens"] / row["seconds"])
    assert re.fullmatch(r"matmuls of the first row: \d+% of [\d,]+ GFLOP/s, a 32³ matmul", printed[8])


@pytest.mark.full
@pytest.mark.usefixtures("no_bfloat16")
def test_bfloat16_runs_without_a_onednn_matmul_for_it(capsys):
    bulk.bulk(str(OURS), PAIRS, dtype="bfloat16", texts=2, seconds=0)
    assert re.search("^largest difference from", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype is 'int4': expected one of float32"),
        ({"texts": 0}, "texts is 0: expected an integer"),
        ({"pairs": "nowhere.jsonl"}, r"nowhere\.jsonl: expected lines of JSON with premise and hypothesis"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        bulk.bulk(**{"model": str(OURS), "pairs": PAIRS, **options})
