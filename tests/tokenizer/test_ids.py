"""Token ids of any text and any pair, compared with transformers."""

from __future__ import annotations

import json
import unicodedata

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from minidistil import InputError, Tokenizer
from support.tokenizer_files import (
    FORMS,
    NAMES,
    NEW,
    RENAMED,
    SETTINGS,
    SPECIAL,
    TRUNCATIONS,
    VOCABULARY,
    ids_of,
    load_both,
    load_ids,
    thorough,
    write_json,
    write_tokenizer_json,
    write_vocab,
)

AWKWARD = st.sampled_from(
    [
        *SPECIAL,
        *("[mask]", "[ MASK ]", "[MASK", NEW, "<NEW>", "[CLS][SEP]", "##s", "a" * 101, "the" * 40, "é" * 200),
        *("the", "team", "The TEAM won", "cafe\u0301", "café", "unable", "日本語の文", "中", "naïve", "résumé"),
        *("😀", "👩\u200d👩\u200d👧", "🇫🇷", "\u0301", "a\u0301\u0301", "ﬁ", "İstanbul", "\u017f", "ß", "\u1e9e"),
        *"\0\x01\x7f\x85\ufffd\u200b\u00ad\ufeff\u2028\u00a0\u3000\t",
        *("\ue000", "\U0010ffff", "\U00020000", "...", "$5.00", "don't", "e.g."),
    ]
)
ANY = st.text(max_size=12)
TEXTS = st.one_of(
    ANY, st.lists(AWKWARD | ANY, max_size=12).map("".join), st.lists(AWKWARD, max_size=12).map(" ".join)
)
LIMITS = st.sampled_from([3, 4, 5, 8, 16, 64, 512])


def same_ids_or_both_refuse(both, texts, pairs, max_length, truncation):
    """Check that both tokenizers return the same ids, or that both refuse the input."""
    ours, theirs = both
    special = 2 if pairs is None else 3
    expected, error = None, max_length <= special or (pairs is None and truncation == "only_second")
    if not error:
        how = False if truncation == "error" else truncation
        try:
            expected = theirs(texts, pairs, truncation=how, max_length=max_length, verbose=False)["input_ids"]
        except Exception:  # a text that is too short to be truncated with this strategy
            error = True
    if error or (truncation == "error" and max(map(len, expected)) > max_length):
        with pytest.raises(InputError):
            ours(texts, pairs, max_length=max_length, truncation=truncation)
        return
    batch = ours(texts, pairs, max_length=max_length, truncation=truncation)
    assert batch.ids.tolist() == [i for ids in expected for i in ids]
    assert batch.layout.lengths == [len(ids) for ids in expected]
    whole = theirs(texts, pairs, verbose=False, truncation=False)["input_ids"]
    assert batch.truncated == sum(len(ids) > max_length for ids in whole)


@pytest.mark.full
@thorough
@given(st.lists(TEXTS, min_size=1, max_size=4), LIMITS, st.sampled_from(TRUNCATIONS))
@example(["[CLS] a [SEP] b [MASK]", "", "\0", "a" * 101], 512, "error")
def test_ids_of_any_texts_are_those_of_transformers(both, texts, max_length, truncation):
    same_ids_or_both_refuse(both, texts, None, max_length, truncation)


@pytest.mark.full
@thorough
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), LIMITS, st.sampled_from(TRUNCATIONS))
@example([("", ""), ("the team", ""), ("", "[SEP]")], 512, "longest_first")
def test_ids_of_any_pairs_are_those_of_transformers(both, pairs, max_length, truncation):
    first, second = (list(side) for side in zip(*pairs, strict=True))
    same_ids_or_both_refuse(both, first, second, max_length, truncation)


def test_the_settings_make_a_difference(folders):
    # otherwise the settings of the tests above would be equivalent
    text = ["The café 日本語"]
    ids = {name: tuple(load_ids(folders["vocab.txt", name], text)[0]) for name in SETTINGS}
    assert ids.pop("defaults") == ids["lower case"]
    assert len(set(ids.values())) == len(ids)


@pytest.mark.parametrize("name", SETTINGS)
def test_both_forms_of_files_give_the_same_ids(folders, name):
    texts = ["The team WON, unable", "日本語の文 cafe\u0301 [MASK]", "a" * 101, ""]
    assert load_ids(folders["vocab.txt", name], texts) == load_ids(folders["tokenizer.json", name], texts)


@pytest.mark.full
@thorough
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), LIMITS, st.sampled_from(TRUNCATIONS))
def test_ids_of_a_real_vocabulary_are_those_of_transformers(real, pairs, max_length, truncation):
    first, second = (list(side) for side in zip(*pairs, strict=True))
    same_ids_or_both_refuse(real, first, None, max_length, truncation)
    same_ids_or_both_refuse(real, first, second, max_length, truncation)


@pytest.mark.full
def test_every_character_has_the_ids_of_transformers(real):
    ours, theirs = real
    characters = [chr(code) for code in range(0x3400) if unicodedata.category(chr(code)) != "Cs"]
    texts = [f"a{character}b {character}" for character in characters]
    assert ours.encode(texts).ids == theirs(texts)["input_ids"]


