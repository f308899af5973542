"""The messages that the package can raise, read from its source; and the page of the docs that lists them.

After a change of messages: `PYTHONPATH=tests python -m support.errors > docs/errors.md`.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from support.places import ROOT

PACKAGE = ROOT / "minidistil"
RAISED: set[tuple[str, str]] = set()  # kind and text of all that was raised since the tests began; see conftest.py
KINDS = {  # of `minidistil.Error`, with the text below its heading on the page
    "CheckpointError": "A checkpoint, its config or its tokenizer cannot be found, read or written. A failed load "
    "has no side effects.",
    "InputError": "A text, a tensor, a file or an argument is invalid. Values are checked before the model runs.",
    "MissingDependency": "An optional package is not installed. The message has the command that installs it.",
}
TOPICS = {  # heading: modules or packages that raise, the longest name counts; the usual cause and remedy
    "Finding a checkpoint": (
        ["checkpoint.files"],
        "The name is neither a folder nor a repository on the Hub, a file is missing, or there is no network. "
        "Check the spelling; log in for a gated or private model; pass a folder to work offline.",
    ),
    "config.json": (
        ["config", "heads"],
        "A value is out of range, contradicts another value, or names an architecture that is not a DistilBERT. "
        "Correct the file, or download it again.",
    ),
    "Classes, tasks and heads": (
        ["checkpoint.architectures"],
        "The checkpoint was made for another task, or a new head does not fit. Pass `task=` to choose a class, "
        "and `new_head=True` to put an untrained head on the encoder.",
    ),
    "Weights": (
        ["checkpoint"],
        "A file is damaged or incomplete, holds more than tensors, or has other tensors than the model. Download "
        "it again; prefer a checkpoint with `model.safetensors`.",
    ),
    "Tokenizer": (
        ["checkpoint.tokenizer", "tokenizer", "vocabulary"],
        "The tokenizer's files are damaged or incomplete, or a text cannot be encoded or truncated to fit. "
        "Download the files again; change `max_length`, `truncation` or `stride`.",
    ),
    "Batches and tensors": (
        ["layout", "tracing", "batching"],
        "Token ids, masks or lengths are not what the model takes. Use the checkpoint's own tokenizer, and let it "
        "truncate with `max_length=`.",
    ),
    "Operations and backends": (
        ["ops", "model", "backends"],
        "Operations that are for inference only were used in training or with adapters, or two replacements "
        "exclude each other. Call `model.eval()` and use `torch.inference_mode()`.",
    ),
    "Arguments": (["checks"], "An argument that several functions share has the wrong type or value."),
    "Pipelines": (
        ["pipelines"],
        "The inputs are not texts, are longer than the model takes, or an option does not fit the task.",
    ),
    "Data files": (
        ["io.text_files", "training.records", "training.labels", "training.label_rules"],
        "A file is not text in UTF-8, JSONL, CSV or TSV, a line is too long, a column is missing, or a label does "
        "not fit the problem. The message names the line.",
    ),
    "Training and evaluation": (
        ["training", "io.locks"],
        "A hyperparameter is out of range, the output folder holds another run, or the loss is not finite.",
    ),
    "Command line": (
        ["cli"],
        "Options are missing or exclude each other, or an input or output file does not fit. `minidistil VERB "
        "--help` lists the options.",
    ),
    "Kernel lab": (
        ["lab"],
        "An implementation is unknown, cannot run on this machine, or was rejected by the gate. `minidistil lab "
        "list` shows what runs here.",
    ),
    "Benchmarks": (
        ["benchmarks"],
        "A runtime is unknown or its process failed, or the data are too few.",
    ),
    "Optional packages": (["errors"], "A feature needs an extra that is not installed."),
}
HEAD = """# Errors

This page is for anyone with an error message on the screen: search it for a few words of the message.

