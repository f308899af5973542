"""A training run in its output folder: logged, evaluated, saved, and resumed after a stop.

Every file is written under a temporary name and then renamed, so no file is ever incomplete:

    config.json, model.safetensors, tokenizer.json   the model: the best so far, a checkpoint in the Hub's format
    run.json, README.md                              settings and results, and the model card; see `fine_tune`
    log.jsonl                                        a line for each step and each evaluation
    checkpoint.pt                                    the state to resume from, until the run is finished
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.files import write_files, write_text
from ..checkpoint.load import load
from ..errors import InputError
from ..heads import DistilBertForSequenceClassification
from .console import StopRequest, TrainingProgress
from .data import Example
from .evaluation import evaluate, score
from .loop import Trainer

STATE = "checkpoint.pt"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the state was saved."""


class Run:
    """Runs a trainer, and logs, evaluates and saves between its steps."""

    def __init__(self, trainer: Trainer, eval_examples: Sequence[Example], metric: str, *, quiet: bool = False):
        """Prepare a run. eval_examples: may be empty; `metric` selects the best checkpoint on them."""
        self.trainer, self.eval_examples, self.metric = trainer, eval_examples, metric
        self.quiet = quiet or not trainer.processes.first
        self.output, self.processes = trainer.output, trainer.processes
        self.best: tuple[float, int] | None = None  # score and step
        self.seconds = 0.0
        self.stop = StopRequest()

    def train(self, eval_steps: int | None, save_steps: int) -> None:
        """Train to the end, from the current step. eval_steps: None evaluates after each epoch."""
        trainer = self.trainer
        epoch_ends = set(itertools.accumulate(trainer.steps_per_epoch))
        total = max(epoch_ends)
        before, begin = self.seconds, time.perf_counter()
        progress = TrainingProgress(total, trainer.step, self.quiet)
        open_log = _open_log(self.output, trainer.step, self.processes.first)
        with self.stop.handle_signals(), open_log as log, progress.bar:
            for record in trainer.train():
                step, ends_epoch = record["step"], record["step"] in epoch_ends
                self.seconds = before + time.perf_counter() - begin
                log(record)
                progress.update(record)
                due = step % eval_steps == 0 if eval_steps else ends_epoch
                if self.eval_examples and (due or step == total):
                    log({"step": step, **self._evaluate(progress)})
                is_best = self.best is not None and self.best[1] == step
                self._save_or_stop(due=ends_epoch or is_best or step % save_steps == 0)
        if not self.eval_examples and self.processes.first:
            self._save_model()  # without evaluations, the last checkpoint is kept

    def final_evaluation(self) -> dict[str, Any]:
        """Evaluate the saved checkpoint, the best of the run."""
        device = self.trainer.model.device
        best = load(DistilBertForSequenceClassification, self.output, dtype="float32", device=device)
        step = self.best[1] if self.best else self.trainer.step
        return {"at": f"at step {step}", "metrics": self._metrics_of(best)}

    def summary(self) -> dict[str, Any]:
        """Return totals of the run, including the parts before it was resumed."""
        best = {} if self.best is None else {"best_step": self.best[1]}
        done = {**self.trainer.seen, "seconds": self.seconds}
        return {"steps": self.trainer.step, "epochs": self.trainer.recipe.epochs, **done, **best}

    def resume(self) -> None:
        """Continue from the saved state, if there is one."""
        path, device = self.output / STATE, self.trainer.model.device
        try:
            if path.exists():
                state = torch.load(path, map_location=device, weights_only=True)
                self.trainer.load_state_dict(state["trainer"])
                self.best, self.seconds = state["best"], state["seconds"]
        except Exception as error:  # torch.load raises many kinds
            raise InputError(f"cannot resume from {path}: not a training state: {error}") from error
        steps = self.processes.total(torch.tensor(float(self.trainer.step), device=device)).item()
        if steps != self.trainer.step * self.processes.count:
            raise InputError(f"{path} is not visible to every process: put the folder on a shared file system")

    def _evaluate(self, progress: TrainingProgress) -> dict[str, Any]:
        """Evaluate in the first process, and save the model if it is the best so far."""
        if not self.processes.first:
            return {}
        step, result = self.trainer.step, self._metrics_of(self.trainer.model)
        value = score(result, self.metric)
        if self.best is None or value > self.best[0]:
            self.best = (value, step)
            self._save_model()
        best = "" if self.best[1] == step else f", best {self.best[0]:.4f}"
        progress.print(f"step {step}: {self.metric} {abs(value):.4f}{best}")
        return {"evaluation": {key: value for key, value in result.items() if key not in ("confusion", "labels")}}

    def _metrics_of(self, model: DistilBertForSequenceClassification) -> dict[str, Any]:
        trainer = self.trainer
        max_length = trainer.recipe.max_length
        return evaluate(model, trainer.tokenizer, self.eval_examples, max_length, quiet=self.quiet)

    def _save_model(self) -> None:
        self.trainer.model.save_pretrained(self.output)
        self.trainer.tokenizer.save_pretrained(self.output)

    def _save_or_stop(self, due: bool) -> None:
        """Save the state if it is due or a stop was requested; then stop if requested."""
        stop = self.stop.received
        if self.processes.count > 1:  # all stop after the same step
            received = torch.tensor(float(stop), device=self.trainer.model.device)
            stop = bool(self.processes.total(received).item())
        if (due or stop) and self.processes.first:
            self._save_state()
        if stop:
            self.processes.wait()
            raise Interrupted(f"stopped after step {self.trainer.step}: continue with --resume")

    def _save_state(self) -> None:
        state = {"trainer": self.trainer.state_dict(), "best": self.best, "seconds": self.seconds}

        def write(path: Path) -> None:
            try:
                torch.save(state, path)
            except RuntimeError as error:  # torch raises it if the disk is full
                raise OSError(error) from error

        write_files(self.output, {STATE: write})


@contextlib.contextmanager
def _open_log(output: Path, step: int, first: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Append to log.jsonl, after removing lines of steps after `step`, which a resumed run takes again."""
    if not first:
        yield lambda record: None
        return
    path = output / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
    write_files(output, {path.name: lambda place: write_text(place, kept)})
    with path.open("a", encoding="utf-8") as file:

        def write(record: Mapping[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write
