"""Every error is listed, and raised by some test."""

from __future__ import annotations

import pickle

import pytest
from errors import RAISED, messages, page
from places import ROOT

import minidistil
from minidistil.errors import require


def test_the_page_of_errors_lists_what_the_package_raises():
    assert (ROOT / "ERRORS.md").read_text(encoding="utf-8") == page(), "python tests/errors.py > ERRORS.md"


def test_every_kind_is_an_error_of_ours_and_a_value_error():
    for kind in (minidistil.CheckpointError, minidistil.InputError, minidistil.MissingDependency):
        assert issubclass(kind, minidistil.Error)
    assert issubclass(minidistil.Error, ValueError)


def test_an_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(minidistil.InputError("what and where")))
    assert (type(error), str(error)) == (minidistil.InputError, "what and where")


def test_an_optional_package_that_is_missing_says_what_to_install():
    with pytest.raises(minidistil.MissingDependency, match=r"pip install 'minidistil\[peers\]'"):
        require("no_such_module", "peers")


@pytest.mark.after_all_others
def test_every_error_was_raised_by_a_test():
    never = [message for message in messages() if not any(message.fits(*raised) for raised in RAISED)]
    assert not never, "\n".join(f"{message.module}: {message.text}" for message in never)
