"""The whole model in bulk on this device, beside transformers: real tokens a second, and the products' share.

All classify the same token ids, in this process, in turns; the batches' size is each one's best of a few. Ours
runs with `fast(device)`.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
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
from .registry import DTYPES, fast

TOKENS = (2048, 4096, 16384)  # of a batch of ours
TEXTS = (16, 32, 64, 128, 256)  # of a batch of theirs
GIVEN = 32  # texts of a batch of theirs where nothing is chosen
SQUARE = {"cpu": 2048, "cuda": 8192}  # of the product whose rate is the ceiling


@torch.inference_mode()
def bulk(
    model: str,
    pairs: str,
    *,
    base: bool = False,
    dtype: str = "bfloat16",
    texts: int = 1024,
    seconds: float = 30.0,
) -> dict[str, Any]:
    """Measure, print a report, and return it.

    model: a checkpoint for text classification. pairs: a JSONL file with premise and hypothesis, of which the
    first `texts` are run. base: take random weights of DistilBERT base's size with that checkpoint's tokenizer.
    seconds: when to stop where times are not known to 2 % before; each is taken five times at least.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    check_count("texts", texts)
    premises, hypotheses = read_pairs(pairs, texts)
    device = default_device()
    with TemporaryDirectory() as folder:
        if base:
            write_base_model(model, folder)
        where = Path(folder if base else model)
        ids = Tokenizer.from_pretrained(where).encode(premises, hypotheses).ids
        ours = from_pretrained(
            where, task="text-classification", dtype=dtype, device=device, ops=fast(device, dtype)
        )
        theirs = load_transformers(where, dtype, "sdpa").to(device)
    in_order, lengths = sorted(ids, key=len), [len(sequence) for sequence in ids]

    def mine(sequences: Sequences, size: int) -> Callable[[], Tensor]:
        return lambda: _all(
            split_into_batches(sequences, max_tokens=size), lambda some: ours(Batch.from_lists(some).to(device))
        )

    def peers(call: Callable[..., Any], sequences: Sequences, size: int) -> Callable[[], Tensor]:
        def classify(some: Sequences) -> Tensor:
            given, mask = (torch.from_numpy(x).to(device) for x in padded(some))
            return call(input_ids=given, attention_mask=mask).logits

        return lambda: _all(split_into_batches(sequences, max_sequences=size), classify)

    token_size = _best(TOKENS, lambda size: mine(in_order, size), device)
    text_size = _best(TEXTS, lambda size: peers(theirs, in_order, size), device)
    compiled = torch.compile(theirs, dynamic=True)
    runs = {
        f"minidistil, sorted, {token_size} tokens a batch": mine(in_order, token_size),
        f"minidistil, as given, {token_size} tokens a batch": mine(ids, token_size),
        f"transformers SDPA, as given, {GIVEN} texts a batch": peers(theirs, ids, GIVEN),
        f"transformers SDPA, sorted, {text_size} texts a batch": peers(theirs, in_order, text_size),
        f"transformers compiled, sorted, {text_size} texts a batch": peers(compiled, in_order, text_size),
    }
    answers = [run() for run in runs.values()]  # which also warms all up
    taken = take_turns([functools.partial(seconds_of, run, device) for run in runs.values()], seconds=seconds)
    report = {"model": "DistilBERT base, random weights" if base else model, "dtype": dtype, **machine(device)}
    size = SQUARE[device]
    report |= {"texts": len(ids), "tokens": sum(lengths)}
    report |= {"product rate": matmul_rate([(size, size)], dtype, device, rows=size)}
    first = statistics.median(taken[0])
    report["share of the product rate"] = matmul_flops(ours.config, lengths) / first / report["product rate"]
    report["largest difference"] = float((answers[0] - answers[3]).abs().max())
    report["rows"] = [
        {"name": name, "seconds": (median := statistics.median(some)), "spread": interquartile_range(some)}
        | {"tokens a second": sum(lengths) / median, "ratio": median / first}
        for name, some in zip(runs, taken, strict=True)
    ]
    print(*show(report), sep="\n", flush=True)
    return report


def _all(batches: Iterator[Sequences], classify: Callable[[Sequences], Tensor]) -> Tensor:
    """Classify all batches; the wait for the device is at the end."""
    return torch.cat([classify(some) for some in batches]).float().cpu()


def _best(sizes: Sequence[int], run_of: Callable[[int], Callable[[], Any]], device: str) -> int:
    """Give the size with which a run takes least."""
    for size in sizes:
        run_of(size)()
    return min(sizes, key=lambda size: min(seconds_of(run_of(size), device) for _ in range(2)))


def show(report: dict[str, Any]) -> Iterator[str]:
    """Say it for people, a line each."""
    yield f"{report['model']}, {report['dtype']}; {report['machine']}, torch {report['torch']}"
    yield f"{report['texts']:,} texts, {report['tokens']:,} tokens"
    width = max(len(row["name"]) for row in report["rows"])
    yield f"  {'':<{width}} {'ms':>9} {'IQR':>8} {'tokens/s':>10}  ours is faster by"
    for row in report["rows"]:
        times = f"{row['seconds'] * 1e3:9.1f} {row['spread'] * 1e3:8.1f}"
        yield f"  {row['name']:<{width}} {times} {row['tokens a second']:10,.0f}  {row['ratio']:.2f}"
    rate = f"{report['product rate'] / 1e9:,.0f} GFLOP/s of a product of {SQUARE[report['device']]}³"
    yield f"products run, over {rate}: {report['share of the product rate']:.2f}"
    yield f"largest difference of a logit from transformers': {report['largest difference']:.1e}"
