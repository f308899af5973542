"""Saved tokenizers have the same ids in minidistil and transformers; threads and processes share a tokenizer."""

from __future__ import annotations

import json
import pickle
import sys
import threading

import pytest
import tokenizers

from minidistil import Tokenizer
from support.tokenizer_files import (
    FORMS,
    NAMES,
    NEW,
    SETTINGS,
    SPECIAL,
    load_both,
    load_ids,
    write_config,
    write_json,
    write_tokenizer_json,
    write_vocab,
)


def test_a_tokenizer_can_be_pickled(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode(["a b"]).ids == tokenizer.encode(["a b"]).ids


@pytest.mark.parametrize("normalizer", [None, tokenizers.normalizers.NFC()], ids=["none", "NFC"])
def test_a_normalizer_of_another_type_is_saved_unchanged(tmp_path, normalizer):
    folder = write_tokenizer_json(tmp_path / "from", tokenizer_class="PreTrainedTokenizerFast")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = normalizer
    backend.save(str(folder / "tokenizer.json"))
    write_config(tmp_path)
    before = load_ids(folder, ["The Cafe\u0301 THE"])
    Tokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    ours, theirs = load_both(tmp_path)
    assert ours.encode(["The Cafe\u0301 THE"]).ids == theirs(["The Cafe\u0301 THE"])["input_ids"] == before


@pytest.mark.parametrize("key", [(f, s) for f in FORMS for s in SETTINGS], ids=lambda key: f"{key[0]}-{key[1]}")
def test_a_saved_tokenizer_has_the_same_ids_in_minidistil_and_transformers(folders, tmp_path, key):
    check_ids_after_saving(folders[key], tmp_path)


def test_unusual_tokens_are_saved(unusual, tmp_path):
    check_ids_after_saving(unusual, tmp_path)


def check_ids_after_saving(folder, target):
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(target)
    write_config(target)  # needed by transformers' AutoTokenizer; saving a model writes it
    texts = [
        *SPECIAL,
        *NAMES.values(),
        "The café 日本語 é",
        f"{NEW} a{NEW}b <NEW> <e>",
        "x axb x[MASK]x",
        "a\0b",
        "",
    ]
    expected = tokenizer.encode(texts, texts[::-1]).ids
    ours, theirs = load_both(target)
    assert ours.encode(texts, texts[::-1]).ids == expected
    assert theirs(texts, texts[::-1], truncation=False)["input_ids"] == expected
    assert ours.max_length == tokenizer.max_length == theirs.model_max_length
    assert ours.pad_id == tokenizer.pad_id


def test_lowercasing_of_tokenizer_json_is_saved_for_transformers(tmp_path):
    write_tokenizer_json(tmp_path / "a", do_lower_case=False)
    write_json(tmp_path / "a" / "tokenizer_config.json", {})
    check_ids_after_saving(tmp_path / "a", tmp_path / "b")


def test_truncation_of_an_earlier_call_is_not_saved(tokenizer, tmp_path):
    tokenizer("a b c d", max_length=4)
    tokenizer.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    assert stored["truncation"] is None
    assert stored["padding"] is None


def test_saving_over_the_folder_that_was_loaded_is_safe(tmp_path):
    tokenizer = Tokenizer.from_pretrained(write_vocab(tmp_path, do_lower_case=False))
    tokenizer.save_pretrained(tmp_path)
    assert load_ids(tmp_path, ["The A é"]) == tokenizer.encode(["The A é"]).ids


def test_unknown_settings_are_kept_in_saving(tmp_path):
    write_vocab(tmp_path, never_split=["a"], model_max_length=256)
    Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert stored["never_split"] == ["a"]
    assert stored["model_max_length"] == 256


@pytest.fixture
def frequent_switches():
    """Switch between threads as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.full
def test_threads_with_different_limits_do_not_affect_each_other(tokenizer, frequent_switches):
    wrong = []

    def run(limit):
        for _ in range(500):
            batch = tokenizer("a b c d e f g h", max_length=limit)
            if (batch.layout.lengths, batch.truncated) != ([limit], 1):
                wrong.append(limit)

    threads = [threading.Thread(target=run, args=[limit]) for limit in (4, 5, 6, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
