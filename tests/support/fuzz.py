"""Checkpoints that are damaged at random, and a worker that loads them.

`python tests/support/fuzz.py 7` repeats case 7.

Case i is made from the seed i alone. What comes out of it is finite logits, or an error of minidistil's, soon
and in little memory. Anything else, such as another exception, a crash, or a hang, breaks that.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import functools
import io
import itertools
import json
import math
import mmap
import os
import pickle
import pickletools
import random
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

SECONDS = 1.0  # that a case may take
GROWTH = 2**30  # bytes that its process may grow by
PATIENCE = 15.0  # seconds after which it is killed
GREED = 2 * GROWTH  # bytes of growth at which it is killed
TEXTS = [
    "a good film",
    "",
    " \t\r\n ",
    "Zoë\u2019s café: the worst, isn't it?!",
    "漢字 かな 한글 ᄀ각 😀👩‍👩‍👧 \U0010ffff",
    "\u202e\u200b\ufeff\u0000\u0001\ufffd",
    "e" + "\u0301" * 200,
    "İıſßﷺ" * 5,
    "a" * 3000,
    "[MASK] [SEP] ##ing the [UNK]",
    {"text": "a bad film", "text_pair": "the good end ☃"},
]
Content = dict[str, bytes]  # what the files of a folder hold
Damage = Callable[[random.Random, bytes], bytes]


# Checkpoints that are whole


@functools.cache
def whole(tokenizer: str, weights: str) -> Content:
    """A tiny checkpoint with a tokenizer and weights in one of their forms, see `TARGETS`. Not to be changed."""
    import torch

    import minidistil
    from minidistil.checkpoint.files import write_json

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = "the a an good bad film end is not it s zoe cafe worst best and or was be on in"
    words += " e i o t ☃ 字 . , ! ? : ' [ ] # ##ing ##s ##e ##a ##ly"
    pieces = special + words.split()
    pieces += [f"word{i}" for i in range(60 - len(pieces))]
    config = minidistil.DistilBertConfig(
        vocab_size=len(pieces) + 1,
        max_position_embeddings=24,
        n_layers=2,
        n_heads=2,
        dim=16,
        hidden_dim=24,
        id2label={0: "entailment", 1: "neutral", 2: "contradiction"},
    )
    model = minidistil.DistilBertForSequenceClassification(config)
    rng = random.Random(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor([rng.gauss(0, 0.5) for _ in range(parameter.numel())]).view_as(parameter))
    tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = {
        "do_lower_case": True,
        "model_max_length": 24,
        "strip_accents": None,
        "tokenizer_class": "DistilBertTokenizer",
        "truncation_side": "right",
        "added_tokens_decoder": {
            str(i): {"content": token, "lstrip": False, "normalized": False, "special": True}
            for i, token in enumerate(special)
        },
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)),
    }
    roles = {role: value for role, value in settings.items() if role.endswith("_token")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        write_json(folder / "tokenizer_config.json", settings)
        write_json(
            folder / "special_tokens_map.json", {**roles, "mask_token": {"content": "[MASK]", "lstrip": True}}
        )
        if tokenizer.startswith("json"):
            minidistil.Tokenizer.from_pretrained(folder).save_pretrained(folder)
            write_json(folder / "tokenizer_config.json", settings)
            (folder / "vocab.txt").unlink()
        if tokenizer.endswith("apart"):  # what tokenizer_config.json says goes before what these files say
            apart = {key: value for key, value in settings.items() if key not in {*roles, "added_tokens_decoder"}}
            write_json(folder / "tokenizer_config.json", apart)
            write_json(folder / "added_tokens.json", {"<added>": len(pieces)})
        else:
            (folder / "special_tokens_map.json").unlink()
        _write_weights(folder, tensors, weights)
        contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    for name in contents:
        if name.endswith(".json"):  # as damage to JSON writes it, so that nothing else differs
            contents[name] = json.dumps(json.loads(contents[name])).encode()
    return contents


def _write_weights(folder: Path, tensors: dict[str, Any], form: str) -> None:
    from safetensors.torch import save_file

    from minidistil.checkpoint.files import write_json

    if form == "safetensors":
        return
    (folder / "model.safetensors").unlink()
    if form in ("zip", "legacy"):
        (folder / "pytorch_model.bin").write_bytes(_pickled(tensors, form))
        return
    stem, ending = ("model", "safetensors") if form == "safetensors shards" else ("pytorch_model", "bin")
    shard_of = {name: f"{stem}-0000{1 + i % 2}-of-00002.{ending}" for i, name in enumerate(tensors)}
    for shard in set(shard_of.values()):
        part = {name: tensor for name, tensor in tensors.items() if shard_of[name] == shard}
        if ending == "safetensors":
            save_file(part, folder / shard)
        else:
            (folder / shard).write_bytes(_pickled(part, "zip"))
    write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": 1}, "weight_map": shard_of})


def _pickled(value: Any, form: str) -> bytes:
    """What torch.save writes, but the same each time: its old form names storages by their places in memory."""
    import torch

    names: dict[int, str] = {}

    class Counted(str):
        def __new__(cls, place: int) -> Any:
            return names.setdefault(place, f"{len(names):03}")

    file = io.BytesIO()
    with mock.patch.object(torch.serialization, "str", Counted, create=True):
        torch.save(value, file, _use_new_zipfile_serialization=form == "zip")
    return file.getvalue()


# Damage to bytes


def _place(rng: random.Random, content: bytes) -> int:
    return rng.randrange(len(content)) if content else 0


def _span(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = _place(rng, content)
    return start, min(len(content), start + rng.choice((1, 2, 8, 64, 1000)))


def flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 16)) if content else 0):
        changed[_place(rng, content)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    new = rng.choice((bytes(end - start), b"\xff" * (end - start), rng.randbytes(end - start)))
    return content[:start] + new + content[end:]


def truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.choice((_place(rng, content), max(0, len(content) - rng.randrange(1, 9))))]


def insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.choice((0, _place(rng, content), len(content)))
    new = rng.choice(
        (rng.randbytes(rng.choice((1, 8, 100))), bytes(8), b"\xef\xbb\xbf", b" \n", b"\xff", b"}", b'"')
    )
    return content[:at] + new + content[at:]


def delete(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def duplicate(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:end] + content[start:end] * rng.choice((1, 1, 2, 50)) + content[end:]


def swap(rng: random.Random, content: bytes) -> bytes:
    size = rng.choice((1, 8, 64, 500))
    size = min(size, len(content) // 2)
    first = rng.randrange(len(content) - 2 * size + 1)
    second = rng.randrange(first + size, len(content) - size + 1)
    a, b = content[first : first + size], content[second : second + size]
    return content[:first] + b + content[first + size : second] + a + content[second + size :]


BYTES: dict[str, Damage] = {
    function.__name__: function for function in (flip, overwrite, truncate, insert, delete, duplicate, swap)
}


# Damage to JSON


def _deep(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


NUMBERS = ["0", "-0", "-1", "1", "2", "3", "16", "23", "25", "60", "61", "62", "255", "65536"]
NUMBERS += ["268435455", "268435456", "2147483647", "2147483648", "-2147483648", "4294967295", "4294967296"]
NUMBERS += ["9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616"]
NUMBERS += ["1" + "0" * 400, "9" * 5000, "-" + "9" * 4300, "0.5", "-0.5", "1.0", "16.0", "1e-320", "1e308"]
NUMBERS += ["1e400", "-1e400", "NaN", "Infinity", "-Infinity"]
STRINGS = [
    '""',
    '"a"',
    '"[UNK]"',
    '"[MASK]"',
    '"\\ud800"',
    '"\\u0000"',
    '"☃"',
    '"16"',
    '"left"',
    '"bert"',
    '"\\n"',
]
STRINGS += ['"relu"', '"bfloat16"', '"float16"', '"regression"', '"PreTrainedTokenizerFast"', f'"{"x" * 100_000}"']
STRINGS += [f'"{"9" * 5000}"', '"../config.json"', '"config.json"', '"/dev/zero"', '"F64"', '"I64"', '"F8_E4M3"']
NESTED = ["[]", "{}", "[[]]", "[0]", "[null]", "[true]", '["a", "b"]', '{"a": 1}', '{"": null}', '{"0": "a"}']
NESTED += ['{"content": 5}', '{"content": "[MASK]"}', '{"content": null}', '{"content": ""}', '["\\ud800"]']
NESTED += [_deep(depth) for depth in (100, 400, 900, 940, 960, 970, 980, 985, 990, 5000, 200_000)]
NESTED += [_deep(depth, '{"a":', "}") for depth in (100, 400, 900, 960, 980, 200_000)]
KEYS = [
    "",
    "a",
    "0",
    "-1",
    "3",
    "9" * 5000,
    "²",
    "\u0661",
    "\ud800",
    "x" * 10_000,
    "content",
    "__metadata__",
    "__class__",
]
KEYS += ["hidden_size", "num_labels", "num_hidden_layers", "torch_dtype", "problem_type", "vocab_size", "dtype"]
KEYS += ["architectures", "label2id", "id2label", "layer_norm_eps", "extra", "max_len", "split_special_tokens"]
KEYS += [
    "additional_special_tokens",
    "extra_special_tokens",
    "bos_token",
    "pad_token",
    "unk_token",
    "type",
    "model",
]


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a tree of JSON: (its container, its key or index)."""
    if isinstance(value, dict | list):
        for key, below in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _nodes(below)


