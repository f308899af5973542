"""Tokens, ids and decoding, as in transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidistil import Tokenizer
from minidistil.errors import InputError
from support.places import OURS

ROLES = ["unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
TEXTS = ["", "Don't stop, it 's fine .", "unaffable caf\u00e9 \u65e5", "[MASK] is [SEP] here", "a" * 300]


def test_special_tokens_match_transformers(both):
    mine, other = both
    for role in ROLES:
        assert getattr(mine, role) == getattr(other, role)
        assert getattr(mine, f"{role}_id") == getattr(other, f"{role}_id")


def test_the_vocabulary_matches_transformers(both):
    mine, other = both
    assert len(mine) == len(other)
    assert mine.get_vocab() == other.get_vocab()


def test_tokens_and_ids_are_converted_as_in_transformers(both):
    mine, other = both
    tokens = ["[CLS]", "film", "##s", "nosuchtoken", ""]
    assert mine.convert_tokens_to_ids(tokens) == other.convert_tokens_to_ids(tokens)
    assert mine.convert_tokens_to_ids("film") == other.convert_tokens_to_ids("film")
    ids = [*range(8), 3, 2]
    assert mine.convert_ids_to_tokens(ids) == other.convert_ids_to_tokens(ids)
    assert mine.convert_ids_to_tokens(4) == other.convert_ids_to_tokens(4)
    assert mine.convert_ids_to_tokens(ids, True) == other.convert_ids_to_tokens(ids, skip_special_tokens=True)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("clean", [None, False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_decoded_as_in_transformers(real, text, skip, clean):
    mine, other = real
    ids = other(text)["input_ids"]
    options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
    expected = other.decode(ids, **options)
    for form in (ids, np.array(ids), torch.tensor(ids)):
        assert mine.decode(form, **options) == expected


@pytest.mark.parametrize("ids", [None, "a", [-1], [1.5], [[1]], [2**32], [True]])
def test_values_that_are_not_ids_are_an_error(real, ids):
    with pytest.raises(InputError, match="expected token ids"):
        real[0].decode(ids)


def test_truncation_may_be_a_boolean_as_in_transformers(real):
    tokenizer = real[0]
    assert tokenizer(TEXTS[1], max_length=4, truncation=True).layout.lengths == [4]
    with pytest.raises(InputError, match="more than 4 tokens"):
        tokenizer(TEXTS[1], max_length=4, truncation=False)


@pytest.mark.parametrize("name", ["padding", "return_tensors"])
def test_an_argument_of_transformers_names_its_replacement(real, name):
    with pytest.raises(InputError, match=rf"{name} is not an argument of this tokenizer: .*padded\(\)"):
        real[0](TEXTS, **{name: True})
    with pytest.raises(TypeError, match="banana"):
        real[0](TEXTS, banana=True)


def test_the_repr_names_the_model_and_the_number_of_tokens():
    tokenizer = Tokenizer.from_pretrained(OURS)
    assert repr(tokenizer) == f"Tokenizer(WordPiece, {len(tokenizer)} tokens, max_length={tokenizer.max_length})"
