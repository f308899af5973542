"""The entry point of `minidistil VERB`: parse the arguments, run the verb, report errors.

Answers and reports go to stdout or --output, everything else to stderr. Exit codes: 0 success, 1 a lab check
failed, 2 an error in what the user passed, 130 interrupted, 141 stdout was closed.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
import warnings
from typing import Any

from .. import __version__
from ..errors import Error, printable
from .answer import add_verb
from .benchmarks import add_bench
from .lab import add_lab
from .options import Parser, add_debug_option, add_parser, flag
from .output import one_line, print_json
from .training import RECIPE, add_eval, add_train
from .verbs import VERBS

FLAGS = [
    *(flag for verb in VERBS for flag in verb.call_options),
    *(f"--{name}" for name, *_ in RECIPE),
    *("--eval-steps", "--save-steps", "--problem-type", "--label-separator", "--unlabeled"),
]
OPTIONS = {  # of Python arguments
    **{flag.removeprefix("--").replace("-", "_"): flag for flag in FLAGS},
    **{"hypothesis_template": "--template", "candidate_labels": "--labels"},
}
EXAMPLES = """examples:
  minidistil zero-shot "The home team won the basketball game." --labels sports,politics,business
  minidistil classify "A man sleeps." --pair "A person is awake." --model MODEL
  minidistil fill-mask "Paris is the [MASK] of France." --model MODEL
  minidistil tag "Ada lives in London." --aggregation-strategy simple --model MODEL
  minidistil answer "Where does Ada live?" --context "Ada lives in London." --model MODEL
  minidistil embed "A sentence." --json --model MODEL
  minidistil zero-shot --input texts.txt --labels sports,politics --output answers.jsonl
  minidistil train MODEL train.jsonl --eval-data dev.jsonl --output mine
  minidistil eval mine dev.jsonl

MODEL is a folder in the Hub's format, a Hub id such as typeform/distilbert-base-uncased-mnli,
or minidistil-mnli (English), which ships with the package. Quote texts of several words.
`minidistil VERB --help` lists the options of a verb."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        words = not any(word.startswith("-") for word in unknown)
        hint = "; put a text of several words in quotes" if words else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    options.command = shlex.join([*_program(), *(sys.argv[1:] if arguments is None else arguments)])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    erase = "\r\x1b[K" if sys.stderr.isatty() else ""  # the progress bar, which is drawn again below the warning
    warnings.formatwarning = lambda message, *_, **__: f"{erase}minidistil: {printable(message)}\n"
    try:
        code: int = options.run(options) or 0
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        if options.debug:
            raise
        saved = f": {stop}" if str(stop) else ""
        if getattr(options, "input", None):
            saved = "; the lines written so far are complete"
        print(f"minidistil: interrupted{saved}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout, such as head, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Error, OSError) as error:
        if options.debug:
            raise
        print(f"minidistil: {_message(error)}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="minidistil",
        description="DistilBERT: classify, tag and embed text, fill masks, and answer questions.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minidistil {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        add_verb(verbs, verb)
    for add in (add_train, add_eval, add_bench, add_lab, _add_env):
        add(verbs)
    return parser


def _add_env(verbs: Any) -> None:
    verb = add_parser(verbs, "env", "show versions, hardware and settings, for a bug report", _env)
    verb.add_argument("--json", **flag("print one line of JSON"))
    add_debug_option(verb)


def _env(options: argparse.Namespace) -> None:
    from .env import environment, show

    report = environment()
    if options.json:
        print_json(report)
    else:
        print(*map(one_line, show(report)), sep="\n")


def _program() -> list[str]:
    """Return the start of the command line for a model card: the program, or torchrun and the program."""
    count = os.environ.get("WORLD_SIZE", "1")
    return ["minidistil"] if count == "1" else ["torchrun", "--nproc-per-node", count, "-m", "minidistil"]


def _message(error: Exception) -> str:
    """Return the message of an error, with an option instead of the Python argument that it begins with."""
    message = printable(error)
    argument, _, _ = (getattr(error, "subject", None) or "").partition("[")
    return OPTIONS[argument] + message.removeprefix(argument) if argument in OPTIONS else message
