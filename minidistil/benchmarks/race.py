"""Compare minidistil with inference runtimes, on the same checkpoint and texts.

Each runtime has its own process, with the same number of threads and the same token ids, and the settings that
its guide recommends (`runtimes.py`). Measurements are interleaved, and medians are compared; only ratios within
one run are meaningful. The error of each runtime, against minidistil in float64, shows whether it computes in a
smaller dtype than it claims.
"""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..batching import split_into_batches
from ..checkpoint.load import from_pretrained
from ..config import DistilBertConfig
from ..errors import Error, InputError, MissingDependency
from ..layout import Batch
from ..pipelines.inference import TOKENS
from ..tokenizer import Tokenizer
from .measure import copy_rate, interquartile_range, machine, matmul_rate, take_turns
from .plots import COLORS, MARKERS, check_plot, new_figure, save_figure
from .runtimes import BATCH_SIZE, RUNTIMES, Runtime, Sequences
from .workload import matmul_flops, read_pairs, write_base_model

DTYPES = ("float32", "bfloat16", "int8")
LENGTHS = (8, 16, 32, 64, 128, 256, 512)  # tokens of the single texts
SINGLE_REPEATS = 8  # calls per measurement of a single text
WARM_UP = 256  # maximum sequences of a warm-up
PAUSE = 0.25  # seconds between measurements: threads of some runtimes spin after a call and slow down others


def bench_runtimes(
    model: str,
    pairs: str,
    *,
    base: bool = False,
    repeats: int = 5,
    texts: int = 1024,
    only: str | None = None,
    plot: str | None = None,
) -> dict[str, Any]:
    """Compare every installed runtime, print a report, and return it.

    Args:
        model, pairs, base: as for `bench`.
        repeats: measurements of each runtime and case.
        texts: number of pairs in the largest case.
        only: comma-separated substrings: compare only runtimes whose name and dtype contain one of them.
        plot: file for a plot of the report (extra `plot`); its suffix sets the format.
    """
    check_plot(plot)
    premises, hypotheses = read_pairs(pairs, texts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if base:
            write_base_model(model, name)
        else:
            from_pretrained(model, task="text-classification").save_pretrained(folder)
            Tokenizer.from_pretrained(model).save_pretrained(folder)
        ids = Tokenizer.from_pretrained(folder).encode(premises, hypotheses).ids
        reference = from_pretrained(folder, dtype="float64")
        shapes = layer_shapes(reference.config)
        report: dict[str, Any] = {**machine(), "cases": {}}
        report["matmul rate"] = {dtype: matmul_rate(shapes, dtype) for dtype in DTYPES}
        report["copy rate"] = copy_rate()
        rates = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in report["matmul rate"].items())
        print(f"{report['machine']}; torch {torch.__version__}")
        print(f"measured peak: matmul of this model's shapes, GFLOP/s: {rates}")
        print(f"measured peak: copy, GB/s: {report['copy rate'] / 1e9:.0f}")
        processes = _start(folder, only, report)
        try:
            _measure_errors(processes, reference, sorted(ids, key=len), report)
            for case, sequences in _cases(ids).items():
                _measure_case(case, sequences, processes, repeats, reference.config, report)
        finally:
            for process in processes:
                process.close()
    _summarize(report)
    if plot is not None:
        plot_runtimes(report, plot)
    return report


def layer_shapes(config: DistilBertConfig) -> list[tuple[int, int]]:
    """Return the input and output widths of a block's linear layers."""
    dim, hidden = config.dim, config.hidden_dim
    return [(dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)]


class RuntimeProcess:
    """A process that runs one runtime. Raises MissingDependency if the runtime is not installed."""

    def __init__(self, runtime: Runtime, folder: Path):
        self.runtime = runtime
        module = [sys.executable, "-m", "minidistil.benchmarks.runtimes"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*module, runtime.name, runtime.dtype, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        try:
            self.load_seconds = self._read()["load"]
        except Error:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The name in reports."""
        return self.runtime.title

    def close(self) -> None:
        """Stop the process."""
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def run(self, **request: Any) -> dict[str, Any]:
        """Run one measurement; see `runtimes.work`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or ["no output"])[-1]
            if "MissingDependency: " in last:
                raise MissingDependency(f"{self.name}: {last.split('MissingDependency: ')[1]}")
            raise InputError(f"{self.name} stopped: {last}")
        return json.loads(line)


