"""Start-up time, first answer, memory and one batch of inference, compared with transformers.

Measurements are interleaved, and medians are compared; only ratios within one run are meaningful.
"""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import torch

from ..checkpoint.load import from_pretrained
from ..errors import InputError, require
from ..tokenizer import Tokenizer
from .measure import copy_rate, machine, matmul_rate, seconds_of, take_turns
from .workload import matmul_flops, read_pairs, write_base_model

TEXT, LABELS = "The new phone has a great camera, but its battery is empty by noon.", "technology,sports,politics"
CALL = f"(model=sys.argv[1], task='zero-shot-classification')({TEXT!r}, {LABELS!r})"
PROGRAMS = {
    "answer": f"import sys; from minidistil import from_pretrained, Tokenizer, pipeline; pipeline{CALL}",
    "answer, transformers": f"import sys; from transformers import pipeline; pipeline{CALL}",
    "import": "from minidistil import from_pretrained, Tokenizer, pipeline",
    "import torch": "import torch",
    "imports of the command": "import minidistil.cli.main; from minidistil.pipelines import "
    "classification, numpy_engine",
    "import numpy, tokenizers, safetensors": "import numpy, tokenizers, safetensors",
}
COMMANDS = {  # arguments of the command line
    "command": ["zero-shot", TEXT, "--labels", LABELS, "--model"],
    "--help": ["--help"],
}

LAUNCHER = """
import os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss / 1e3)
sys.exit(status != 0)
"""  # a small parent process, since the peak memory of a child includes its parent's at the fork

ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # installed packages are compiled: so is a checkout


class Row(NamedTuple):
    """One line of a report. Lower is better, for the figures and the ratio minidistil / transformers."""

    name: str
    minidistil: float
    transformers: float
    unit: str

    @property
    def ratio(self) -> float:
        """Return minidistil's figure / transformers' figure."""
        return self.minidistil / self.transformers


def bench(model: str, pairs: str, *, base: bool = False, repeats: int = 7, batch: int = 32) -> dict[str, Any]:
    """Compare start-up and one batch with transformers, print a report, and return it.

    Args:
        model: a checkpoint for zero-shot classification.
        pairs: a JSONL file with premise and hypothesis.
        base: use random weights of DistilBERT base's size (66M parameters), with the checkpoint's tokenizer and
            labels.
        repeats: measurements of each process; the batch has twice as many.
        batch: number of pairs in the batch, the first of the file.
    """
    transformers = require("transformers", extra="peers")
    transformers.logging.set_verbosity_error()
    premises, hypotheses = read_pairs(pairs, batch)
    with tempfile.TemporaryDirectory() as folder:
        if base:
            write_base_model(model, folder)
        checkpoint = folder if base else model
        report = {**machine(), "transformers": transformers.__version__, "parameters": 0, "rows": []}
        print(f"{report['machine']}; torch {torch.__version__}; transformers {transformers.__version__}")
        report["matmul rate"], report["copy rate"] = matmul_rate([(768, 3072)], "float32"), copy_rate()
        rates = f"matmul {report['matmul rate'] / 1e9:.0f} GFLOP/s, copy {report['copy rate'] / 1e9:.0f} GB/s"
        print(f"measured peak, float32, DistilBERT's shapes: {rates}")
        for row in _measure_processes(checkpoint, repeats):
            add_row(row, report)
        add_row(_measure_batch(checkpoint, premises, hypotheses, repeats, report), report)
    share = report["matmul FLOPs"] / report["rows"][-1]["minidistil"] / report["matmul rate"]
    print(f"{report['parameters'] / 1e6:.0f}M parameters; the batch runs at {share:.0%} of the peak matmul rate")
    return report


def add_row(row: Row, report: dict[str, Any]) -> None:
    """Print a row and add it to a report."""
    figures = f"{row.minidistil:8.3f} {row.unit:<2} {row.transformers:8.3f} {row.unit:<2}"
    print(f"{row.name:<50} {figures}  ratio {row.ratio:.2f}")
    report["rows"].append({**row._asdict(), "ratio": row.ratio})


def _measure_processes(model: str, repeats: int) -> list[Row]:
    """Measure whole processes: first answer on the command line and in Python, imports, --help."""
    commands = {name: ["-c", code, model] for name, code in PROGRAMS.items()}
    commands |= {name: ["-m", "minidistil", *arguments] for name, arguments in COMMANDS.items()}
    commands["command"].append(model)
    calls = [functools.partial(_run_process, [sys.executable, *command]) for command in commands.values()]
    results = dict(zip(commands, take_turns(calls, repeats, warm_up=1), strict=True))
    seconds = {name: statistics.median(run[0] for run in runs) for name, runs in results.items()}
    memory = {name: statistics.median(run[1] for run in runs) for name, runs in results.items()}

    def row(name: str, figures: dict[str, float], ours: str, theirs: str, unit: str = "s") -> Row:
        return Row(name, figures[ours], figures[theirs], unit)

    transformers, torch = "answer, transformers", "import torch"
    return [
        row("minidistil zero-shot TEXT / transformers", seconds, "command", transformers),
        row("peak memory of that process / transformers", memory, "command", transformers, "MB"),
        row("first zero-shot answer in Python / transformers", seconds, "answer", transformers),
        row("peak memory of that process / transformers", memory, "answer", transformers, "MB"),
        row(
            "imports of minidistil zero-shot / numpy and others",
            *(seconds, "imports of the command", "import numpy, tokenizers, safetensors"),
        ),
        row("import of minidistil's names / import torch", seconds, "import", torch),
        row("minidistil --help / import torch", seconds, "--help", torch),
    ]


def _run_process(command: list[str]) -> tuple[float, float]:
    """Run a command; return its time in seconds and its peak memory in MB."""
    launcher = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    if launcher.returncode:
        raise InputError(f"{' '.join(command)} failed: {launcher.stderr.strip()[-500:]}")
    seconds, memory = launcher.stdout.split()[-2:]
    return float(seconds), float(memory)


def _measure_batch(
    model: str, premises: list[str], hypotheses: list[str], repeats: int, report: dict[str, Any]
) -> Row:
    """Measure one batch of pairs, in the order of the file, in float32, in this process."""
    transformers = require("transformers", extra="peers")
    ours = from_pretrained(model, task="text-classification")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype="float32").eval()
    batch = Tokenizer.from_pretrained(model)(premises, hypotheses)
    ids, mask = batch.padded()
    calls = [lambda: ours(batch), lambda: theirs(input_ids=ids, attention_mask=mask).logits]
    with torch.inference_mode():
        difference = (calls[0]() - calls[1]()).abs().max().item()
        times = take_turns([functools.partial(seconds_of, call) for call in calls], 2 * repeats, warm_up=1)
    report["parameters"] = sum(parameter.numel() for parameter in ours.parameters())
    report["matmul FLOPs"] = matmul_flops(ours.config, batch.layout.lengths)
    report["batch"] = {"sequences": len(batch), "tokens": len(batch.ids), "padded tokens": ids.numel()}
    report["largest difference of a logit"] = difference
    name = f"{len(batch)} pairs, {len(batch.ids)} tokens / padded to {ids.numel()}, SDPA"
    return Row(name, statistics.median(times[0]), statistics.median(times[1]), "s")
