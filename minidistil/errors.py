"""What can go wrong, by kind. Every message says what and where, what was expected, and what to do."""

import importlib
from types import ModuleType


class Error(ValueError):
    """The base of every error that minidistil raises on purpose."""


class CheckpointError(Error):
    """A checkpoint, its config or its tokenizer cannot be found, read or written."""


class InputError(Error):
    """A text, a tensor or an argument is not what the call needs."""


class MissingDependency(Error):  # noqa: N818
    """An optional package is not installed; the message holds the `pip install` that brings it."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package; MissingDependency says which of our extras brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(f"{module} is not installed: pip install 'minidistil[{extra}]'") from error
