"""The verbs of the kernel lab that measure: `lab bench`, `lab sweep` and `lab report`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from .options import DATA, MODEL, OPTIONAL, add_parser, add_quiet_option, flag, integer, supplied
from .output import print_json

DTYPE = "float32, bfloat16 or float16 (default: float32)"


def add_timing_verbs(verbs: Any) -> None:
    """Add the parsers of `bench`, `sweep` and `report`."""
    verb = add_parser(verbs, "bench", "time implementations that pass the check, alone or in a model", bench)
    _add_timing_options(verb, seconds="2; with --model 20 in all", dtype=DTYPE)
    verb.add_argument("--backward", **flag("time the backward pass"))
    verb.add_argument("--plot", metavar="FILE", help="draw a plot, .svg or .png", **OPTIONAL)
    verb.add_argument(
        "--profile", metavar="FILE", help="instead profile one call and write a trace for ui.perfetto.dev, .json"
    )
    _add_model_options(verb, "time one implementation in this model", "with --model: ")

    verb = add_parser(verbs, "sweep", "time implementations over a range of shapes", sweep)
    _add_timing_options(verb, seconds="2", dtype=DTYPE)
    verb.add_argument("--backward", **flag("time the backward pass"))
    verb.add_argument("--over", help="tokens, sequences or lengths (default: tokens)", **OPTIONAL)
    verb.add_argument("--values", metavar="N,N,...", help="values of the sweep, such as 16,64,256", **OPTIONAL)
    verb.add_argument("--plot", metavar="FILE", help="draw a plot, .svg or .png", **OPTIONAL)

    verb = add_parser(
        verbs, "report", "check one implementation, time it alone and in a model, on one page", report
    )
    _add_timing_options(
        verb, seconds="1", dtype="float32, bfloat16 or float16 (default: the first that it supports)"
    )
    verb.add_argument("--quick", **flag("check a selection of the cases, in seconds"))
    _add_model_options(verb, "model to measure the effect on (default: minidistil-mnli)", "")
    verb.add_argument("--transformers", **flag("compare the model's speed with transformers"), **OPTIONAL)


def _add_timing_options(verb: Any, *, seconds: str, dtype: str) -> None:
    verb.add_argument(
        "what", metavar="OP", help="an operation, or a .py file that registers implementations of one"
    )
    verb.add_argument("name", nargs="?", metavar="NAME", help="one implementation (default: all)")
    verb.add_argument("--dtype", help=dtype, **OPTIONAL)
    text = f"time limit of each case and cache state in seconds (default: {seconds})"
    verb.add_argument("--seconds", type=float, metavar="N", help=text, **OPTIONAL)
    text = 'shapes to time, such as "rows=33 width=768"; can be repeated'
    verb.add_argument("--case", action="append", metavar="CASE", help=text)
    verb.add_argument("--seed", **integer("seed of the inputs (default: a new one each time)"), **OPTIONAL)
    verb.add_argument("--out", metavar="FILE", help="append the times to a .jsonl file")
    verb.add_argument("--against", metavar="FILE", help="compare with the times in a .jsonl file that --out wrote")
    add_quiet_option(verb)


def _add_model_options(verb: Any, text: str, when: str) -> None:
    verb.add_argument("--model", help=f"{text}: {MODEL}", **OPTIONAL)
    verb.add_argument("--data", metavar="DATA", help=f"{when}{DATA}", **OPTIONAL)
    verb.add_argument("--examples", **integer(f"{when}number of texts (default: 128)"), **OPTIONAL)


def _refusing(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Print a rejection and return 1 for it."""

    def verb(options: argparse.Namespace) -> int:
        from ..lab.worker import Rejected

        try:
            return run(options)
        except Rejected as failure:
            print(f"REJECTED  {options.what}: {failure}")
            return 1

    return verb


class Subject(NamedTuple):
    """What to time: implementations of one operation, and the processes."""

    op: str
    chosen: list[Any]
    worker: Any  # of the chosen implementations
    plain: Any  # of the built-in ones

    def only(self) -> Any:
        """Return the only implementation, apart from its configurations."""
        named = [each for each in self.chosen if not each.config_of or len(self.chosen) == 1]
        if len(named) != 1:
            listed = ", ".join(each.name for each in named)
            raise InputError(f"this is for one implementation: add its name, one of {listed}")
        return named[0]


@contextlib.contextmanager
def _opened(options: argparse.Namespace) -> Iterator[Subject]:
    """Start the processes that the command needs."""
    from ..lab import find, implementations
    from ..lab.worker import ChildWorker, LocalWorker

    if not options.what.endswith(".py"):
        named = implementations(options.what)
        local = LocalWorker(named)
        chosen = named if options.name is None else [find(options.what, options.name)]
        yield Subject(options.what, chosen, local, local)
        return
    with contextlib.ExitStack() as stack:
        worker = ChildWorker(options.what)
        stack.callback(worker.close)
        chosen = [each for each in worker.loaded if options.name in (None, each.name, each.config_of)]
        ops = sorted({each.op for each in chosen})
        if len(ops) != 1:
            name = "" if options.name is None else f" named {options.name}"
            listed = ", ".join(ops) or "no operation"
            raise InputError(f"{options.what} registers implementations{name} of {listed}: expected one operation")
        plain = ChildWorker()
        stack.callback(plain.close)
        yield Subject(ops[0], chosen, worker, plain)


def _cases(options: argparse.Namespace, op: str) -> dict[str, Any] | None:
    """Return the cases of `--case`, by name."""
    from ..lab.cases import parse

    return None if options.case is None else {text: parse(op, text) for text in options.case}


