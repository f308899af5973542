"""Errors for invalid texts, which name the text, and for broken files, which name the file."""

from __future__ import annotations

import json

import pytest

from minidistil import CheckpointError, InputError, Tokenizer
from minidistil.checkpoint.tokenizer import UNKNOWN
from support.tokenizer_files import (
    write_config,
    write_vocab,
)


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["nested"], 1.5])
def test_an_error_for_a_value_that_is_not_a_string_names_its_index(tokenizer, text):
    kind = type(text).__name__
    with pytest.raises(InputError, match=rf"texts\[1\] is {kind}"):
        tokenizer(["a", text])
    with pytest.raises(InputError, match=rf"pairs\[1\] is {kind}"):
        tokenizer(["a", "b"], ["a", text])


@pytest.mark.parametrize("texts", [None, 5, b"bytes"])
def test_a_value_that_is_not_a_list_of_texts_is_refused(tokenizer, texts):
    with pytest.raises(InputError, match="texts"):
        tokenizer(texts)


def test_an_error_for_a_lone_surrogate_names_its_index(tokenizer):
    with pytest.raises(InputError, match=r"texts\[1\]: character 3 is a lone surrogate"):
        tokenizer(["fine", "abc\ud800"])
    with pytest.raises(InputError, match=r"pairs\[0\]: character 0 is a lone surrogate"):
        tokenizer("fine", "\udfff")


def test_a_different_number_of_pairs_is_refused(tokenizer):
    with pytest.raises(InputError, match="there are 2 texts but 1 pairs"):
        tokenizer(["a", "b"], ["c"])
    with pytest.raises(InputError, match="there are 2 texts but 1 pairs"):
        tokenizer(["a", "b"], "c")
    with pytest.raises(InputError, match="there are 1 texts but 0 pairs"):
        tokenizer("a", [])


@pytest.mark.parametrize("truncation", ["longest", "", None, 1])
def test_an_unknown_truncation_is_refused_with_the_known_ones(tokenizer, truncation):
    with pytest.raises(InputError, match=r"truncation is .*longest_first, only_first, only_second, error"):
        tokenizer("a", truncation=truncation)


def test_an_error_for_a_folder_without_a_tokenizer_names_the_expected_files(tmp_path):
    write_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json or vocab\.txt") as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


BROKEN = {
    "vocab.txt": {
        "empty": b"",
        "invalid UTF-8": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xff\xfe\n",
        "no [CLS]": b"[PAD]\n[UNK]\n[SEP]\na\n",
        "no [SEP]": b"[PAD]\n[UNK]\n[CLS]\na\n",
        "no [UNK]": b"[PAD]\n[CLS]\n[SEP]\na\n",
    },
    "tokenizer.json": {
        "empty": b"",
        "not JSON": b"{",
        "invalid UTF-8": b'{"version": "\xff"}',
        "another object": b"{}",
        "a list": b"[]",
        "no model": b'{"version": "1.0", "added_tokens": []}',
    },
    "tokenizer_config.json": {
        "not JSON": b"{",
        "a list": b"[]",
        "do_lower_case": b'{"do_lower_case": "yes"}',
        "strip_accents": b'{"strip_accents": 1}',
        "cls_token": b'{"cls_token": 5}',
        "cls_token with flags": b'{"cls_token": {"lstrip": true}}',
        "null unk_token": b'{"unk_token": null}',
        "added_tokens_decoder": b'{"added_tokens_decoder": {"x": {"content": "y"}}}',
        "added_tokens_decoder without content": b'{"added_tokens_decoder": {"9": {}}}',
        "added_tokens_decoder is a list": b'{"added_tokens_decoder": ["y"]}',
        "additional_special_tokens": b'{"additional_special_tokens": [5]}',
        "additional_special_tokens is a string": b'{"additional_special_tokens": "abc"}',
        "extra_special_tokens is a string": b'{"extra_special_tokens": "abc"}',
        "model_max_length is a boolean": b'{"model_max_length": true}',
        "model_max_length is a string": b'{"model_max_length": "512"}',
        "model_max_length is NaN": b'{"model_max_length": NaN}',
    },
    "special_tokens_map.json": {"not JSON": b"{", "unk_token": b'{"unk_token": ["[UNK]"]}'},
    "added_tokens.json": {
        "not JSON": b"{",
        "a list": b'["x"]',
        "an id": b'{"x": "y"}',
        "an id list": b'{"x": [1]}',
    },
    "config.json": {"not JSON": b"{", "positions": b'{"max_position_embeddings": "many"}'},
}


