"""A run is logged and evaluated; if stopped or killed, it resumes bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time

import pytest
import torch

import minidistil
from minidistil import InputError
from minidistil.training import fine_tuning
from minidistil.training import run as module
from minidistil.training.console import StopRequest
from minidistil.training.fine_tuning import fine_tune
from minidistil.training.loop import Trainer
from minidistil.training.recipe import Recipe
from minidistil.training.run import STATE, Run
from support.runs import QUICK, assert_equal, log_of, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.full
def test_every_step_is_a_line_of_the_log(finished):
    output, run = finished
    lines = [line for line in log_of(output) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, run["progress"]["steps"] + 1))
    assert sum(line["tokens"] for line in lines) == run["progress"]["tokens"]
    assert all(line.keys() >= {"loss", "learning_rate", "grad_norm", "seconds", "epoch"} for line in lines)


def test_the_best_checkpoint_is_kept(encoder, texts, tmp_path, monkeypatch):
    values = iter([0.5, 0.9, 0.7, 0.9])
    found = []

    def judge(model, *args, **options):
        found.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"accuracy": {"value": next(values, 0.0)}}

    monkeypatch.setattr(module, "evaluate", judge)
    recipe = Recipe(epochs=4, batch_size=8, learning_rate=1e-3)
    run = fine_tune(encoder, texts, tmp_path / "out", recipe=recipe, eval_data=texts, device="cpu")
    assert run["progress"]["best_step"] == 6
    written = weights_of(tmp_path / "out")
    assert all(torch.equal(written[name], tensor) for name, tensor in found[1].items())


@pytest.mark.full
def test_evaluations_may_come_every_few_steps(encoder, texts, tmp_path):
    options = {"recipe": QUICK, "eval_data": texts, "eval_steps": 5, "device": "cpu"}
    fine_tune(encoder, texts, tmp_path / "out", **options)
    assert [line["step"] for line in log_of(tmp_path / "out") if "evaluation" in line] == [5, 10, 12]


@pytest.mark.full
def test_the_last_checkpoint_is_kept_without_evaluation(encoder, texts, tmp_path):
    run = fine_tune(encoder, texts, tmp_path / "out", recipe=QUICK, device="cpu")
    assert run["evaluation"] == []
    assert weights_of(tmp_path / "out")


def test_a_run_reports_progress_unless_it_is_quiet(encoder, texts, tmp_path, capsys):
    options = {"recipe": Recipe(epochs=1, batch_size=8), "eval_data": texts, "device": "cpu"}
    fine_tune(encoder, texts, tmp_path / "out", **options)
    *report, evaluation, last = capsys.readouterr().err.splitlines()
    assert report == [
        "labels: one class per text (single_label_classification), 2 classes",
        "       training  evaluation",
        "  no         12          12",
        "  yes        12          12",
    ]
    assert re.fullmatch(r"step 3: accuracy 0\.\d{4}", evaluation)
    assert re.fullmatch(
        r"training: 3/3 \[.*step.*, loss \d\.\d{4}, learning rate 6\.67e-06, [\d,]+ tokens/s\]", last
    )
    fine_tune(encoder, texts, tmp_path / "quiet", quiet=True, **options)
    assert capsys.readouterr().err == ""


# Stopped and resumed


@pytest.mark.full
@pytest.mark.parametrize("step", [1, 6, 7])
def test_a_stopped_run_resumes_bit_for_bit(encoder, texts, tmp_path, finished, monkeypatch, step):
    output = tmp_path / "out"
    take_step = Trainer.take_step

    def interrupt(self, *args):
        record = take_step(self, *args)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)
        return record

    options = {"recipe": QUICK, "eval_data": texts, "device": "cpu"}
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", interrupt)
        with pytest.raises(KeyboardInterrupt, match=f"after step {step}: continue with --resume"):
            fine_tune(encoder, texts, output, **options)
    run = fine_tune(encoder, texts, output, resume=True, **options)
    assert_equal(output, finished[0])
    assert run["progress"].keys() == finished[1]["progress"].keys()
    for key in ("steps", "examples", "tokens", "best_step"):
        assert run["progress"][key] == finished[1]["progress"][key]
    for line, other in zip(log_of(output), log_of(finished[0]), strict=True):
        assert {**line, "seconds": 0} == {**other, "seconds": 0}
    assert not (output / "checkpoint.pt").exists()


def test_a_second_interrupt_stops_at_once():
    stop = StopRequest()
    with stop.handle_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.received


@pytest.mark.full
def test_a_run_in_another_thread_needs_no_signals(encoder, texts, tmp_path, finished):
    output = tmp_path / "out"
    options = {"recipe": QUICK, "eval_data": texts, "device": "cpu"}
    thread = threading.Thread(target=fine_tune, args=(encoder, texts, output), kwargs=options)
    thread.start()
    thread.join()
    assert_equal(output, finished[0])


def stop_at_once(monkeypatch, *args, **options):
    """Start a run, and stop it before its first step."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(*args, device="cpu", **options)


