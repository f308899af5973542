"""Maximum lengths, and strategies and sides of truncation."""

from __future__ import annotations

import pytest

from minidistil import CheckpointError, InputError, Tokenizer
from support.tokenizer_files import (
    FORMS,
    TRUNCATIONS,
    ids_of,
    load_both,
    write_config,
    write_json,
    write_vocab,
)


@pytest.mark.parametrize(
    ("model_max_length", "positions", "limit"),
    [
        (512, 512, 512),
        (128, 512, 128),
        (512, 64, 64),
        (1e30, 64, 64),
        (int(1e30), 64, 64),
        (None, 64, 64),
        (16.0, 64, 16),
    ],
)
def test_the_maximum_is_the_smaller_one_of_tokenizer_and_model(tmp_path, model_max_length, positions, limit):
    write_vocab(tmp_path, **({} if model_max_length is None else {"model_max_length": model_max_length}))
    write_config(tmp_path, positions)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.max_length == limit
    assert tokenizer("a " * 1000).layout.lengths == [limit]


def test_a_config_without_positions_has_the_default(tmp_path):
    write_vocab(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "distilbert"})
    assert Tokenizer.from_pretrained(tmp_path).max_length == 512


def test_max_len_is_the_old_name_of_model_max_length(tmp_path):
    assert Tokenizer.from_pretrained(write_vocab(tmp_path, max_len=32)).max_length == 32


def test_without_a_config_the_maximum_is_that_of_the_tokenizer(tmp_path):
    write_vocab(tmp_path, model_max_length=32)
    (tmp_path / "config.json").unlink()
    assert Tokenizer.from_pretrained(tmp_path).max_length == 32


@pytest.mark.parametrize("limit", [1e30, int(1e30), float("inf")])
def test_a_tokenizer_without_a_maximum_does_not_truncate(tmp_path, limit):
    write_vocab(tmp_path, model_max_length=limit)
    (tmp_path / "config.json").unlink()
    assert Tokenizer.from_pretrained(tmp_path)("a " * 1000).layout.lengths == [1002]


@pytest.mark.parametrize("limit", ["512", 0, -1, [512], {"a": 1}])
def test_an_invalid_maximum_is_an_error(tmp_path, limit):
    write_vocab(tmp_path, model_max_length=limit)
    with pytest.raises(CheckpointError, match="model_max_length"):
        Tokenizer.from_pretrained(tmp_path)


def test_max_length_overrides_the_maximum_of_the_tokenizer(tokenizer):
    assert tokenizer("a " * 1000, max_length=600).layout.lengths == [600]
    assert tokenizer("a " * 1000, max_length=10**9).layout.lengths == [1002]
    assert tokenizer("a " * 1000, max_length=10**30).layout.lengths == [1002]
    assert tokenizer("a " * 1000).layout.lengths == [512]


def test_truncated_counts_the_truncated_texts(tokenizer):
    texts = ["a", "a b c", "a b c d", "", "a b c d e f"]
    assert tokenizer(texts).truncated == 0
    assert tokenizer(texts, max_length=5).truncated == 2
    assert tokenizer(texts, ["a"] * 5, max_length=6).truncated == 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("truncation", TRUNCATIONS[:3])
def test_truncation_side_is_read_from_the_files(tmp_path, form, truncation):
    ours, theirs = load_both(FORMS[form](tmp_path, truncation_side="left"))
    texts, pairs = ["a b c d e f", "a b c d e"], ["g h i j k", "k l m n o p"]
    expected = theirs(texts, pairs, max_length=11, truncation=truncation)["input_ids"]
    assert ours.encode(texts, pairs, max_length=11, truncation=truncation).ids == expected


def test_an_unknown_truncation_side_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="truncation_side is 'up'"):
        Tokenizer.from_pretrained(write_vocab(tmp_path, truncation_side="up"))


@pytest.mark.parametrize("max_length", ["5", 5.5, True])
def test_a_max_length_that_is_not_an_integer_is_refused(tokenizer, max_length):
    with pytest.raises(InputError, match="max_length is"):
        tokenizer("a", max_length=max_length)


def test_each_truncation_strategy(tokenizer):
    def truncated(**options):
        return tokenizer.encode(["a b c d"], ["w x y"], max_length=8, **options).ids[0]

    assert truncated() == truncated(truncation="longest_first") == ids_of("[CLS] a b c [SEP] w x [SEP]")
    assert truncated(truncation="only_first") == ids_of("[CLS] a b [SEP] w x y [SEP]")
    assert truncated(truncation="only_second") == ids_of("[CLS] a b c d [SEP] w [SEP]")


def test_only_second_needs_pairs(tokenizer):
    with pytest.raises(InputError, match="only_second"):
        tokenizer("a", truncation="only_second")


@pytest.mark.parametrize("max_length", [-1, 0, 1, 2])
def test_a_maximum_without_room_for_text_is_refused(tokenizer, max_length):
    with pytest.raises(InputError, match=f"max_length is {max_length}"):
        tokenizer("a", max_length=max_length)


def test_a_pair_needs_room_for_one_more_special_token(tokenizer):
    assert tokenizer("a", max_length=3).layout.lengths == [3]
    with pytest.raises(InputError, match="max_length is 3"):
        tokenizer("a", "b", max_length=3)


def test_an_error_for_a_long_text_names_it(tokenizer):
    with pytest.raises(InputError, match=r"texts\[1\] has more than 5 tokens"):
        tokenizer(["a b c", "a b c d"], max_length=5, truncation="error")
    assert tokenizer("a b c", max_length=5, truncation="error").layout.lengths == [5]


def test_an_error_for_a_pair_that_cannot_be_truncated_names_it(tokenizer):
    with pytest.raises(InputError, match=r"texts\[1\] cannot be truncated"):
        tokenizer(["a b c d", "a"], ["b", "a b c d e f"], max_length=6, truncation="only_first")


def test_an_error_does_not_change_the_tokenizer(tokenizer):
    with pytest.raises(InputError):
        tokenizer("a", "a b c d e f", max_length=6, truncation="only_first")
    assert tokenizer("a " * 10).layout.lengths == [12]
