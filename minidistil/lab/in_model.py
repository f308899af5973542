"""Measure one implementation in a classifier: speed by the judge's clock, logits, and accuracy.

Each timed run has new texts of the same lengths, so that results of earlier runs are of no use, and the logits of
all runs are compared with those of plain PyTorch, which another process computes.
"""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..batching import split_into_batches
from ..benchmarks.measure import interquartile_range, machine, take_turns
from ..checkpoint.load import from_pretrained
from ..checks import check_count
from ..errors import InputError
from ..tokenizer import Tokenizer
from ..training.data import Example, Labels
from ..training.evaluation import METRICS, measure
from ..training.records import read_rows
from . import classifier
from .arena import Place, bytes_for
from .bench import refuse_untimed
from .registry import Implementation, find, implementations
from .report import in_model_lines
from .worker import LocalWorker, Worker, threads, timed_ask

MODEL = "minidistil-mnli"
DATA = str(Path(__file__).parents[2] / "tests" / "data" / "mnli_dev_matched_128.jsonl")
LIMIT = 3600.0  # seconds for one run of all texts
SHARES = 3  # runs that measure the operation's part of the time
PLAIN, CHANGED, FASTEST, TRANSFORMERS = range(4)  # handles


class Texts(NamedTuple):
    """Labeled texts for a classifier, sorted by length."""

    model: str
    labels: Labels
    examples: list[Example]
    ids: list[list[int]]


def bench_model(
    model: str,
    data: str,
    op: str,
    name: str,
    *,
    dtype: str = "float32",
    examples: int | None = 128,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """Check one implementation, measure it in a classifier, print a report, and return it.

    Args:
        model: a checkpoint.
        data: labeled texts in a format of `read_rows`.
        examples: number of texts to run, from the first.
        seconds: time limit.

    Raises InputError for an implementation that cannot be timed on this machine or that the gate rejects.
    """
    texts = read_texts(model, data, examples)
    refuse_untimed(find(op, name), dtype)
    worker = LocalWorker(implementations(op))
    report = measure_in_model(find(op, name), worker, worker, texts, dtype=dtype, seconds=seconds)
    print(*in_model_lines(report), sep="\n", flush=True)
    return report


def read_texts(model: str = MODEL, data: str = DATA, examples: int | None = 128) -> Texts:
    """Read labeled texts for a model, like `bench_model`. Raises InputError and CheckpointError."""
    check_count("examples", examples)
    if data == DATA and not Path(data).is_file():
        raise InputError("the labeled texts of minidistil's repository are not installed: pass --data")
    labels = Labels.from_config(from_pretrained(model, task="text-classification").config)
    chosen = labels.read(read_rows(data))[0][:examples]
    if not chosen:
        raise InputError(f"{data} has no labeled examples: expected at least one")
    pairs = [example.pair or "" for example in chosen] if any(example.pair for example in chosen) else None
    ids = Tokenizer.from_pretrained(model).encode([example.text for example in chosen], pairs).ids
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    return Texts(str(model), labels, [chosen[i] for i in order], [list(ids[i]) for i in order])


def measure_in_model(
    implementation: Implementation,
    worker: Worker,
    plain: Worker,
    texts: Texts,
    *,
    dtype: str = "float32",
    seconds: float = 20.0,
    transformers: bool = False,
) -> dict[str, Any]:
    """Measure one implementation in a classifier, like `bench_model`, without a check of the implementation.

    worker, plain: the processes of the implementation and of plain PyTorch. transformers: measure it too, and
    `fast()`. Raises Rejected.
    """
    model, labels, ids = texts.model, texts.labels, texts.ids
    op, device, shape = implementation.op, implementation.device, [len(ids), len(labels.names)]
    places: dict[int, Place] = {}
    for each in {id(worker): worker, id(plain): plain}.values():
        each.reserve(bytes_for(shape, "float32"))
        places[id(each)] = each.arena.place(shape, "float32")
    runs = {PLAIN: plain, CHANGED: worker} | ({FASTEST: plain, TRANSFORMERS: plain} if transformers else {})
    for handle, each in runs.items():
        kind = {FASTEST: "fastest", TRANSFORMERS: "transformers"}.get(handle, "minidistil")
        changes = {"op": op, "name": implementation.name} if handle == CHANGED else {}
        where = {"model": model, "dtype": dtype, "device": device}
        each.ask("load_model", limit=LIMIT, handle=handle, kind=kind, **where, **changes)

    turns = [ids]  # the texts of each turn: the given ones, then others of the same lengths
    logits: dict[int, list[Tensor]] = {handle: [] for handle in runs}

    def run(handle: int) -> float:
        turn, each = len(logits[handle]), runs[handle]
        if turn == len(turns):
            turns.append(_other_texts(ids))
        each.ask("set_texts", handle=handle, ids=turns[turn])
        place = places[id(each)]
        _, passed = timed_ask(each, "classify", limit=LIMIT, handle=handle, logits=place)
        logits[handle].append(each.arena.tensor(place).clone())
        return passed

    def call(handle: int) -> Callable[[], float]:
        return lambda: run(handle)

    with contextlib.nullcontext() if isinstance(worker, LocalWorker) else threads(1):
        for handle in runs:
            run(handle)
        times = dict(zip(runs, take_turns(list(map(call, runs)), seconds=seconds), strict=True))
    shares = [plain.ask("share", limit=LIMIT, handle=PLAIN, op=op)["share"] for _ in range(SHARES)]
    metric = METRICS[labels.problem_type][0]
    scores = [
        measure(logits[handle][0], texts.examples, labels.problem_type, labels.names)[metric]
        for handle in (PLAIN, CHANGED)
    ]
    medians = {handle: statistics.median(each) for handle, each in times.items()}
    tokens = sum(map(len, ids))
    report = {"op": op, "name": implementation.name, "model": model, "dtype": dtype, **machine(device)}
    report |= {"examples": len(ids), "tokens": tokens, "share": statistics.median(shares)}
    report["batches"] = len(list(split_into_batches(ids, max_tokens=classifier.TOKENS)))
    report |= {"seconds": [medians[handle] for handle in (PLAIN, CHANGED)]}
    report |= {"spread": [interquartile_range(times[handle]) for handle in (PLAIN, CHANGED)]}
    report |= {"metric": metric, "score": [score["value"] for score in scores]}
    report |= {"speed": medians[PLAIN] / medians[CHANGED], "most": 1 / max(1 - report["share"], 1e-9)}
    titles = ("plain PyTorch", implementation.title, "fastest operations", "transformers, the same batches padded")
    report["rows"] = [
        {"name": titles[handle], "seconds": medians[handle], "tokens per second": tokens / medians[handle]}
        | {"largest change": _largest_change(logits[PLAIN], logits[handle])}
        for handle in runs
    ]
    return report | {"largest change": report["rows"][CHANGED]["largest change"]}


def _largest_change(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest difference of a logit, in all turns."""
    return max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))


def _other_texts(ids: list[list[int]]) -> list[list[int]]:
    """Draw token ids for texts of the same lengths. The first and last of each stay."""
    known = sorted({token for text in ids for token in text})
    return [
        [text[0], *random.choices(known, k=len(text) - 2), text[-1]] if len(text) > 2 else text for text in ids
    ]
