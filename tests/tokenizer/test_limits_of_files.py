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


def template(single, pair):
    return {"post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {}}}


def table(longest):
    """Return SentencePiece's table with a trie of 256 empty nodes and one result."""
    return base64.b64encode((1024).to_bytes(4, "little") + bytes(1024) + b"x" * longest + b"\0").decode()


SPECIAL = {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
PAIR = [TEXT, {"Sequence": {"id": "B", "type_id": 1}}]
METASPACE = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
REFUSED = {
    "chained replacements": (
        sequence(*[replace("t", "t" * 10)] * 8),
        "of one character up to 111,111,111 characters",
    ),
    "a replacement of nothing": (sequence(*[replace("(?=.)", "x", "Regex")] * 12), "of one character up to"),
    "a long replacement": ({"normalizer": replace("t", "t" * 2_000)}, r"normalizer\.content.* 2,000 characters"),
    "a long prefix": ({"normalizer": {"type": "Prepend", "prepend": "x" * 2_000}}, r"normalizer\.prepend"),
    "a table with long results": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": table(9_000)}},
        "up to 9,000 characters",
    ),
    "a table whose trie is longer than the table": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        "a trie of 4,294,967,295 bytes: expected at most 0",
    ),
    "many steps": (sequence(*[{"type": "NFC"}] * 65), "normalizer has more than 32 steps"),
    "many sequences": (sequence(*[sequence()["normalizer"]] * 40), "normalizer has more than 32 steps"),
    "many items": (
        {"post_processor": {"type": "TemplateProcessing", "single": [TEXT] + [SPECIAL] * 64}},
        r"post_processor\.single has 65 items: .* 64",
    ),
    "a step without a type": (
        sequence({"pattern": {"String": "t"}, "content": "tt"}),
        "normalizer has a step of type None: expected one of Sequence, BertNormalizer",
    ),
    "a part without a type": ({"decoder": {"decoders": []}}, "decoder has a step of type None"),
    "an unknown type": ({"pre_tokenizer": {"type": "NFC"}}, "pre_tokenizer has a step of type 'NFC'"),
    "a type that is a number": (sequence({"type": 2**61 - 1}), "has a step of type 2305843009213693951"),
    "a decoder that lengthens": (
        {"decoder": {"type": "Sequence", "decoders": [replace("t", "t" * 30)] * 5}},
        "the decoder makes of one character up to",
    ),
    "a decoder that panics": (
        {"decoder": {"type": "Strip", "content": "t", "start": 0, "stop": 1}},
        "stop in a step Strip of the decoder is 1: expected 0",
    ),
    "an expanded composition": (
        sequence(*[replace(".", "\ufdfa", "Regex"), {"type": "NFKD"}] * 3),
        "of one character up to 14,479 characters",
    ),
    "added tokens that the normalizer lengthens": (
        {
            "added_tokens": [{"content": f"<{i}>{'t' * 90}"} for i in range(200)],
            **sequence(replace("t", "t" * 50)),
        },
        "its added tokens have, normalized, 963,",
    ),
    "a large Unigram vocabulary": (
        {"model": {"type": "Unigram", "vocab": [["x" * 99, 0.0]] * 51_000}},
        r"model\.vocab has 5,049,000 bytes of tokens",
    ),
    "a Unigram vocabulary of random tokens": (
        {"model": {"type": "Unigram", "vocab": [[f"{i:05}" * 20, 0.0] for i in range(16_000)]}},
        r"model\.vocab has 1,5\d\d,\d\d\d different beginnings of tokens",
    ),
    "a long token of Unigram": (
        {"model": {"type": "Unigram", "vocab": [["x" * 101, 0.0]]}},
        r"model\.vocab, 'xxx.* 101 characters: expected at most 100",
    ),
    "byte levels": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 2}},
        "2 steps ByteLevel: .*most 1",
    ),
    "a long pattern": (
        {"normalizer": replace("a?" * 900, "b", "Regex")},
        r"pattern\.Regex, 'a\?a.* 1,800 characters",
    ),
    "a text twice": (template([TEXT, TEXT], PAIR), r"post_processor\.single has the texts A, A: expected A, once"),
    "a template without the text": (template([SPECIAL], PAIR), "single has the texts none: expected A, once"),
    "a template of the second text only": (template(PAIR[1:], PAIR), "single has the texts B: expected A, once"),
    "a pair without the second text": (template([TEXT], [TEXT]), "pair has the texts A: expected A and B, once"),
    "random tokens": (
        {"model": {"type": "BPE", "vocab": {"[UNK]": 0}, "merges": [], "dropout": 0.5}},
        r"model\.dropout is 0\.5: expected null",
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


@pytest.mark.parametrize(("write", "name"), [(write_vocab, "vocab.txt"), (write_tokenizer_json, "tokenizer.json")])
def test_a_byte_order_mark_is_not_read_as_a_part_of_the_first_token(tmp_path, write, name):
    path = write(tmp_path) / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(CheckpointError, match=rf"{name}: it begins with a byte order mark: save it as UTF-8"):
        Tokenizer.from_pretrained(tmp_path)


ALBERT = (
    replace("``", '"'),
    replace("''", '"'),
    {"type": "NFKD"},
    {"type": "StripAccents"},
    {"type": "Lowercase"},
    {"type": "Precompiled", "precompiled_charsmap": table(18)},
    replace(" {2,}", " ", "Regex"),
)
ORDINARY = {
    "of ALBERT": sequence(*ALBERT),
    "of Llama": {
        **sequence({"type": "Prepend", "prepend": "_"}, replace(" ", "_")),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                replace("_", " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    },
    "of XLM-R": {
        **sequence({"type": "Precompiled", "precompiled_charsmap": table(18)}, replace(" {2,}", " ", "Regex")),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE],
        },
        "decoder": METASPACE,
    },
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
