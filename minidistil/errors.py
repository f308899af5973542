"""The exceptions of minidistil. A message states what is wrong, where, what was expected, and what to do.

Messages quote file names, tensor names, labels and texts that others wrote. `printable` makes them safe for a
terminal: every error and warning of the package passes through it.
"""

from __future__ import annotations

import importlib
import re
import warnings
from types import ModuleType

MAX_MESSAGE = 2000  # characters
END = 500  # last characters of a longer message, which say what to do
LINE_BREAK = re.compile(r" *[\t\n\r]\s*")


class Error(ValueError):
    """Base class of the errors that minidistil raises.

    subject: the argument or the input that the message begins with. The command line shows its option, or its line
    in the file, instead.
    """

    def __init__(self, message: str, *, subject: str | None = None):
        super().__init__(printable(message))
        self.subject = subject


class CheckpointError(Error):
    """A checkpoint, its config or its tokenizer cannot be found, read or written."""


class InputError(Error):
    """A text, a tensor or an argument is invalid."""


class MissingDependency(Error):  # noqa: N818
    """An optional package is not installed. The message has the pip command that installs it."""


class InputName(str):
    """The name of one of many inputs in a message, such as inputs[3]['text'], with its position and field."""

    position: int
    field: str | None


def input_name(position: int, field: str | None = None, argument: str = "inputs") -> InputName:
    """Return the name of an input of a pipeline."""
    name = InputName(f"{argument}[{position}]" if field is None else f"{argument}[{position}][{field!r}]")
    name.position, name.field = position, field
    return name


def printable(text: object) -> str:
    """Return a text as one line of at most MAX_MESSAGE characters, for a terminal.

    Characters that Python's repr escapes are escaped: control characters, which could move the cursor, characters
    that change the direction of text or have no width, and lone surrogates. Line breaks become spaces.
    """
    line = LINE_BREAK.sub(" ", _shortened(str(text)))
    if not line.isprintable():
        line = _shortened("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))
    return line


def _shortened(text: str) -> str:
    """Replace the middle of a text of more than MAX_MESSAGE characters."""
    if len(text) <= MAX_MESSAGE:
        return text
    start = MAX_MESSAGE - END - 50  # 50: at least the length of the note
    return f"{text[:start]} [... {len(text) - start - END:,} characters ...] {text[-END:]}"


def warn(text: str) -> None:
    """Issue a UserWarning with a printable text, attributed to the caller's caller."""
    warnings.warn(printable(text), stacklevel=3)


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package. Raises MissingDependency, which names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(f"{module} is not installed: run {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra from where minidistil itself was installed."""
    import json  # not needed for --help
    from importlib import metadata
    from pathlib import Path

    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").is_file():  # a checkout, installed with -e or on sys.path
        return f'pip install -e "{root}[{extra}]"'
    try:
        origin = metadata.distribution("minidistil").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        origin = None
    if origin is None:  # a package index
        return f'pip install "minidistil[{extra}]"'
    source = json.loads(origin)  # a folder, an archive or a repository, see PEP 610
    url = source["url"]
    if "vcs_info" in source:
        url = f"{source['vcs_info']['vcs']}+{url}@{source['vcs_info']['commit_id']}"
    return f'pip install "minidistil[{extra}] @ {url}"'