Every error that minidistil raises on purpose is a `minidistil.Error`, which is a `ValueError`, with three
subclasses: [CheckpointError](#checkpointerror), [InputError](#inputerror) and
[MissingDependency](#missingdependency). A message reads `cause: remedy`. The cause says what is wrong and where,
the remedy what was expected and what to do. The tables show the two side by side, with `<name>` or `…` for a
value. A remedy such as `<error>` or `<reason>` is what the operating system or another library reports.

On the command line an error is one line on stderr, with exit code 2; `--debug` adds the traceback.

```python
try:
    model = minidistil.from_pretrained("my-model")
except minidistil.CheckpointError as error:
    print(error)
```
"""
OTHERS = """
## Other exceptions and warnings

| raised | when | remedy |
| --- | --- | --- |
| `TypeError` | an argument does not exist, such as `token_type_ids` or `head_mask`; an operation of `with_ops` does not exist | remove it, or correct its name |
| `AttributeError` | a module has no such public name | correct its name: `dir(minidistil)` |
| `lab.gate.GateError` | a case of the lab accepts a result that is wrong on purpose | correct the case: it checks nothing |
| `KeyboardInterrupt` | Ctrl-C; a training run has saved its state | continue with `resume=True` or `--resume` |
| `UserWarning`: `texts longer than … tokens are truncated` | once per pipeline | shorten the texts, or pass `truncation=False` where the task has it, to get an error |
| `UserWarning`: `targets is …, which is not in the vocabulary: …` | in `fill-mask`; the first token of the word is scored | choose another word |
"""  # noqa: E501, a table's row is one line


class Message(NamedTuple):
    """A message of one kind, with … where a value stands, or with the value's name in the source."""

    module: str
    kind: str
    text: str
    named: str = ""

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
                yield Message(module.replace("/", "."), call.func.id, words(call.args[0]), named(call.args[0]))


def unraised(raised: Iterable[tuple[str, str]]) -> list[Message]:
    """Those that none of these, kind and text, can have come from."""
    return [message for message in messages() if not any(message.fits(*error) for error in raised)]


def words(node: ast.expr) -> str:
    """The text of a string in the source."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr), ast.dump(node)
    return "".join(words(part) if isinstance(part, ast.Constant) else "…" for part in node.values)


def named(node: ast.expr) -> str:
    """The text of a string in the source, with the names of its values."""
    if isinstance(node, ast.FormattedValue):
        name = getattr(node.value, "id", getattr(node.value, "attr", "self"))
        return "…" if name == "self" else "<type>" if name == "__name__" else f"<{name.lower()}>"
    text = "".join(map(named, node.values)) if isinstance(node, ast.JoinedStr) else words(node)
    return re.sub("…+", "…", text)


def cause_and_remedy(text: str) -> tuple[str, str]:
    """Split a message at its first colon; one after a leading value, such as a file's name, does not count."""
    place, rest = re.fullmatch(r"((?:(?:<\w+>|…): (?=.*: |(?!expected)))?)(.*)", text).groups()  # type: ignore[union-attr]
    cause, _, remedy = rest.partition(": ")
    return place + cause, remedy


def page() -> str:
    """The page of all messages, by kind and topic, except those of values alone, which repeat another error."""
    listed = [message for message in messages() if re.search(r"\w", message.text)]
    parts = [HEAD]
    for kind, about in KINDS.items():
        parts.append(f"\n## {kind}\n\n{textwrap.fill(about, 115)}\n")
        for topic, (_, usual) in TOPICS.items():
            found = [message for message in listed if message.kind == kind and topic_of(message.module) == topic]
            if rows := dict.fromkeys(cause_and_remedy(each.named) for each in found):
                sources = ", ".join(f"`{name}`" for name in dict.fromkeys(each.module for each in found))
                parts.append(
                    f"\n### {topic}\n\n{textwrap.fill(usual, 115)}\n\n| cause | remedy |\n| --- | --- |\n"
                )
                parts += [f"| {code(cause)} | {code(remedy)} |\n" for cause, remedy in rows]
                parts.append("\n" + textwrap.fill(f"Raised by {sources}.", 115) + "\n")
    return "".join([*parts, OTHERS])


def topic_of(module: str) -> str:
    """The heading below which a module's messages stand."""
    names = [".".join(module.split(".")[:end]) for end in range(module.count(".") + 1, 0, -1)]
    return next(topic for name in names for topic, (modules, _) in TOPICS.items() if name in modules)


def code(text: str) -> str:
    """Text of a message in a table's cell."""
    return "`" + text.replace("|", "\\|") + "`" if text else ""


if __name__ == "__main__":
    print(page(), end="")
