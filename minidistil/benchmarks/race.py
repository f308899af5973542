"""This project and the runtimes that people leave PyTorch for, on one checkpoint and the same texts.

Each runs in a process of its own, with the same threads and the same token ids, at the settings that its own guide
recommends (`peers.py`). They take turns in an order that rotates; the median counts, and only ratios taken in one
run. What each computes is checked: its error is measured against this project in float64, so that one that saves
work by computing in a smaller dtype than it says is seen.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..backends import int8
from ..backends import onednn as packed
from ..checkpoint.files import write_files
from ..checkpoint.load import from_pretrained
from ..config import DistilBertConfig
from ..errors import Error, InputError, MissingDependency, require
from ..layout import Batch
from ..tokenizer import Tokenizer
from .runtimes import CONTENDERS, Contender, by_count, by_tokens
from .startup import copy_rate, least_seconds, machine_name, product_operations, read_pairs, turns, write_base

LENGTHS = (8, 16, 32, 64, 128, 256, 512)  # of one text
ROWS = 2048  # of the products that the ceiling is measured with
COLOURS = {"float32": "tab:blue", "bfloat16": "tab:orange", "int8": "tab:green"}
MARKERS = "os^vDX*P"
PICTURES = (".svg", ".png", ".pdf")
PAUSE = 0.25  # seconds between turns: some runtimes' threads spin on for a while, in everyone's way


def race(
    model: str,
    pairs: str,
    *,
    base: bool = False,
    repeats: int = 5,
    texts: int = 1024,
    only: str | None = None,
    plot: str | None = None,
) -> dict[str, Any]:
    """Measure, print a report as it comes, and return it.

    model, pairs, base: as for `bench`. repeats: turns of each. texts: how many are the bulk. only: those
    contenders whose name and precision hold one of these, with commas between. plot: a file for a picture of it,
    of the kind that its name says (extra `plot`).
    """
    if plot is not None:  # what would be missed at the end is missed now
        check_picture(plot)
    premises, hypotheses = read_pairs(pairs, texts)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        if base:
            write_base(model, folder)
        else:
            from_pretrained(model, task="text-classification").save_pretrained(folder)
            Tokenizer.from_pretrained(model).save_pretrained(folder)
        ids = Tokenizer.from_pretrained(folder).encode(premises, hypotheses).ids
        report: dict[str, Any] = {"machine": machine_name(), "torch": torch.__version__, "cases": {}}
        config = from_pretrained(folder, task="text-classification").config
        report["ceilings"] = ceilings(config)
        report["copy rate"] = copy_rate()
        rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in report["ceilings"].items())
        print(f"{report['machine']}; torch {torch.__version__}")
        print(f"ceilings: products of this model's shapes, GFLOP/s: {rates}; {report['copy rate'] / 1e9:.0f} GB/s")
        workers = _start(where, only, report)
        try:
            _errors(workers, from_pretrained(where, dtype="float64"), sorted(ids, key=len), report)
            for case, sequences in _cases(ids).items():
                _case(case, sequences, workers, repeats, config, report)
        finally:
            for worker in workers:
                worker.close()
    _summary(report)
    if plot is not None:
        draw(report, plot)
    return report


class Worker:
    """A contender, in a process of its own."""

    def __init__(self, contender: Contender, folder: Path):
        self.contender = contender
        command = [
            sys.executable,
            "-m",
            "minidistil.benchmarks.runtimes",
            contender.name,
            contender.precision,
            str(folder),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        try:
            self.load = self._read()["load"]
        except Error:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def ask(self, **what: Any) -> dict[str, Any]:
        """Let it run."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or ["it said nothing"])[-1]
            if "MissingDependency: " in last:
                raise MissingDependency(f"{self.name}: {last.split('MissingDependency: ')[1]}")
            raise InputError(f"{self.name} stopped: {last}")
        return json.loads(line)

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.contender.title


def _start(folder: Path, only: str | None, report: dict[str, Any]) -> list[Worker]:
    """Load everyone who is installed, one after the other."""
    wanted = [part.strip().lower() for part in only.split(",")] if only else [""]
    workers = []
    for contender in CONTENDERS:
        if not any(part in contender.title.lower() for part in wanted):
            continue
        try:
            workers.append(Worker(contender, folder))
            print(f"  {workers[-1].name}: loaded in {workers[-1].load:.2f} s", file=sys.stderr, flush=True)
        except MissingDependency as error:
            print(f"  left out: {error}", file=sys.stderr, flush=True)
    if not workers:
        raise InputError(f"nobody is left to race: only is {only!r}")
    report["load"] = {worker.name: worker.load for worker in workers}
    return workers


