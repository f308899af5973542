"""The training loop: for each batch forward, loss and backward, then a step of the optimizer.

Batches are packed, so no padding is computed. Random numbers depend only on the seed and the number of the step: a
run that is stopped and resumed ends with the same weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..batching import plan_epoch, training_filler_lengths, with_filler
from ..checkpoint.files import write_files, write_text
from ..checkpoint.load import parse_dtype
from ..errors import InputError
from ..heads import DistilBertForSequenceClassification
from ..layout import Batch, Layout
from ..ops import attention
from ..tokenizer import Tokenizer
from .data import Example, Labels, tokenize
from .distributed import Processes, no_sync
from .recipe import Recipe, losses, optimizer_for

MAX_SKIPPED = 20  # consecutive steps whose gradients overflow float16; each lowers the loss scale


class Trainer:
    """Trains a classifier on labeled examples: `for record in trainer.train(): print(record["loss"])`."""

    def __init__(
        self,
        model: DistilBertForSequenceClassification,
        tokenizer: Tokenizer,
        recipe: Recipe,
        examples: Sequence[Example],
        output: Path,
        processes: Processes | None = None,
    ):
        """Tokenize the examples. output: folder for the examples of a step whose loss is not finite."""
        self.model, self.tokenizer, self.recipe, self.examples = model, tokenizer, recipe, examples
        self.output, self.processes = output, processes or Processes()
        self.problem_type = Labels.from_config(model.config).problem_type
        self.ids = tokenize(tokenizer, examples, min(recipe.max_length, model.config.max_position_embeddings))
        self.lengths = [len(ids) for ids in self.ids]
        device, half = model.device.type, recipe.dtype != "float32"
        self.autocast = torch.autocast(device, parse_dtype(recipe.dtype), enabled=half)
        self.scaler = torch.amp.GradScaler(device, enabled=recipe.dtype == "float16")
        self.fill = half and device == "cpu"  # oneDNN generates new kernels for each number of tokens
        self.optimizer = optimizer_for(model, recipe)
        self.module = self.processes.wrap(model.with_ops(attention=attention_float32) if self.fill else model)
        self.step = 0  # completed steps
        self.seen = {"examples": 0, "tokens": 0}
        self.skipped = 0  # consecutive latest steps whose gradients overflowed

    def train(self) -> Iterator[dict[str, Any]]:
        """Train to the end, from the current step; yield a record of each step."""
        start, total = 0, sum(self.steps_per_epoch)
        for epoch, count in enumerate(self.steps_per_epoch):
            if self.step < start + count:
                for batches in self.plan(epoch)[self.step - start : count]:
                    yield {**self.take_step(batches, total), "epoch": epoch}
            start += count

    def take_step(self, batches: Sequence[list[int]], total: int) -> dict[str, Any]:
        """Take a step of the optimizer, with the gradients of some batches. total: steps of the whole run."""
        begin = time.perf_counter()
        torch.manual_seed(self.recipe.seed + 1_000_003 * self.step + self.processes.rank)
        learning_rate = self.recipe.learning_rate_at(self.step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.module.train()
        count = sum(map(len, batches))
        loss = torch.zeros((), device=self.model.device)
        for i, batch in enumerate(batches):  # forward and backward; their gradients add up
            last = i == len(batches) - 1
            with contextlib.nullcontext() if last else no_sync(self.module):
                mine = self.processes.share(batch)
                part = (
                    self.loss(mine or batch[:1]) * bool(mine) / count
                )  # a process without examples contributes 0
                # DistributedDataParallel averages gradients over processes, but the loss is a sum over examples
                self.scaler.scale(part * self.processes.count).backward()
            loss += part.detach()
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm).item()
        value = self.processes.total(loss).item()
        self._check_finite(value, norm, batches, total)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        tokens = sum(self.lengths[i] for batch in batches for i in batch)
        self.seen["examples"] += count
        self.seen["tokens"] += tokens
        seconds = time.perf_counter() - begin
        record = {"step": self.step, "loss": value, "learning_rate": learning_rate, "tokens": tokens}
        return {**record, "seconds": seconds, "grad_norm": norm if math.isfinite(norm) else None}

    def loss(self, indices: Sequence[int]) -> Tensor:
        """Return the sum of the losses of some examples: a scalar."""
        ids: list[Sequence[int]] = [self.ids[i] for i in indices]
        if self.fill:  # filler sequences: their logits are dropped
            filler = training_filler_lengths(sum(map(len, ids)), self.model.config.max_position_embeddings)
            ids = with_filler(ids, filler, self.tokenizer.pad_id)
        batch = Batch.from_lists(ids).to(self.model.device)
        with self.autocast:
            logits = self.module(batch)[: len(indices)]  # (n, C)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = torch.tensor([self.examples[i].label for i in indices], dtype=logits.dtype).to(logits.device)
        return losses(logits, targets, self.problem_type).sum()

    def plan(self, epoch: int) -> list[list[list[int]]]:
        """Return the steps of an epoch; a step is a list of batches, a batch a list of examples' indices."""
        recipe, several = self.recipe, self.recipe.gradient_accumulation_steps
        size = {"max_sequences": recipe.batch_size}
        if recipe.batch_tokens is not None:
            size = {"max_tokens": recipe.batch_tokens}
        batches = plan_epoch(self.lengths, **size, seed=recipe.seed, epoch=epoch)
        return [batches[i : i + several] for i in range(0, len(batches), several)]

    @functools.cached_property
    def steps_per_epoch(self) -> list[int]:
        """The number of steps of each epoch; the last epoch may be a fraction of one."""
        whole, fraction = divmod(self.recipe.epochs, 1)
        epochs = range(int(whole) + (fraction > 0))
        if self.recipe.batch_tokens is None:
            batches = math.ceil(len(self.lengths) / self.recipe.batch_size)
            counts = [math.ceil(batches / self.recipe.gradient_accumulation_steps) for _ in epochs]
        else:
            counts = [len(self.plan(epoch)) for epoch in epochs]
        return [*counts[: int(whole)], *(max(1, round(fraction * count)) for count in counts[int(whole) :])]

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scaler")}
        return {"step": self.step, "seen": self.seen, **parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        for name in ("model", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seen = state["step"], state["seen"]

    def _check_finite(self, loss: float, norm: float, batches: Sequence[list[int]], total: int) -> None:
        """Raise InputError if loss or gradient is not finite, except for a few float16 overflows."""
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if math.isfinite(loss) and self.skipped <= (MAX_SKIPPED if self.scaler.is_enabled() else 0):
            return
        path = self.output / "bad-batch.jsonl"
        if self.processes.first:
            examples = [dataclasses.asdict(self.examples[i]) for batch in batches for i in batch]
            lines = "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
            write_files(self.output, {path.name: lambda place: write_text(place, lines)})
        raise InputError(
            f"step {self.step + 1} of {total} has the loss {loss} and the gradient norm {norm}: inspect its batch "
            f"in {path}, or reduce the learning rate, {self.recipe.learning_rate}"
        )


def attention_float32(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """Compute attention in float32: on CPU, its backward pass is many times slower in bfloat16."""
    with torch.autocast("cpu", enabled=False):
        return attention(q.float(), k.float(), v.float(), queries, keys, dropout_p)
