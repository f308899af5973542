"""Compare bulk inference of a whole model with transformers on this device, in tokens per second.

All runs classify the same token ids in this process, in turns, with the fastest of a few batch sizes. minidistil
uses `fast(device)`.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ..batching import split_into_batches
from ..benchmarks.measure import (
    default_device,
    interquartile_range,
    machine,
    matmul_rate,
    seconds_of,
    take_turns,
)
from ..benchmarks.runtimes import Sequences, load_transformers, padded
from ..benchmarks.workload import matmul_flops, read_pairs, write_base_model
from ..checkpoint.load import from_pretrained
from ..checks import check_count
from ..errors import InputError
from ..layout import Batch
from ..tokenizer import Tokenizer
from ..training.progress import progress_bar
from .registry import DTYPES, fast

TOKENS = (2048, 4096, 16384)  # per batch of minidistil: sizes to try
TEXTS = (16, 32, 64, 128, 256)  # per batch of transformers: sizes to try
DEFAULT_TEXTS = 32  # per batch of transformers, without sorting
SQUARE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matmul that measures the ceiling


def bulk(
    model: str,
    pairs: str,
    *,
    base: bool = False,
    dtype: str = "bfloat16",
    texts: int = 1024,
    seconds: float = 30.0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure throughput, print a report, and return it.

    Args:
        model: a checkpoint for text classification.
        pairs: a JSONL file with premise and hypothesis.
        base: use a DistilBERT base with random weights, with the checkpoint's tokenizer.
        texts: number of pairs to run, from the first.
        seconds: time limit. Each run is timed at least five times, and until its mean is known to 2 %.
        quiet: show no progress on stderr.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    check_count("texts", texts)
    premises, hypotheses = read_pairs(pairs, texts)
    device = default_device()
    with TemporaryDirectory() as folder:
        if base:
            write_base_model(model, folder)
        path = Path(folder if base else model)
        ids = Tokenizer.from_pretrained(path).encode(premises, hypotheses).ids
        ops = fast(device, dtype)
        classifier = from_pretrained(path, task="text-classification", dtype=dtype, device=device, ops=ops)
        peer = load_transformers(path, dtype, "sdpa").to(device)
    by_length, lengths = sorted(ids, key=len), [len(sequence) for sequence in ids]

    def run_minidistil(sequences: Sequences, max_tokens: int) -> Callable[[], Tensor]:
        def classify(batch: Sequences) -> Tensor:
            return classifier(Batch.from_lists(batch).to(device))

        return lambda: _classify_all(split_into_batches(sequences, max_tokens=max_tokens), classify)

    def run_peer(call: Callable[..., Any], sequences: Sequences, max_sequences: int) -> Callable[[], Tensor]:
        def classify(batch: Sequences) -> Tensor:
            input_ids, mask = (torch.from_numpy(x).to(device) for x in padded(batch))
            return call(input_ids=input_ids, attention_mask=mask).logits

        return lambda: _classify_all(split_into_batches(sequences, max_sequences=max_sequences), classify)

    with progress_bar("bulk", 4, unit="step", leave=False, quiet=quiet) as bar:
        tokens = _fastest(TOKENS, lambda size: run_minidistil(by_length, size), device)
        bar.update()
        count = _fastest(TEXTS, lambda size: run_peer(peer, by_length, size), device)
        bar.update()
        compiled = torch.compile(peer, dynamic=True)
        runs = {
            f"minidistil, sorted, {tokens} tokens per batch": run_minidistil(by_length, tokens),
            f"minidistil, unsorted, {tokens} tokens per batch": run_minidistil(ids, tokens),
            f"transformers SDPA, unsorted, {DEFAULT_TEXTS} texts per batch": run_peer(peer, ids, DEFAULT_TEXTS),
            f"transformers SDPA, sorted, {count} texts per batch": run_peer(peer, by_length, count),
            f"transformers compiled, sorted, {count} texts per batch": run_peer(compiled, by_length, count),
        }
        logits = [run() for run in runs.values()]  # also warms up
        bar.update()
        timed = [functools.partial(seconds_of, run, device) for run in runs.values()]
        times = take_turns(timed, seconds=seconds)
        bar.update()
    size, first = SQUARE[device], statistics.median(times[0])
    rate = matmul_rate([(size, size)], dtype, device, rows=size)
    report = {"model": "DistilBERT base, random weights" if base else model, "dtype": dtype, **machine(device)}
    report |= {"texts": len(ids), "tokens": sum(lengths), "matmul rate": rate}
    report["share of the matmul rate"] = matmul_flops(classifier.config, lengths) / first / rate
    report["largest difference"] = float((logits[0] - logits[3]).abs().max())
    report["rows"] = [
        {"name": name, "seconds": (median := statistics.median(runs)), "spread": interquartile_range(runs)}
        | {"tokens per second": sum(lengths) / median, "ratio": median / first}
        for name, runs in zip(runs, times, strict=True)
    ]
    print(*lines(report), sep="\n", flush=True)
    return report


@torch.inference_mode()
def _classify_all(batches: Iterable[Sequences], classify: Callable[[Sequences], Tensor]) -> Tensor:
    """Classify all batches, with one device synchronization at the end."""
    return torch.cat([classify(batch) for batch in batches]).float().cpu()


def _fastest(sizes: Sequence[int], run_with: Callable[[int], Callable[[], Any]], device: str) -> int:
    """Return the batch size with the shortest run."""
    for size in sizes:
        run_with(size)()
    return min(sizes, key=lambda size: min(seconds_of(run_with(size), device) for _ in range(2)))


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report as lines of text."""
    yield f"{report['model']}, {report['dtype']}; {report['machine']}, torch {report['torch']}"
    yield f"{report['texts']:,} texts, {report['tokens']:,} tokens"
    width = max(len(row["name"]) for row in report["rows"])
    yield f"  {'':<{width}} {'ms':>9} {'IQR':>8} {'tokens/s':>10}  time / first"
    for row in report["rows"]:
        times = f"{row['seconds'] * 1e3:9.1f} {row['spread'] * 1e3:8.1f}"
        yield f"  {row['name']:<{width}} {times} {row['tokens per second']:10,.0f}  {row['ratio']:.2f}"
    share, size = report["share of the matmul rate"], SQUARE[report["device"]]
    yield f"matmuls of the first row: {share:.0%} of {report['matmul rate'] / 1e9:,.0f} GFLOP/s, a {size}³ matmul"
    yield f"largest difference from transformers' logits: {report['largest difference']:.1e}"
