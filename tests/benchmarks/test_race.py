"""Every runtime computes the same logits, and its operations are counted; no test asserts a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import minidistil
from minidistil import Batch, DistilBertConfig, InputError, MissingDependency
from minidistil.benchmarks import measure, race, runtimes
from minidistil.benchmarks.runtimes import find_runtime
from minidistil.benchmarks.workload import matmul_flops
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


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_minidistil_runs_packed(folder, monkeypatch, dtype):
    monkeypatch.setattr(runtimes, "TOKENS", 7)
    logits = find_runtime("minidistil", dtype).load(folder, torch.get_num_threads())
    expected = minidistil.from_pretrained(folder, dtype=dtype)(Batch.from_lists(SEQUENCES))
    assert np.allclose(logits(SEQUENCES), expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["transformers eager", "transformers SDPA"])
def test_transformers_runs_padded(folder, monkeypatch, name):
    monkeypatch.setattr(runtimes, "BATCH_SIZE", 3)
    logits = find_runtime(name, "float32").load(folder, torch.get_num_threads())
    with torch.inference_mode():
        expected = twins()[0](Batch.from_lists(SEQUENCES))
    assert np.allclose(logits(SEQUENCES), expected.numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from the runtimes' converters
@pytest.mark.parametrize("runtime", runtimes.RUNTIMES, ids=lambda runtime: runtime.title)
def test_every_runtime_computes_the_same_model(tmp_path, runtime):
    minidistil.from_pretrained(OURS).save_pretrained(tmp_path)
    minidistil.Tokenizer.from_pretrained(OURS).save_pretrained(tmp_path)
    sequences = [[101, 2023, 2003, 102], [101, 102], [101, 2054, 102, 2129, 102]]
    try:
        logits = runtime.load(tmp_path, 1)(sequences)
    except MissingDependency as error:
        pytest.skip(str(error))
    with torch.inference_mode():
        expected = minidistil.from_pretrained(OURS, dtype="float64")(Batch.from_lists(sequences)).numpy()
    tolerance = {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.15}[runtime.dtype]
    assert np.sqrt(((logits - expected) ** 2).mean()) < tolerance * np.sqrt((expected**2).mean())


def test_an_unknown_runtime_is_an_error_that_lists_them():
    with pytest.raises(InputError, match="unknown runtime banana float32: expected one of minidistil float32, "):
        find_runtime("banana", "float32")


def test_padding_adds_operations_and_pruning_removes_them():
    config = DistilBertConfig(n_layers=1, dim=4, hidden_dim=8, n_heads=1)
    sequences = [[1], [1, 2, 3]]
    ours, ctranslate2 = find_runtime("minidistil", "float32"), find_runtime("CTranslate2", "float32")
    onnx = find_runtime("ONNX Runtime", "float32")
    assert race.runtime_flops(ours, config, sequences) == matmul_flops(config, [1, 3])
    assert race.runtime_flops(ctranslate2, config, sequences) == matmul_flops(config, [1, 3], prunes=False)
    assert race.runtime_flops(onnx, config, sequences) == matmul_flops(config, [3, 3], prunes=False)


@pytest.mark.full
def test_the_report_names_each_case_and_ends_with_a_line_of_json(capsys, monkeypatch):
    for name, small in {"PAUSE": 0, "LENGTHS": (8, 16), "SINGLE_REPEATS": 2, "WARM_UP": 1}.items():
        monkeypatch.setattr(race, name, small)
    monkeypatch.setattr(measure, "MATMUL_ROWS", 16)
    monkeypatch.setattr(measure, "COPY_BYTES", {"cpu": 2**12})
    monkeypatch.setattr(race.os, "cpu_count", lambda: 1)  # threads: the other tests use the other core
    command = ["bench", "--model", str(OURS), "--pairs", str(PAIRS), "--peers", "--texts", "2", "--repeats", "2"]
    assert main([*command, "--only", "minidistil int8,sdpa float32"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert len(report["cases"]) == len(race.LENGTHS) + 2
    assert {*report["cases"]["2 texts in given order"]} == {"minidistil int8", "transformers SDPA float32"}
    assert report["error"]["transformers SDPA float32"] < 1e-5 < report["error"]["minidistil int8"]
    assert "2 texts sorted by length: " in out


@pytest.mark.full
@pytest.mark.parametrize("name", ["speed.svg", "speed.png"])
def test_a_report_is_plotted(tmp_path, name):
    row = {"seconds": 0.01, "tokens/s": 100.0}
    names = ["minidistil int8", "OpenVINO bfloat16"]
    cases = ["one text of 8 tokens", "one text of 16 tokens", "32 texts in given order"]
    report = {"machine": "here", "torch": "2", "load": dict.fromkeys(names, 1.0)}
    report["cases"] = {case: dict.fromkeys(names, row) for case in cases}
    race.plot_runtimes(report, str(tmp_path / name))
    drawn = (tmp_path / name).read_bytes()
    assert drawn.startswith(b"<?xml" if name.endswith("svg") else b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["speed.doc", "nowhere/speed.svg"])
def test_a_plot_that_cannot_be_saved_is_refused_at_once(capsys, name):
    command = ["bench", "--model", str(OURS), "--pairs", str(PAIRS)]
    assert main([*command, "--peers", "--plot", name]) == 2
    assert (
        f"plot is {name}: expected a file name ending in .svg, .png, .pdf, in an existing folder"
        in capsys.readouterr().err
    )
    assert main([*command, "--plot", name]) == 2
    assert "--plot requires --peers" in capsys.readouterr().err


def test_no_runtime_to_compare_is_an_error(folder):
    with pytest.raises(
        InputError, match=r"only is 'banana': it matches no installed runtime; expected substrings of minidistil"
    ):
        race._start(folder, "banana", {})


@pytest.mark.full
def test_the_error_of_a_runtime_that_stops_has_its_last_line(tmp_path):
    with pytest.raises(InputError, match=r"minidistil float32 stopped: .*no config\.json"):
        race.RuntimeProcess(find_runtime("minidistil", "float32"), tmp_path)


def test_a_runtime_that_is_not_installed_is_skipped(folder, monkeypatch, capsys):
    def missing(self, runtime, folder):
        self.process = None
        self.runtime = runtime
        raise MissingDependency(f"{runtime.name} {runtime.dtype}: x is not installed")

    monkeypatch.setattr(race.RuntimeProcess, "__init__", missing)
    with pytest.raises(InputError, match="it matches no installed runtime"):
        race._start(folder, "onnx", {})
    assert "skipped: ONNX Runtime float32: x is not installed" in capsys.readouterr().err


def test_a_missing_runtime_is_distinguished_from_a_failing_one():
    import io
    import types

    process = race.RuntimeProcess.__new__(race.RuntimeProcess)
    process.runtime = find_runtime("OpenVINO", "float32")
    process.process = types.SimpleNamespace(stdout=io.StringIO(""), wait=lambda: None)
    process.log = io.StringIO("Traceback\nminidistil.errors.MissingDependency: openvino is not installed: pip ...")
    with pytest.raises(MissingDependency, match="OpenVINO float32: openvino is not installed"):
        process._read()


def test_peers_cannot_be_combined_with_train(capsys):
    assert main(["bench", "--model", str(OURS), "--train", "a.jsonl", "--peers"]) == 2
    assert "--peers cannot be combined with --train" in capsys.readouterr().err
