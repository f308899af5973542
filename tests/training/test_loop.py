"""One step matches torch, also with accumulation, filler, autocast and gradients that are not finite."""

from __future__ import annotations

import pytest
import torch

import minidistil
from minidistil import InputError, Tokenizer
from minidistil.training import loop as module
from minidistil.training.data import Example
from minidistil.training.loop import Trainer
from minidistil.training.recipe import Recipe
from support.runs import VOCAB, trainer_of
from support.twins import ours, theirs

pytestmark = pytest.mark.usefixtures("one_thread")


PROBLEMS = {
    "single_label_classification": (3, torch.tensor([0, 2, 1, 2])),
    "multi_label_classification": (3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
    "regression": (1, torch.tensor([0.5, -2.0, 1.0, 3.0])),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_step_matches_transformers_loss_and_torch_adamw(problem, tmp_path):
    count, target = PROBLEMS[problem]
    names = {i: f"class {i}" for i in range(count)}
    nothing = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0)
    # float64: AdamW in float32 would amplify gradients that are only rounding error, as of the key biases
    peer = theirs({**nothing, "id2label": names, "problem_type": problem}).double().train()
    model = ours(peer)
    ids = [[2, 7, 9, 3], [2, 8, 3], [2, 5, 5, 6, 11, 3], [2, 3]]
    values = target.tolist() if target.ndim == 2 else target[:, None].tolist()
    if problem == "single_label_classification":
        values = torch.nn.functional.one_hot(target, count).tolist()
    rows = [Example("", None, tuple(map(float, value)), f"row {i}") for i, value in enumerate(values)]
    recipe = Recipe(weight_decay=0.1, learning_rate=1e-3, batch_size=4)
    trainer = a_trainer(model, rows, ids, recipe, tmp_path)
    record = trainer.take_step([[0, 1, 2, 3]], 10)

    decayed = [p for p in peer.parameters() if p.ndim >= 2]
    others = [p for p in peer.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in ids], batch_first=True)
    target = target if problem == "single_label_classification" else target.double()
    loss = peer(input_ids=padded, attention_mask=mask, labels=target).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
    optimizer.step()

    assert record["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)
    expected = dict(peer.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-9)


def a_trainer(model, rows, ids, recipe, folder):
    """Return a Trainer for these token ids."""
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}', encoding="utf-8")
    trainer = Trainer(model, Tokenizer.from_pretrained(folder), recipe, rows, folder)
    trainer.ids, trainer.lengths = ids, [len(row) for row in ids]
    return trainer


def test_accumulated_batches_match_one_large_batch(encoder, texts, tmp_path):
    options = {"epochs": 1, "learning_rate": 1e-3, "dropout": 0.0}
    trainers = [
        trainer_of(encoder, texts, tmp_path / "a", Recipe(batch_size=8, **options)),
        trainer_of(encoder, texts, tmp_path / "b", Recipe(batch_size=4, gradient_accumulation_steps=2, **options)),
    ]
    trainers[0].take_step([[0, 1, 2, 3, 4, 5, 6, 7]], 10)
    trainers[1].take_step([[0, 1, 2, 3], [4, 5, 6, 7]], 10)
    gradients = [t.optimizer.state_dict()["state"] for t in trainers]
    for one, other in zip(*(g.values() for g in gradients), strict=True):
        torch.testing.assert_close(one["exp_avg"], other["exp_avg"], rtol=1e-4, atol=1e-7)


@pytest.mark.full
def test_filler_does_not_change_loss_and_gradient(finished, texts, tmp_path):
    found = []
    for fill in (False, True):
        trainer = trainer_of(finished[0], texts, tmp_path, Recipe(dropout=0.0))
        trainer.fill = fill
        found.append(trainer.take_step([list(range(16))], 10))
    for key in ("loss", "grad_norm", "tokens"):  # filler is not counted
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-5)


def test_attention_is_computed_in_float32_under_autocast():
    layout = minidistil.Layout.from_lengths([3, 2])
    q, k, v = (torch.randn(5, 2, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = module.attention_float32(q, k, v, layout, layout)
    expected = module.attention(q.float(), k.float(), v.float(), layout, layout)
    assert torch.equal(out, expected)
    assert out.dtype == torch.float32


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_approximates_the_float32_loss_and_gradient(finished, texts, tmp_path, dtype):
    found = []
    for name in ("float32", dtype):
        trainer = trainer_of(finished[0], texts, tmp_path, Recipe(dtype=name, dropout=0.0))
        found.append(trainer.take_step([list(range(16))], 10))
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-2)
    assert found[0]["grad_norm"] == pytest.approx(found[1]["grad_norm"], rel=5e-2)


@pytest.mark.full
def test_float16_overflows_are_skipped_up_to_a_limit(encoder, texts, tmp_path, monkeypatch):
    trainer = trainer_of(encoder, texts, tmp_path, Recipe(dtype="float16"))
    infinite = torch.tensor(float("inf"))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: infinite)
    for _ in range(module.MAX_SKIPPED):
        assert trainer.take_step([[0, 1]], 100)["grad_norm"] is None
    with pytest.raises(InputError, match="the gradient norm inf"):
        trainer.take_step([[0, 1]], 100)
