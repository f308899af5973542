"""The race counts what it says, and everyone in it computes the same model; no test asserts a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import minidistil
from minidistil import Batch, DistilBertConfig, InputError, MissingDependency
from minidistil.benchmarks import race
from minidistil.benchmarks import runtimes as peers
from minidistil.benchmarks.startup import product_operations
from minidistil.cli.main import main
from support.places import OURS, ROOT
from support.twins import twins

PAIRS = ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl"
SEQUENCES = [[1, 2, 3], [4], [5, 6, 7, 8], [9] * 20]


@pytest.fixture
def folder(tmp_path):
    """A tiny classifier's folder."""
    twins()[0].save_pretrained(tmp_path)
    return tmp_path


def test_batches_hold_every_sequence_in_order(monkeypatch):
    monkeypatch.setattr(peers, "BATCH", 3)
    monkeypatch.setattr(peers, "TOKENS", 7)
    assert [len(some) for some in peers.by_count(SEQUENCES)] == [3, 1]
    assert [len(some) for some in peers.by_tokens(SEQUENCES)] == [2, 1, 1]
    for cut in (peers.by_count, peers.by_tokens):
        assert [sequence for some in cut(SEQUENCES) for sequence in some] == SEQUENCES


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_this_project_runs_in_its_own_form(folder, monkeypatch, precision):
    monkeypatch.setattr(peers, "TOKENS", 7)
    run = peers.find("minidistil", precision).load(folder, torch.get_num_threads())
    expected = minidistil.from_pretrained(folder, dtype=precision)(Batch.from_lists(SEQUENCES))
    assert np.allclose(run(SEQUENCES), expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["transformers eager", "transformers SDPA"])
def test_transformers_runs_padded(folder, monkeypatch, name):
    monkeypatch.setattr(peers, "BATCH", 3)
    run = peers.find(name, "float32").load(folder, torch.get_num_threads())
    with torch.inference_mode():
        expected = twins()[0](Batch.from_lists(SEQUENCES))
    assert np.allclose(run(SEQUENCES), expected.numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the runtimes' own converters
@pytest.mark.parametrize("contender", peers.CONTENDERS, ids=lambda found: f"{found.name} {found.precision}")
def test_every_runtime_computes_the_same_model(tmp_path, contender):
    minidistil.from_pretrained(OURS).save_pretrained(tmp_path)
    minidistil.Tokenizer.from_pretrained(OURS).save_pretrained(tmp_path)
    sequences = [[101, 2023, 2003, 102], [101, 102], [101, 2054, 102, 2129, 102]]
    try:
        found = contender.load(tmp_path, 1)(sequences)
    except MissingDependency as error:
        pytest.skip(str(error))
    with torch.inference_mode():
        expected = minidistil.from_pretrained(OURS, dtype="float64")(Batch.from_lists(sequences)).numpy()
    tolerance = {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.15}[contender.precision]
    assert np.sqrt(((found - expected) ** 2).mean()) < tolerance * np.sqrt((expected**2).mean())


def test_an_unknown_contender_is_an_error_that_lists_them():
    with pytest.raises(InputError, match="there is no banana float32: expected one of minidistil float32, "):
        peers.find("banana", "float32")


def test_what_pads_runs_more_and_what_prunes_runs_less():
    config = DistilBertConfig(n_layers=1, dim=4, hidden_dim=8, n_heads=1)
    sequences = [[1], [1, 2, 3]]
    ours, ctranslate2 = peers.find("minidistil", "float32"), peers.find("CTranslate2", "float32")
    onnx = peers.find("ONNX Runtime", "float32")
    assert race.executed(ours, config, sequences) == product_operations(config, [1, 3])
    assert race.executed(ctranslate2, config, sequences) == product_operations(config, [1, 3], prunes=False)
    assert race.executed(onnx, config, sequences) == product_operations(config, [3, 3], prunes=False)


def test_the_report_names_each_case_and_ends_with_a_line_of_json(capsys, monkeypatch):
    for name, little in {"PAUSE": 0, "LENGTHS": (8, 64), "ROWS": 64}.items():
        monkeypatch.setattr(race, name, little)
    monkeypatch.setattr(race.os, "cpu_count", lambda: 1)  # threads, which other tests leave it
    command = ["bench", "--model", str(OURS), "--pairs", str(PAIRS), "--peers", "--texts", "4", "--repeats", "2"]
    assert main([*command, "--only", "minidistil int8,sdpa float32"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert len(report["cases"]) == len(race.LENGTHS) + 2
    assert {*report["cases"]["4 texts in given order"]} == {"minidistil int8", "transformers SDPA float32"}
    assert report["error"]["transformers SDPA float32"] < 1e-5 < report["error"]["minidistil int8"]
    assert "4 texts sorted by length: " in out


@pytest.mark.parametrize("name", ["speed.svg", "speed.png"])
def test_a_report_is_drawn(tmp_path, name):
    row = {"seconds": 0.01, "tokens a second": 100.0}
    names = ["minidistil int8", "OpenVINO bfloat16"]
    cases = ["one text of 8 tokens", "one text of 16 tokens", "32 texts in given order"]
    report = {"machine": "here", "torch": "2", "load": dict.fromkeys(names, 1.0)}
    report["cases"] = {case: dict.fromkeys(names, row) for case in cases}
    race.draw(report, str(tmp_path / name))
    drawn = (tmp_path / name).read_bytes()
    assert drawn.startswith(b"<?xml" if name.endswith("svg") else b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["speed.doc", "nowhere/speed.svg"])
def test_a_picture_that_could_not_be_drawn_is_refused_at_once(capsys, name):
    command = ["bench", "--model", str(OURS), "--pairs", str(PAIRS)]
    assert main([*command, "--peers", "--plot", name]) == 2
    assert f"plot is {name}: expected a name in .svg, .png, .pdf" in capsys.readouterr().err
    assert main([*command, "--plot", name]) == 2
    assert "--plot goes with --peers" in capsys.readouterr().err


def test_nobody_to_race_is_an_error(folder):
    with pytest.raises(InputError, match="nobody is left to race: only is 'banana'"):
        race._start(folder, "banana", {})


def test_a_runtime_that_stops_says_why(tmp_path):
    with pytest.raises(InputError, match=r"minidistil float32 stopped: .*no config\.json"):
        race.Worker(peers.find("minidistil", "float32"), tmp_path)


def test_a_runtime_that_is_not_installed_is_left_out(folder, monkeypatch, capsys):
    def missing(self, contender, folder):
        self.process = None
        self.contender = contender
        raise MissingDependency(f"{contender.name} {contender.precision}: x is not installed")

    monkeypatch.setattr(race.Worker, "__init__", missing)
    with pytest.raises(InputError, match="nobody is left to race"):
        race._start(folder, "onnx", {})
    assert "left out: ONNX Runtime float32: x is not installed" in capsys.readouterr().err


def test_a_worker_tells_what_is_missing_from_what_is_broken():
    import io
    import types

    worker = race.Worker.__new__(race.Worker)
    worker.contender = peers.find("OpenVINO", "float32")
    worker.process = types.SimpleNamespace(stdout=io.StringIO(""), wait=lambda: None)
    worker.log = io.StringIO("Traceback\nminidistil.errors.MissingDependency: openvino is not installed: pip ...")
    with pytest.raises(MissingDependency, match="OpenVINO float32: openvino is not installed"):
        worker._read()


def test_peers_go_with_pairs(capsys):
    assert main(["bench", "--model", str(OURS), "--train", "a.jsonl", "--peers"]) == 2
    assert "--peers goes with --pairs" in capsys.readouterr().err
