"""The messages that the package can raise, read from its source; and the page that lists them.

After a change of messages: `PYTHONPATH=tests python -m support.errors > ERRORS.md`.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from support.places import ROOT

PACKAGE = ROOT / "minidistil"
KINDS = ("CheckpointError", "InputError", "MissingDependency")
RAISED: set[tuple[str, str]] = set()  # kind and text of all that was raised since the tests began; see conftest.py
HEAD = """# Errors

Whatever minidistil refuses, it refuses with a `minidistil.Error`, which is a `ValueError`, of one of three kinds:
`CheckpointError` (a checkpoint, its config or its tokenizer cannot be found, read or written), `InputError` (a
text, a tensor or an argument is not what the call needs), `MissingDependency` (an optional package is not
installed). The message says what and where, what was expected, and what to do. An argument that does not exist is
Python's `TypeError`. On the command line each is one line on stderr, with exit code 2; `--debug` adds the
traceback.

These are all of them, by the module that raises them; … is a value. Each is raised by a test.
"""


class Message(NamedTuple):
    """A message of one kind, with … where a value stands."""

    module: str
    kind: str
    text: str

    def fits(self, kind: str, text: str) -> bool:
        """Whether an error of this kind may have this message."""
        pattern = "(.|\n)*".join(map(re.escape, self.text.split("…")))
        return kind == self.kind and re.fullmatch(pattern, text) is not None


def messages() -> Iterator[Message]:
    """All of them, in the order of the files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")
        raised = [node.exc for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Raise)]
        for call in sorted((node for node in raised if isinstance(node, ast.Call)), key=lambda node: node.lineno):
            if isinstance(call.func, ast.Name) and call.func.id in KINDS:
                yield Message(module.replace("/", "."), call.func.id, words(call.args[0]))


def unraised(raised: Iterable[tuple[str, str]]) -> list[Message]:
    """Those that none of these, kind and text, can have come from."""
    return [message for message in messages() if not any(message.fits(*error) for error in raised)]


def words(node: ast.expr) -> str:
    """The text of a string in the source."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr), ast.dump(node)
    return "".join(words(part) if isinstance(part, ast.Constant) else "…" for part in node.values)


def page() -> str:
    """The page of all messages; those of values alone only say where another error came from."""
    parts = [HEAD]
    for module, found in itertools.groupby(messages(), lambda message: message.module):
        rows = dict.fromkeys(message for message in found if re.search(r"\w", message.text))
        parts.append(f"\n## `{module}`\n\n" + "".join(f"- {row.kind}: `{row.text}`\n" for row in rows))
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