def _pick_node(rng: random.Random, tree: Any) -> tuple[Any, Any]:
    """A place, not most often one of the longest list's."""
    nodes = list(_nodes(tree))
    groups = [list(group) for _, group in itertools.groupby(nodes, key=lambda node: id(node[0]))]
    return rng.choice(rng.choice([nodes, *groups]))


def _with_literal(tree: Any, container: Any, key: Any, literal: str) -> bytes:
    """The text of the tree with anything at one place, JSON or not."""
    container[key] = "\x00here"
    return json.dumps(tree).replace('"\\u0000here"', literal, 1).encode()


def _replaced(literals: list[str]) -> Damage:
    def replace(rng: random.Random, content: bytes) -> bytes:
        tree = json.loads(content)
        return _with_literal(tree, *_pick_node(rng, tree), rng.choice(literals))

    return replace


def numbers(rng: random.Random, content: bytes) -> bytes:
    """Another number where there is one."""
    tree = json.loads(content)
    places = [(c, k) for c, k in _nodes(tree) if isinstance(c[k], int | float) and not isinstance(c[k], bool)]
    return _with_literal(tree, *rng.choice(places or list(_nodes(tree))), rng.choice(NUMBERS))


def keys(rng: random.Random, content: bytes) -> bytes:
    """A key renamed, deleted, added, or given twice."""
    tree = json.loads(content)
    container, key = _pick_node(rng, tree)
    how = rng.randrange(4)
    new = rng.choice(KEYS)
    if not isinstance(container, dict) or how == 0:
        del container[key]
    elif how == 1:
        container[new] = container.pop(key)
    elif how == 2:
        return _with_literal(tree, container, new, rng.choice(NUMBERS + STRINGS + NESTED))
    else:
        container["\x00again"] = json.loads(rng.choice(STRINGS))
        return json.dumps(tree).replace('"\\u0000again"', json.dumps(key), 1).encode()
    return json.dumps(tree).encode()


