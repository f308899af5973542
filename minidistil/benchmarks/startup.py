"""This project and transformers, side by side: start-up, memory, and a batch of real pairs.

Ratios count, and only those taken in one run: each pair of competitors takes turns, in changing order, and
the medians are compared. Absolute times are this machine's, on this day.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..checkpoint.load import from_pretrained
from ..config import DistilBertConfig
from ..errors import InputError, require
from ..model import DistilBertForSequenceClassification
from ..tokenizer import Tokenizer
from ..training.card import processor
from ..training.data import UNLABELLED, Labels, read_rows
from ..training.loop import Processes, Recipe, Trainer, prepare
from .runtimes import peak_memory

TEXT = "The new phone has a great camera, but its battery is empty by noon."
CALL = f"(model=sys.argv[1], task='zero-shot-classification')({TEXT!r}, 'technology, sports, politics')"
PROGRAMS = {
    "answer": f"import sys; from minidistil import from_pretrained, Tokenizer, pipeline; pipeline{CALL}",
    "answer, transformers": f"import sys; from transformers import pipeline; pipeline{CALL}",
    "import": "from minidistil import from_pretrained, Tokenizer, pipeline",
    "import torch": "import torch",
}

LAUNCHER = """
import os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss / 1e3)
sys.exit(status != 0)
"""  # a small process in between: a child's peak memory starts at its parent's


class Row(NamedTuple):
    """One line of the report: ours over theirs."""

    name: str
    ours: float
    theirs: float
    unit: str

    @property
    def ratio(self) -> float:
        """Less is better."""
        return self.ours / self.theirs


def bench(model: str, pairs: str, *, base: bool = False, repeats: int = 7, batch: int = 32) -> dict[str, Any]:
    """Measure, print a report as it comes, and return it.

    model: a checkpoint for zero-shot classification. pairs: a JSONL file with premise and hypothesis, of which
    the first `batch` are one batch. base: take random weights of DistilBERT base's size (66M parameters) with
    that checkpoint's tokenizer and labels: speed does not hang on their values. repeats: turns of each.
    """
    transformers = require("transformers", extra="peers")
    transformers.logging.set_verbosity_error()
    premises, hypotheses = read_pairs(pairs, batch)
    with tempfile.TemporaryDirectory() as folder:
        if base:
            write_base(model, folder)
        where = folder if base else model
        report: dict[str, Any] = {"machine": machine_name(), "torch": torch.__version__}
        report |= {"transformers": transformers.__version__, "parameters": 0, "rows": []}
        print(f"{report['machine']}; torch {torch.__version__}; transformers {transformers.__version__}")
        report["product rate"], report["copy rate"] = product_rate(), copy_rate()
        rates = f"{report['product rate'] / 1e9:.0f} GFLOP/s, copies {report['copy rate'] / 1e9:.0f} GB/s"
        print(f"ceilings: float32 products at DistilBERT's shapes {rates}")
        for row in _start_up(where, repeats):
            _show(row, report)
        _show(_batch(where, premises, hypotheses, repeats, report), report)
    share = report["product operations"] / report["rows"][-1]["ours"] / report["product rate"]
    print(f"{report['parameters'] / 1e6:.0f}M parameters; the batch runs at {share:.0%} of the product ceiling")
    return report


def _show(row: Row, report: dict[str, Any]) -> None:
    print(f"{row.name:<46} {row.ours:8.3f} {row.unit:<2} {row.theirs:8.3f} {row.unit:<2}  ratio {row.ratio:.2f}")
    report["rows"].append({**row._asdict(), "ratio": row.ratio})


def read_pairs(path: str, count: int) -> tuple[list[str], list[str]]:
    """Give the premises and the hypotheses of a JSONL file, so many at most."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()[:count]
        records = [json.loads(line) for line in lines]
        return [record["premise"] for record in records], [record["hypothesis"] for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected lines of JSON with premise and hypothesis: {error}") from error


def write_base(model: str, folder: str) -> None:
    """Write a checkpoint of DistilBERT base's size, with another one's tokenizer and labels."""
    small = from_pretrained(model, task="zero-shot-classification").config
    config = DistilBertConfig(vocab_size=small.vocab_size, id2label=small.id2label)
    torch.manual_seed(0)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    Tokenizer.from_pretrained(model).save_pretrained(folder)


def machine_name() -> str:
    """Say what this was measured on."""
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()}"


def product_rate() -> float:
    """Give the best rate of a float32 product at DistilBERT base's shapes, in operations a second."""
    x, weight = torch.randn(1024, 768), torch.randn(3072, 768)
    return 2 * 1024 * 768 * 3072 / least_seconds(lambda: torch.nn.functional.linear(x, weight), 20)


def copy_rate() -> float:
    """Give the best rate of a copy in memory, in bytes read and written a second."""
    x = torch.ones(2**26)
    out = torch.empty_like(x)
    return 2 * x.nbytes / least_seconds(lambda: out.copy_(x), 10)


