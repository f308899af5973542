"""The verbs of the kernel lab: `lab list`, `lab check`, `lab bench` and `lab bulk`."""

from __future__ import annotations

import argparse
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

    verb = add_parser(verbs, "check", "compare implementations with float64; exit code 1 if one fails", check)
    verb.add_argument(
        "what", nargs="?", metavar="OP", help="an operation, or a .py file that registers implementations"
    )
    verb.add_argument("name", nargs="?", metavar="NAME", help="one implementation of the operation (default: all)")

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


def check(options: argparse.Namespace) -> int:
    """Run `lab check`. Return 1 if an implementation fails."""
    from ..lab import find, implementations, load
    from ..lab.gate import check, show

    if options.what is not None and options.what.endswith(".py"):
        chosen = load(options.what)
    elif options.name is not None:
        chosen = [find(options.what, options.name)]
    else:
        chosen = implementations(options.what)
    verdicts = []
    for implementation in chosen:
        if (reason := implementation.lacks()) is not None:
            print(f"skipped   {implementation.title}: cannot run here: {reason}", file=sys.stderr)
            continue
        verdicts.append(check(implementation))
        if not options.json:
            print(*show(verdicts[-1]), sep="\n", flush=True)
    if options.json:
        print_json([verdict.as_json() for verdict in verdicts])
    return int(not all(verdict.passed for verdict in verdicts))


def bench(options: argparse.Namespace) -> None:
    """Run `lab bench`: print a report, then with --json one line of JSON."""
    from ..lab import load
    from ..lab.bench import bench
    from ..lab.in_model import bench_model

    op, names = options.what, None if options.name is None else [options.name]
    if op.endswith(".py"):
        loaded = [implementation for implementation in load(op) if options.name in (None, implementation.name)]
        ops = sorted({implementation.op for implementation in loaded})
        if len(ops) != 1:
            name = "" if options.name is None else f" named {options.name}"
            listed = ", ".join(ops) or "no operation"
            raise InputError(f"{op} registers implementations{name} of {listed}: expected one operation")
        op, names = loaded[0].op, [implementation.name for implementation in loaded]
    call = supplied(options, "dtype", "seconds")
    if (options.model is None) != (options.data is None) or ("examples" in options and options.model is None):
        raise InputError("--model requires --data; --data and --examples require --model")
    if options.model is None:
        timed = None if names is None else list(dict.fromkeys(["torch", *names]))
        report = bench(op, names=timed, **call, **supplied(options, "plot", "quiet"))
    elif names is None or len(names) != 1 or "plot" in options:
        raise InputError("--model requires the name of one implementation, and cannot be combined with --plot")
    else:
        report = bench_model(options.model, options.data, op, names[0], **call, **supplied(options, "examples"))
    if options.json:
        print_json(report)


def bulk(options: argparse.Namespace) -> None:
    """Run `lab bulk`: print a report, then with --json one line of JSON."""
    from ..lab.bulk import bulk

    report = bulk(options.model, options.pairs, **supplied(options, "base", "dtype", "texts", "seconds", "quiet"))
    if options.json:
        print_json(report)