class _Results:
    """The files of `--out` and `--against`, which are checked before anything is measured."""

    def __init__(self, options: argparse.Namespace):
        from ..lab.results import check_results, read_results

        check_results(options.out)
        self.out, self.against = options.out, options.against
        self.earlier = {} if options.against is None else read_results(options.against)

    def add(self, measured: dict[str, Any]) -> None:
        """Compare times, and append them."""
        from ..lab.results import append_results, compare

        if self.against is not None:
            print(*compare(self.against, self.earlier, measured), sep="\n")
        if self.out is not None:
            append_results(self.out, measured)


@_refusing
def bench(options: argparse.Namespace) -> int:
    """Run `lab bench`: print a report, then with --json one line of JSON. Return 1 if an implementation fails."""
    model = supplied(options, "model", "data", "examples")
    if model and not {"model", "data"} <= {*model}:
        raise InputError("--model requires --data; --data and --examples require --model")
    others = supplied(options, "backward", "case", "out", "against", "plot", "profile", "seed")
    if model and (unused := [name for name, value in others.items() if value not in (None, False)]):
        raise InputError(f"--model cannot be combined with --{unused[0]}")
    if options.profile is not None:
        return _profile(options)
    if not model:
        return _time(options, lambda op: _cases(options, op))
    from ..lab.bench import refuse_untimed
    from ..lab.in_model import measure_in_model, read_texts
    from ..lab.report import in_model_lines

    with _opened(options) as subject:
        one, texts = subject.only(), read_texts(**model)
        refuse_untimed(one, getattr(options, "dtype", "float32"), subject.worker)
        call = supplied(options, "dtype", "seconds")
        measured = measure_in_model(one, subject.worker, subject.plain, texts, **call)
    print(*in_model_lines(measured), sep="\n", flush=True)
    if options.json:
        print_json(measured)
    return 0


@_refusing
def sweep(options: argparse.Namespace) -> int:
    """Run `lab sweep`."""
    from ..lab.plot import plot_sweep
    from ..lab.report import sweep_lines
    from ..lab.workloads import swept_cases

    over = supplied(options, "over", "values")
    if over and options.case is not None:
        raise InputError("--case cannot be combined with --over or --values: it sets the shapes")
    values = _integers(options.values) if "values" in options else None

    def cases(op: str) -> Any:
        return _cases(options, op) or swept_cases(op, getattr(options, "over", "tokens"), values)

    return _time(options, cases, show=sweep_lines, draw=plot_sweep)


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--values is {text!r}: expected integers such as 16,64,256") from None


def _time(options: argparse.Namespace, cases: Callable[[str], Any], **style: Any) -> int:
    """Time implementations on some cases, and print a report. Return 1 if one of a file is rejected."""
    from ..lab.bench import bench

    results = _Results(options)
    with _opened(options) as subject:
        call = supplied(options, "dtype", "seconds", "plot", "quiet", "backward", "seed") | style
        call["cases"] = cases(subject.op)
        if subject.worker is subject.plain:
            names = None if options.name is None else list(dict.fromkeys(["torch", options.name]))
            measured = bench(subject.op, names=names, **call)
        else:
            others = [(each, subject.worker) for each in subject.chosen]
            measured = bench(subject.op, names=["torch"], worker=subject.plain, others=others, **call)
        results.add(measured)
        rejected = bool(measured["rejected"]) and subject.worker is not subject.plain
    if options.json:
        print_json(measured)
    return int(rejected)


def _profile(options: argparse.Namespace) -> int:
    """Profile one call of one implementation, and print where the trace is and what ran."""
    from ..lab.bench import profile, refuse_untimed
    from ..lab.report import profile_lines

    path = Path(options.profile)
    if path.suffix != ".json" or not path.resolve().parent.is_dir():
        raise InputError(f"cannot write {path}: expected a file name ending in .json, in an existing folder")
    with _opened(options) as subject:
        one, dtype = subject.only(), getattr(options, "dtype", "float32")
        refuse_untimed(one, dtype, subject.worker)
        measured = profile(one, subject.worker, str(path), dtype=dtype, cases=_cases(options, subject.op))
    command = ["minidistil", "lab", "bench", options.what, *([options.name] if options.name else [])]
    print(*profile_lines(measured, [*command, "--dtype", dtype, "--profile", str(path)]), sep="\n")
    if options.json:
        print_json(measured)
    return 0


@_refusing
def report(options: argparse.Namespace) -> int:
    """Run `lab report`: print a page, with --json one line of JSON. Return 1 if the implementation is rejected."""
    from ..lab.checks import check_all
    from ..lab.in_model import read_texts
    from ..lab.summary import dtype_to_time, summarize, summary_lines

    results = _Results(options)
    with _opened(options) as subject:
        one, cases = subject.only(), _cases(options, subject.op)
        dtype = dtype_to_time(one, **supplied(options, "dtype"))
        texts = read_texts(**supplied(options, "model", "data", "examples"))
        checked = [each for each in subject.chosen if each.name == one.name or each.config_of == one.name]
        verdicts = check_all(checked, subject.worker, **supplied(options, "quick", "seed", "quiet"))
        measured: dict[str, Any] = {"verdicts": [verdict.as_json() for verdict in verdicts]}
        passed = all(verdict.passed for verdict in verdicts)
        if passed:
            call = supplied(options, "seconds", "seed", "quiet", "transformers")
            measured |= summarize(one, subject.worker, subject.plain, texts, dtype=dtype, cases=cases, **call)
            passed = not measured["rejected"]
            print(*summary_lines(measured), sep="\n", flush=True)
            for direction in ("forward", "backward"):
                if direction in measured:
                    results.add(measured[direction])
    if options.json:
        print_json(measured)
    return int(not passed)
