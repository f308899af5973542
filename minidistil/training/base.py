"""The checkpoint that fine-tuning starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.files import find_files
from ..checkpoint.load import load
from ..checkpoint.tokenizer import load_tokenizer
from ..config import DistilBertConfig, read_json
from ..errors import InputError
from ..heads import DistilBertForSequenceClassification
from ..tokenizer import Tokenizer
from .data import Labels
from .recipe import Recipe
from .records import Row


def load_base(
    base: str | Path,
    rows: Sequence[Row],
    recipe: Recipe,
    *,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    revision: str | None = None,
) -> tuple[DistilBertForSequenceClassification, Tokenizer, bool]:
    """Return the classifier to start from, its tokenizer, and whether its head is new; see `fine_tune`."""
    files = find_files(base, revision)
    tokenizer = load_tokenizer(files)
    architectures = read_json(files.get("config.json")).get("architectures") or []
    new_head = labels is not None or (
        bool(architectures) and not any(str(name).endswith("ForSequenceClassification") for name in architectures)
    )
    torch.manual_seed(recipe.seed)
    if new_head:
        from_rows = Labels.from_rows(rows, problem_type)
        names = from_rows.names if labels is None else tuple(labels)
        if len(set(names)) < len(names) or not names:
            raise InputError(f"labels are {list(names)}: expected different names")
        model = load(
            DistilBertForSequenceClassification, files, dtype="float32", new_head=True, num_labels=len(names)
        )
        changes: dict[str, Any] = {"id2label": dict(enumerate(names)), "problem_type": from_rows.problem_type}
    else:
        model = load(DistilBertForSequenceClassification, files, dtype="float32")
        changes = {} if problem_type is None else {"problem_type": problem_type}
    if recipe.dropout is not None:
        changes |= dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), recipe.dropout)
    return _with_config(model, dataclasses.replace(model.config, **changes)), tokenizer, new_head


def _with_config(
    model: DistilBertForSequenceClassification, config: DistilBertConfig
) -> DistilBertForSequenceClassification:
    """Return a copy with another config. The weights are copied too, since they may be mapped from a file."""
    copy = DistilBertForSequenceClassification(config, device="meta")
    copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    if config.sinusoidal_pos_embds:
        copy.distilbert.embeddings.position_embeddings.requires_grad_(False)
    return copy
