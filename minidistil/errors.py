"""The exceptions of minidistil. A message states what is wrong, where, what was expected, and what to do."""

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
