"""The cases: the file, the part of it and the damage. Case i depends on the seed i only."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from support.fuzz.checkpoints import Content, intact
from support.fuzz.damage import BYTES, JSON, Damage, components, flip, ids, line_ends, lines, overwrite, swap
from support.fuzz.weights import (
    PICKLE,
    all_of,
    body_of,
    header_of,
    layout,
    length,
    length_of,
    odd_tensors,
    pickle_of,
    records,
)


class Target(NamedTuple):
    """A file, the checkpoints in which it is damaged, the part that is damaged, and the kinds of damage."""

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
    """Return the target of a case, the damage, the files of the folder, and the original file."""
    rng = random.Random(case)
    turn, place = divmod(case, len(TARGETS))
    name = list(TARGETS)[place]
    target = TARGETS[name]
    kinds = list(target.damages)
    damage = kinds[turn % len(kinds)]
    content = dict(intact(rng.choice(target.tokenizers), target.weights))
    before = content[target.file]
    while content[target.file] == before:  # a swap of equal bytes changes nothing
        content[target.file] = target.where(before, lambda part: target.damages[damage](rng, part), rng)
    return name, damage, content, before