def _start(folder: Path, only: str | None, report: dict[str, Any]) -> list[RuntimeProcess]:
    """Start the process of each installed runtime, one after another."""
    parts = [part.strip().lower() for part in only.split(",")] if only else [""]
    processes = []
    for runtime in RUNTIMES:
        if not any(part in runtime.title.lower() for part in parts):
            continue
        try:
            processes.append(RuntimeProcess(runtime, folder))
            seconds = processes[-1].load_seconds
            print(f"  {runtime.title}: loaded in {seconds:.2f} s", file=sys.stderr, flush=True)
        except MissingDependency as error:
            print(f"  skipped: {error}", file=sys.stderr, flush=True)
    if not processes:
        titles = ", ".join(runtime.title for runtime in RUNTIMES)
        raise InputError(f"only is {only!r}: it matches no installed runtime; expected substrings of {titles}")
    report["load"] = {process.name: process.load_seconds for process in processes}
    return processes


def _cases(ids: list[list[int]]) -> dict[str, list[list[int]]]:
    """Return the cases: single texts, then a batch and all texts, in the file's order and sorted by length."""
    tokens = [i for sequence in ids for i in sequence]
    while len(tokens) < max(LENGTHS):
        tokens += tokens
    cases = {f"one text of {length} tokens": [tokens[:length]] for length in LENGTHS}
    for count in sorted({min(32, len(ids)), len(ids)}):
        cases[f"{count:,} texts in given order"] = ids[:count]
        cases[f"{count:,} texts sorted by length"] = sorted(ids[:count], key=len)
    return cases


def _measure_errors(
    processes: Sequence[RuntimeProcess], reference: Any, sequences: list[list[int]], report: dict[str, Any]
) -> None:
    """Measure the error of every runtime's logits: the RMS difference from float64 over the RMS of the logits."""
    batches = split_into_batches(sequences, max_tokens=TOKENS)
    with torch.inference_mode():
        expected = np.concatenate([reference(Batch.from_lists(batch)).numpy() for batch in batches])
    report["error"] = {}
    for process in processes:
        logits = np.array(process.run(case="error", ids=sequences, times=1, logits=True)["logits"])
        error = ((logits - expected) ** 2).mean() / (expected**2).mean()
        report["error"][process.name] = float(np.sqrt(error))


def _measure_case(
    case: str,
    sequences: list[list[int]],
    processes: Sequence[RuntimeProcess],
    repeats: int,
    config: DistilBertConfig,
    report: dict[str, Any],
) -> None:
    tokens = sum(map(len, sequences))
    times = SINGLE_REPEATS if len(sequences) == 1 else 1
    for process in processes:
        process.run(case=case, ids=sequences[:WARM_UP], times=1)
        process.run(case=case, ids=sequences, times=0)

    def measure(process: RuntimeProcess) -> dict[str, Any]:
        time.sleep(PAUSE)
        return process.run(case=case, times=times)

    results = take_turns([functools.partial(measure, process) for process in processes], repeats)
    seconds = {p.name: [run["seconds"] for run in runs] for p, runs in zip(processes, results, strict=True)}
    memory = {p.name: runs[-1]["memory"] for p, runs in zip(processes, results, strict=True)}
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    print(f"\n{case}: {tokens:,} tokens")
    header = f"{'ms':>9} {'IQR':>7} {'tokens/s':>9} {'of peak':>7} {'MB':>7} {'error':>8} {'relative time':>13}"
    print(f"  {'':<32} {header}")
    rows = report["cases"][case] = {}
    for process in sorted(processes, key=lambda process: medians[process.name]):
        name, dtype = process.name, process.runtime.dtype
        median, spread = medians[name], interquartile_range(seconds[name])
        share = runtime_flops(process.runtime, config, sequences) / median / report["matmul rate"][dtype]
        relative = median / medians.get(f"minidistil {dtype}", math.nan)
        rows[name] = {"seconds": median, "IQR": spread, "tokens/s": tokens / median, "share of matmul rate": share}
        rows[name] |= {"memory": memory[name], "relative time": relative}
        print(
            f"  {name:<32} {median * 1e3:9.1f} {spread * 1e3:7.1f} {tokens / median:9.0f} {share:7.0%} "
            f"{memory[name]:7.0f} {report['error'][name]:8.1e} {relative:13.2f}",
            flush=True,
        )