def _cases(ids: list[list[int]]) -> dict[str, list[list[int]]]:
    """Give what is run: one text of each length, then a batch and the bulk, in the file's order and sorted."""
    flat = [i for sequence in ids for i in sequence]
    while len(flat) < max(LENGTHS):
        flat += flat
    cases = {f"one text of {length} tokens": [flat[:length]] for length in LENGTHS}
    for count in sorted({min(32, len(ids)), len(ids)}):
        cases[f"{count:,} texts in given order"] = ids[:count]
        cases[f"{count:,} texts sorted by length"] = sorted(ids[:count], key=len)
    return cases


def _errors(workers: list[Worker], exact: Any, sequences: list[list[int]], report: dict[str, Any]) -> None:
    """Measure everyone's logits against float64: the RMS error, over the RMS of the logits."""
    with torch.inference_mode():
        truth = np.concatenate([exact(Batch.from_lists(some)).numpy() for some in by_tokens(sequences)])
    report["error"] = {}
    for worker in workers:
        logits = np.array(worker.ask(case="error", ids=sequences, times=1, logits=True)["logits"])
        report["error"][worker.name] = float(np.sqrt(((logits - truth) ** 2).mean() / (truth**2).mean()))


def _case(
    case: str,
    sequences: list[list[int]],
    workers: list[Worker],
    repeats: int,
    config: DistilBertConfig,
    report: dict[str, Any],
) -> None:
    tokens = sum(map(len, sequences))
    times = 8 if len(sequences) == 1 else 1  # a server's texts come one after another
    for worker in workers:
        worker.ask(case=case, ids=sequences[:256], times=1)  # to warm up, and to choose kernels for these lengths
        worker.ask(case=case, ids=sequences, times=0)
    seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    memory: dict[str, float] = {}
    for _, i in turns(len(workers), repeats):
        worker = workers[i]
        time.sleep(PAUSE)
        found = worker.ask(case=case, times=times)
        seconds[worker.name].append(found["seconds"])
        memory[worker.name] = found["memory"]
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    print(f"\n{case}: {tokens:,} tokens")
    print(f"  {'':<32} {'ms':>9} {'IQR':>7} {'tokens/s':>9} {'ceiling':>7} {'MB':>7} {'error':>8} {'/ ours':>7}")
    rows = report["cases"][case] = {}
    for worker in sorted(workers, key=lambda worker: medians[worker.name]):
        name, precision = worker.name, worker.contender.precision
        median = medians[name]
        share = executed(worker.contender, config, sequences) / median / report["ceilings"][precision]
        own = medians.get(f"minidistil {precision}", math.nan)
        spread = spread_of(seconds[name])
        rows[name] = {"seconds": median, "spread": spread, "tokens a second": tokens / median}
        rows[name] |= {"share": share, "memory": memory[name], "ours over": median / own}
        print(
            f"  {name:<32} {median * 1e3:9.1f} {spread * 1e3:7.1f} {tokens / median:9.0f} {share:7.0%} "
            f"{memory[name]:7.0f} {report['error'][name]:8.1e} {median / own:7.2f}",
            flush=True,
        )


def spread_of(runs: list[float]) -> float:
    """Give the interquartile range."""
    if len(runs) < 2:
        return 0.0
    low, _, high = statistics.quantiles(runs, n=4, method="inclusive")
    return high - low


def executed(contender: Contender, config: DistilBertConfig, sequences: list[list[int]]) -> int:
    """Count the operations of the products that a contender runs: what it pads, and what it leaves out."""
    total = 0
    for batch in by_count(sequences) if contender.pads else [sequences]:
        lengths = [len(sequence) for sequence in batch]
        lengths = [max(lengths)] * len(lengths) if contender.pads else lengths
        total += product_operations(config, lengths, prunes=contender.prunes)
    return total


def _summary(report: dict[str, Any]) -> None:
    """Print, for each case and precision, how many times the best peer's speed is ours."""
    print("\nspeed over the best peer of the same precision (above 1: ours is faster)")
    report["ratios"] = {}
    for case, rows in report["cases"].items():
        found = {}
        for precision in report["ceilings"]:
            peers = [
                row["ours over"]
                for name, row in rows.items()
                if name.endswith(precision) and not name.startswith("minidistil")
            ]
            if peers and not math.isnan(min(peers)):
                found[precision] = min(peers)
        report["ratios"][case] = found
        if found:
            print(f"  {case:<34} " + "  ".join(f"{name} {ratio:.2f}" for name, ratio in found.items()))


