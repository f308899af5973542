"""`lab report`: one page from the verdict to the model, and the commands that share its parts."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch

from minidistil import InputError
from minidistil.cli.main import main
from minidistil.lab import implementations, in_model, memory, registry, summary
from minidistil.lab.registry import find
from minidistil.lab.worker import LocalWorker, Rejected

KERNEL = """
import torch.nn.functional as F
from minidistil.lab import implementation

@implementation("add_norm", "mine", dtypes=("float32",), gradients=True)
def add_norm(x, residual, weight, bias, eps):
    return {}
"""
RIGHT = "F.layer_norm(x + residual, weight.shape, weight, bias, eps)"
pytestmark = pytest.mark.usefixtures("small_lab")


def texts():
    return in_model.read_texts(examples=2)


def report(path, *more):
    return main(["lab", "report", str(path), "--quick", "--quiet", "--seconds", "0", "--examples", "3", *more])


@pytest.mark.full
def test_one_page_has_the_verdict_the_times_the_memory_and_the_model(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(KERNEL.format(RIGHT), encoding="utf-8")
    out = tmp_path / "times.jsonl"
    assert report(tmp_path / "mine.py", "--json", "--out", str(out), "--seed", "5") == 0
    *page, last = capsys.readouterr().out.splitlines()
    measured = json.loads(last)
    assert page[0].startswith("passed    add_norm mine: ")
    assert len(page) < 40
    assert list(measured["table"]) == ["1 text of 3 tokens", "2 texts of 2 to 5 tokens, 7 in all"]
    for rows in measured["table"].values():
        assert [row["what"] for row in rows] == ["forward", "backward", "both"]
        forward, backward, both = (row["cold"]["seconds"] for row in rows)
        assert min(forward, backward) > 0
        assert both > backward
        assert {row["cold"]["best"] for row in rows} <= {"torch", "steps", "triton"}
        assert all(row["cold"]["speed"] >= row["cold"]["speed to best"] for row in rows)
    assert {row["direction"] for row in map(json.loads, out.read_text().splitlines())} == {"forward", "backward"}
    assert measured["model"]["model"] == "minidistil-mnli"
    assert measured["model"]["largest change"] < 1e-5
    assert measured["model"]["score"][0] == measured["model"]["score"][1]
    assert any(re.match(r"  accuracy +[\d.]+  to [\d.]+$", line) for line in page)


def test_a_rejected_kernel_is_not_timed(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(KERNEL.format("x + residual"), encoding="utf-8")
    assert report(tmp_path / "mine.py", "--json") == 1
    page, last = capsys.readouterr().out.split("\n{")
    assert page.startswith("REJECTED  add_norm mine: ")
    assert "forward" not in json.loads("{" + last)


def test_a_kernel_whose_gradient_is_wrong_on_a_timed_shape_is_rejected():
    class WrongBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *rest):
            return registry.find("add_norm", "torch").value(x, *rest)

        @staticmethod
        def backward(ctx, dy):
            return dy, dy, dy.sum(0), dy.sum(0), None

    def wrong(x, *rest):
        plain = find("add_norm", "torch").value
        return WrongBackward.apply(x, *rest) if len(x) == 7 else plain(x, *rest)

    registry.implementation("add_norm", "wrong", gradients=True)(wrong)
    worker = LocalWorker(implementations("add_norm"))
    measured = summary.summarize(find("add_norm", "wrong"), worker, worker, texts(), dtype="float32", seconds=0)
    assert "the gradient of x has a relative error of" in measured["rejected"][0]
    assert [*summary.summary_lines(measured)][-1].startswith("REJECTED  add_norm wrong: time withdrawn")
    assert "model" not in measured


def test_gradients_are_timed_only_where_they_are_claimed(capsys):
    assert main(["lab", "bench", "add_norm", "--backward", "--quiet", "--seconds", "0", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["skipped"]["reference"].startswith("it is the NumPy reference")
    for case in measured["cases"].values():
        assert {"torch", "steps"} <= {*case["rows"]}
        for row in case["rows"].values():
            assert all(row[cache]["with forward"] > row[cache]["seconds"] for cache in ("cold", "warm"))
    measured = summary.describe("linear_gelu", "float32", backward=True)
    summary.measure(measured, [(find("linear_gelu", "int8"), None)], {}, seconds=0)
    assert measured["skipped"] == {"int8": "it is not registered with gradients=True"}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_peak_of_memory_counts_temporary_tensors():
    worker = LocalWorker([])
    held = torch.zeros(1000)

    def call():
        temporary = torch.ones(10_000_000)  # 40 MB
        held.add_(temporary[:1000])

    call()
    assert 39e6 < memory.peak_bytes(worker, "cpu", call) < 50e6


def test_new_texts_have_the_same_lengths_and_other_tokens():
    ids = [[1, 5, 6, 7, 2], [1, 2], [1, 8, 2]]
    others = in_model._other_texts(ids)
    assert [(len(text), text[0], text[-1]) for text in others] == [(5, 1, 2), (2, 1, 2), (3, 1, 2)]
    assert {token for text in others for token in text} <= {1, 2, 5, 6, 7, 8}


def test_a_result_cached_in_a_model_changes_its_logits():
    """Each timed run has new texts, so a cached result of the first run is wrong in the second."""
    cache = {}

    def cheat(x, *rest):
        fresh = find("add_norm", "torch").value(x, *rest)
        return cache.setdefault((x.shape, rest[1].data_ptr()), fresh).clone()  # by layer

    registry.implementation("add_norm", "cheat")(cheat)
    worker = LocalWorker(implementations("add_norm"))
    measured = in_model.measure_in_model(find("add_norm", "cheat"), worker, worker, texts(), seconds=0)
    assert measured["largest change"] > 0.01


@pytest.mark.full
def test_a_model_next_to_transformers():
    pytest.importorskip("transformers")
    worker = LocalWorker(implementations("add_norm"))
    measured = in_model.measure_in_model(
        find("add_norm", "steps"), worker, worker, texts(), seconds=0, transformers=True
    )
    assert len(measured["rows"]) == 4
    assert all(row["largest change"] < 1e-4 for row in measured["rows"])


def test_an_implementation_that_fails_in_a_model_is_rejected():
    def fails(x, *rest):
        raise RuntimeError("only in a model")

    registry.implementation("add_norm", "fails")(fails)
    worker = LocalWorker(implementations("add_norm"))
    with pytest.raises(Rejected, match="only in a model"):
        in_model.measure_in_model(find("add_norm", "fails"), worker, worker, texts(), seconds=0)


def test_a_profile_counts_operators_and_writes_a_trace(tmp_path, capsys):
    path = tmp_path / "trace.json"
    assert main(["lab", "bench", "add_norm", "steps", "--quiet", "--profile", str(path), "--json"]) == 0
    *printed, last = capsys.readouterr().out.splitlines()
    measured = json.loads(last)
    assert measured["launches"] > 5
    assert "aten::rsqrt" in path.read_text()
    assert printed[0] == f"2 texts of 2 to 5 tokens, 7 in all: {measured['launches']} operators of PyTorch"
    assert printed[-1].endswith(f"minidistil lab bench add_norm steps --dtype float32 --profile {path}")


def test_without_the_repository_the_data_must_be_named(monkeypatch):
    monkeypatch.setattr(in_model, "DATA", "nowhere.jsonl")
    with pytest.raises(InputError, match="texts of minidistil's repository are not installed: pass --data"):
        in_model.read_texts(data="nowhere.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "add_norm", "--model", "minidistil-mnli"], "--model requires --data"),
        (
            ["bench", "add_norm", "torch", "--model", "m", "--data", "d", "--seed", "1"],
            "cannot be combined with --seed",
        ),
        (["bench", "add_norm", "--profile", "t.json"], "add its name, one of reference, torch, steps, triton"),
        (["bench", "add_norm", "torch", "--profile", "t.txt"], "expected a file name ending in .json"),
        (["report", "add_norm"], "this is for one implementation: add its name"),
        (["report", "add_norm", "triton"], "add_norm triton is not timed: it runs in Triton's interpreter"),
        (["report", "add_norm", "torch", "--dtype", "int4"], "dtype is 'int4': expected one of float32"),
        (["report", "add_norm", "torch", "--case", "banana"], "case 'banana' of add_norm: 'banana' is neither"),
        (["report", "add_norm", "torch", "--data", "nowhere.csv"], "nowhere.csv"),
        (["report", "add_norm", "banana"], "add_norm has no implementation 'banana'"),
        (["sweep", "add_norm", "--over", "words"], "unknown sweep 'words': expected one of tokens"),
        (["sweep", "add_norm", "--over", "lengths"], "add_norm computes each token by itself"),
        (["sweep", "add_norm", "--values", "1,x"], "--values is '1,x': expected integers such as 16,64,256"),
        (["sweep", "add_norm", "--values", "0"], "tokens is 0: expected an integer of at least 1"),
        (["sweep", "add_norm", "--values", "1", "--case", "rows=1 width=2"], "--case cannot be combined with"),
        (
            ["sweep", "add_norm", "--out", "times.txt"],
            "cannot write times.txt: expected a file name ending in .jsonl",
        ),
        (["sweep", "add_norm", "--against", "nowhere.jsonl"], "cannot read nowhere.jsonl: No such file"),
    ],
)
def test_wrong_commands_have_exit_code_2(capsys, arguments, message):
    assert main(["lab", *arguments]) == 2
    assert message in capsys.readouterr().err
