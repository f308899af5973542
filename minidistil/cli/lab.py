"""The verbs of the kernel lab: `lab list`, `lab new`, `lab check`, and those of `lab_times.py`."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from ..errors import InputError
from .lab_times import add_timing_verbs
from .options import OPTIONAL, add_debug_option, add_parser, add_quiet_option, flag, integer, supplied
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

    add_timing_verbs(verbs)

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
    from ..lab.checks import check_all
    from ..lab.gate import Finding, Verdict, show
    from ..lab.registry import Implementation
    from ..lab.worker import Rejected

    try:
        worker, chosen = _open(options)
    except Rejected as failure:  # the file exits, crashes or hangs
        unloaded = Verdict(Implementation("file", options.what, None), 1, [Finding("import", "", str(failure))])
        print_json([unloaded.as_json()]) if options.json else print(*show(unloaded), sep="\n")
        return 1
    call = supplied(options, "quick", "case", "dtype", "seed", "stop", "quiet")
    try:
        verdicts = check_all(chosen, worker, silent=options.json, **call)
    finally:
        worker.close()
    if options.json:
        print_json([verdict.as_json() for verdict in verdicts])
    return int(not all(verdict.passed for verdict in verdicts))


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