def exchange(rng: random.Random, content: bytes) -> bytes:
    """Two values in each other's place, or one inside the other, or in a list."""
    tree = json.loads(content)
    (a, i), (b, j) = _pick_node(rng, tree), _pick_node(rng, tree)
    x, y = copy.deepcopy(a[i]), copy.deepcopy(b[j])
    if rng.random() < 0.5:
        b[j] = x
        if j in (b if isinstance(b, dict) else range(len(b))) and i in (
            a if isinstance(a, dict) else range(len(a))
        ):
            a[i] = y
    else:
        a[i] = rng.choice(([x], {"content": x}, [x, y], str(x)))
    return json.dumps(tree).encode()


JSON: dict[str, Damage] = {
    "numbers": numbers,
    "odd numbers": _replaced(NUMBERS),
    "strings": _replaced(STRINGS),
    "nested": _replaced(["null", "true", "false", *NESTED]),
    "keys": keys,
    "exchange": exchange,
}
COMPONENTS: dict[str, list[Any]] = {  # of a tokenizer.json
    "normalizer": [
        None,
        {"type": "Lowercase"},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "Precompiled", "precompiled_charsmap": "/////w=="},
        {"type": "Precompiled", "precompiled_charsmap": "CAAAAAAAAAAAAAAAAAAA"},
        {"type": "Precompiled", "precompiled_charsmap": ""},
        {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"},
        {"type": "Replace", "pattern": {"Regex": "("}, "content": "x"},
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "x"},
        {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 100},
        {"type": "Replace", "pattern": {"Regex": ".*"}, "content": ""},
        {"type": "Prepend", "prepend": "▁" * 1000},
        {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "NFKC"}]},
        {"type": "Sequence", "normalizers": []},
        {"type": "ByteLevel"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
    "pre_tokenizer": [
        None,
        {"type": "Whitespace"},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": "(?<=a)"}, "behavior": "MergedWithNext", "invert": True},
        {"type": "Split", "pattern": {"Regex": "(a|a)*$"}, "behavior": "Removed", "invert": False},
        {"type": "Split", "pattern": {"String": ""}, "behavior": "Contiguous", "invert": False},
        {"type": "Punctuation", "behavior": "MergedWithPrevious"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Metaspace", "replacement": "", "prepend_scheme": "always", "split": True},
        {"type": "Digits", "individual_digits": True},
        {"type": "UnicodeScripts"},
        {"type": "FixedLength", "length": 0},
        {"type": "FixedLength", "length": 3},
        {"type": "CharDelimiterSplit", "delimiter": "a"},
        {"type": "Sequence", "pretokenizers": []},
    ],
    "post_processor": [
        None,
        {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        {"type": "BertProcessing", "sep": ["", 4294967295], "cls": ["[CLS]", 2]},
        {
            "type": "RobertaProcessing",
            "sep": ["[SEP]", 3],
            "cls": ["[CLS]", 2],
            "trim_offsets": True,
            "add_prefix_space": True,
        },
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[GONE]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 9}}],
            "special_tokens": {},
        },
        {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "B", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {},
        },
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"x": {"id": "x", "ids": [], "tokens": []}},
        },
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"x": {"id": "x", "ids": [2] * 30, "tokens": ["y"] * 30}},
        },
        {"type": "Sequence", "processors": []},
    ],
    "model": [
        {"type": "WordLevel", "vocab": {"a": 0, "[CLS]": 1, "[SEP]": 2}, "unk_token": "[UNK]"},
        {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 4294967295}, "unk_token": "[UNK]"},
        {"type": "WordLevel", "vocab": {}, "unk_token": ""},
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "[GONE]"},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 2.0},
        {
            "type": "BPE",
            "vocab": {"a": 0, "aa": 1},
            "merges": [["a", "a"]],
            "byte_fallback": True,
            "unk_token": "a",
        },
        {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0]], "byte_fallback": False},
        {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]], "byte_fallback": False},
        {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0], ["", 1e308]], "byte_fallback": True},
        {"type": "Unigram", "unk_id": 0, "vocab": [], "byte_fallback": False},
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "",
            "max_input_chars_per_word": 2**60,
            "vocab": {"[UNK]": 0, "": 1, "a": 2},
        },
        {
            "type": "WordPiece",
            "unk_token": "[GONE]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 0,
            "vocab": {"a": 0},
        },
    ],
    "truncation": [
        {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0},
        {"direction": "Left", "max_length": 2, "strategy": "OnlySecond", "stride": 2**63},
    ],
    "padding": [
        {
            "strategy": {"Fixed": 2**40},
            "direction": "Left",
            "pad_to_multiple_of": 0,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "",
        },
        {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": 8,
            "pad_id": 99,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    ],
    "added_tokens": [
        [],
        [{"id": 4294967295, "content": "a"}],
        [
            {"id": i, "content": content, "special": special, "normalized": not special}
            | dict.fromkeys(flags, True)
            for i, (content, special, flags) in enumerate(
                [
                    ("", True, []),
                    ("a", False, ["single_word"]),
                    (" ", False, ["lstrip", "rstrip"]),
                    ("e\u0301", True, []),
                ]
            )
        ],
        [
            {"id": 5, "content": content, "special": False, "normalized": True}
            | {"single_word": False, "lstrip": True, "rstrip": True}
            for content in ("a", "A", "́", " ", "the film", "\u0000")
        ],
    ],
    "decoder": [
        None,
        {"type": "ByteFallback"},
        {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
    ],
}


def components(rng: random.Random, content: bytes) -> bytes:
    """Other parts of a tokenizer, which the library may know."""
    tree = json.loads(content)
    for part in rng.sample(sorted(COMPONENTS), rng.choice((1, 1, 2))):
        tree[part] = rng.choice(COMPONENTS[part])
    return json.dumps(tree).encode()


def ids(rng: random.Random, content: bytes) -> bytes:
    """Other ids of the pieces of a tokenizer, or other pieces."""
    tree = json.loads(content)
    vocabulary = tree["model"]["vocab"]
    piece = rng.choice(list(vocabulary))
    how = rng.randrange(5)
    if how == 0:
        vocabulary[piece] = int(rng.choice(("0", "1", "60", "61", "1000", "4294967295", "4294967296", "-1")))
    elif how == 1:
        del vocabulary[rng.choice(("[UNK]", "[CLS]", "[SEP]", "[PAD]", piece))]
    elif how == 2:
        vocabulary[rng.choice(("", " ", "##", "x" * 10_000, "\u0000", "\ud800"))] = vocabulary.pop(piece)
    elif how == 3:
        token = rng.choice(tree["added_tokens"])
        token["id"] = rng.choice((0, 5, 59, 60, 61, 4294967295))
    else:
        order = list(vocabulary.values())
        rng.shuffle(order)
        tree["model"]["vocab"] = dict(zip(vocabulary, order, strict=True))
    return json.dumps(tree).encode()


# Damage to vocab.txt, to safetensors and to pickles


def lines(rng: random.Random, content: bytes) -> bytes:
    """Lines lost, doubled, shuffled, or odd."""
    rows = content.split(b"\n")
    at = rng.randrange(len(rows))
    how = rng.randrange(6)
    if how == 0:
        del rows[at : at + rng.choice((1, 1, 50))]
    elif how == 1:
        rows[at:at] = [rows[rng.randrange(len(rows))]] * rng.choice((1, 2, 1000))
    elif how == 2:
        rng.shuffle(rows)
    elif how == 3:
        odd = (
            b"",
            b" ",
            b"\xff\xfe",
            b"\xed\xa0\x80",
            b"\0",
            b"x" * 1_000_000,
            "\u2028".encode(),
            b"\r",
            b"[UNK]",
            b"##",
        )
        rows[at] = rng.choice(odd)
    elif how == 4:
        del rows[rows.index(rng.choice((b"[UNK]", b"[CLS]", b"[SEP]", b"[PAD]", b"[MASK]")))]
    else:
        return rng.choice((b"\r\n", b"\r", b"\n\n", b" \n", b" ")).join(rows)
    return b"\n".join(rows)


def line_ends(rng: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b" \n", "\u2028".encode())))