def is_finished(output):
    """Return whether a run has ended: its results are in run.json, and its state is removed."""
    path = output / "run.json"
    return path.exists() and "progress" in json.loads(path.read_text()) and not (output / STATE).exists()


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_run_that_is_killed_ten_times_ends_with_the_same_weights(encoder, texts, tmp_path):
    chance = random.Random(7)
    recipe = Recipe(epochs=10, batch_size=4, learning_rate=1e-3, max_length=16)
    options = {"recipe": recipe, "eval_data": texts, "device": "cpu"}
    fine_tune(encoder, texts, tmp_path / "whole", **options)
    output, kills = tmp_path / "out", 0
    processes = multiprocessing.get_context("fork")  # a spawned process would import torch first
    while not is_finished(output):
        again = {"resume": (output / "run.json").exists(), "save_steps": 3, **options}
        process = processes.Process(target=fine_tune, args=(encoder, texts, output), kwargs=again)
        process.start()
        if kills < 10:
            time.sleep(chance.uniform(0.0, 0.35))
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert process.exitcode in (0, -signal.SIGKILL)
    assert_equal(output, tmp_path / "whole")
    assert [line["step"] for line in log_of(output) if "loss" in line] == list(range(1, 61))
    assert kills >= 3


@pytest.mark.full
def test_a_full_disk_keeps_the_last_state(encoder, texts, tmp_path, monkeypatch, finished):
    output = tmp_path / "out"
    options = {"recipe": QUICK, "eval_data": texts, "save_steps": 3, "device": "cpu"}
    save = Run._save_state
    most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self):
        """From the second save on, limit files to 20 kB, which torch sees as a full disk."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most[1]) if self.trainer.step > 3 else most)
        try:
            save(self)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_save_state", full)
        with pytest.raises(minidistil.CheckpointError, match="cannot write to"):
            fine_tune(encoder, texts, output, **options)
    assert torch.load(output / "checkpoint.pt", weights_only=True)["trainer"]["step"] == 3
    fine_tune(encoder, texts, output, resume=True, **options)
    assert_equal(output, finished[0])


def test_the_error_for_an_unreadable_state_names_it(encoder, texts, tmp_path, monkeypatch):
    output = tmp_path / "out"
    stop_at_once(monkeypatch, encoder, texts, output, recipe=QUICK)
    (output / "checkpoint.pt").write_bytes(b"PK not a state")
    with pytest.raises(InputError, match=r"cannot resume from .*checkpoint.pt: not a training state"):
        fine_tune(encoder, texts, output, recipe=QUICK, device="cpu", resume=True)


@pytest.mark.full
def test_overwrite_starts_a_run_again(encoder, texts, tmp_path, finished, monkeypatch):
    output = shutil.copytree(finished[0], tmp_path / "out")
    stop_at_once(monkeypatch, encoder, texts, output, recipe=Recipe(epochs=1), overwrite=True)
    assert [path.name for path in output.iterdir()] == ["run.json"]  # the model of the other run is removed
    fine_tune(encoder, texts, output, recipe=Recipe(epochs=1), device="cpu", overwrite=True)
    assert len(log_of(output)) == 2


def test_another_recipe_cannot_resume(encoder, texts, tmp_path, monkeypatch):
    output = tmp_path / "out"
    stop_at_once(monkeypatch, encoder, texts, output, recipe=QUICK)
    with pytest.raises(InputError, match=r"has another recipe: .*resume with the same"):
        fine_tune(encoder, texts, output, recipe=Recipe(epochs=9), device="cpu", resume=True)


@pytest.mark.full
def test_a_run_that_is_killed_while_finishing_can_be_resumed(encoder, texts, tmp_path, finished, monkeypatch):
    output = tmp_path / "out"
    options = {"recipe": QUICK, "eval_data": texts, "device": "cpu"}

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fine_tuning, "write_card", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(encoder, texts, output, **options)
    (output / ".saving-abc").mkdir()  # as kill -9 leaves it
    fine_tune(encoder, texts, output, resume=True, **options)
    assert {path.name for path in output.iterdir()} == {path.name for path in finished[0].iterdir()}
    assert_equal(output, finished[0])
