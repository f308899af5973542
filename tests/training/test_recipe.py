"""Losses, schedules and weight decay match transformers and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from minidistil import InputError
from minidistil.training.recipe import Recipe, losses, optimizer_for
from support.twins import ours, theirs


def test_soft_labels_weigh_each_class():
    logits = torch.randn(5, 3)
    shares = torch.rand(5, 3).softmax(1)
    expected = torch.nn.functional.cross_entropy(logits, shares, reduction="none")
    torch.testing.assert_close(losses(logits, shares, "single_label_classification"), expected)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_matches_transformers(schedule, warmup):
    recipe = Recipe(schedule=schedule, warmup_ratio=warmup)
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=recipe.learning_rate)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    steps = 40
    their = transformers.get_scheduler(name, optimizer, int(warmup * steps), steps)
    for step in range(steps):
        assert recipe.learning_rate_at(step, steps) == pytest.approx(their.get_last_lr()[0])
        optimizer.step()
        their.step()


def test_norms_and_biases_never_decay():
    model = ours(theirs({}))
    decayed, kept = optimizer_for(model, Recipe(weight_decay=0.1)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(name.endswith("weight") and "norm" not in name.lower() for name in ids_of(decayed, names))
    assert all(name.endswith("bias") or "norm" in name.lower() for name in ids_of(kept, names))


def ids_of(group, names):
    return [names[id(parameter)] for parameter in group["params"]]


@pytest.mark.parametrize("key", ["epochs", "batch_size", "learning_rate", "max_grad_norm", "max_length"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_recipe_refuses_invalid_values(key, value):
    with pytest.raises(InputError, match=f"{key} is"):
        Recipe(**{key: value})


WRONG = {
    "warmup_ratio": 1.0,
    "weight_decay": -0.1,
    "dropout": 1.0,
    "seed": 2**32,
    "schedule": "steep",
    "dtype": "int8",
}


@pytest.mark.parametrize("key", WRONG)
def test_a_recipe_names_the_wrong_argument(key):
    with pytest.raises(InputError, match=f"{key} is"):
        Recipe(**{key: WRONG[key]})


def test_values_may_be_scalars_of_numpy():
    recipe = Recipe(epochs=np.int64(2), batch_size=np.int32(8), seed=np.uint8(1), learning_rate=np.float32(0.5))
    assert recipe == Recipe(epochs=2, batch_size=8, seed=1, learning_rate=0.5)
    assert {type(value) for value in (recipe.epochs, recipe.batch_size, recipe.seed)} == {int}
