"""Fine-tune a classifier: from a checkpoint and labeled texts to a new checkpoint with its model card."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoint.files import write_files, write_json
from ..checks import check_count
from ..config import read_json
from ..errors import InputError
from ..heads import DistilBertForSequenceClassification
from ..io.locks import LOCK, locked_folder
from .base import load_base
from .card import write_card
from .console import label_report
from .data import Example, read_examples
from .distributed import Processes
from .evaluation import METRICS
from .label_rules import Unlabeled
from .labels import Schema, Summary
from .loop import Trainer
from .machine import EnergyMeter, machine
from .recipe import Recipe
from .records import Columns, Row, read_rows
from .run import STATE, Run

FILES = (  # written by a run
    *(STATE, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("README.md", "log.jsonl", "bad-batch.jsonl", "run.json"),
)


def fine_tune(
    base: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    recipe: Recipe | None = None,
    eval_data: str | Path | None = None,
    columns: Columns | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    label_separator: str | None = None,
    unlabeled: Unlabeled | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    eval_steps: int | None = None,
    save_steps: int = 500,
    resume: bool = False,
    overwrite: bool = False,
    country: str | None = None,
    command: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fine-tune a classifier, save it and its model card in a folder, and return the contents of run.json.

    Under torchrun the processes share each batch.

    Args:
        base: a checkpoint as for `from_pretrained`. A classifier keeps its head and labels. Another encoder gets a
            new head; so does a classifier if `labels` is set.
        data: files or data sets as for `read_rows`.
        output: the folder of the run; see `run.py` for its files.
        recipe: hyperparameters.
        eval_data: file or data set to evaluate on, which selects the checkpoint to keep. None: keep the last.
        columns: columns to read.
        labels: label names of a new head; None: the labels in the data.
        problem_type: as in a config; None: the model's, or inferred from the labels in the data.
        label_separator: separator of several labels in a string, such as ";"; None: "|".
        unlabeled: labels of rows without a label, as a list or separated by commas: all these rows are skipped.
            None: inferred from the labels in the data; an error if more than 5 rows and 2 % have no label.
        revision: branch, tag or commit of `base` on the Hub.
        device: None: CUDA if available.
        eval_steps: steps between evaluations; None: once per epoch.
        save_steps: steps between saved states.
        resume: continue the run in `output`.
        overwrite: replace the run in `output`.
        country: three-letter code, to measure energy and carbon with codecarbon.
        command: the command line that the card shows.
        quiet: print no progress on stderr.

    Raises:
        InputError: for an invalid argument or row, for ambiguous labels, or if the loss or the gradient is not
            finite.
        KeyboardInterrupt: on Ctrl-C, after the state was saved.
    """
    for name, value in (("eval_steps", eval_steps), ("save_steps", save_steps)):
        check_count(name, value)
    processes = Processes.from_environment()
    recipe = recipe or Recipe()
    output = Path(output)
    sources = [str(data)] if isinstance(data, str | Path) else [str(source) for source in data]
    device = processes.device(device)
    rows = [row for source in sources for row in read_rows(source, columns)]
    eval_rows = [] if eval_data is None else read_rows(eval_data, columns)
    model, tokenizer, schema, new_head = load_base(
        base,
        rows,
        recipe,
        eval_rows=eval_rows,
        labels=labels,
        problem_type=problem_type,
        label_separator=label_separator,
        unlabeled=unlabeled,
        revision=revision,
    )
    examples, summary = _examples(rows, schema, ", ".join(sources))
    eval_examples: list[Example] = []
    eval_summary: Summary | None = None
    if eval_data is not None:
        eval_examples, eval_summary = _examples(eval_rows, schema, str(eval_data))
    metric = _metric(recipe, schema.problem_type, evaluated=eval_data is not None)
    run: dict[str, Any] = {
        "command": command or "from Python",
        "base": str(base),
        "revision": revision,
        "new_head": new_head,
        "data": {
            "train": sources,
            "examples": len(examples),
            "unlabeled": summary.skipped.total(),
            "eval": [str(eval_data)] if eval_data is not None else [],
            "columns": dataclasses.asdict(columns or Columns()),
            "label_separator": label_separator,
            "unlabeled_labels": unlabeled,
        },
        "recipe": {**_without_unused_size(recipe), "metric": metric, "eval_steps": eval_steps},
        "model": _describe(model, schema),
        "machine": machine(device, processes.count),
        "versions": {"minidistil": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    meter = EnergyMeter(country, output)
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.connected(device))
        processes.run_on_first(lambda: stack.enter_context(locked_folder(output)), device)
        processes.run_on_first(lambda: run.update(command=_claim(output, run, resume, overwrite)), device)
        if processes.first and not quiet:
            print(label_report(schema, summary, eval_summary), file=sys.stderr)
        trainer = Trainer(model.to(device), tokenizer, recipe, examples, output, processes)
        training = Run(trainer, eval_examples, metric, quiet=quiet)
        training.resume()
        if processes.first and not training.trainer.step:  # not for part of a run: the energy would be too low
            meter.start()
        training.train(eval_steps, save_steps)
        if processes.first:
            run |= {"progress": training.summary(), "emissions": meter.stop()}
            run["evaluation"] = []
            if eval_examples:
                run["evaluation"] = [{"data": str(eval_data), **training.final_evaluation()}]
            write_card(output, run)
            write_files(output, {"run.json": lambda path: write_json(path, run)})
            (output / STATE).unlink(missing_ok=True)  # last, so that the run can be resumed until then
        processes.wait()
    return run


def _examples(rows: Sequence[Row], schema: Schema, source: str) -> tuple[list[Example], Summary]:
    """Return the labeled examples and how labels were read. Raises InputError if no row has a label."""
    examples, summary = read_examples(rows, schema)
    if not examples:
        raise InputError(f"{source}: none of the {len(rows)} rows has a label: expected at least one")
    return examples, summary


def _metric(recipe: Recipe, problem_type: str, evaluated: bool) -> str:
    """Return the metric that selects the best checkpoint."""
    metric = recipe.metric or METRICS[problem_type][0]
    if metric not in METRICS[problem_type]:
        known = ", ".join(METRICS[problem_type])
        raise InputError(f"metric is {metric!r}: expected one of {known}, for {problem_type}", subject="metric")
    if recipe.metric is not None and not evaluated:
        raise InputError(f"metric is {metric!r}, which requires evaluation data", subject="metric")
    return metric


def _without_unused_size(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain values, with only one of batch_size and batch_tokens."""
    values = dataclasses.asdict(recipe)
    del values["batch_size" if recipe.batch_tokens is not None else "batch_tokens"]
    return values


def _describe(model: DistilBertForSequenceClassification, schema: Schema) -> dict[str, Any]:
    config = model.config
    return {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": config.n_layers,
        "dim": config.dim,
        "heads": config.n_heads,
        "vocabulary": config.vocab_size,
        "labels": list(schema.names),
        "problem_type": schema.problem_type,
    }


def _claim(output: Path, run: Mapping[str, Any], resume: bool, overwrite: bool) -> str:
    """Start or resume a run in its locked folder; return the command that it was started with.

    Raises InputError if another run or other files would be overwritten.
    """
    if resume and overwrite:
        raise InputError("resume and overwrite cannot be combined: pass one of them")
    path = output / "run.json"
    for temporary in output.glob(".saving-*"):  # of a run that was killed during a write
        shutil.rmtree(temporary, ignore_errors=True)
    if resume and path.exists():
        before = read_json(path)
        if "progress" in before and not (output / STATE).exists():
            raise InputError(f"{output} has a finished run: there is nothing to resume")
        for key in ("base", "revision", "new_head", "data", "recipe", "model"):
            if before.get(key) != json.loads(json.dumps(run[key])):
                raise InputError(f"{path} has another {key}: {before.get(key)}; resume with the same")
        return str(before["command"])
    if resume:
        raise InputError(f"{output} has no run to resume: there is no run.json")
    if Path(str(run["base"])).is_dir() and output.samefile(str(run["base"])):
        raise InputError(f"{output} is the checkpoint that the run starts from: choose another folder")
    if any(file.name != LOCK for file in output.iterdir()) and not (overwrite and path.exists()):
        hint = "choose another folder"
        if path.exists():
            hint = "continue its run (--resume), or replace it (--overwrite)"
        raise InputError(f"{output} is not empty: {hint}")
    for name in FILES:
        (output / name).unlink(missing_ok=True)
    write_files(output, {"run.json": lambda path: write_json(path, run)})
    return str(run["command"])