def layout(rng: random.Random, content: bytes) -> bytes:
    """Other shapes, dtypes and places in a safetensors header, which is still one."""
    tree = json.loads(content)
    names = [name for name in tree if name != "__metadata__"]
    a, b = (tree[name] for name in rng.sample(names, 2))
    start, end = a["data_offsets"]
    size = end - start
    how = rng.randrange(9)
    if how == 0:
        a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]
    elif how == 1:
        a["data_offsets"] = b["data_offsets"]
    elif how == 2:
        shift = rng.choice((-4, 1, 4, size))
        a["data_offsets"] = [start + shift, end + shift]
    elif how == 3:
        a["dtype"] = rng.choice(
            ("BOOL", "I8", "F8_E4M3", "F8_E5M2", "F4", "F16", "BF16", "I32", "F64", "U64", "C64")
        )
    elif how == 4:
        a["dtype"], a["shape"] = rng.choice(
            [
                ("I32", a["shape"]),
                ("U32", a["shape"]),
                ("F64", [size // 8]),
                ("F16", [size // 2]),
                ("C64", [size // 8]),
            ]
        )
    elif how == 5:
        a["shape"] = rng.choice(([size // 4], [1, *a["shape"]], a["shape"][::-1], [2, size // 8], [size // 4, 1]))
    elif how == 6:
        a["shape"] = rng.choice(([], [0], [0, 2**63], [2**32, 2**32], [2**62, 4], [1] * 70, [1] * 1000, [-4, -4]))
    elif how == 7:
        tree[rng.choice(KEYS)] = {"dtype": "F32", "shape": [0], "data_offsets": [start, start]}
    else:
        a["shape"], a["data_offsets"] = [0, 16], [start, start]
    return json.dumps(tree).encode()


def _opcodes(content: bytes) -> Iterator[tuple[int, int, str, Any]]:
    """Where each opcode of the pickles that a file starts with lies: (start, end, name, argument)."""
    stream = io.BytesIO(content)
    for _ in range(5):  # as many as there are in the old form; in a zip file it is one
        if content[stream.tell() : stream.tell() + 1] != b"\x80":
            return
        found = list(pickletools.genops(stream))
        ends = [place for _, _, place in found[1:]] + [stream.tell()]
        yield from ((place, end, code.name, arg) for (code, arg, place), end in zip(found, ends, strict=True))


def pickled_numbers(rng: random.Random, content: bytes) -> bytes:
    """Another number in a pickle: a size, a stride, a place, a flag."""
    places = [(start, end) for start, end, name, _ in _opcodes(content) if "INT" in name and "PUT" not in name]
    start, end = rng.choice(places)
    value = rng.choice((0, 1, 2, 3, 15, 16, 17, 255, 976, 10**6, 2**31, 2**40, 2**61, 2**63 - 1, 2**64, -1, -16))
    return content[:start] + pickle.dumps(value, 2)[2:-1] + content[end:]


def pickled_strings(rng: random.Random, content: bytes) -> bytes:
    """Another string or class in a pickle: a name, a key, a kind of storage."""
    places = [(start, end, name) for start, end, name, _ in _opcodes(content) if name in ("BINUNICODE", "GLOBAL")]
    start, end, name = rng.choice(places)
    classes = (
        "torch IntStorage",
        "torch DoubleStorage",
        "torch HalfStorage",
        "torch BoolStorage",
        "builtins eval",
    )
    classes += (
        "torch._utils _rebuild_parameter",
        "collections OrderedDict",
        "torch Size",
        "torch Tensor",
        "os system",
    )
    classes += (
        "torch.storage UntypedStorage",
        "torch.storage TypedStorage",
        "torch._tensor _rebuild_from_type_v2",
    )
    if name == "GLOBAL":
        return content[:start] + b"c" + rng.choice(classes).replace(" ", "\n").encode() + b"\n" + content[end:]
    strings = ("", "cpu", "cuda:0", "meta", "xla", "storage", "module", "0", "1", "99", "../version", "a" * 1000)
    return content[:start] + pickle.dumps(rng.choice(strings), 2)[2:].split(b"q\x00")[0] + content[end:]


def opcodes(rng: random.Random, content: bytes) -> bytes:
    """An opcode of a pickle lost, doubled, or another one."""
    start, end, _, _ = rng.choice(list(_opcodes(content)))
    new = rng.choice(
        (b"", content[start:end] * 2, b".", b"N", b"]", b"}", b")", b"(", b"t", b"R", b"Q", b"b", b"0", b"u")
    )
    return content[:start] + new + content[end:]


def nested_keys(rng: random.Random, content: bytes) -> bytes:
    """A tuple in tuples for a string of a pickle, which may be a key."""
    places = [(start, end) for start, end, name, _ in _opcodes(content) if name == "BINUNICODE"]
    start, end = rng.choice(places)
    return content[:start] + b")" + b"\x85" * rng.choice((0, 1, 100, 900, 5000)) + content[end:]


PICKLE: dict[str, Damage] = {
    "nested keys": nested_keys,
    "pickled numbers": pickled_numbers,
    "pickled strings": pickled_strings,
    "opcodes": opcodes,
}


def odd_tensors(rng: random.Random, content: bytes) -> bytes:
    """Tensors of other kinds than a model's, which torch.save knows too."""
    import torch

    tensors = torch.load(io.BytesIO(content), weights_only=True)
    name = rng.choice(list(tensors))
    tensor = tensors[name]
    kinds: list[Callable[[], Any]] = [
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.clone().requires_grad_(),
        lambda: torch.ones(1).expand(tensor.shape),
        lambda: tensor.new_zeros(1).as_strided(tensor.shape, [0] * tensor.ndim),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: tensor.to(torch.complex64),
        lambda: torch._neg_view(tensor.clone()),
        lambda: tensor.half(),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor.int(),
        lambda: tensor.flatten(),
        lambda: tensor.T if tensor.ndim == 2 else tensor[:1],
        lambda: torch.full_like(tensor, rng.choice((math.nan, math.inf, 3e38, 0.0))),
        lambda: torch.tensor(1.0),
        lambda: torch.empty(0),
        lambda: torch.nested.nested_tensor([tensor, tensor]),
        lambda: torch.zeros(1, 1).to_sparse_csr(),
        lambda: tensor.untyped_storage(),
        lambda: tensor.tolist(),
        lambda: {"a": tensor},
        lambda: None,
        lambda: name,
        lambda: tensor.numpy(),
        lambda: torch.zeros(tensor.shape, dtype=torch.uint16),
        lambda: tensor.to_mkldnn(),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds that torch thinks are experimental
        value = rng.choice(kinds)()
        place = rng.choice((name, name, name, name, name, "extra", ("a", 1), None, 5, b"a"))
        if rng.random() < 0.1:
            tensors = rng.choice(([value], value, {"state_dict": tensors}, {}, {name: value}))
        else:
            tensors[place] = value
        try:
            return _pickled(tensors, "zip" if content[:2] == b"PK" else "legacy")
        except (RuntimeError, NotImplementedError, TypeError):  # not every kind can be in the old form
            return flip(rng, content)


def records(rng: random.Random, content: bytes) -> bytes:
    """A zip file with other records: lost, empty, doubled, renamed, compressed, or of another."""
    old = zipfile.ZipFile(io.BytesIO(content))
    parts = {name: old.read(name) for name in old.namelist()}
    a, b = rng.sample(list(parts), 2)
    how = rng.randrange(7)
    if how == 0:
        del parts[a]
    elif how == 1:
        parts[a] = b""
    elif how == 2:
        parts[a], parts[b] = parts[b], parts[a]
    elif how == 3:
        parts[rng.choice((a.upper(), f"../{a}", a.split("/", 1)[1], "x" * 1000))] = parts.pop(a)
    elif how == 4:
        parts[a] = parts[a][: len(parts[a]) // 2]
    elif how == 5:
        byteorder = next(name for name in parts if name.endswith("byteorder"))
        parts[byteorder] = rng.choice((b"big", b"", b"odd", b"\xff", b"little\n"))
    return _zip(parts, zipfile.ZIP_DEFLATED if how == 6 else zipfile.ZIP_STORED)


def _zip(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for name, part in parts.items():
            new.writestr(zipfile.ZipInfo(name), part, compression)  # of no time
    return file.getvalue()


# Where the damage is


def all_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    return change(content)


def length_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """The length of a safetensors header."""
    return change(content[:8]) + content[8:]


def header_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """A safetensors header, whose length most often stays true."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = change(content[8:end])
    length = struct.pack("<Q", len(header)) if rng.random() < 0.8 else content[:8]
    return length + header + content[end:]


def body_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """The tensors of a safetensors file."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return content[:end] + change(content[end:])


def pickle_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """The pickle of a zip file, which is otherwise whole."""
    old = zipfile.ZipFile(io.BytesIO(content))
    parts = {name: old.read(name) for name in old.namelist()}
    return _zip({name: change(part) if name.endswith("data.pkl") else part for name, part in parts.items()})


def length(rng: random.Random, content: bytes) -> bytes:
    (value,) = struct.unpack("<Q", content)
    others = (
        0,
        1,
        2,
        value - 1,
        value + 1,
        value + 8,
        10**8,
        10**8 + 1,
        2**31,
        2**32,
        2**63,
        2**64 - 1,
        2**64 - 8,
    )
    return struct.pack("<Q", rng.choice(others))


class Target(NamedTuple):
    """A file, in which of its checkpoints it is damaged, where, and how."""

    file: str
    tokenizers: tuple[str, ...]
    weights: str
    damages: dict[str, Damage]
    where: Callable[[bytes, Callable[[bytes], bytes], random.Random], bytes] = all_of


BOTH = ("json", "vocab")
APART = ("json, apart", "vocab, apart")
SAFE, ONE = "safetensors", ("vocab",)
TARGETS = {
    "config.json": Target("config.json", BOTH, SAFE, {**BYTES, **JSON}),
    "tokenizer.json": Target(
        "tokenizer.json",
        ("json",),
        SAFE,
        {**BYTES, **JSON, "components": components, "other components": components, "ids": ids},
    ),
    "vocab.txt": Target(
        "vocab.txt", ONE, SAFE, {**BYTES, "lines": lines, "other lines": lines, "line ends": line_ends}
    ),
    "tokenizer_config.json": Target("tokenizer_config.json", BOTH, SAFE, {**BYTES, **JSON}),
    "special_tokens_map.json": Target("special_tokens_map.json", APART, SAFE, {**BYTES, **JSON}),
    "added_tokens.json": Target("added_tokens.json", APART, SAFE, JSON),
    "safetensors: length": Target(
        "model.safetensors",
        ONE,
        SAFE,
        {"length": length, "flip": flip, "overwrite": overwrite, "swap": swap},
        length_of,
    ),
    "safetensors: header": Target(
        "model.safetensors", ONE, SAFE, {**BYTES, **JSON, "layout": layout, "other layout": layout}, header_of
    ),
    "safetensors: body": Target("model.safetensors", ONE, SAFE, BYTES, body_of),
    "safetensors: index": Target("model.safetensors.index.json", ONE, "safetensors shards", {**BYTES, **JSON}),
    "bin: index": Target("pytorch_model.bin.index.json", ONE, "bin shards", {**BYTES, **JSON}),
    "zip": Target("pytorch_model.bin", ONE, "zip", {**BYTES, "odd tensors": odd_tensors, "records": records}),
    "zip: pickle": Target("pytorch_model.bin", ONE, "zip", {**BYTES, **PICKLE}, pickle_of),
    "legacy": Target("pytorch_model.bin", ONE, "legacy", {**BYTES, **PICKLE, "odd tensors": odd_tensors}),
}


def make(case: int) -> tuple[str, str, Content, bytes]:
    """What a case damages, how, the folder that it leaves, and what the file was."""
    rng = random.Random(case)
    turn, place = divmod(case, len(TARGETS))
    name = list(TARGETS)[place]
    target = TARGETS[name]
    kinds = list(target.damages)
    damage = kinds[turn % len(kinds)]
    content = dict(whole(rng.choice(target.tokenizers), target.weights))
    before = content[target.file]
    while content[target.file] == before:  # a swap of equal bytes is no damage
        content[target.file] = target.where(before, lambda part: target.damages[damage](rng, part), rng)
    return name, damage, content, before


# What comes out


class Outcome(NamedTuple):
    """What became of a case."""

    case: int
    target: str
    damage: str
    kind: str  # "logits", "refused", or what breaks the promise
    message: str = ""
    seconds: float = 0.0
    growth: int = 0  # bytes
    crc: int = 0  # of the damaged file
    details: str = ""

    def __str__(self) -> str:
        cost = f"{self.seconds:.2f} s, {self.growth / 2**20:.0f} MiB"
        return f"case {self.case} ({self.damage} in {self.target}): {self.kind} after {cost}: {self.message}"


def answer(folder: Path) -> str:
    """Use a folder: "logits", "not finite", or "refused: ..." with an error of minidistil's."""
    import minidistil

    with contextlib.suppress(minidistil.Error):  # where config.json names no class, the pipeline's is enough
        minidistil.from_pretrained(folder)
    try:
        pipe = minidistil.pipeline("text-classification", folder, device="cpu")
        found = [pipe(TEXTS, top_k=None, function_to_apply=function) for function in (None, "none")]
    except minidistil.Error as error:
        return f"refused: {type(error).__name__}: {error}"
    scores = [label["score"] for rows in found for row in rows for label in row]
    return "logits" if scores and all(map(math.isfinite, scores)) else "not finite"


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _panic() -> None:
    raise BaseException("a panic of Rust's is no Exception")


SABOTAGE: dict[int, Callable[[], object]] = {  # what a worker must notice, by numbers that no case has
    -1: os.abort,
    -2: lambda: time.sleep(100),
    -3: lambda: time.sleep(1.1 * SECONDS),
    -4: lambda: bytearray(b"x") * int(1.1 * GROWTH),
    -5: lambda: [bytearray(b"x") * 2**20 for _ in range(2**16)],
    -6: lambda: mmap.mmap(-1, 4 * GROWTH),  # never touched, so no growth
    -7: _panic,
    -8: lambda: math.sqrt(-1),
}


def run(case: int) -> Outcome:
    """Make a case and use its folder, in this process."""
    sabotage = SABOTAGE.get(case, lambda: None)
    name, damage, content, _ = make(max(case, 0))
    folder = Path(tempfile.mkdtemp())  # another one for each, since files of the last may still be mapped
    try:
        for filename, part in content.items():
            (folder / filename).write_bytes(part)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = _memory("VmRSS")
        start = time.perf_counter()
        details = ""
        try:
            sabotage()
            said = answer(folder)
        except BaseException as error:  # a panic of Rust's is no Exception
            said = f"{type(error).__module__}.{type(error).__qualname__}: {str(error)[:500]}"
            details = traceback.format_exc()
        seconds = time.perf_counter() - start
        growth = _memory("VmHWM") - before
    finally:
        shutil.rmtree(folder)
    kind, _, message = said.partition(": ")
    kind = "too much memory" if growth > GROWTH else "too slow" if seconds > SECONDS else kind
    crc = zlib.crc32(content[TARGETS[name].file])
    return Outcome(case, name, damage, kind, message.replace(str(folder), "FOLDER"), seconds, growth, crc, details)


def work() -> None:
    """Run the cases whose numbers come in, and write what came out, a line each."""
    import resource

    import torch

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no outcome
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for target in TARGETS.values():
        for tokenizer in target.tokenizers:
            with tempfile.TemporaryDirectory() as name:
                for filename, part in whole(tokenizer, target.weights).items():
                    Path(name, filename).write_bytes(part)
                assert answer(Path(name)) == "logits", (tokenizer, target.weights, answer(Path(name)))
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(int(line))), file=out, flush=True)


class Worker:
    """A process that runs cases, and is started again where one kills it."""

    def __init__(self) -> None:
        self.patience, self.greed = PATIENCE, GREED
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            self.place = tempfile.mkdtemp()  # of what a killed process leaves
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115
            environment = {
                "TMPDIR": self.place,
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": "1",
            }
            command = [sys.executable, "-X", "utf8", __file__, "--work"]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**os.environ, **environment},
            )
            said = self._line(self.process, 300.0, 2**40)
            if said != b"ready\n":
                raise RuntimeError(f"the worker did not start: {said!r}\n{self.stop()}")
        return self.process

    def stop(self) -> str:
        """End the process, and give the last that it wrote."""
        if self.process is None:
            return ""
        process, self.process = self.process, None
        process.kill()
        process.communicate()
        shutil.rmtree(self.place)
        with self.errors:
            self.errors.seek(0)
            return self.errors.read().decode(errors="replace")[-3000:]

    def run(self, case: int) -> Outcome:
        process = self.start()
        assert process.stdin is not None
        process.stdin.write(b"%d\n" % case)
        process.stdin.flush()
        said = self._line(process, self.patience, self.greed)
        if isinstance(said, bytes) and said.endswith(b"\n"):
            return Outcome(*json.loads(said))
        if isinstance(said, bytes):
            code = process.wait()
            said = f"killed by signal {-code}" if code < 0 else f"exit {code}"
        return Outcome(case, *make(max(case, 0))[:2], said, details=self.stop())

    @staticmethod
    def _line(process: subprocess.Popen[bytes], patience: float, greed: int) -> bytes | str:
        """Read a line; b"" where the process ended, "hang" or "too much memory" where it should be ended."""
        assert process.stdout is not None
        memory = Path(f"/proc/{process.pid}/statm")
        before = int(memory.read_text(encoding="ascii").split()[1])
        deadline = time.monotonic() + patience
        while not select.select([process.stdout], [], [], 0.02)[0]:
            pages = (memory.read_text(encoding="ascii").split() or [0, 0])[1]
            if (int(pages) - before) * os.sysconf("SC_PAGE_SIZE") > greed:
                return "too much memory"
            if time.monotonic() > deadline:
                return "hang"
        return process.stdout.readline()


def outcomes(cases: Iterable[int]) -> Iterator[Outcome]:
    """Run cases; one that breaks the promise is run again alone, since a busy machine may be slow."""
    with Worker() as worker:
        for case in cases:
            outcome = worker.run(case)
            if outcome.kind not in ("logits", "refused"):
                worker.stop()
                again = worker.run(case)
                outcome = outcome if again.kind == outcome.kind else again
            yield outcome


def main() -> None:
    """Run the cases of the command line, 7 or 0-199, and print what breaks the promise; of a single case all."""
    counts: dict[str, dict[str, int]] = {}
    for argument in sys.argv[1:]:
        first, _, last = argument.partition("-")
        chosen = range(int(first), int(last or first) + 1)
        for outcome in outcomes(chosen):
            kinds = counts.setdefault(outcome.target, {})
            kinds[outcome.kind] = kinds.get(outcome.kind, 0) + 1
            if len(chosen) == 1 or outcome.kind not in ("logits", "refused"):
                print(outcome, outcome.details, sep="\n", flush=True)
        if len(chosen) == 1:
            name, _, content, before = make(int(first))
            show(before, content[TARGETS[name].file])
    for name, kinds in counts.items():
        print(f"{name}: {kinds}")


def show(before: bytes, after: bytes) -> None:
    """Print what lies between the beginning and the end that two files share."""
    start = _shared(before, after)
    end = _shared(before[start:][::-1], after[start:][::-1])
    print(f"from byte {start}: {before[start : len(before) - end][:300]!r}")
    print(f"became: {after[start : len(after) - end][:300]!r}")


def _shared(a: bytes, b: bytes) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--work"] else main()
