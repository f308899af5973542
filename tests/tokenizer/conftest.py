"""Tokenizers of every form and setting."""

from __future__ import annotations

import pytest

from minidistil import Tokenizer
from support.places import OURS
from support.tokenizer_files import (
    FORMS,
    SETTINGS,
    added_tokens_decoder,
    added_tokens_flags,
    added_tokens_json,
    additional_special_tokens,
    begin_and_end_tokens,
    extra_special_tokens,
    load_both,
    named_extra_special_tokens,
    no_mask_token_in_the_vocabulary,
    no_tokenizer_config,
    renamed,
    renamed_by_maps,
    renamed_by_special_tokens_map,
    special_tokens_that_are_null,
    special_tokens_that_are_split,
    typed_maps,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write one folder for each form and setting."""
    root = tmp_path_factory.mktemp("tokenizers")
    return {
        (form, name): write(root / form / name.replace(" ", "-"), **values)
        for form, write in FORMS.items()
        for name, values in SETTINGS.items()
    }


@pytest.fixture(scope="module", params=[(f, s) for f in FORMS for s in SETTINGS], ids=lambda p: f"{p[0]}-{p[1]}")
def both(request, folders):
    """Load one folder with minidistil and with transformers."""
    return load_both(folders[request.param])


@pytest.fixture(scope="module", params=FORMS)
def tokenizer(request, folders):
    """Load a tokenizer of each form with minidistil."""
    return Tokenizer.from_pretrained(folders[request.param, "defaults"])


@pytest.fixture(scope="module")
def real():
    return load_both(OURS)


@pytest.fixture(
    scope="module",
    params=[
        (form, write)
        for form in FORMS
        for write in (
            added_tokens_decoder,
            added_tokens_flags,
            added_tokens_json,
            additional_special_tokens,
            extra_special_tokens,
            named_extra_special_tokens,
            begin_and_end_tokens,
            special_tokens_that_are_split,
            renamed,
            renamed_by_special_tokens_map,
            renamed_by_maps,
            typed_maps,
            no_mask_token_in_the_vocabulary,
            special_tokens_that_are_null,
            no_tokenizer_config,
        )
    ],
    ids=lambda p: f"{p[0]}-{p[1].__name__}",
)
def unusual(request, tmp_path_factory):
    """Write a folder with unusual special or added tokens."""
    form, write = request.param
    return write(form, tmp_path_factory.mktemp("unusual") / "folder")


@pytest.fixture(scope="module")
def unusual_both(unusual):
    return load_both(unusual)