@pytest.mark.parametrize(
    ("name", "content"),
    [pytest.param(n, c, id=f"{n}-{what}") for n, kinds in BROKEN.items() for what, c in kinds.items()],
)
def test_a_broken_file_is_an_error_that_names_the_folder(tmp_path, name, content):
    write_vocab(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def with_charsmap(folder, charsmap):
    """Write a tokenizer.json whose normalizer has this table, which the library does not check."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def saved_json(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    return tmp_path


def test_a_panic_while_reading_is_an_error_that_names_the_file(saved_json):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a readable tokenizer"):
        Tokenizer.from_pretrained(with_charsmap(saved_json, ""))


def test_a_panic_while_encoding_is_an_error_that_names_the_file(saved_json):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot encode a word"):
        Tokenizer.from_pretrained(with_charsmap(saved_json, "CAAAAAAAAAAAAAAAAAAA"))


def with_model(folder, **model):
    """Write a tokenizer.json with this model."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"] = model
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


WITHOUT_UNKNOWN = {
    "WordLevel": {"vocab": {"[CLS]": 2, "[SEP]": 3, "a": 4}, "unk_token": "[UNK]"},
    "WordPiece": {
        "vocab": {"[CLS]": 2, "[SEP]": 3, "a": 4},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    },
    "BPE": {"vocab": {"[CLS]": 2, "[SEP]": 3, "a": 4}, "merges": [], "unk_token": "<unk>"},
    "Unigram": {"vocab": [["[CLS]", 0.0], ["[SEP]", 0.0], ["a", -1.0]], "unk_id": None},
}


@pytest.mark.parametrize("kind", WITHOUT_UNKNOWN)
def test_a_model_that_cannot_encode_unknown_words_is_an_error_that_names_the_file(saved_json, kind):
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json cannot encode a word that is not in its vocabulary"
    ):
        Tokenizer.from_pretrained(with_model(saved_json, type=kind, **WITHOUT_UNKNOWN[kind]))


def test_a_text_that_a_broken_tokenizer_cannot_encode_is_not_blamed(saved_json):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *UNKNOWN.split()]
    words = {token: i for i, token in enumerate(vocabulary) if token != "[UNK]"}
    tokenizer = Tokenizer.from_pretrained(with_model(saved_json, type="WordLevel", vocab=words, unk_token="<unk>"))
    with pytest.raises(
        CheckpointError, match=r"the tokenizer, which is broken, cannot encode texts\[1\]: WordLevel"
    ):
        tokenizer.encode([UNKNOWN, "other words"])


def test_a_special_token_beyond_the_models_vocabulary_is_an_error_that_names_the_file(saved_json):
    (saved_json / "config.json").write_text('{"vocab_size": 6}', encoding="utf-8")
    assert Tokenizer.from_pretrained(saved_json).encode(["a"]).ids == [[2, 5, 3]]
    content = json.loads((saved_json / "tokenizer.json").read_text(encoding="utf-8"))
    content["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 99999], "cls": ["[CLS]", 2]}
    (saved_json / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json adds the token id 99999 .* vocab_size .* is 6"):
        Tokenizer.from_pretrained(saved_json)


def test_a_very_large_word_limit_is_refused(saved_json):
    content = json.loads((saved_json / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["max_input_chars_per_word"] = 10**6
    (saved_json / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="max_input_chars_per_word is 1000000: expected at most 1000"):
        Tokenizer.from_pretrained(saved_json)


@pytest.mark.parametrize(("key", "value"), [("do_lower_case", None), ("strip_accents", 1), ("sep_token", 5)])
def test_an_error_for_an_invalid_setting_names_it(saved_json, key, value):
    (saved_json / "tokenizer.json").unlink()
    (saved_json / "tokenizer_config.json").write_text(json.dumps({key: value}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{key} in tokenizer_config.json is"):
        Tokenizer.from_pretrained(saved_json)


def test_an_interruption_is_not_reported_as_a_failure_of_the_library(saved_json, monkeypatch):
    tokenizer = Tokenizer.from_pretrained(saved_json)

    class Interrupted:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "backend", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        tokenizer(["a"])
