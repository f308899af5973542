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

from ..benchmarks.race import spread_of
from ..benchmarks.runtimes import Sequences, by_count, by_tokens, load_transformers, padded
from ..benchmarks.startup import least_seconds, product_operations, read_pairs, write_base
from ..checkpoint.load import from_pretrained
from ..checks import check_count
from ..errors import InputError
from ..layout import Batch
from ..tokenizer import Tokenizer
from .registry import DTYPES, fast
from .timing import device_here, machine_here, seconds_of, take_turns

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
    device = device_here()
    with TemporaryDirectory() as folder:
        if base:
            write_base(model, folder)
        where = Path(folder if base else model)
        ids = Tokenizer.from_pretrained(where).encode(premises, hypotheses).ids
        ours = from_pretrained(
            where, task="text-classification", dtype=dtype, device=device, ops=fast(device, dtype)
        )
        theirs = load_transformers(where, dtype, "sdpa").to(device)
    in_order, lengths = sorted(ids, key=len), [len(sequence) for sequence in ids]

    def mine(sequences: Sequences, size: int) -> Callable[[], Tensor]:
        return lambda: _all(by_tokens(sequences, size), lambda some: ours(Batch.from_lists(some).to(device)))

    def peers(call: Callable[..., Any], sequences: Sequences, size: int) -> Callable[[], Tensor]:
        def classify(some: Sequences) -> Tensor:
            given, mask = (torch.from_numpy(x).to(device) for x in padded(some))
            return call(input_ids=given, attention_mask=mask).logits

        return lambda: _all(by_count(sequences, size), classify)

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
    taken = take_turns([functools.partial(seconds_of, run, device) for run in runs.values()], seconds)
    report = {"model": "DistilBERT base, random weights" if base else model, "dtype": dtype, **machine_here()}
    report |= {"texts": len(ids), "tokens": sum(lengths), "product rate": product_rate(device, dtype)}
    first = statistics.median(taken[0])
    report["share of the product rate"] = product_operations(ours.config, lengths) / first / report["product rate"]
    report["largest difference"] = float((answers[0] - answers[3]).abs().max())
    report["rows"] = [
        {"name": name, "seconds": (median := statistics.median(some)), "spread": spread_of(some)}
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


def product_rate(device: str, dtype: str) -> float:
    """Measure the rate of a large square product, in operations a second."""
    size = SQUARE[device]
    x = torch.randn(size, size).to(device, getattr(torch, dtype))

    return 2 * size**3 / least_seconds(lambda: torch.mm(x, x)[0, 0].item(), 10)  # item() waits for the device


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
