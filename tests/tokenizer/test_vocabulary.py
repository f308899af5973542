"""Tokens, ids and decoding, as in transformers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from minidistil import Tokenizer
from minidistil.checkpoint import arguments
from minidistil.errors import InputError
from support.places import OURS
from support.tokenizer_files import load_both

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


@pytest.mark.parametrize("ids", [None, "a", [-1], [1.5], [[1], "a"], [2**32], [True]])
def test_values_that_are_not_ids_are_an_error(real, ids):
    with pytest.raises(InputError, match="expected token ids"):
        real[0].decode(ids)


def test_truncation_may_be_a_boolean_as_in_transformers(real):
    tokenizer = real[0]
    assert tokenizer(TEXTS[1], max_length=4, truncation=True).layout.lengths == [4]
    with pytest.raises(InputError, match="more than 4 tokens"):
        tokenizer(TEXTS[1], max_length=4, truncation=False)


@pytest.mark.parametrize("form", [np.int64, np.int32, torch.tensor, np.array], ids=lambda form: form.__name__)
def test_ids_may_be_integers_of_numpy_and_torch(real, form):
    mine, other = real
    ids = other(TEXTS[1])["input_ids"]
    listed = [form(i) for i in ids]
    assert mine.decode(listed) == other.decode(ids)
    assert mine.decode(form(ids[1])) == other.decode(ids[1])
    assert mine.convert_ids_to_tokens(listed) == other.convert_ids_to_tokens(ids)
    assert mine.convert_ids_to_tokens(form(ids[1])) == other.convert_ids_to_tokens(ids[1])


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, tuple], ids=lambda form: form.__name__)
def test_several_lists_of_ids_are_decoded_as_in_transformers(real, form):
    mine, other = real
    ids = other(TEXTS, padding=True)["input_ids"]
    for options in ({}, {"skip_special_tokens": True}):
        assert mine.batch_decode(form(ids), **options) == other.batch_decode(ids, **options)
        assert mine.decode(form(ids), **options) == other.decode(ids, **options)
    assert mine.batch_decode([]) == other.batch_decode([])


PROPERTIES = [
    *("vocab_size", "vocab", "special_tokens_map", "all_special_tokens", "all_special_ids", "is_fast"),
    *("padding_side", "truncation_side", "model_max_length"),
]


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_match_transformers(real, name):
    mine, other = real
    assert getattr(mine, name) == getattr(other, name)


@pytest.mark.parametrize("name", PROPERTIES[:5])
def test_special_tokens_of_every_form_match_transformers(both, name):
    mine, other = both
    assert getattr(mine, name) == getattr(other, name)


def test_methods_match_transformers(both):
    mine, other = both
    assert mine.get_added_vocab() == other.get_added_vocab()
    for pair in (False, True):
        assert mine.num_special_tokens_to_add(pair) == other.num_special_tokens_to_add(pair)
    for text in TEXTS:
        tokens = other.tokenize(text)
        assert mine.tokenize(text) == tokens
        assert mine.tokenize(text, "film", add_special_tokens=True) == other.tokenize(
            text, "film", add_special_tokens=True
        )
        assert mine.convert_tokens_to_string(tokens) == other.convert_tokens_to_string(tokens)


@pytest.mark.parametrize("special", [False, True])
def test_tokens_are_added_as_in_transformers(special):
    mine, other = load_both(OURS)
    for tokens in (["[USER]", "film"], "[BOT]", ["[USER]"]):
        assert mine.add_tokens(tokens, special) == other.add_tokens(tokens, special)
    text = "a [USER] of [BOT]"
    assert mine.encode([text]).ids == [other(text)["input_ids"]]
    assert mine.decode(other(text)["input_ids"], True) == other.decode(other(text)["input_ids"], True)


def test_the_maximum_length_and_the_side_of_truncation_can_be_set():
    mine, other = load_both(OURS)
    text = "a film about the sun and the rain"
    for tokenizer in (mine, other):
        tokenizer.model_max_length = 5
        tokenizer.truncation_side = "left"
    assert mine.max_length == 5
    assert mine.encode([text]).ids == [other(text, truncation=True)["input_ids"]]
    with pytest.raises(InputError, match="truncation_side is 'up'"):
        mine.truncation_side = "up"
    for name in ("padding_side", "do_lower_case", "pad_token", "vocab_size"):
        with pytest.raises(AttributeError):
            setattr(mine, name, "left")


@pytest.mark.parametrize("name", [*arguments.TOKENIZER_ATTRIBUTES])
def test_an_attribute_of_transformers_names_its_replacement(real, name):
    with pytest.raises(AttributeError, match=f"'Tokenizer' object has no attribute {name!r}: "):
        getattr(real[0], name)


@pytest.mark.parametrize("name", [*arguments.TOKENIZING])
def test_an_argument_of_transformers_names_its_replacement(real, name):
    for encode in (real[0], real[0].encode):
        with pytest.raises(InputError, match=f"{name} is .*, which has no meaning here: "):
            encode(TEXTS, **{name: "other"})
        with pytest.raises(TypeError, match="banana"):
            encode(TEXTS, banana=True)


def test_arguments_of_transformers_that_hold_anyway_are_accepted(real):
    held = {name: values[0] for name, (values, _) in arguments.TOKENIZING.items() if values}
    assert real[0].encode(TEXTS, **held, return_tensors=None) == real[0].encode(TEXTS)


@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": True},
        {"padding_side": "left"},
        {"subfolder": "x"},
        {"mask_token": "x"},
        {"use_fast": False},
    ],
    ids=str,
)
def test_an_argument_of_from_pretrained_names_its_replacement(options):
    with pytest.raises(InputError, match="which has no meaning here: "):
        Tokenizer.from_pretrained(OURS, **options)
    with pytest.raises(TypeError, match="banana"):
        Tokenizer.from_pretrained(OURS, banana=1)


def test_the_repr_names_the_model_and_the_number_of_tokens():
    tokenizer = Tokenizer.from_pretrained(OURS)
    assert repr(tokenizer) == f"Tokenizer(WordPiece, {len(tokenizer)} tokens, max_length={tokenizer.max_length})"


@pytest.mark.parametrize("convert", [np.array, pd.Series, pa.array, tuple], ids=lambda convert: convert.__name__)
def test_texts_may_be_arrays(real, convert):
    tokenizer = real[0]
    expected = tokenizer.encode(TEXTS[1:3], TEXTS[2:4], max_length=9)
    assert tokenizer.encode(convert(TEXTS[1:3]), convert(TEXTS[2:4]), max_length=np.int64(9)) == expected
    assert tokenizer.encode(np.array(TEXTS[1])) == tokenizer.encode(TEXTS[1])
