"""Is an implementation fast, and what does that do to a real model?

`bench` times an operation's implementations on shapes of DistilBERT base, beside what the machine allows: the
bytes that must move, over the measured rate of a copy, or the operations that must be done, over the measured rate
of a product, whichever takes longer. `bench_model` puts one implementation into a checkpoint.

Nothing is timed that the gate rejects. An input changes before each timed call, and what was timed is asked once
more, on fresh numbers in the same memory: one that is right only where nobody takes its time is found.

Letters in shapes: T tokens, K width of a product's input, C labels.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batching import split_into_batches
from ..benchmarks.measure import (
    copy_rate,
    default_device,
    interquartile_range,
    machine,
    mark,
    matmul_rate,
    seconds_between,
    seconds_of,
    take_turns,
)
from ..benchmarks.plots import check_plot, new_figure, save_figure
from ..checkpoint.load import from_pretrained
from ..checks import check_count
from ..errors import InputError
from ..layout import Batch, Layout
from ..ops import Ops, Product
from ..pipelines.inference import TOKENS
from ..tokenizer import Tokenizer
from ..training.data import Labels, read_rows
from ..training.evaluate import METRICS, measure
from . import cases, gate
from .cases import ALL, Case, Inputs, as_tuple
from .numpy_ops import as_array
from .registry import DTYPES, REFERENCE, Implementation, find, implementations

WIDTH, HIDDEN, HEADS, WORDS, PLACES = 768, 3072, 12, 30522, 512  # of DistilBERT base
RAGGED = [15, 37, 50, 51, 20, 55, 27, 70, 59, 44, 58, 45, 101, 24, 115, 25, 22, 60, 34, 46, 28, 16, 43, 37, 25]
RAGGED += [25, 43, 53, 23, 35, 27, 45, 36, 55, 28, 71, 44, 59, 49, 46, 53, 31, 52, 70, 26, 44, 26]  # pairs of MNLI
TEXTS, EQUAL = ([16], [128], RAGGED), [128] * 16  # lengths; the equal ones for attention, to which they matter
SHAPES = {  # of products: K, N, and how many read one input
    "qkv": [(WIDTH, WIDTH, 3)],
    "linear": [(WIDTH, WIDTH, 1), (HIDDEN, WIDTH, 1)],
    "linear_gelu": [(WIDTH, HIDDEN, 1)],
}
CHANGED = {"embed": "position", "attention": "q"}  # the input that changes before a timed call; of the others x
FLUSHED = {"cpu": 2**26, "cuda": 2**28}  # bytes that drive out of a cache what lies in it
NOISY = 0.25  # the interquartile range of times, over their median, above which a speed is doubtful
SEED, FRESH = 10, 11  # others than the gate's


def bench(
    op: str,
    *,
    dtype: str = "float32",
    names: Sequence[str] | None = None,
    plot: str | None = None,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Time the implementations of an operation, print a report, and return it.

    names: only these. plot: a file for a picture of it, of the kind that its name says (extra `plot`). seconds:
    when to stop with a case and a cold cache, and again with a warm one, where its times are not known to 2 %
    before; each is taken five times at least. `InputError` for what is unknown, and for a name that cannot run.
    """
    check_plot(plot)
    found = implementations(op) if names is None else [find(op, name) for name in names]
    reasons = {one.name: why_not(one, dtype) for one in found}
    report = {
        "op": op,
        "dtype": dtype,
        **machine(default_device()),
        "ceilings": ceilings(dtype),
        "rejected": {},
        "cases": {},
    }
    report["left out"] = {name: reason for name, reason in reasons.items() if reason is not None}
    print(*_head(report), sep="\n", flush=True)
    ones = [one for one in found if reasons[one.name] is None]
    for one in ones:
        if (wrong := _wrong(one)) is not None:
            report["rejected"][one.name] = f"not timed: rejected by the gate: {wrong}"
    for case in timed_cases(op):
        ones = [one for one in ones if one.name not in report["rejected"]]
        if ones:
            report["cases"][case.name] = _time_case(case, ones, report, seconds)
    for timed in report["cases"].values():
        _finish(timed["rows"], report["rejected"])
    print(*show(report), sep="\n", flush=True)
    if plot is not None:
        draw(report, plot)
    return report


