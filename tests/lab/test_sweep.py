"""`lab sweep`: shapes, tables and plots; times as lines of JSON, compared with earlier ones."""

from __future__ import annotations

import json
import re

import pytest

from minidistil import InputError
from minidistil.cli.main import main
from minidistil.lab import bench, results, workloads

pytestmark = pytest.mark.usefixtures("small_lab")


def sweep(*arguments):
    return main(["lab", "sweep", *arguments, "--quiet", "--seconds", "0"])


def test_a_sweep_varies_what_it_says():
    tokens = workloads.swept_cases("add_norm", "tokens", [16, 300])
    assert {title: case.shape["rows"] for title, case in tokens.items()} == {"16 tokens": 16, "300 tokens": 300}
    lengths = [case.shape["lengths"] for case in workloads.swept_cases("attention", "tokens", [16, 300]).values()]
    assert lengths == [[16], [128, 128, 44]]
    lengths = [case.shape["lengths"] for case in workloads.swept_cases("attention", "sequences", [1, 50]).values()]
    assert lengths == [workloads.PAIRS[:1], [*workloads.PAIRS, *workloads.PAIRS[:3]]]
    lengths = [case.shape["lengths"] for case in workloads.swept_cases("block", "lengths", [512, 4096]).values()]
    assert lengths == [[512] * 4, [4096]]
    assert [*workloads.swept_cases("linear", "tokens", [1, 2])] == [
        *("1 tokens; 24 to 24", "2 tokens; 24 to 24", "1 tokens; 48 to 24", "2 tokens; 48 to 24"),
    ]


@pytest.mark.full
def test_a_sweep_prints_one_table_and_plots_it(tmp_path, capsys):
    plot = tmp_path / "sweep.svg"
    assert sweep("attention", "dense", "--values", "3,9", "--plot", str(plot)) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ +bound ms +torch +dense$", out, re.MULTILINE)
    assert re.search(r"^3 tokens +[\d.]+ +[\d.]+ +1\.00[x?] +[\d.]+ +[\d.]+[x?]$", out, re.MULTILINE)
    drawn = plot.read_text()
    assert all(f"<!-- {text} -->" in drawn for text in ("3 tokens", "9 tokens", "dense", "bound"))


def test_shapes_of_the_user_are_timed(capsys):
    assert sweep("add_norm", "torch", "--case", "rows=3 width=5", "--case", "rows=4 width=7 x:transposed") == 0
    out = capsys.readouterr().out
    assert re.search(r"^rows=3 width=5 +[\d.]+", out, re.MULTILINE)
    assert re.search(r"^rows=4 width=7 x:transposed +[\d.]+", out, re.MULTILINE)


def test_results_have_the_machine_versions_commit_and_seed(tmp_path, capsys):
    out = tmp_path / "times.jsonl"
    arguments = ("add_norm", "steps", "--values", "3", "--seed", "7", "--out", str(out))
    assert sweep(*arguments) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["name"], row["cache"]) for row in rows] == [
        *(("torch", "cold"), ("torch", "warm"), ("steps", "cold"), ("steps", "warm")),
    ]
    for row in rows:
        assert (row["seed"], row["case"], row["direction"]) == (7, "rows=3 width=24", "forward")
        assert {"machine", "threads", "torch", "numpy", "python", "minidistil", "commit", "date"} <= {*row}
        assert row["seconds"] > 0
    assert sweep(*arguments) == 0
    assert len(out.read_text().splitlines()) == 2 * len(rows)  # appended


def test_times_are_compared_with_earlier_ones(tmp_path, capsys):
    out = tmp_path / "times.jsonl"
    assert sweep("add_norm", "torch", "--values", "3", "--out", str(out)) == 0
    assert sweep("add_norm", "steps", "--values", "3,4", "--against", str(out)) == 0
    printed = capsys.readouterr().out
    assert f"against {out}: 2 of 8 times are there" in printed
    assert re.search(r"^  torch, 3 tokens, cold +[\d.]+ ms to [\d.]+ ms  [\d.]+x$", printed, re.MULTILINE)
    assert "NOT COMPARABLE" not in printed
    rows = [json.loads(line) | {"machine": "another"} for line in out.read_text().splitlines()]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert sweep("add_norm", "torch", "--values", "3", "--against", str(out)) == 0
    assert "; NOT COMPARABLE: machine another" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"op": 1}', "3"])
def test_other_files_are_refused(tmp_path, line):
    path = tmp_path / "times.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(
        InputError, match=r"times\.jsonl, line 1: expected a line that minidistil lab wrote with --out"
    ):
        results.read_results(str(path))


def test_the_commit_is_that_of_the_folder(tmp_path):
    assert results.origin(str(tmp_path / "mine.py"))["commit"] is None
    assert bench.describe("add_norm", "float32", seed=3)["seed"] == 3
