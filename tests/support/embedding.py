"""Texts, files and checks for the tests of the embedding pipelines."""

from __future__ import annotations

import json
import shutil

import numpy as np

import minidistil

FEATURES, EMBED = "feature-extraction", "sentence-embedding"
TOLERANCE = 1e-5
POSITIONS = 64
WORDS = "the team won game election was held sports man sleeps is awake The Team ΤΕΛΟΣ τελοσ τελος élan elan"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéαςσΣ"  # noqa: RUF001
TEXTS = [
    "The team won the game.",
    "A man sleeps",
    "",
    "it was NOT held! [SEP] [MASK] [sep]",
    "The élan of ΤΕΛΟΣ, İstanbul; e\u0301lan\u200b 日本 \U0001f3c8",
    "The team won the election. " * 5,
    "A man sleeps",
]
LONG = "The team won " * 40
MODULES, POOLING, READING = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
NORMALIZE, SETTINGS = "2_Normalize/config.json", "config_sentence_transformers.json"


def age(folder, **reading):
    """Write the settings as versions before 5 did."""
    edit(folder / "sentence_bert_config.json", lambda _: reading)
    flags = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")
    edit(
        folder / "1_Pooling/config.json",
        lambda new: {
            "word_embedding_dimension": new["embedding_dimension"],
            **{f"pooling_mode_{flag}": flag.startswith(f"{new['pooling_mode']}_t") for flag in flags},
        },
    )
    edit(
        folder / "modules.json",
        lambda new: [{**m, "type": f"sentence_transformers.models.{m['type'].split('.')[-1]}"} for m in new],
    )
    shutil.rmtree(folder / "2_Normalize", ignore_errors=True)
    edit(folder / "config_sentence_transformers.json", lambda new: {"__version__": new["__version__"]})


def edit(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def ours(task, model, **options):
    return minidistil.pipeline(task, model, device="cpu", **options)


def assert_same(answer, expected):
    """Assert equal types and shapes, and values within the tolerance."""
    assert type(answer) is type(expected)
    if isinstance(expected, list) and expected and not isinstance(expected[0], list | float):
        assert len(answer) == len(expected)
        for one, other in zip(answer, expected, strict=True):
            assert_same(one, other)
        return
    answer, expected = np.asarray(answer), np.asarray(expected)
    assert answer.shape == expected.shape
    assert answer.dtype == expected.dtype
    assert np.abs(answer - expected).max(initial=0) <= TOLERANCE
