"""A tokenizer.json that would make texts long, or the library hang, is refused with the field and the limit."""

from __future__ import annotations

import base64
import json
import os

import pytest

from minidistil import CheckpointError, Tokenizer
from minidistil.checkpoint.tokenizer_limits import MAX_BYTES
from support.places import OURS
from support.tokenizer_files import write_tokenizer_json, write_vocab


def sequence(*steps):
    return {"normalizer": {"type": "Sequence", "normalizers": steps}}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def table(longest):
    """Return SentencePiece's table with an empty trie and one result."""
    return base64.b64encode(bytes(4) + b"x" * longest + b"\0").decode()


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
REFUSED = {
    "chained replacements": (sequence(*[replace("t", "t" * 10)] * 8), "of one character up to 11,107 characters"),
    "a replacement of nothing": (sequence(*[replace("(?=.)", "x", "Regex")] * 12), "of one character up to"),
    "a long replacement": ({"normalizer": replace("t", "t" * 2_000)}, r"normalizer\.content.* 2,000 characters"),
    "a long prefix": ({"normalizer": {"type": "Prepend", "prepend": "x" * 2_000}}, r"normalizer\.prepend"),
    "a table with long results": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": table(9_000)}},
        "up to 9,000 characters",
    ),
    "many steps": (sequence(*[{"type": "NFC"}] * 65), r"normalizer\.normalizers has 65 items: .* 64"),
    "byte levels": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 2}},
        "2 steps ByteLevel: .*most 1",
    ),
    "a long pattern": (
        {"normalizer": replace("a?" * 900, "b", "Regex")},
        r"pattern\.Regex, 'a\?a.* 1,800 characters",
    ),
    "a text twice": (
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [TEXT, TEXT],
                "pair": [],
                "special_tokens": {},
            }
        },
        r"post_processor\.single repeats a text",
    ),
    "many added tokens": ({"added_tokens": [{"content": f"<{i}>"} for i in range(10_001)]}, "10,001 added tokens"),
    "a long added token": ({"added_tokens": [{"content": "x" * 1_001}]}, "an added token, .* 1,001 characters"),
    "long added tokens": (
        {"added_tokens": [{"content": "x" * 900}] * 200},
        "added tokens have 180,000 characters",
    ),
    "a long word": ({"model": {"max_input_chars_per_word": 10**6}}, "max_input_chars_per_word is 1000000"),
    "a long token": ({"model": {"vocab": {"x" * 5_000: 0}}}, r"model\.vocab, 'xxx.* 5,000 characters"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_tokenizer_beyond_a_limit_is_refused_with_the_field(tmp_path, changes, message):
    path = write_tokenizer_json(tmp_path) / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    for key, value in changes.items():
        values[key] = {**values["model"], **value} if key == "model" else value
    path.write_text(json.dumps(values), "utf-8")
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json: .*{message}") as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    "settings",
    [{"additional_special_tokens": [f"<{i}>" for i in range(10_001)]}, {"mask_token": "x" * 5_000}],
    ids=["many", "long"],
)
def test_added_tokens_of_other_files_have_the_same_limits(tmp_path, settings):
    with pytest.raises(CheckpointError, match="too long or too many added tokens"):
        Tokenizer.from_pretrained(write_vocab(tmp_path, **settings))


def test_a_vocabulary_has_the_same_limits(tmp_path):
    write_vocab(tmp_path)
    with (tmp_path / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("x" * 5_000 + "\n")
    with pytest.raises(CheckpointError, match=r"vocab\.txt: .* 5,000 characters: expected at most 1,000"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    os.truncate(write_vocab(tmp_path) / "vocab.txt", MAX_BYTES + 1)
    with pytest.raises(CheckpointError, match=r"vocab\.txt: it has more than 20,000,000 bytes"):
        Tokenizer.from_pretrained(tmp_path)


ALBERT = (
    replace("``", '"'),
    replace("''", '"'),
    {"type": "NFKD"},
    {"type": "StripAccents"},
    {"type": "Lowercase"},
    replace(" {2,}", " ", "Regex"),
)
ORDINARY = {
    "of ALBERT": sequence(*ALBERT),
    "of Llama": sequence({"type": "Prepend", "prepend": "_"}, replace(" ", "_")),
    "of BERT": {"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}},
    "of RoBERTa": {"normalizer": None, "pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL},
}


@pytest.mark.parametrize("changes", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_normalizers_are_loaded(tmp_path, changes):
    path = write_tokenizer_json(tmp_path) / "tokenizer.json"
    changes = json.loads(json.dumps(changes))
    if (changes["normalizer"] or {}).get("type") == "BertNormalizer":
        changes["normalizer"] |= {"strip_accents": None, "lowercase": True}
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")
    assert Tokenizer.from_pretrained(tmp_path).encode(["the team"]).ids


def test_the_shipped_tokenizer_is_loaded():
    assert Tokenizer.from_pretrained(OURS).encode(["the team won"]).ids
