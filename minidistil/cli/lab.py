"""The verbs of the kernel lab: `lab list`, `lab new`, `lab check`, `lab bench` and `lab bulk`."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from typing import Any

from ..errors import InputError
from .options import DATA, MODEL, OPTIONAL, add_debug_option, add_parser, add_quiet_option, flag, integer, supplied
from .output import print_json


def add_lab(verbs: Any) -> None:
    """Add the parser of `lab` and those of its verbs."""
    text = "check and time implementations of the model's operations"
    lab = verbs.add_parser("lab", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = lab.add_subparsers(metavar="VERB", required=True)

    verb = add_parser(
        verbs, "list", "list implementations, and whether this machine can run them", list_implementations
    )
    verb.add_argument("op", nargs="?", metavar="OP", help="an operation, such as attention (default: all)")

    verb = add_parser(
        verbs, "new", "write a file with an implementation that passes the check, to start from", new
    )
    verb.add_argument("op", metavar="OP", help="an operation, such as add_norm")
    verb.add_argument("file", nargs="?", metavar="FILE", help="the file to write (default: my_OP.py)")

    verb = add_parser(verbs, "check", "compare implementations with float64; exit code 1 if one fails", check)
    verb.add_argument(
        "what", nargs="?", metavar="OP", help="an operation, or a .py file that registers implementations"
    )
    verb.add_argument("name", nargs="?", metavar="NAME", help="one implementation of the operation (default: all)")
    verb.add_argument("--quick", **flag("check a selection of the cases, in seconds"))
    verb.add_argument("--case", metavar="CASE", help='check one case, such as "rows=33 width=768 x:transposed"')
    verb.add_argument("--dtype", help="check one dtype: float32, bfloat16 or float16")
    verb.add_argument("--seed", **integer("seed of the random cases (default: a new one each time)"))
    verb.add_argument("-x", dest="stop", **flag("stop at the first failed check"))
    verb.add_argument(
        "--limit", type=float, metavar="N", help="seconds that a call may take (default: 60)", **OPTIONAL
    )
    add_quiet_option(verb)

    verb = add_parser(verbs, "bench", "time implementations that pass the check, alone or in a model", bench)
    verb.add_argument(
        "what", metavar="OP", help="an operation, or a .py file that registers implementations of one"
    )
    verb.add_argument("name", nargs="?", metavar="NAME", help="one implementation (default: all)")
    verb.add_argument("--dtype", help="float32, bfloat16 or float16 (default: float32)", **OPTIONAL)
    verb.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help="time limit of each case in seconds (default: 2; with --model 20 in all)",
        **OPTIONAL,
    )
    verb.add_argument("--plot", metavar="FILE", help="draw a plot, .svg or .png", **OPTIONAL)
    verb.add_argument("--model", help=f"time the implementation in this model: {MODEL}")
    verb.add_argument("--data", metavar="DATA", help=f"with --model: {DATA}")
    verb.add_argument("--examples", **integer("with --model: number of texts (default: 128)"), **OPTIONAL)
    add_quiet_option(verb)

    verb = add_parser(verbs, "bulk", "compare bulk inference of a model on this device with transformers", bulk)
    verb.add_argument("model", metavar="MODEL", help=MODEL)
    verb.add_argument("pairs", metavar="FILE", help="a .jsonl file with the fields premise and hypothesis")
    verb.add_argument("--base", **flag("use random weights in the size of DistilBERT base"), **OPTIONAL)
    verb.add_argument("--dtype", help="float32, bfloat16 or float16 (default: bfloat16)", **OPTIONAL)
    verb.add_argument("--texts", **integer("number of texts (default: 1024)"), **OPTIONAL)
    verb.add_argument("--seconds", type=float, metavar="N", help="time limit in seconds (default: 30)", **OPTIONAL)
    add_quiet_option(verb)

    for verb in verbs.choices.values():
        verb.add_argument("--json", **flag("print one line of JSON"))
        add_debug_option(verb)


def list_implementations(options: argparse.Namespace) -> None:
    """Run `lab list`."""
    from ..lab import implementations

    listed = implementations(options.op)
    if options.json:
        fields = ("op", "name", "device", "needs", "dtypes", "gradients", "precision", "lacking", "about", "file")
        print_json([{field: getattr(implementation, field) for field in fields} for implementation in listed])
        return
    width = max(len(implementation.name) for implementation in listed)
    for op, group in itertools.groupby(listed, lambda implementation: implementation.op):
        print(op)
        for implementation in group:
            reason = implementation.lacks()
            device = ", not in ".join([implementation.device, *implementation.lacking])
            device = device if reason is None else f"cannot run: {reason}"
            print(f"  {implementation.name:<{width}}  {device}  {implementation.about}")


def new(options: argparse.Namespace) -> None:
    """Run `lab new`: write a skeleton."""
    from ..lab.skeletons import write_skeleton

    path = write_skeleton(options.op, options.file)
    print(f"wrote {path}: check it with minidistil lab check {path} --quick")


def check(options: argparse.Namespace) -> int:
    """Run `lab check`. Return 1 if an implementation fails, or if there is no verdict."""
    from ..lab.gate import DRAWS, Expectations, Finding, Verdict, check, runnable_dtypes, show
    from ..lab.registry import DTYPES, Implementation
    from ..lab.suites import CASES, quick_cases
    from ..lab.worker import Died, Rejected, threads
    from ..training.progress import progress_bar

    if options.dtype is not None and options.dtype not in DTYPES:
        raise InputError(f"--dtype is {options.dtype!r}: expected one of {', '.join(DTYPES)}")
    dtypes = None if options.dtype is None else [options.dtype]
    try:
        worker, chosen = _open(options)
    except Rejected as failure:  # the file exits, crashes or hangs
        unloaded = Verdict(Implementation("file", options.what, None), 1, [Finding("import", "", str(failure))])
        print_json([unloaded.as_json()]) if options.json else print(*show(unloaded), sep="\n")
        return 1
    verdicts, expectations = [], Expectations()
    try:
        for implementation in chosen:
            if (reason := implementation.lacks()) is not None:
                print(f"skipped   {implementation.title}: cannot run here: {reason}", file=sys.stderr)
                continue
            cases = None if options.case is None else [parse_case(implementation.op, options.case)]
            listed = cases or (quick_cases if options.quick else CASES.get)(implementation.op) or []
            total = len(runnable_dtypes(implementation, dtypes)) * (
                len(listed) + (0 if cases else DRAWS["quick" if options.quick else "full"])
            )
            title = implementation.title
            with threads(1), progress_bar(title, total, unit="case", leave=False, quiet=options.quiet) as bar:
                verdicts.append(
                    check(
                        implementation,
                        worker,
                        quick=options.quick,
                        cases=cases,
                        dtypes=dtypes,
                        seed=options.seed,
                        stop=options.stop,
                        expectations=expectations,
                        progress=bar.update,
                    )
                )
            if not options.json:
                print(*show(verdicts[-1]), sep="\n", flush=True)
            if not worker.alive:
                worker.close()
                with contextlib.suppress(Died):
                    worker = type(worker)(worker.path, worker.seconds)
    finally:
        worker.close()
    if options.json:
        print_json([verdict.as_json() for verdict in verdicts])
    return int(not all(verdict.passed for verdict in verdicts))


def parse_case(op: str, text: str) -> Any:
    """Return the case of `--case`."""
    from ..lab.cases import parse

    return parse(op, text)


def _open(options: argparse.Namespace) -> tuple[Any, list[Any]]:
    """Start a process with the user's file, or with the built-in implementations. Return it and what to check."""
    from ..lab import find, implementations
    from ..lab.worker import ChildWorker

    limit = {"seconds": options.limit} if "limit" in options else {}
    if options.what is not None and options.what.endswith(".py"):
        worker = ChildWorker(options.what, **limit)
        chosen = [each for each in worker.loaded if options.name in (None, each.name)]
        if not chosen:
            worker.close()
            known = ", ".join(each.name for each in worker.loaded)
            raise InputError(f"{options.what} has no implementation {options.name!r}: expected one of {known}")
        return worker, chosen
    chosen = implementations(options.what) if options.name is None else [find(options.what, options.name)]
    return ChildWorker(**limit), chosen


