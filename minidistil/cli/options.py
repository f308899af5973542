"""Options that several verbs share."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ..errors import printable

BLAS_THREADS = "OPENBLAS_NUM_THREADS"  # read when NumPy is imported
OPTIONAL: dict[str, Any] = {"default": argparse.SUPPRESS}  # absent unless the user sets it, see `supplied`
MODEL = "a folder in the Hub's format, or a Hub id"
DATA = "labeled texts: a .jsonl, .csv or .tsv file, also gzipped (.gz), or hub:NAME:SPLIT"


class Parser(argparse.ArgumentParser):
    """A parser whose options cannot be abbreviated, and whose errors are printable."""

    def __init__(self, **keywords: Any):
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        """Print the usage and a message, and exit."""
        super().error(printable(message))


def add_parser(
    verbs: Any, name: str, text: str, run: Callable[[argparse.Namespace], int | None]
) -> argparse.ArgumentParser:
    """Add the parser of a verb. text: its help. run: called by `main`; returns the exit code, or None for 0."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.set_defaults(run=run)
    return parser


def add_debug_option(parser: Any) -> None:
    """Add `--debug`, which `main` expects of every verb."""
    parser.add_argument("--debug", **flag("show the traceback of an error"))


def add_quiet_option(parser: Any) -> None:
    """Add `--quiet`, for verbs that report progress on stderr."""
    parser.add_argument("--quiet", **flag("do not report progress on stderr"))


def flag(text: str) -> dict[str, Any]:
    """Return the keywords of an option without a value."""
    return {"action": "store_true", "help": text}


def integer(text: str) -> dict[str, Any]:
    """Return the keywords of an option that is an integer."""
    return {"type": int, "metavar": "N", "help": text}


def names(text: str) -> dict[str, Any]:
    """Return the keywords of an option that is a comma-separated list."""
    return {"type": comma_separated, "metavar": "NAMES", "help": text}


def comma_separated(text: str) -> list[str]:
    """Split a comma-separated list into names."""
    return [name.strip() for name in text.split(",")]


def add_model_options(parser: Any, default: str = "cuda if available") -> None:
    """Add `--revision` and `--device`. default: of the device."""
    parser.add_argument("--revision", help="branch, tag or commit on the Hub", **OPTIONAL)
    parser.add_argument("--device", help=f"cpu, cuda, cuda:1, ... (default: {default})", **OPTIONAL)


def add_dtype_option(parser: Any) -> None:
    """Add `--dtype`, for inference."""
    text = "float32, bfloat16, float16, float64, int8, or auto: the fastest (default: float32; on CUDA the file's)"
    parser.add_argument("--dtype", help=text, **OPTIONAL)


def supplied(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the named options that the user set, by name: the callee has the defaults of the others."""
    return {name: value for name, value in vars(options).items() if name in names}


def load_pipeline(task: str, options: argparse.Namespace, in_numpy: bool = False) -> Any:
    """Load the pipeline that the options describe. in_numpy: without torch, if only few tokens are computed."""
    if in_numpy:
        with _one_thread():
            from ..pipelines import numpy_pipeline
        return numpy_pipeline(task, options.model, **supplied(options, "revision"))
    from ..backends.onednn import keep_memory
    from ..pipelines import pipeline

    keep_memory()
    return pipeline(task, options.model, **supplied(options, "revision", "device", "dtype"))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Import NumPy with one thread for matmuls: for short texts, several threads mostly wait for each other."""
    before = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[BLAS_THREADS]
