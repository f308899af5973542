"""Workloads of the benchmarks: texts, a checkpoint with random weights, and matmul FLOPs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoint.load import from_pretrained
from ..config import DistilBertConfig
from ..errors import InputError
from ..heads import DistilBertForSequenceClassification
from ..tokenizer import Tokenizer


def read_pairs(path: str, count: int) -> tuple[list[str], list[str]]:
    """Return the premises and hypotheses in the first `count` lines of a JSONL file."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()[:count]
        records = [json.loads(line) for line in lines]
        return [record["premise"] for record in records], [record["hypothesis"] for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected lines of JSON with premise and hypothesis: {error}") from error


def write_base_model(model: str, folder: str) -> None:
    """Save a random classifier of DistilBERT base's size, with the tokenizer and labels of the checkpoint `model`.

    Speed does not depend on the values of weights.
    """
    small = from_pretrained(model, task="zero-shot-classification").config
    config = DistilBertConfig(vocab_size=small.vocab_size, id2label=small.id2label)
    torch.manual_seed(0)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    Tokenizer.from_pretrained(model).save_pretrained(folder)


def matmul_flops(config: DistilBertConfig, lengths: Sequence[int], *, prunes: bool = True) -> int:
    """Return the floating-point operations of a classifier's matmuls: 2 T K N for (T, K) by (K, N).

    Args:
        lengths: tokens of each sequence.
        prunes: whether the last layer computes attention, its output and the feed-forward for the first token of
            each sequence only, the only one that the head reads.
    """
    tokens, width = sum(lengths), config.dim
    attention = 4 * width * sum(length * length for length in lengths)
    rest = 2 * width * width + 4 * width * config.hidden_dim  # per token: output projection and feed-forward
    full = attention + tokens * rest
    last = 4 * width * tokens + len(lengths) * rest if prunes else full
    head = 2 * len(lengths) * width * (width + config.num_labels)
    return config.n_layers * 6 * tokens * width * width + (config.n_layers - 1) * full + last + head
