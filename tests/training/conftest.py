"""A tiny encoder, texts, and an uninterrupted run."""

from __future__ import annotations

import pytest
import torch

import minidistil
from minidistil.training import fine_tune
from support.runs import QUICK, SMALL, VOCAB, examples, write


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder without a head."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    minidistil.DistilBertModel(minidistil.DistilBertConfig(**SMALL)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """24 texts, labeled by whether they contain the word good."""
    return write(tmp_path_factory.mktemp("data") / "texts.jsonl", examples(24))


@pytest.fixture(scope="module")
def finished(encoder, texts, tmp_path_factory):
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("run") / "whole"
    return output, fine_tune(encoder, texts, output, recipe=QUICK, eval_data=texts, device="cpu")