def test_stored_truncation_and_padding_are_ignored(folders):
    tokenizer = Tokenizer.from_pretrained(folders["tokenizer.json", "defaults"])
    batch = tokenizer(["a", "a b c d e f g h i j"])
    assert batch.layout.lengths == [3, 12]
    assert batch.truncated == 0
    assert tokenizer.encode(["a", "b b"]).ids == [ids_of("[CLS] a [SEP]"), ids_of("[CLS] b b [SEP]")]


def test_lowercasing_of_tokenizer_json_applies_unless_a_setting_overrides_it(tmp_path):
    # transformers always lowercases here
    write_tokenizer_json(tmp_path, do_lower_case=False)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "DistilBertTokenizer"})
    assert load_ids(tmp_path, ["The A"]) == [ids_of("[CLS] The A [SEP]")]


def test_a_setting_overrides_tokenizer_json_as_in_transformers(tmp_path):
    write_tokenizer_json(tmp_path, do_lower_case=False)
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": True})
    ours, theirs = load_both(tmp_path)
    assert ours.encode(["The A"]).ids == theirs(["The A"])["input_ids"] == [ids_of("[CLS] the a [SEP]")]


def test_a_generic_tokenizer_class_uses_tokenizer_json_unchanged(tmp_path):
    write_tokenizer_json(tmp_path, do_lower_case=False)
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}
    write_json(tmp_path / "tokenizer_config.json", values)
    ours, theirs = load_both(tmp_path)
    texts = ["The A", "Café [SEP]"]
    assert ours.encode(texts).ids == theirs(texts)["input_ids"]
    assert ours.encode(["A"]).ids == [ids_of("[CLS] A [SEP]")]


def test_tokenizer_json_without_a_template_gets_one(tmp_path):
    write_tokenizer_json(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    write_json(tmp_path / "tokenizer.json", {**stored, "post_processor": None})
    assert load_ids(tmp_path, ["a"], ["b"]) == [ids_of("[CLS] a [SEP] b [SEP]")]


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_pair_is_ignored_for_a_single_text_only(tmp_path, form):
    ours, theirs = load_both(FORMS[form](tmp_path))
    assert ours("a", "").ids.tolist() == theirs("a", "")["input_ids"] == ids_of("[CLS] a [SEP]")
    assert ours(["a"], [""]).ids.tolist() == theirs(["a"], [""])["input_ids"][0] == ids_of("[CLS] a [SEP] [SEP]")


def test_a_batch_has_packed_ids(tokenizer):
    batch = tokenizer(["a b", "", "c"])
    first, second, third = ids_of("[CLS] a b [SEP]"), ids_of("[CLS] [SEP]"), ids_of("[CLS] c [SEP]")
    assert batch.ids.tolist() == first + second + third
    assert batch.layout.lengths == [4, 2, 3]
    assert batch.ids.dtype == torch.int64
    assert len(batch) == 3


def test_encode_returns_the_ids_of_the_batch_as_lists(tokenizer):
    texts, pairs = ["a b", "", "the team"], ["c", "d", ""]
    encoded = tokenizer.encode(texts, pairs)
    assert [i for ids in encoded.ids for i in ids] == tokenizer(texts, pairs).ids.tolist()


def test_padded_rows_match_transformers(folders):
    ours, theirs = load_both(folders["vocab.txt", "defaults"])
    texts = ["the team won", "", "a [MASK] b c"]
    input_ids, attention_mask = ours(texts).padded()
    expected = theirs(texts, padding=True, return_tensors="pt")
    assert torch.equal(input_ids, expected["input_ids"])
    assert torch.equal(attention_mask, expected["attention_mask"])


def test_padded_rows_are_filled_with_the_padding_token(tmp_path):
    vocabulary = [*VOCABULARY[1:], "[PAD]"]
    for form, write in FORMS.items():
        batch = Tokenizer.from_pretrained(write(tmp_path / form, vocabulary=vocabulary))(["a b", ""])
        input_ids, attention_mask = batch.padded()
        assert input_ids[1, 2:].tolist() == [vocabulary.index("[PAD]")] * 2
        assert attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_padded_rows_are_filled_with_a_renamed_padding_token(tmp_path):
    vocabulary = [*RENAMED[1:], "<pad>"]
    tokenizer = Tokenizer.from_pretrained(write_vocab(tmp_path, vocabulary=vocabulary, **NAMES))
    assert tokenizer(["a b", ""]).padded()[0][1, 2:].tolist() == [vocabulary.index("<pad>")] * 2


def test_a_single_text_is_a_batch_of_one(tokenizer):
    assert tokenizer("a b").ids.tolist() == tokenizer(["a b"]).ids.tolist()
    assert tokenizer("a", "b").layout.lengths == [5]
    assert tokenizer.encode("a b").ids == tokenizer.encode(["a b"]).ids


def test_no_texts_are_an_empty_batch(tokenizer):
    assert len(tokenizer([])) == 0
    assert tokenizer([], []).ids.shape == (0,)
    assert tokenizer.encode([]).ids == []


def test_texts_may_be_any_iterable(tokenizer):
    texts = ["a b", "c"]
    expected = tokenizer(texts).ids.tolist()
    assert tokenizer(tuple(texts)).ids.tolist() == expected
    assert tokenizer(text for text in texts).ids.tolist() == expected
