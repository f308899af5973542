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
from .label_rules import Unlabeled, infer_schema
from .labels import REGRESSION, Schema, check_name
from .recipe import Recipe
from .records import Row


def load_base(
    base: str | Path,
    rows: Sequence[Row],
    recipe: Recipe,
    *,
    eval_rows: Sequence[Row] = (),
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    label_separator: str | None = None,
    unlabeled: Unlabeled | None = None,
    revision: str | None = None,
) -> tuple[DistilBertForSequenceClassification, Tokenizer, Schema, bool]:
    """Return the classifier to start from, its tokenizer, what labels mean for it, and whether its head is new.

    See `fine_tune` for the arguments.
    """
    files = find_files(base, revision)
    tokenizer = load_tokenizer(files)
    architectures = read_json(files.get("config.json")).get("architectures") or []
    new_head = labels is not None or (
        bool(architectures) and not any(str(name).endswith("ForSequenceClassification") for name in architectures)
    )
    torch.manual_seed(recipe.seed)
    how: dict[str, Any] = {"separator": label_separator, "unlabeled": unlabeled}
    if new_head:
        if labels is not None:
            _check_labels(labels, problem_type)
        schema = infer_schema(rows, eval_rows, names=labels, problem_type=problem_type, **how)
        names = schema.names
        model = load(
            DistilBertForSequenceClassification, files, dtype="float32", new_head=True, num_labels=len(names)
        )
        changes: dict[str, Any] = {"id2label": dict(enumerate(names)), "problem_type": schema.problem_type}
    else:
        model = load(DistilBertForSequenceClassification, files, dtype="float32")
        own = Labels.from_config(model.config)
        problem_type = problem_type or own.problem_type
        schema = infer_schema(rows, eval_rows, names=own.names, problem_type=problem_type, **how)
        changes = {"problem_type": problem_type}
    if recipe.dropout is not None:
        changes |= dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), recipe.dropout)
    return _with_config(model, dataclasses.replace(model.config, **changes)), tokenizer, schema, new_head


def _check_labels(labels: Sequence[str], problem_type: str | None) -> None:
    if isinstance(labels, str) or len(set(labels)) < len(labels) or not labels:
        raise InputError(f"labels are {labels!r}: expected a list of different names", subject="labels")
    if len(labels) < 2 and problem_type != REGRESSION:
        raise InputError(f"labels are {list(labels)}: expected at least 2, or --problem-type {REGRESSION}")
    for label in labels:
        check_name(label, "a name in labels")


def _with_config(
    model: DistilBertForSequenceClassification, config: DistilBertConfig
) -> DistilBertForSequenceClassification:
    """Return a copy with another config. The weights are copied too, since they may be mapped from a file."""
    copy = DistilBertForSequenceClassification(config, device="meta")
    copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    if config.sinusoidal_pos_embds:
        copy.distilbert.embeddings.position_embeddings.requires_grad_(False)
    return copy