def why_not(one: Implementation, dtype: str) -> str | None:
    """Say why an implementation is not timed here; None if it is."""
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    if one.lacks is not None:
        return one.lacks
    if one.name == REFERENCE:
        return "it is the truth, in NumPy, whose threads would be in the others' way"
    if one.device == "cpu" and "triton" in one.needs:
        return "interpreted: its time says nothing"
    if one.device != default_device():
        return "it is for CPUs, and the others are timed on the CUDA device"
    return None if dtype in one.dtypes else f"it does not claim {dtype}"


def _wrong(one: Implementation) -> str | None:
    """Ask the gate, and give its first finding; None if there is none."""
    findings = gate.check(one).findings
    if "compiler" in one.needs:
        torch.compiler.reset()  # what it compiled for the gate counts towards how often it will
    return next((f"{found.case} ({found.dtype}): {found.reason}" for found in findings), None)


# What is timed, and what it must cost


def timed_cases(op: str) -> list[Case]:
    """Give what an operation is timed on: one text, a longer one, and a bulk in the lengths of real pairs."""
    found = []
    for lengths in (*TEXTS, EQUAL) if op in ("attention", "block") else TEXTS:
        title, tokens = _title(lengths), sum(lengths)
        if op == "attention":
            found.append(cases.attention_case(title, lengths, HEADS, WIDTH // HEADS))
        elif op == "feed_forward":
            found.append(dataclasses.replace(cases.feed_forward_case(tokens, WIDTH, HIDDEN), name=title))
        elif op == "block":
            found.append(cases.block_case(title, lengths, WIDTH, HEADS, HIDDEN))
        elif op == "embed":
            found.append(Case(title, _embed(lengths)))
        elif op == "add_norm":
            found.append(dataclasses.replace(cases.add_norm_case(tokens, WIDTH), name=title))
        for inputs, outputs, parts in SHAPES.get(op, ()):
            case = cases.product_case(tokens, inputs, outputs, parts=parts)
            found.append(dataclasses.replace(case, name=f"{title}; {inputs} to {parts * outputs}"))
    return found


def _title(lengths: list[int]) -> str:
    few, many = min(lengths), max(lengths)
    if len(lengths) == 1:
        return f"1 text of {many} tokens"
    return f"{len(lengths)} texts of {many if few == many else f'{few} to {many}'} tokens, {sum(lengths):,} in all"


def _embed(lengths: list[int]) -> Callable[[torch.Generator], Inputs]:
    """Tables of their real sizes: what is looked up in a small one would lie in a cache."""

    def make(draw: torch.Generator) -> Inputs:
        positions = Layout.from_lengths(lengths).positions  # (T,)
        ids = torch.randint(WORDS, positions.shape, generator=draw)  # (T,)
        word, position = (cases.numbers("ordinary", (rows, WIDTH), draw) for rows in (WORDS, PLACES))
        weights = cases.norm_weights(WIDTH, draw)
        return {
            "ids": ids,
            "positions": positions,
            "word": word,
            "position": position,
            **weights,
            "eps": cases.EPS,
        }

    return make


def bytes_of(op: str, i: Inputs, outputs: Sequence[Tensor]) -> int:
    """Count the bytes that must move: each input and output once; of a table, each row that is looked up."""
    moved = {name: x.nbytes for name, x in i.items() if isinstance(x, Tensor)}
    if op == "embed":
        for name, looked_up in (("word", "ids"), ("position", "positions")):
            moved[name] = len(i[looked_up].unique()) * i[name][0].nbytes
    return sum(moved.values()) + sum(y.nbytes for y in outputs)


def operations_of(op: str, i: Inputs, outputs: Sequence[Tensor]) -> int:
    """Count the operations that must be done, a product's bias and GELU and a softmax left out."""
    of_products = 0
    if isinstance(ALL[op].plain, Product):
        weights = (x for x in i.values() if isinstance(x, Tensor) and x is not i["x"] and x.ndim == 2)
        of_products = 2 * len(i["x"]) * sum(weight.numel() for weight in weights)
    if op in ("attention", "block"):
        lengths = zip(i["queries"].lengths, i["keys"].lengths, strict=True)
        width = outputs[0][0].numel()  # of all heads
        return of_products + 4 * width * sum(length_q * length for length_q, length in lengths)
    if of_products:
        return of_products
    return 8 * sum(y.numel() for y in outputs)  # add, sum, subtract, square, sum, and three to scale and shift


def ceilings(dtype: str) -> dict[str, float]:
    """Measure the rate of a copy, in bytes read and written per second, and of a linear layer, in FLOP/s."""
    device = default_device()
    return {"copy rate": copy_rate(device), "product rate": matmul_rate([(WIDTH, HIDDEN)], dtype, device)}


# How it is timed


@torch.inference_mode()
def _time_case(case: Case, ones: list[Implementation], report: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Time all on the same inputs, then check them; what is wrong goes into the report as rejected."""
    op, device = report["op"], report["device"]
    dtype = getattr(torch, report["dtype"])
    questions = {one.name: gate.Question(one, ALL[op], case, dtype, device) for one in ones}
    inputs, fences = next(iter(questions.values())).inputs(SEED)
    outputs = ALL[op].run(ALL[op].plain, inputs)
    calls = {}
    for one in ones:
        try:
            call = _ask(ALL[op].call, one.value, inputs)
            _ask(call)  # to warm up, and to choose kernels for these shapes
            calls[one.name] = call
        except gate.Wrong as wrong:
            report["rejected"][one.name] = f"not timed: {case.name}: {wrong}"
    moved, done = bytes_of(op, inputs, outputs), operations_of(op, inputs, outputs)
    by_memory, by_products = moved / report["ceilings"]["copy rate"], done / report["ceilings"]["product rate"]
    bound = max(by_memory, by_products)
    rows: dict[str, Any] = {name: {} for name in calls}
    flushed, changed = torch.zeros(FLUSHED[device] // 4, device=device), inputs[CHANGED.get(op, "x")]
    for cache in ("cold", "warm"):
        timers = [_timer(call, cache, changed, flushed) for call in calls.values()]
        for name, runs in zip(calls, take_turns(timers, seconds=seconds), strict=True):
            median = statistics.median(runs)
            rows[name][cache] = {"seconds": median, "spread": interquartile_range(runs), "share": bound / median}
            rows[name][cache]["runs"] = len(runs)
    for name, reason in recheck(questions, inputs, fences, calls).items():
        report["rejected"][name] = f"time withdrawn: {case.name}, fresh numbers: {reason}"
    by = "memory" if by_memory >= by_products else "products"
    return {"bytes": moved, "operations": done, "bound": bound, "bound by": by, "rows": rows}


def _timer(call: Callable[[], Any], cache: str, changed: Tensor, flushed: Tensor) -> Callable[[], float]:
    """Give a timed call after a change of its input. On CUDA a flush before it hides what launches cost."""
    device = changed.device.type

    def timed() -> float:
        if cache == "warm":
            if device == "cuda":
                flushed.add_(1)
            call()
        changed.neg_()
        if cache == "cold":
            flushed.add_(1)  # read and written: what is only written may go past a cache
        return seconds_of(call, device)

    return timed


def recheck(
    questions: dict[str, gate.Question], inputs: Inputs, fences: Any, calls: dict[str, Callable[[], Any]]
) -> dict[str, str]:
    """Ask what was timed on fresh numbers, in the timed ones' memory, as the gate would: what is wrong, by name.

    A product keeps its weights, which it has prepared.
    """
    first = next(iter(questions.values()))
    operation, fresh = first.operation, first.case.make(torch.Generator().manual_seed(FRESH))
    for name in ["x"] if isinstance(operation.plain, Product) else fresh:
        if isinstance(fresh[name], Tensor):
            inputs[name].copy_(fresh[name])
    truths = operation.forward({name: as_array(x) for name, x in inputs.items()})
    expected = {f"output {i}" if len(truths) > 1 else "the output": truth for i, truth in enumerate(truths)}
    plain_of = {question.one.precision: question.plain for question in questions.values()}
    plains = {precision: list(operation.run(plain, inputs)) for precision, plain in plain_of.items()}
    wrong = {}
    for name, call in calls.items():
        try:
            found, question = list(as_tuple(_ask(call))), questions[name]
            question.compare_shapes(expected, found)
            question.judge(expected, found, plains[question.one.precision], inputs)
            gate.look_at(fences)
        except gate.Wrong as error:
            wrong[name] = str(error)
    return wrong


def _ask(call: Callable[..., Any], *given: Any) -> Any:
    try:
        return call(*given)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise gate.Wrong(f"it raises {type(error).__name__}: {said}") from error


# What people see


def _finish(rows: dict[str, Any], rejected: dict[str, str]) -> None:
    """Take out what is rejected, and say how many times plain PyTorch's speed the others have."""
    for name in rejected:
        rows.pop(name, None)
    for row in rows.values():
        for cache, found in row.items():
            plain = rows.get("torch", row)[cache]
            found["speed"] = plain["seconds"] / found["seconds"] if "torch" in rows else None
            found["noisy"] = any(one["spread"] > NOISY * one["seconds"] for one in (found, plain))


def _head(report: dict[str, Any]) -> Iterator[str]:
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    yield f"{report['op']} in {report['dtype']}; {report['machine']}, {threads}; torch {report['torch']}"
    copies, products = (rate / 1e9 for rate in report["ceilings"].values())
    yield f"ceilings: copies {copies:.1f} GB/s, products {products:,.0f} GFLOP/s"
    yield f"cold: {FLUSHED[report['device']] >> 20} MB are written before; warm: the same call is made before"
    yield "of bound: the least time that these ceilings allow, over the time; caches, and 8 bits, can go beyond"
    yield f"speed: over torch's; with ? where an IQR is above {NOISY:.0%} of its time: the machine had other work"


def show(report: dict[str, Any]) -> Iterator[str]:
    """Say what was found for people, a line each."""
    said = {name: f"left out: {reason}" for name, reason in report["left out"].items()} | report["rejected"]
    names = {*said, *(name for case in report["cases"].values() for name in case["rows"])}
    width = max(map(len, names), default=0)
    yield from (f"  {name:<{width}}  {reason}" for name, reason in said.items())
    for title, case in report["cases"].items():
        cost = f"{case['bytes'] / 1e6:,.2f} MB, {case['operations'] / 1e6:,.1f} MFLOP"
        yield f"\n{title}: {cost}, at least {case['bound'] * 1e3:.4f} ms by {case['bound by']}"
        columns = f"{'IQR':>9} {'of bound':>8} {'speed':>7}"
        yield f"  {'':<{width}} {'cold ms':>10} {columns}   {'warm ms':>10} {columns}"
        for name, row in sorted(case["rows"].items(), key=lambda item: item[1]["cold"]["seconds"]):
            yield f"  {name:<{width}} {_cells(row['cold'])}   {_cells(row['warm'])}"


def _cells(found: dict[str, Any]) -> str:
    speed = "" if found["speed"] is None else f"{found['speed']:.2f}{'?' if found['noisy'] else 'x'}"
    return f"{found['seconds'] * 1e3:10.4f} {found['spread'] * 1e3:9.4f} {found['share']:8.0%} {speed:>7}"


def draw(report: dict[str, Any], path: str) -> None:
    """Draw a report of `bench`, times with a cold cache: under the machine's roofline, and as bars."""
    found, (copies, products) = report["cases"], report["ceilings"].values()
    names = list(next(iter(found.values()))["rows"]) if found else []  # all that is left was timed in each case
    figure = new_figure(6 + 3.5 * len(found), 5)
    roof, *bars = figure.subplots(1, 1 + len(found), squeeze=False)[0]
    dense = [case["operations"] / case["bytes"] for case in found.values()]  # operations for each byte
    ridge = products / copies  # above which products are the ceiling, and below it copies
    reach = [min([*dense, ridge]) / 4, ridge, max([*dense, ridge]) * 4]
    roof.loglog(reach, [min(products, copies * x) / 1e9 for x in reach], color="black", label="ceilings")
    for i, name in enumerate(names):
        times = [case["rows"][name]["cold"]["seconds"] for case in found.values()]
        rates = [case["operations"] / time / 1e9 for case, time in zip(found.values(), times, strict=True)]
        roof.plot(dense, rates, "o", color=f"C{i}", label=name)
    for axes, (title, case) in zip(bars, found.items(), strict=True):
        times = [case["rows"][name]["cold"]["seconds"] * 1e3 for name in names]
        drawn = axes.barh(names, times, color=[f"C{i}" for i in range(len(names))])
        axes.bar_label(drawn, fmt="{:.3g}", padding=3)
        axes.axvline(case["bound"] * 1e3, color="black", linestyle=":")
        axes.set(xlabel="ms; dotted: the bound")
        axes.set_title(title.replace("; ", "\n"), fontsize="small")
        axes.margins(x=0.25)
    roof.set(title="roofline", xlabel="operations for each byte", ylabel="GFLOP/s")
    roof.legend(fontsize="x-small")
    figure.suptitle(next(_head(report)))
    save_figure(figure, path)


# In a whole model


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
    """Measure what one implementation does to a classifier, print it, and return it.

    model: a checkpoint. data: labelled texts, as for `read_rows`, of which so many `examples` at most are run, in
    batches of about 2048 tokens. seconds: as for `bench`. `InputError` for an implementation that cannot be timed
    here, or that the gate rejects.
    """
    check_count("examples", examples)
    one, plain = find(op, name), ALL[op].plain
    if (reason := why_not(one, dtype)) is not None:
        raise InputError(f"{one.title} is not timed: {reason}")
    if (wrong := _wrong(one)) is not None:
        raise InputError(f"{one.title} is not timed: rejected by the gate: {wrong}")
    loaded = from_pretrained(model, task="text-classification", dtype=dtype, device=one.device, ops=Ops())
    labels = Labels.of(loaded.config)
    found = labels.read(read_rows(data))[0][:examples]
    pairs = [example.pair or "" for example in found] if any(example.pair for example in found) else None
    ids = Tokenizer.from_pretrained(model).encode([example.text for example in found], pairs).ids
    batches = [Batch.from_lists(some).to(one.device) for some in split_into_batches(ids, max_tokens=TOKENS)]
    report = {"op": op, "name": name, "model": model, "dtype": dtype, **machine(default_device())}
    report |= {"examples": len(ids), "tokens": sum(map(len, ids)), "batches": len(batches)}

    @torch.inference_mode()
    def run(model: Any) -> Tensor:
        return torch.cat([model(batch) for batch in batches])  # (n, C)

    def part(value: Any) -> Callable[[], float]:
        """The time of the operation alone, within the model."""
        spans: list[tuple[Any, Any]] = []
        watched = loaded.with_ops(**{op: _watched(value, one.device, spans)})

        def timed() -> float:
            spans.clear()
            run(watched)
            return sum(seconds_between(*span) for span in spans)

        return timed

    with_it = loaded.with_ops(**{op: one.value})
    before, after = (run(which).float().cpu() for which in (loaded, with_it))
    metric = METRICS[labels.problem_type][0]
    scores = [measure(logits, found, labels.problem_type, labels.names)[metric] for logits in (before, after)]
    report |= {"metric": metric, "score": [score["value"] for score in scores]}
    wholes = [lambda which=which: seconds_of(lambda: run(which), one.device) for which in (loaded, with_it)]
    taken = take_turns([*wholes, part(plain), part(one.value)], seconds=seconds)
    whole, whole_with_it, inner, inner_with_it = map(statistics.median, taken)
    share, speed = inner / whole, inner / inner_with_it
    report |= {"seconds": [whole, whole_with_it], "spread": [interquartile_range(runs) for runs in taken[:2]]}
    report |= {"share": share, "speed of the operation": speed}
    report |= {"speed allowed": 1 / (1 - share + share / speed)}
    report |= {"speed": whole / whole_with_it, "largest change": float((after - before).abs().max())}
    print(*show_model(report), sep="\n", flush=True)
    return report


def _watched(value: Any, device: str, spans: list[tuple[Any, Any]]) -> Any:
    """Give the same implementation, whose calls leave when they began and ended."""
    call = value.run if isinstance(value, Product) else value

    def run(*given: Any) -> Any:
        begin = mark(device)
        found = call(*given)
        spans.append((begin, mark(device)))
        return found

    return value._replace(run=run) if isinstance(value, Product) else run


def show_model(report: dict[str, Any]) -> Iterator[str]:
    """Say a report of `bench_model` for people, a line each."""
    yield f"{report['op']} {report['name']} in {report['model']}, {report['dtype']}; {report['machine']}"
    yield f"{report['examples']} examples, {report['tokens']:,} tokens, {report['batches']} batches"
    pairs = zip(report["seconds"], report["spread"], strict=True)
    times = [f"{seconds * 1e3:.1f} ms (IQR {spread * 1e3:.1f})" for seconds, spread in pairs]
    yield f"  the operation's share of the model's time {report['share']:8.1%}"
    yield f"  its speed in the model, over plain        {report['speed of the operation']:7.2f}x"
    yield f"  the model's speed, by Amdahl's law        {report['speed allowed']:7.2f}x"
    yield f"  the model's speed, measured               {report['speed']:7.2f}x  {times[0]} to {times[1]}"
    yield f"  largest change of a logit                 {report['largest change']:8.1e}"
    yield f"  {report['metric']:<41} {report['score'][0]:8.4f}  to {report['score'][1]:.4f}"