def check_picture(path: str) -> None:
    """Refuse a picture that could not be drawn."""
    require("matplotlib", extra="plot")
    if Path(path).suffix not in PICTURES or not Path(path).parent.is_dir():
        raise InputError(f"plot is {path}: expected a name in {', '.join(PICTURES)}, in a folder that exists")


def draw(report: dict[str, Any], path: str) -> None:
    """Draw a report: everyone's rate for each batch, and the latency of one text over its length."""
    require("matplotlib", extra="plot").use("agg")
    figures = require("matplotlib.figure", extra="plot")
    one = {case: rows for case, rows in report["cases"].items() if case.startswith("one ")}
    many = {case: rows for case, rows in report["cases"].items() if case not in one}
    height = math.ceil(len(many) / 2) + 1
    figure = figures.Figure(figsize=(12, 4 * height), layout="constrained")
    grid = figure.subplots(height, 2, squeeze=False).flatten()
    *spare, lines, place_of_legend = grid[len(many) :]
    for axes in (*spare, place_of_legend):
        axes.remove()
    for axes, (case, rows) in zip(grid, many.items(), strict=False):
        names = sorted(rows, key=lambda name: rows[name]["tokens a second"])
        colours = [COLOURS[name.split()[-1]] for name in names]
        drawn = axes.barh(names, [rows[name]["tokens a second"] for name in names], color=colours)
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
        axes.margins(x=0.25)
        axes.locator_params(axis="x", nbins=5)
        axes.set(title=case, xlabel="real tokens a second")
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text().startswith("minidistil") else "normal")
    markers: dict[str, str] = {}  # of each runtime, in every precision
    for name in report["load"] if one else ():
        runtime, precision = name.rsplit(" ", 1)
        ours, marker = runtime == "minidistil", markers.setdefault(runtime, MARKERS[len(markers) % len(MARKERS)])
        lengths = [int(case.split()[-2]) for case in one]
        milliseconds = [rows[name]["seconds"] * 1e3 for rows in one.values()]
        style = {"linewidth": 2.5 if ours else 0.8, "linestyle": "-" if ours else "--", "marker": marker}
        lines.loglog(lengths, milliseconds, color=COLOURS[precision], label=name, markersize=4, **style)
    lines.set(title="one text", xlabel="tokens", ylabel="milliseconds")
    lines.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.05, 1)).set_in_layout(False)
    figure.suptitle(f"{report['machine']}; torch {report['torch']}")
    write_files(Path(path).parent, {Path(path).name: figure.savefig})


@torch.inference_mode()
def ceilings(config: DistilBertConfig) -> dict[str, float]:
    """Give the best rate of any product kernel here, in operations a second, over this model's shapes."""
    shapes = [(config.dim, 3 * config.dim), (config.dim, config.dim)]
    shapes += [(config.dim, config.hidden_dim), (config.hidden_dim, config.dim)]
    found = {}
    for precision in ("float32", "bfloat16", "int8"):
        operations, seconds = 0.0, 0.0
        for inputs, outputs in shapes:
            operations += 2 * ROWS * inputs * outputs
            seconds += min(least_seconds(kernel, 12) for kernel in _kernels(precision, inputs, outputs))
        found[precision] = operations / seconds
    return found


def _kernels(precision: str, inputs: int, outputs: int) -> list[Callable[[], Any]]:
    """Give every product of a precision that torch has here, of ROWS rows."""
    if precision == "int8":
        whole = torch.randint(-127, 128, (ROWS, inputs), dtype=torch.int8)
        weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
        layer = int8.Linear8(weight, torch.rand(outputs, 1), torch.zeros(outputs))
        state = int8.prepare(layer)
        kernels: list[Callable[[], Any]] = [lambda: torch._int_mm(whole, weight.t())]
        return kernels + ([lambda: int8.by_onednn(whole, state)] if state.onednn else [])
    dtype = getattr(torch, precision)
    x, lin = torch.randn(ROWS, inputs, dtype=dtype), torch.nn.Linear(inputs, outputs, dtype=dtype)
    kernels = [lambda: lin(x)]
    if packed.works(x.device, dtype):
        laid_out = packed.pack(lin)
        kernels.append(lambda: packed.linear(x, laid_out))
    return kernels
