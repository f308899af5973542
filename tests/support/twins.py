"""Twins: a tiny DistilBERT of minidistil and one of transformers, with the same weights; and inputs for them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import transformers
from torch import Tensor

import minidistil
from minidistil import Batch, DistilBertConfig

BASE = {
    "vocab_size": 1000,
    "dim": 64,
    "hidden_dim": 128,
    "n_heads": 4,
    "n_layers": 2,
    "id2label": {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"},
}
LENGTHS = (1, 2, 17, 128, 512)
FORMS = ("alone", "equal", "ragged", "holes")
TOKEN_FORMS = (*FORMS, "left")  # for heads with per-token results


def labels(count: int) -> dict[str, Any]:
    return {"id2label": {i: f"class {i}" for i in range(count)}}


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "1 layer": {"n_layers": 1},
    "12 layers": {"n_layers": 12},
    "one head": {"n_heads": 1, "dim": 32},
    "heads of 8": {"n_heads": 8},
    "heads of 64": {"n_heads": 2, "dim": 128},
    "relu": {"activation": "relu"},
    "vocabulary of 100": {"vocab_size": 100},
    "sinusoidal": {"sinusoidal_pos_embds": True},
    "1 label": labels(1),
    "2 labels": labels(2),
    "77 labels": labels(77),
}


def theirs(config: dict[str, Any], name: str = "DistilBertForSequenceClassification") -> Any:
    """Return a transformers model of that class, with weights from `draw`."""
    values = {**BASE, **config}
    values["label2id"] = {label: i for i, label in values["id2label"].items()}
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.DistilBertConfig(**values)).eval()
    draw(model, "position" if values.get("sinusoidal_pos_embds") else None)
    return model


@torch.no_grad()
def draw(model: torch.nn.Module, leave: str | None = None) -> None:
    """Draw large weights, so that attention is not uniform. leave: skip parameters with this in their names."""
    for name, parameter in model.named_parameters():
        if leave is not None and leave in name:
            continue
        if "norm" in name.lower():
            parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.2)
        elif parameter.ndim == 1:
            parameter.normal_(0.0, 0.3)
        else:
            parameter.normal_(0.0, 1.0 if "embeddings" in name else 1.5 / parameter.shape[1] ** 0.5)


def ours(model: Any) -> Any:
    """Return the minidistil model of the same class, with a copy of the weights."""
    config = DistilBertConfig.from_dict(model.config.to_dict())
    twin = getattr(minidistil, type(model).__name__)(config, device="meta")
    twin.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return twin.eval()


@functools.cache
def twins(name: str = "plain", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return the models of minidistil and of transformers. Tests share them and must not change them."""
    model = theirs(CONFIGS[name]).to(dtype)
    return ours(model), model


def inputs(form: str, length: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Return input_ids and attention_mask, both (n, length)."""
    generator = torch.Generator().manual_seed(length)
    n = 1 if form == "alone" else 4
    ids = torch.randint(0, vocab_size, (n, length), generator=generator)
    mask = torch.ones_like(ids)
    if form == "ragged":
        for row, kept in enumerate((length, max(1, length // 2), 1, max(1, 3 * length // 4))):
            mask[row, kept:] = 0
    if form == "left":
        for row, padding in enumerate((0, length // 2, length - 1, length // 4)):
            mask[row, :padding] = 0
    if form == "holes":
        mask = torch.randint(0, 2, ids.shape, generator=generator)
        mask[:, 0] = 1
    return ids, mask


def first_difference(mine: Any, other: Any, ids: Tensor, mask: Tensor) -> str:
    """Describe the first hidden state of the twins that differs by more than rounding errors."""
    trace = minidistil.trace(mine, Batch.from_padded(ids, mask))
    with torch.no_grad():
        states = other(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    tolerance = 20 * torch.finfo(mine.dtype).eps
    for layer, (a, b) in enumerate(zip(trace.hidden, states, strict=True)):
        worst = ((a - trace.layout.unpad(b)).abs().max() / b.abs().max()).item()
        if worst > tolerance:
            return (
                f"the first difference is after {f'layer {layer - 1}' if layer else 'the embeddings'}: {worst:.2e}"
            )
    return "the hidden states agree: the difference is in the head"


def assert_same(answer: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Check that two pipeline results have the same types, keys, order and values; scores within the tolerance."""
    assert type(answer) is type(expected)
    if isinstance(expected, dict):
        assert list(answer) == list(expected)
        assert_same(list(answer.values()), list(expected.values()), tolerance)
    elif isinstance(expected, list):
        assert len(answer) == len(expected)
        for item, expected_item in zip(answer, expected, strict=True):
            assert_same(item, expected_item, tolerance)
    elif isinstance(expected, float):
        assert abs(answer - expected) <= tolerance
    else:
        assert answer == expected
