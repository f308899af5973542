"""The exceptions of minidistil. A message says what is wrong, where, what was expected, and what to do."""

import importlib
from types import ModuleType


class Error(ValueError):
    """Base class of the errors that minidistil raises."""


class CheckpointError(Error):
    """A checkpoint, its config or its tokenizer cannot be found, read or written."""


class InputError(Error):
    """A text, a tensor or an argument is invalid."""


class MissingDependency(Error):  # noqa: N818
    """An optional package is not installed. The message has the pip command that installs it."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package. Raises MissingDependency, which names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(f"{module} is not installed: pip install 'minidistil[{extra}]'") from error
