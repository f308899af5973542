"""Tokens/s and peak memory of fine-tuning, compared with transformers' Trainer."""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ..backends import onednn
from ..config import DistilBertConfig
from ..errors import InputError, require
from ..training.base import load_base
from ..training.data import Labels, read_examples
from ..training.label_rules import infer_schema
from ..training.loop import Trainer
from ..training.recipe import Recipe
from ..training.records import read_rows
from .measure import machine, peak_memory, take_turns
from .startup import Row, add_row
from .workload import write_base_model

TRAINERS = ("train", "train_with_transformers")  # each runs in its own process
CODE = "import sys; from minidistil.benchmarks import training; training.{}(*sys.argv[1:])"


def bench_training(
    model: str,
    data: str,
    *,
    base: bool = False,
    steps: int = 100,
    repeats: int = 3,
    batch_size: int = 16,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Compare fine-tuning with transformers' Trainer, print a report, and return it.

    Both use the hyperparameters of `Recipe`. The Trainer uses its own shuffling and its default padding, to the
    longest text of each batch. Padding tokens are not counted.

    Args:
        model: the checkpoint of a classifier, or of an encoder, which gets a new head.
        data: labeled texts as for `fine_tune`, at least 2 * steps * batch_size.
        base: use random weights of DistilBERT base's size.
        steps: measured steps, after the same number of warm-up steps.
        repeats: measurements of each trainer.
        dtype: as for `Recipe`; None: bfloat16 where the CPU supports it, else float32.
    """
    dtype = dtype or ("bfloat16" if onednn.works(torch.device("cpu"), torch.bfloat16) else "float32")
    transformers, _ = require("transformers", extra="peers"), require("accelerate", extra="peers")
    report = {**machine(), "transformers": transformers.__version__, "rows": []}
    print(f"{report['machine']}; torch {torch.__version__}; transformers {transformers.__version__}; {dtype}")
    rows = read_rows(data)
    examples = infer_schema(rows).read(rows).labeled
    if examples < 2 * steps * batch_size:
        raise InputError(f"{data} has {examples} examples: {steps} steps need {2 * steps * batch_size}")
    with tempfile.TemporaryDirectory() as folder:
        if base:
            write_base_model(model, folder)
        else:
            _write_with_head(model, data, folder)
        arguments = [folder, data, str(steps), str(batch_size), dtype]
        commands = [[sys.executable, "-c", CODE.format(name), *arguments] for name in TRAINERS]
        results = take_turns(
            [functools.partial(_run_process, command) for command in commands], repeats, warm_up=1
        )
    ours, theirs = ([run["tokens"] / run["seconds"] for run in runs] for runs in results)
    parameters = results[0][0]["parameters"]
    state = 12 * parameters / 1e6  # MB of the weights and AdamW's two averages, in float32
    memory = [statistics.median(run["memory"] for run in runs) - state for runs in results]
    report |= {"parameters": parameters, "steps": steps, "batch size": batch_size, "dtype": dtype}
    micros = [1e6 / statistics.median(rates) for rates in (ours, theirs)]
    add_row(Row("training time per token / Trainer", micros[0], micros[1], "µs"), report)
    add_row(Row("peak memory above weights and AdamW / Trainer", memory[0], memory[1], "MB"), report)
    report["tokens/s"] = [statistics.median(ours), statistics.median(theirs)]
    print("minidistil {:.0f} tokens/s, Trainer {:.0f} tokens/s".format(*report["tokens/s"]))
    return report


def _write_with_head(model: str, data: str, folder: str) -> None:
    """Save the checkpoint that both trainers start from."""
    classifier, tokenizer, *_ = load_base(model, read_rows(data), Recipe())
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _run_process(command: list[str]) -> dict[str, Any]:
    """Run a command, and parse the last line that it prints."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise InputError(f"{' '.join(command)} failed: {process.stderr.strip()[-500:]}")
    return json.loads(process.stdout.splitlines()[-1])


def train(model: str, data: str, steps: str, batch_size: str, dtype: str) -> None:
    """Train for 2 * steps steps, and print the measurements of the second half."""
    count, recipe = int(steps), Recipe(batch_size=int(batch_size), dtype=dtype)
    rows = read_rows(data)
    classifier, tokenizer, schema, _ = load_base(model, rows, recipe)
    examples = read_examples(rows, schema)[0][: 2 * count * recipe.batch_size]
    trainer = Trainer(classifier, tokenizer, recipe, examples, Path(model))
    tokens, moments = [], []
    for batches in trainer.plan(0):
        tokens.append(trainer.take_step(batches, 2 * count)["tokens"])
        moments.append(time.perf_counter())
    _print_measurements(tokens[count:], moments[-1] - moments[count - 1], classifier)


def train_with_transformers(model: str, data: str, steps: str, batch_size: str, dtype: str) -> None:
    """Run the same training with transformers' Trainer."""
    transformers = require("transformers", extra="peers")
    transformers.logging.set_verbosity_error()
    count, recipe = int(steps), Recipe(batch_size=int(batch_size), dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype="float32")
    labels = Labels.from_config(DistilBertConfig.from_file(Path(model) / "config.json"))
    rows = labels.read(read_rows(data))[0][: 2 * count * recipe.batch_size]
    texts = [row.text for row in rows], *([[row.pair for row in rows]] if rows[0].pair is not None else [])
    encoded = tokenizer(*texts, truncation=True, max_length=recipe.max_length, return_token_type_ids=False)
    targets = [row.label.index(max(row.label)) for row in rows]
    examples = [
        {"input_ids": ids, "attention_mask": mask, "labels": label}
        for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], targets, strict=True)
    ]
    tokens, moments = [], []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

    pad = transformers.DataCollatorWithPadding(tokenizer)

    def collate(batch: list[dict[str, Any]]) -> Any:
        tokens.append(sum(len(example["input_ids"]) for example in batch))
        return pad(batch)

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            num_train_epochs=1,
            bf16=dtype == "bfloat16",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            classifier, arguments, train_dataset=examples, data_collator=collate, callbacks=[Clock()]
        )
        trainer.train()
    _print_measurements(tokens[count : len(moments)], moments[-1] - moments[count - 1], classifier)


def _print_measurements(tokens: list[int], seconds: float, model: torch.nn.Module) -> None:
    """Print the measurements of a process as JSON."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {"tokens": sum(tokens), "seconds": seconds, "memory": peak_memory(), "parameters": parameters}
    print(json.dumps(result))
