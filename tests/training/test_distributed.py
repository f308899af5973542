"""Multiple processes train like one, and stop together."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from minidistil import InputError
from minidistil.training.distributed import Processes
from minidistil.training.run import Run
from support.runs import QUICK, examples, log_of, trainer_of, weights_of, write

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_error_in_the_first_process_stops_all(encoder, texts, tmp_path, monkeypatch):
    two = Processes(1, 2)
    monkeypatch.setattr(Processes, "total", lambda self, values: values + 1)
    with pytest.raises(InputError, match="the first process failed to start"):
        two.run_on_first(lambda: None, torch.device("cpu"))
    run = Run(trainer_of(encoder, texts, tmp_path, QUICK), [], "accuracy")
    run.processes = two
    with pytest.raises(InputError, match="is not visible to every process"):
        run.resume()


PARALLEL = """
import sys, torch
torch.set_num_threads(1)
from minidistil.training import Recipe, fine_tune
base, data, output = sys.argv[1:]
recipe = Recipe(epochs=2, batch_size=5, gradient_accumulation_steps=2, learning_rate=1e-3, dropout=0.0)
fine_tune(base, data, output, recipe=recipe, eval_data=data, device="cpu")
"""


@pytest.mark.full
def test_two_processes_train_the_same_weights_as_one(encoder, tmp_path):
    data = write(tmp_path / "texts.jsonl", examples(21))  # the last batch has one example, for one of the two
    script = tmp_path / "script.py"
    script.write_text(PARALLEL, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for output, start in (("one", []), ("two", launch)):
        command = [sys.executable, *start, str(script), str(encoder), str(data), str(tmp_path / output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, tensor in one.items():
        difference = (tensor - two[name]).abs()
        assert difference.max() < 2e-4, name  # a fraction of one step, for gradients that are only rounding error
        assert difference.median() < 1e-7, name
    logs = [[line["loss"] for line in log_of(tmp_path / name) if "loss" in line] for name in ("one", "two")]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)
    run = json.loads((tmp_path / "two" / "run.json").read_text(encoding="utf-8"))
    assert run["machine"]["processes"] == 2