def least_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Give the least time that a call takes, after a first one that does not count."""
    call()
    return min(_seconds(call) for _ in range(repeats))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _take_turns(calls: Sequence[Callable[[], Any]], repeats: int) -> list[list[Any]]:
    """Call each in turn, in an order that rotates, and give the results of each; one round is a warm-up."""
    results: list[list[Any]] = [[] for _ in calls]
    for turn, i in turns(len(calls), repeats + 1):
        result = calls[i]()
        if turn:
            results[i].append(result)
    return results


def turns(count: int, rounds: int) -> Iterator[tuple[int, int]]:
    """Say whose turn it is, as round and place among `count`: each once a round, another first in each."""
    for turn in range(rounds):
        for place in range(count):
            yield turn, (turn + place) % count


def _start_up(model: str, repeats: int) -> list[Row]:
    """Measure whole processes: from nothing to a first answer, to an import, to --help."""
    commands = [[sys.executable, "-c", code, model] for code in PROGRAMS.values()]
    commands.append([sys.executable, "-m", "minidistil", "--help"])
    results = _take_turns([lambda c=command: _process(c) for command in commands], repeats)  # type: ignore[misc]
    seconds = [statistics.median(run[0] for run in runs) for runs in results]
    memory = [statistics.median(run[1] for run in runs) for runs in results]
    return [
        Row("first zero-shot answer / transformers'", seconds[0], seconds[1], "s"),
        Row("peak memory of that / transformers'", memory[0], memory[1], "MB"),
        Row("import minidistil's names / import torch", seconds[2], seconds[3], "s"),
        Row("minidistil --help / import torch", seconds[4], seconds[3], "s"),
    ]


def _process(command: list[str]) -> tuple[float, float]:
    """Run a command to its end; give its seconds, and its peak memory in MB."""
    launcher = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=False
    )
    if launcher.returncode:
        raise InputError(f"{' '.join(command)} failed: {launcher.stderr.strip()[-500:]}")
    seconds, memory = launcher.stdout.split()[-2:]
    return float(seconds), float(memory)


def _batch(model: str, premises: list[str], hypotheses: list[str], repeats: int, report: dict[str, Any]) -> Row:
    """Measure one batch of real pairs, in the order of the file, in float32, in this process."""
    transformers = require("transformers", extra="peers")
    mine = from_pretrained(model, task="text-classification")
    batch = Tokenizer.from_pretrained(model)(premises, hypotheses)
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype="float32").eval()
    ids, mask = batch.padded()
    with torch.inference_mode():
        worst = (mine(batch) - peer(input_ids=ids, attention_mask=mask).logits).abs().max().item()
        calls = [lambda: mine(batch), lambda: peer(input_ids=ids, attention_mask=mask)]
        seconds = _take_turns([lambda c=call: _seconds(c) for call in calls], 2 * repeats)  # type: ignore[misc]
    report["parameters"] = sum(parameter.numel() for parameter in mine.parameters())
    report["product operations"] = product_operations(mine.config, batch.layout.lengths)
    report["batch"] = {"sequences": len(batch), "tokens": len(batch.ids), "padded tokens": ids.numel()}
    report["largest difference of a logit"] = worst
    name = f"{len(batch)} pairs, {len(batch.ids)} tokens / padded SDPA, {ids.numel()}"
    return Row(name, statistics.median(seconds[0]), statistics.median(seconds[1]), "s")


TRAINERS = ("train_steps", "train_steps_of_transformers")  # each runs in a process of its own


def bench_training(
    model: str,
    data: str,
    *,
    base: bool = False,
    steps: int = 100,
    repeats: int = 3,
    batch_size: int = 16,
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """Measure fine-tuning beside transformers' Trainer, print a report, and return it.

    model: a checkpoint of a classifier, or an encoder, which gets a new head; base: as for `bench`. data: labelled
    texts as for `fine_tune`, steps * batch_size of them and as many to warm up. For both, the recipe is `Recipe`'s
    with this batch_size and dtype; the Trainer has its own order, and pads each batch to its longest text, as it
    does by itself. Both count the tokens of the texts alone.
    """
    transformers, _ = require("transformers", extra="peers"), require("accelerate", extra="peers")
    print(f"{machine_name()}; torch {torch.__version__}; transformers {transformers.__version__}")
    rows = [row for row in read_rows(data) if row.label not in UNLABELLED]
    if len(rows) < 2 * steps * batch_size:
        raise InputError(f"{data} has {len(rows)} examples: {steps} steps need {2 * steps * batch_size}")
    with tempfile.TemporaryDirectory() as folder:
        if base:
            write_base(model, folder)
        else:
            _write_with_head(model, data, folder)
        code = "import sys; from minidistil.benchmarks import startup; startup.{}(*sys.argv[1:])"
        given = [folder, data, str(steps), str(batch_size), dtype]
        commands = [[sys.executable, "-c", code.format(name), *given] for name in TRAINERS]
        results = _take_turns([lambda c=command: _training(c) for command in commands], repeats)  # type: ignore[misc]
    ours, theirs = ([run["tokens"] / run["seconds"] for run in runs] for runs in results)
    state = 12 * results[0][0]["parameters"] / 1e6  # AdamW's two averages beside the weights, in float32
    memory = [statistics.median(run["memory"] for run in runs) - state for runs in results]
    report: dict[str, Any] = {"machine": machine_name(), "torch": torch.__version__, "rows": []}
    report |= {"transformers": transformers.__version__, "parameters": results[0][0]["parameters"]}
    report |= {"steps": steps, "batch size": batch_size, "dtype": dtype}
    micros = [1e6 / statistics.median(rates) for rates in (ours, theirs)]
    _show(Row("training, a token / Trainer's", micros[0], micros[1], "µs"), report)
    _show(Row("peak memory above weights and AdamW / Trainer's", memory[0], memory[1], "MB"), report)
    report["tokens a second"] = [statistics.median(ours), statistics.median(theirs)]
    print(f"{report['tokens a second'][0]:.0f} tokens a second, the Trainer {report['tokens a second'][1]:.0f}")
    return report


def _write_with_head(model: str, data: str, folder: str) -> None:
    """Write the checkpoint that both begin with."""
    classifier, tokenizer, _ = prepare(model, read_rows(data), Recipe())
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _training(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def train_steps(model: str, data: str, steps: str, batch_size: str, dtype: str) -> None:
    """Train for twice as many steps, and print what the second half took."""
    count, recipe = int(steps), Recipe(batch_size=int(batch_size), dtype=dtype)
    rows = read_rows(data)
    classifier, tokenizer, _ = prepare(model, rows, recipe)
    labels = Labels.of(classifier.config)
    examples = labels.read(rows)[0][: 2 * count * recipe.batch_size]
    trainer = Trainer(classifier, tokenizer, recipe, labels, examples, [], "", Path(model), Processes(0, 1))
    tokens, seconds = [], []
    for batches in trainer.plan(0):
        tokens.append(trainer.take_step(batches, 2 * count)["tokens"])
        seconds.append(time.perf_counter())
    _say(tokens[count:], seconds[-1] - seconds[count - 1], classifier)


def train_steps_of_transformers(model: str, data: str, steps: str, batch_size: str, dtype: str) -> None:
    """Let transformers' Trainer do the same."""
    transformers = require("transformers", extra="peers")
    transformers.logging.set_verbosity_error()
    count, recipe = int(steps), Recipe(batch_size=int(batch_size), dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype="float32")
    rows = [row for row in read_rows(data) if row.label not in UNLABELLED][: 2 * count * recipe.batch_size]
    labels = {label.casefold(): i for label, i in classifier.config.label2id.items()}
    texts = [row.text for row in rows], *([[row.pair for row in rows]] if rows[0].pair is not None else [])
    encoded = tokenizer(*texts, truncation=True, max_length=recipe.max_length, return_token_type_ids=False)
    targets = [labels[str(row.label).casefold()] for row in rows]
    examples = [
        {"input_ids": ids, "attention_mask": mask, "labels": label}
        for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], targets, strict=True)
    ]
    tokens, seconds = [], []

    class Watch(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter())

    pad = transformers.DataCollatorWithPadding(tokenizer)

    def collate(chosen: list[dict[str, Any]]) -> Any:
        tokens.append(sum(len(example["input_ids"]) for example in chosen))
        return pad(chosen)

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
            classifier, arguments, train_dataset=examples, data_collator=collate, callbacks=[Watch()]
        )
        trainer.train()
    _say(tokens[count : len(seconds)], seconds[-1] - seconds[count - 1], classifier)


def _say(tokens: list[int], seconds: float, model: torch.nn.Module) -> None:
    """Print what a process measured, as JSON."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = {"tokens": sum(tokens), "seconds": seconds, "memory": peak_memory(), "parameters": parameters}
    print(json.dumps(found))


def product_operations(config: DistilBertConfig, lengths: list[int], *, prunes: bool = True) -> int:
    """Count the operations of the products that a classifier runs for sequences of these lengths.

    Each product of (T, K) by (K, N) is 2 T K N. prunes: the last layer's attention, output and feed-forward are
    asked for first tokens only, which is all that the head reads.
    """
    tokens, width = sum(lengths), config.dim
    attend = 4 * width * sum(length * length for length in lengths)
    narrow = 2 * width * width + 4 * width * config.hidden_dim  # of a token: output and feed-forward
    last = 4 * width * tokens + len(lengths) * narrow
    full = attend + tokens * narrow
    last = last if prunes else full
    head = 2 * len(lengths) * width * (width + config.num_labels)
    return config.n_layers * 6 * tokens * width * width + (config.n_layers - 1) * full + last + head
