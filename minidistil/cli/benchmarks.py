"""The verb `bench`."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError
from .options import DATA, MODEL, OPTIONAL, add_debug_option, add_parser, flag, integer, supplied
from .output import print_json


def add_bench(verbs: Any) -> None:
    """Add the parser of `bench`."""
    verb = add_parser(verbs, "bench", "compare speed and memory with transformers", bench)
    verb.add_argument("--model", help=MODEL, required=True)
    verb.add_argument("--base", **flag("use random weights in the size of DistilBERT base"), **OPTIONAL)
    verb.add_argument(
        "--repeats",
        **integer("repetitions of each measurement (default: 7; with --peers 5, with --train 3)"),
        **OPTIONAL,
    )
    add_debug_option(verb)
    group = verb.add_argument_group("inference")
    group.add_argument("--pairs", metavar="FILE", help="texts: .jsonl with the fields premise and hypothesis")
    group.add_argument("--peers", **flag("compare every installed inference runtime"))
    group.add_argument(
        "--texts", **integer("with --peers: number of texts for throughput (default: 1024)"), **OPTIONAL
    )
    group.add_argument("--only", metavar="NAMES", help="with --peers: comma-separated runtimes", **OPTIONAL)
    group.add_argument("--plot", metavar="FILE", help="with --peers: draw a plot, .svg or .png", **OPTIONAL)
    group = verb.add_argument_group("training")
    group.add_argument("--train", metavar="DATA", help=DATA)
    group.add_argument("--steps", **integer("steps of each measurement (default: 100)"), **OPTIONAL)


def bench(options: argparse.Namespace) -> None:
    """Run `bench`: print a report, then one line of JSON."""
    from ..benchmarks.startup import bench
    from ..benchmarks.training import bench_training

    if (options.pairs is None) == (options.train is None):
        raise InputError("expected either --pairs, to measure inference, or --train, to measure training")
    if options.peers and options.train is not None:
        raise InputError("--peers cannot be combined with --train")
    peers = supplied(options, "texts", "only", "plot")
    if peers and not options.peers:
        raise InputError(f"--{next(iter(peers))} requires --peers")
    if options.peers:
        from ..benchmarks.race import bench_runtimes

        report = bench_runtimes(options.model, options.pairs, **supplied(options, "base", "repeats"), **peers)
    elif options.train is None:
        report = bench(options.model, options.pairs, **supplied(options, "base", "repeats"))
    else:
        report = bench_training(options.model, options.train, **supplied(options, "base", "steps", "repeats"))
    print_json(report)
