"""Hyperparameters of fine-tuning, and the learning-rate schedules, losses and optimizer that they set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import is_int, plain
from ..errors import InputError

SCHEDULES: dict[str, Callable[[float], float]] = {  # fraction of the steps left after warm-up -> factor
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 - 0.5 * math.cos(math.pi * left),
    "constant": lambda left: 1.0,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a run, with the names and defaults of `run_glue.py` in transformers' model cards.

    Args:
        epochs: passes over the data; a fraction ends within an epoch.
        batch_size: examples per batch, over all processes.
        batch_tokens: tokens per batch, instead of `batch_size`.
        gradient_accumulation_steps: batches per step.
        learning_rate: peak learning rate, reached after the warm-up.
        schedule: "linear", "cosine" or "constant".
        warmup_ratio: fraction of the steps in which the learning rate rises.
        weight_decay: weight decay of matrices; biases and norms have none.
        max_grad_norm: norm that gradients are clipped to.
        max_length: tokens that texts are truncated to.
        dropout: replaces every dropout probability of the config; None keeps them.
        dtype: "float32", or "bfloat16" or "float16" for autocast. The weights themselves are float32.
        seed: random seed of a new head, the order of examples and dropout.
        metric: metric that selects the best checkpoint; None: accuracy, micro F1 or Pearson's r, depending on the
            problem type.
    """

    epochs: float = 5
    batch_size: int = 16
    batch_tokens: int | None = None
    gradient_accumulation_steps: int = 1
    learning_rate: float = 2e-5
    schedule: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 128
    dropout: float | None = None
    dtype: str = "float32"
    seed: int = 42
    metric: str | None = None

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, plain(value))  # scalars of NumPy, as in a sweep
        for name in ("batch_size", "batch_tokens", "gradient_accumulation_steps", "max_length"):
            value = getattr(self, name)
            if not (is_int(value) and value >= 1) and not (name == "batch_tokens" and value is None):
                raise InputError(f"{name} is {value!r}: expected an integer of at least 1", subject=name)
        for name in ("epochs", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise InputError(f"{name} is {value!r}: expected a number above 0", subject=name)
        for name, end in (("warmup_ratio", 1.0), ("weight_decay", float("inf")), ("dropout", 1.0)):
            value = getattr(self, name)
            if not (name == "dropout" and value is None) and not 0 <= value < end:
                raise InputError(
                    f"{name} is {value!r}: expected a number of at least 0 and below {end}", subject=name
                )
        if not is_int(self.seed) or not 0 <= self.seed < 2**32:
            raise InputError(
                f"seed is {self.seed!r}: expected an integer of at least 0 and below {2**32}", subject="seed"
            )
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"schedule is {self.schedule!r}: expected one of {', '.join(SCHEDULES)}", subject="schedule"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"dtype is {self.dtype!r}: expected float32, bfloat16 or float16", subject="dtype")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, in a run of `steps` steps."""
        warm_up = math.ceil(self.warmup_ratio * steps)
        if step < warm_up:
            return self.learning_rate * step / warm_up
        return self.learning_rate * SCHEDULES[self.schedule]((steps - step) / (steps - warm_up))


def losses(logits: Tensor, targets: Tensor, problem_type: str) -> Tensor:
    """Return the loss of each example, as transformers defines it: (n, C), (n, C) -> (n,)."""
    if problem_type == "single_label_classification":
        return -(targets * logits.log_softmax(1)).sum(1)
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return F.mse_loss(logits, targets, reduction="none").mean(1)


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW for the trainable parameters, with weight decay for matrices only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
