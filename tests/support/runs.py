"""Helpers for tests of training: a tiny vocabulary, texts that can be learned, and the files of a run."""

from __future__ import annotations

import json
import random

import torch
from safetensors.torch import load_file

from minidistil.training.base import load_base
from minidistil.training.data import read_examples
from minidistil.training.loop import Trainer
from minidistil.training.recipe import Recipe
from minidistil.training.records import read_rows

LINE = "good bad film food slow fast great awful warm cold a the was is very not it and but so"


WORDS = LINE.split()


VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


SMALL = {"vocab_size": len(VOCAB), "n_layers": 2, "n_heads": 2, "dim": 16, "hidden_dim": 32}


QUICK = Recipe(epochs=2, batch_size=4, learning_rate=1e-3, max_length=16)


def examples(count, seed=0):
    chance = random.Random(seed)
    rows = []
    for i in range(count):
        words = [chance.choice(WORDS[2:]) for _ in range(chance.randint(1, 9))]
        words.insert(chance.randint(0, len(words)), WORDS[i % 2])
        rows.append({"text": " ".join(words), "label": "yes" if i % 2 == 0 else "no"})
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def assert_equal(folder, other):
    a, b = weights_of(folder), weights_of(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def trainer_of(base, data, output, recipe):
    """Return the Trainer that fine_tune would create."""
    rows = read_rows(data)
    model, tokenizer, schema, _ = load_base(base, rows, recipe)
    examples, _ = read_examples(rows, schema)
    return Trainer(model, tokenizer, recipe, examples, output)
