"""What can go wrong, by kind. Every message says what and where, what was expected, and what to do."""


class Error(ValueError):
    """The base of every error that minidistil raises on purpose."""


class CheckpointError(Error):
    """A checkpoint, its config or its tokenizer cannot be found, read or written."""


class InputError(Error):
    """A text, a tensor or an argument is not what the call needs."""


class MissingDependency(Error):  # noqa: N818
    """An optional package is not installed; the message holds the `pip install` that brings it."""