def runtime_flops(runtime: Runtime, config: DistilBertConfig, sequences: Sequences) -> int:
    """Return the matmul operations that a runtime computes, including padding."""
    if not runtime.pads:
        return matmul_flops(config, [len(sequence) for sequence in sequences], prunes=runtime.prunes)
    total = 0
    for batch in split_into_batches(sequences, max_sequences=BATCH_SIZE):
        lengths = [max(map(len, batch))] * len(batch)
        total += matmul_flops(config, lengths, prunes=runtime.prunes)
    return total


def _summarize(report: dict[str, Any]) -> None:
    """Print minidistil's speed relative to the fastest other runtime, for each case and dtype."""
    print("\nspeed relative to the fastest other runtime of the same dtype (above 1: minidistil is faster)")
    report["speedup"] = {}
    for case, rows in report["cases"].items():
        speedups = {}
        for dtype in report["matmul rate"]:
            others = [
                row["relative time"]
                for name, row in rows.items()
                if name.endswith(dtype) and not name.startswith("minidistil")
            ]
            if others and not math.isnan(min(others)):
                speedups[dtype] = min(others)
        report["speedup"][case] = speedups
        if speedups:
            print(f"  {case:<34} " + "  ".join(f"{name} {speedup:.2f}x" for name, speedup in speedups.items()))


def plot_runtimes(report: dict[str, Any], path: str) -> None:
    """Plot a report: tokens/s of each runtime for each batch, and the latency of one text over its length."""
    singles = {case: rows for case, rows in report["cases"].items() if case.startswith("one ")}
    batches = {case: rows for case, rows in report["cases"].items() if case not in singles}
    height = math.ceil(len(batches) / 2) + 1
    figure = new_figure(12, 4 * height)
    grid = figure.subplots(height, 2, squeeze=False).flatten()
    *unused, latency, legend = grid[len(batches) :]
    for axes in (*unused, legend):
        axes.remove()
    for axes, (case, rows) in zip(grid, batches.items(), strict=False):
        names = sorted(rows, key=lambda name: rows[name]["tokens/s"])
        colors = [COLORS[name.split()[-1]] for name in names]
        bars = axes.barh(names, [rows[name]["tokens/s"] for name in names], color=colors)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.margins(x=0.25)
        axes.locator_params(axis="x", nbins=5)
        axes.set(title=case, xlabel="tokens/s, padding not counted")
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text().startswith("minidistil") else "normal")
    markers: dict[str, str] = {}  # one per runtime, the same for all its dtypes
    for name in report["load"] if singles else ():
        runtime, dtype = name.rsplit(" ", 1)
        ours, marker = runtime == "minidistil", markers.setdefault(runtime, MARKERS[len(markers) % len(MARKERS)])
        lengths = [int(case.split()[-2]) for case in singles]
        milliseconds = [rows[name]["seconds"] * 1e3 for rows in singles.values()]
        style = {"linewidth": 2.5 if ours else 0.8, "linestyle": "-" if ours else "--", "marker": marker}
        latency.loglog(lengths, milliseconds, color=COLORS[dtype], label=name, markersize=4, **style)
    latency.set(title="one text", xlabel="tokens", ylabel="milliseconds")
    latency.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.05, 1)).set_in_layout(False)
    figure.suptitle(f"{report['machine']}; torch {report['torch']}")
    save_figure(figure, path)
