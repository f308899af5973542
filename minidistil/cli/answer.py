"""Run a verb that answers texts: check the options, load the pipeline, answer one text or a stream.

`verbs.py` defines the verbs, each a `Verb` with what differs between them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoint.tasks import TASKS
from ..errors import Error, InputError, InputName
from .options import (
    MODEL,
    OPTIONAL,
    add_debug_option,
    add_dtype_option,
    add_model_options,
    add_parser,
    add_quiet_option,
    flag,
    load_pipeline,
    supplied,
)
from .output import print_json

if TYPE_CHECKING:
    from ..io.text_files import Record
    from .sources import Source

NO_OPTIONS: dict[str, dict[str, Any]] = {}
FEW = 8  # texts of --input


def _single_text(options: argparse.Namespace) -> tuple[Any, ...]:
    return (options.text,)


def _stream_texts(
    options: argparse.Namespace, source: Source, records: Iterator[Record]
) -> tuple[Iterator[Any], ...]:
    from .sources import single_text

    return ((single_text(record, options.text_column) for record in records),)


class Verb(NamedTuple):
    """A command that answers one text, or a stream of texts, with a pipeline."""

    name: str
    task: str  # name of the pipeline's task
    help: str
    show: Callable[[argparse.Namespace, Any], Iterator[str]]  # an answer -> the lines to print
    # the positional arguments of the pipeline, for one text and for --input
    single: Callable[[argparse.Namespace], tuple[Any, ...]] = _single_text
    stream: Callable[[argparse.Namespace, Source, Iterator[Record]], tuple[Iterator[Any], ...]] = _stream_texts
    check: Callable[[argparse.Namespace, Source | None], None] | None = None  # runs before the model is loaded
    text: str = "text"  # name of the positional argument
    input_options: dict[str, dict[str, Any]] = NO_OPTIONS  # read by `single`, `stream` and `check`
    call_options: dict[str, dict[str, Any]] = NO_OPTIONS  # passed to the pipeline if the user sets them
    show_arguments: dict[str, Any] = NO_OPTIONS  # defaults without --json and --input


def add_verb(verbs: Any, verb: Verb) -> None:
    """Add the parser of an answering verb."""
    parser = add_parser(verbs, verb.name, verb.help, functools.partial(run, verb))
    parser.add_argument("text", nargs="?", metavar=verb.text.upper(), help=f"the {verb.text}")
    for name, keywords in verb.input_options.items():
        parser.add_argument(name, **keywords)
    call = [parser.add_argument(name, **keywords, **OPTIONAL) for name, keywords in verb.call_options.items()]
    parser.set_defaults(call_names=[option.dest for option in call])
    parser.add_argument("--json", **flag("print the answer as one line of JSON"))
    add_debug_option(parser)
    group = parser.add_argument_group("model")
    default = TASKS[verb.task].default_model
    text = MODEL if default is None else f"{MODEL} (default: {default}, which ships with the package)"
    group.add_argument("--model", help=text, required=default is None, default=default)
    add_model_options(group, default="the CPU for a few texts, else cuda if available")
    add_dtype_option(group)
    group = parser.add_argument_group("many texts")
    group.add_argument(
        "--input", metavar="FILE", help="a text per line, or .jsonl, .csv or .tsv, also gzipped; - for stdin"
    )
    group.add_argument("--jsonl", **flag("read --input as JSON lines, regardless of its name"))
    group.add_argument("--text-column", metavar="NAME", help=f"column or field that holds the {verb.text}")
    group.add_argument("--output", metavar="FILE", help="write .jsonl or .csv (default: JSON lines on stdout)")
    group.add_argument("--resume", **flag("continue after the last answer in --output"))
    add_quiet_option(group)


def run(verb: Verb, options: argparse.Namespace) -> None:
    """Run an answering verb."""
    source = _source(options)
    if verb.check is not None:
        verb.check(options, source)
    arguments = supplied(options, *options.call_names)
    if source is not None:
        _answer_many(verb, options, source, arguments)
        return
    pipe = load_pipeline(verb.task, options, in_numpy(options, None))
    with _located(None):
        if options.json:
            print_json(_plain(pipe(*verb.single(options), **arguments)))
        else:
            answer = pipe(*verb.single(options), **{**verb.show_arguments, **arguments})
            print(*verb.show(options, answer), sep="\n")


def in_numpy(options: argparse.Namespace, source: Source | None) -> bool:
    """Return whether NumPy may answer, on the CPU in float32, before torch is imported: for few texts, by default.

    torch still takes over for files that only it can read, and for more tokens than `numpy_engine.MAX_TOKENS`.
    """
    few = source is None or source.has_at_most(FEW)
    return few and not supplied(options, "device", "dtype")


def _source(options: argparse.Namespace) -> Source | None:
    """Return the input, None for a single text. Raises InputError for options that exclude each other."""
    from pathlib import Path  # not needed for --help

    if (options.text is None) == (options.input is None):
        found = "neither" if options.text is None else "both"
        raise InputError(f"expected either one text or --input FILE, found {found}")
    source = None
    if options.input is not None:
        from .sources import Source

        source = Source(options.input, options.jsonl)
    if source is None and (options.output is not None or options.jsonl):
        raise InputError("--output and --jsonl require --input FILE")
    if options.text_column is not None and (source is None or not source.has_fields):
        raise InputError("--text-column requires an --input in .jsonl, .csv or .tsv")
    if options.resume and (options.output is None or not Path(options.input or "").is_file()):
        raise InputError("--resume requires --input FILE and --output FILE")
    if options.input not in (None, "-") and not Path(options.input).exists():
        raise InputError(f"cannot read {options.input}: no such file")
    return source


def _answer_many(verb: Verb, options: argparse.Namespace, source: Source, arguments: dict[str, Any]) -> None:
    """Answer the texts of --input. With --resume, skip those that an earlier run answered."""
    from .sinks import open_sink

    with open_sink(options.output, options.input, options.resume) as sink:
        if sink.answered and source.total is not None and sink.answered > source.total:
            raise InputError(
                f"{options.output} has {sink.answered} answers, but {options.input} has {source.total} texts"
            )
        pipe = load_pipeline(verb.task, options, in_numpy(options, source))
        from ..pipelines import base  # after load_pipeline, which configures NumPy

        # a block is answered as a whole and with prepacked weights, wherever a run starts: the scores are the same
        pipe.first_window, pipe.engine.plain_batches = base.WINDOW, 0

        def answers() -> Iterator[Any]:
            skipped = sink.answered
            for block in source.blocks():
                if 0 < len(block) <= skipped:
                    skipped -= len(block)
                    continue
                with _located(block):
                    found = pipe(*verb.stream(options, source, iter(block)), **arguments)
                    yield from map(_plain, itertools.islice(found, skipped, None))
                skipped = 0

        sink.write(answers(), None if options.quiet else source.total, options.quiet)


@contextlib.contextmanager
def _located(block: list[Record] | None) -> Iterator[None]:
    """Name an input in an error, such as inputs[3], by its line in the file. None: the command's own text."""
    try:
        yield
    except Error as error:
        name = error.subject
        if not isinstance(name, InputName):
            raise
        place = "" if block is None else f"{block[name.position].place}: "
        message = str(error).removeprefix(name)
        raise type(error)(f"{place}the {name.field or 'text'}{message}") from error


def _plain(answer: Any) -> Any:
    """Convert a vector to a list, for JSON."""
    return answer.tolist() if hasattr(answer, "tolist") else answer
