"""Every error is listed, and raised by some test."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import minidistil
from minidistil import errors
from minidistil.checkpoint.files import Folder
from minidistil.errors import MAX_MESSAGE, input_name, install_command, printable, require
from support.errors import KINDS, TOPICS, cause_and_remedy, messages, page, topic_of, unraised
from support.places import ROOT


def test_the_page_of_errors_lists_what_the_package_raises():
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == page(), (
        "PYTHONPATH=tests python -m support.errors > docs/errors.md"
    )


def test_every_topic_of_the_page_has_messages():
    assert {topic_of(message.module) for message in messages()} == set(TOPICS)


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("dtype is <dtype>: expected one of …", "dtype is <dtype>", "expected one of …"),
        (
            "<path>: <name> is sparse: expected a dense tensor",
            "<path>: <name> is sparse",
            "expected a dense tensor",
        ),
        ("<path>: expected a JSON object", "<path>", "expected a JSON object"),
        ("<files>: n_layers is <n>, but 2", "<files>: n_layers is <n>, but 2", ""),
    ],
)
def test_the_page_splits_a_message_into_cause_and_remedy(text, cause, remedy):
    assert cause_and_remedy(text) == (cause, remedy)


def test_every_kind_is_an_error_of_ours_and_a_value_error():
    for kind in KINDS:
        assert issubclass(getattr(minidistil, kind), minidistil.Error)
    assert issubclass(minidistil.Error, ValueError)


def test_an_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(minidistil.InputError("what and where")))
    assert (type(error), str(error)) == (minidistil.InputError, "what and where")


def test_a_pickled_error_keeps_its_subject():
    name = input_name(3, "text")
    error = pickle.loads(pickle.dumps(minidistil.InputError(f"{name} is empty", subject=name)))
    assert str(error) == "inputs[3]['text'] is empty"
    assert (error.subject, error.subject.position, error.subject.field) == ("inputs[3]['text']", 3, "text")


HOSTILE = {
    "colors": ("\x1b[31mred", "\\x1b[31mred"),
    "C1": ("\x9b31m", "\\x9b31m"),
    "delete": ("\x7f\x08", "\\x7f\\x08"),
    "right to left": ("\u202egnp.exe", "\\u202egnp.exe"),
    "isolate": ("\u2066a\u2069", "\\u2066a\\u2069"),
    "zero width": ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
    "line separator": ("a\u2028b\x85c", "a\\u2028b\\x85c"),
    "lone surrogate": ("\udcff", "\\udcff"),
    "tag": ("\U000e0041", "\\U000e0041"),
    "line breaks": ("one\r\n  two\tthree", "one two three"),
    "text": ("é 日本 🏈", "é 日本 🏈"),
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_a_message_is_one_printable_line(text, shown):
    assert (
        str(minidistil.CheckpointError(f"tensor {text}: expected another")) == f"tensor {shown}: expected another"
    )
    with pytest.warns(UserWarning, match=re.escape(shown)):
        errors.warn(text)


@given(st.text(max_size=300))
def test_any_text_is_printable_and_stays_the_same_when_it_is_printed_again(text):
    line = printable(text)
    assert line.isprintable()
    assert printable(line) == line
    line.encode()  # without lone surrogates
    if text.isprintable():
        assert line == text


@pytest.mark.parametrize("character", ["a", "\x1b", "\U000e0041", "\n", "🏈"])
def test_a_long_message_is_shortened_in_the_middle(character):
    error = minidistil.InputError(f"the label is {character * 50_000_000}: expected a shorter one")
    message = str(error)
    assert len(message) <= MAX_MESSAGE
    assert message.isprintable()
    assert message.startswith("the label is ")
    assert message.endswith(": expected a shorter one")
    if character == "a":
        assert "a [... 49,998,087 characters ...] a" in message
    assert str(pickle.loads(pickle.dumps(error))) == message


def test_a_missing_optional_package_names_the_command_that_installs_it():
    with pytest.raises(
        minidistil.MissingDependency, match=r'^no_such_module is not installed: run pip install .*\[peers\]"'
    ):
        require("no_such_module", "peers")


def test_in_a_checkout_the_command_names_its_folder():
    assert install_command("peers") == f'pip install -e "{ROOT}[peers]"'


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "minidistil[peers]"'),
        ({"url": "file:///code", "dir_info": {}}, 'pip install "minidistil[peers] @ file:///code"'),
        (
            {"url": "https://host/a.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            'pip install "minidistil[peers] @ git+https://host/a.git@abc"',
        ),
    ],
)
def test_outside_a_checkout_the_command_installs_from_the_same_place(monkeypatch, tmp_path, origin, command):
    class Distribution:
        def read_text(self, name):
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(errors, "__file__", str(tmp_path / "minidistil" / "errors.py"))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    assert install_command("peers") == command


def test_a_package_without_metadata_is_installed_from_the_index(monkeypatch, tmp_path):
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "minidistil" / "errors.py"))
    monkeypatch.setattr(importlib.metadata.Distribution, "discover", lambda **_: iter(()))
    assert install_command("peers") == 'pip install "minidistil[peers]"'


def tiny(device="cpu"):
    config = minidistil.DistilBertConfig(vocab_size=9, dim=8, hidden_dim=8, n_heads=1, n_layers=1)
    return minidistil.DistilBertModel(config, device=device)


def on_two_devices():
    minidistil.Batch.from_padded(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, device="meta"))


REFUSED = [  # what no other file has a reason to try
    (lambda folder: minidistil.from_pretrained(folder, ops="fast"), "ops is str: expected Ops"),
    (lambda folder: minidistil.from_pretrained(""), "the name of a checkpoint is ''"),
    (lambda folder: minidistil.from_pretrained(5), "the name of a checkpoint is 5"),
    (lambda folder: tiny("meta").save_pretrained(folder), "there is nothing to save"),
    (lambda folder: on_two_devices(), "attention_mask is on meta: expected cpu, like input_ids"),
    (lambda folder: minidistil.Tokenizer.from_pretrained(folder).encodings(["a"], words=True), "a list of words"),
    (lambda folder: Folder(folder).find("a" * 300), "cannot read .*too long"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_refused_says_why(call, message, tmp_path):
    tiny().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    with pytest.raises(minidistil.Error, match=message):
        call(tmp_path)


@pytest.mark.full
def test_an_error_that_was_not_raised_is_found():
    """The whole suite fails where there is one; see conftest.py."""
    every = list(messages())
    raised = [(message.kind, message.text.replace("…", "some value")) for message in every]
    assert unraised(raised) == []
    assert unraised(raised[1:]) == every[:1]