def bench(options: argparse.Namespace) -> int:
    """Run `lab bench`: print a report, then with --json one line of JSON. Return 1 if an implementation fails."""
    from ..lab.bench import bench
    from ..lab.in_model import bench_model
    from ..lab.report import in_model_lines
    from ..lab.worker import ChildWorker, Rejected

    if (options.model is None) != (options.data is None) or ("examples" in options and options.model is None):
        raise InputError("--model requires --data; --data and --examples require --model")
    call = supplied(options, "dtype", "seconds")
    if not options.what.endswith(".py"):
        if options.model is not None:
            if options.name is None or "plot" in options:
                raise InputError(
                    "--model requires the name of one implementation, and cannot be combined with --plot"
                )
            examples = supplied(options, "examples")
            report = bench_model(options.model, options.data, options.what, options.name, **call, **examples)
        else:
            names = None if options.name is None else list(dict.fromkeys(["torch", options.name]))
            report = bench(options.what, names=names, **call, **supplied(options, "plot", "quiet"))
        if options.json:
            print_json(report)
        return 0
    try:
        worker = ChildWorker(options.what)
    except Rejected as failure:
        print(f"REJECTED  {options.what}: {failure}")
        return 1
    try:
        loaded = [each for each in worker.loaded if options.name in (None, each.name)]
        ops = sorted({each.op for each in loaded})
        if len(ops) != 1:
            name = "" if options.name is None else f" named {options.name}"
            listed = ", ".join(ops) or "no operation"
            raise InputError(f"{options.what} registers implementations{name} of {listed}: expected one operation")
        if options.model is None:
            plain = ChildWorker()
            others = [(each, worker) for each in loaded]
            try:
                quiet = supplied(options, "plot", "quiet")
                report = bench(ops[0], names=["torch"], worker=plain, others=others, **call, **quiet)
            finally:
                plain.close()
        elif len(loaded) != 1 or "plot" in options:
            raise InputError("--model requires the name of one implementation, and cannot be combined with --plot")
        else:
            report = _bench_in_model(worker, loaded[0], options, call)
            print(*in_model_lines(report), sep="\n", flush=True)
    except Rejected as failure:
        print(f"REJECTED  {options.what}: {failure}")
        return 1
    finally:
        worker.close()
    if options.json:
        print_json(report)
    return int(bool(report.get("rejected")))


def _bench_in_model(worker: Any, implementation: Any, options: argparse.Namespace, call: dict[str, Any]) -> Any:
    from ..lab.bench import refuse_untimed

    refuse_untimed(implementation, call.get("dtype", "float32"), worker)
    where = {"op": implementation.op, "name": implementation.name, "model": options.model, "data": options.data}
    return worker.ask("in_model", limit=3600.0, **where, **call, **supplied(options, "examples"))["report"]


def bulk(options: argparse.Namespace) -> None:
    """Run `lab bulk`: print a report, then with --json one line of JSON."""
    from ..lab.bulk import bulk

    report = bulk(options.model, options.pairs, **supplied(options, "base", "dtype", "texts", "seconds", "quiet"))
    if options.json:
        print_json(report)
