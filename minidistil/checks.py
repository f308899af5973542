"""Checks of arguments that several modules share."""

from __future__ import annotations

from typing import Any, TypeGuard

from .errors import InputError


def is_int(value: object) -> TypeGuard[int]:
    """Return whether a value is an integer; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Return scalars, arrays, Series and Arrow columns as Python values, and any other value unchanged."""
    for method in ("tolist", "to_pylist", "as_py"):
        if hasattr(type(value), method):
            return getattr(value, method)()
    return value


def check_count(name: str, value: object) -> None:
    """Raise InputError unless the argument `name` is None or an integer of at least 1."""
    if value is not None and (not is_int(value) or value < 1):
        raise InputError(f"{name} is {value!r}: expected an integer of at least 1, or None", subject=name)


def check_text(text: object, name: str, expected: str = "a string") -> None:
    """Raise InputError unless the argument `name` is a string that can be encoded in UTF-8."""
    if not isinstance(text, str):
        raise InputError(f"{name} is {type(text).__name__}: expected {expected}", subject=name)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name}: character {error.start} is a lone surrogate, which is not text", subject=name
        ) from error
