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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .checkpoint import from_pretrained
from .config import DistilBertConfig
from .errors import InputError, require
from .model import DistilBertForSequenceClassification
from .tokenizer import Tokenizer

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
    premises, hypotheses = _read_pairs(pairs, batch)
    with tempfile.TemporaryDirectory() as folder:
        if base:
            _write_base(model, folder)
        where = folder if base else model
        report: dict[str, Any] = {"machine": _machine(), "torch": torch.__version__}
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


def _read_pairs(path: str, count: int) -> tuple[list[str], list[str]]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()[:count]
        records = [json.loads(line) for line in lines]
        return [record["premise"] for record in records], [record["hypothesis"] for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected lines of JSON with premise and hypothesis: {error}") from error


def _write_base(model: str, folder: str) -> None:
    """Write a checkpoint of DistilBERT base's size, with another one's tokenizer and labels."""
    small = from_pretrained(model, task="zero-shot-classification").config
    config = DistilBertConfig(vocab_size=small.vocab_size, id2label=small.id2label)
    torch.manual_seed(0)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    Tokenizer.from_pretrained(model).save_pretrained(folder)


def _machine() -> str:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def product_rate() -> float:
    """Give the best rate of a float32 product at DistilBERT base's shapes, in operations a second."""
    x, weight = torch.randn(1024, 768), torch.randn(3072, 768)
    seconds = [_seconds(lambda: torch.nn.functional.linear(x, weight)) for _ in range(20)]
    return 2 * 1024 * 768 * 3072 / min(seconds)


def copy_rate() -> float:
    """Give the best rate of a copy in memory, in bytes read and written a second."""
    x = torch.ones(2**26)
    out = torch.empty_like(x)
    return 2 * x.nbytes / min(_seconds(lambda: out.copy_(x)) for _ in range(10))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _take_turns(calls: Sequence[Callable[[], Any]], repeats: int) -> list[list[Any]]:
    """Call each in turn, in an order that rotates, and give the results of each; one round is a warm-up."""
    results: list[list[Any]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for place in range(len(calls)):
            i = (turn + place) % len(calls)
            result = calls[i]()
            if turn:
                results[i].append(result)
    return results


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


def product_operations(config: DistilBertConfig, lengths: list[int]) -> int:
    """Count the operations of the products that a classifier needs for sequences of these lengths.

    Each product of (T, K) by (K, N) is 2 T K N. The last layer's output and feed-forward are asked for first
    tokens only.
    """
    tokens, width = sum(lengths), config.dim
    attend = 4 * width * sum(length * length for length in lengths)
    narrow = 2 * width * width + 4 * width * config.hidden_dim  # of a token: output and feed-forward
    last = 4 * width * tokens + len(lengths) * narrow
    full = attend + tokens * narrow
    head = 2 * len(lengths) * width * (width + config.num_labels)
    return config.n_layers * 6 * tokens * width * width + (config.n_layers - 1) * full + last + head
