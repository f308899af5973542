"""Fine-tuning of a classifier: from labelled examples to a checkpoint in the Hub's format, with its model card.

A run lives in its output folder, and everything in it is written beside its place and then renamed:

    config.json, model.safetensors, tokenizer.json, README.md   the model: the best so far, a checkpoint of its own
    run.json           what is run: what `--resume` goes on with
    log.jsonl          a line for each step, and for each evaluation
    checkpoint.pt      the state after some step, while the run is not finished

Nothing is random but by the seed and the number of the step, so that a run which was stopped goes on as if it had
not been. Batches are packed: no padding is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import platform
import shutil
import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import __version__
from ..batching import plan_epoch, training_filler_lengths, with_filler
from ..checkpoint.files import find_files, write_files, write_json, write_text
from ..checkpoint.load import load, parse_device, parse_dtype
from ..checks import check_count, is_int
from ..config import DistilBertConfig, read_json
from ..errors import InputError
from ..layout import Batch, Layout
from ..model import DistilBertForSequenceClassification
from ..ops import attention
from ..tokenizer import Tokenizer
from .card import Meter, machine, write_card
from .data import Columns, Example, Labels, Row, read_rows
from .evaluate import METRICS, evaluate, score

SCHEDULES: dict[str, Callable[[float], float]] = {  # of the part of the steps that is left, after the warm-up
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 - 0.5 * math.cos(math.pi * left),
    "constant": lambda left: 1.0,
}
WRITTEN = [  # into the output folder
    *("checkpoint.pt", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("README.md", "log.jsonl", "bad-batch.jsonl", "run.json"),
]
PATIENCE = datetime.timedelta(days=7)  # while the first process evaluates, the others wait
SKIPPED = 20  # steps in a row whose gradients overflow float16, which lowers its scale each time
BLOCK = 10_000  # examples that are tokenized at once
SHOW = 2.0  # seconds between two lines of progress


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to fine-tune. The names and defaults are those of transformers' `run_glue.py` as model cards give them.

    batch_size: examples of a step, in all processes together, before accumulation. batch_tokens: tokens of a step
    instead. dropout: in place of all that the model's config has; None: the config's. dtype: "float32", or
    "bfloat16" or "float16" for autocast; the weights themselves are float32. metric: which decides the best
    checkpoint; None: accuracy, F1 or Pearson's r, as the problem is.
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
        for name in ("batch_size", "batch_tokens", "gradient_accumulation_steps", "max_length"):
            value = getattr(self, name)
            if not (is_int(value) and value >= 1) and not (name == "batch_tokens" and value is None):
                raise InputError(f"{name} is {value!r}: expected an integer of at least 1")
        for name in ("epochs", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise InputError(f"{name} is {value!r}: expected a number above 0")
        for name, end in (("warmup_ratio", 1.0), ("weight_decay", float("inf")), ("dropout", 1.0)):
            value = getattr(self, name)
            if not (name == "dropout" and value is None) and not 0 <= value < end:
                raise InputError(f"{name} is {value!r}: expected a number of at least 0 and below {end}")
        if not is_int(self.seed) or not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed!r}: expected an integer of at least 0 and below {2**32}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule is {self.schedule!r}: expected one of {', '.join(SCHEDULES)}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"dtype is {self.dtype!r}: expected float32, bfloat16 or float16")

    def rate(self, step: int, steps: int) -> float:
        """Give the learning rate of a step, counted from 0, of so many: up during the warm-up, then down."""
        warm_up = math.ceil(self.warmup_ratio * steps)
        if step < warm_up:
            return self.learning_rate * step / warm_up
        return self.learning_rate * SCHEDULES[self.schedule]((steps - step) / (steps - warm_up))


def losses(logits: Tensor, targets: Tensor, problem_type: str) -> Tensor:
    """Give each example's loss, as transformers defines them: (n, C), (n, C) -> (n,)."""
    if problem_type == "single_label_classification":
        return -(targets * logits.log_softmax(1)).sum(1)
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return F.mse_loss(logits, targets, reduction="none").mean(1)


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Give AdamW; weights decay by their dimensions, so that norms and biases never do."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes that train together: under `torchrun` as many as it started, else this one."""

    rank: int
    count: int

    @classmethod
    def find(cls) -> Processes:
        """Read what torchrun says."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def first(self) -> bool:
        """Whether this is the one that reads, evaluates and writes."""
        return self.rank == 0

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Let the processes talk to each other."""
        if self.count > 1:
            backend = "nccl" if device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(backend, timeout=PATIENCE)
        try:
            yield
        finally:
            if self.count > 1:
                torch.distributed.destroy_process_group()

    def share(self, batch: list[int]) -> list[int]:
        """Give this process's part of a batch."""
        return batch[self.rank :: self.count]

    def total(self, values: Tensor) -> Tensor:
        """Add up what each process has."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def first_does(self, act: Callable[[], None], device: torch.device) -> None:
        """Let the first process act, and all go on when it has, or none where it was refused."""
        refusal: Exception | None = None
        if self.first:
            try:
                act()
            except Exception as error:
                refusal = error
        if self.total(torch.tensor(float(refusal is not None), device=device)).item():
            raise refusal or InputError("the first process could not begin, and says why")

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            torch.distributed.barrier()


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the state was saved."""


class _Stop:
    """Ctrl-C and SIGTERM while a run goes on: the step is finished and saved; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[_Stop]:
        signals = (signal.SIGINT, signal.SIGTERM)
        try:
            former = [signal.signal(number, self._ask) for number in signals]
        except ValueError:  # not in the main thread, where signals do not arrive
            yield self
            return
        try:
            yield self
        finally:
            for number, handler in zip(signals, former, strict=True):
                signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def fine_tune(
    base: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    recipe: Recipe | None = None,
    eval_data: str | Path | None = None,
    columns: Columns | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    eval_steps: int | None = None,
    save_steps: int = 500,
    resume: bool = False,
    overwrite: bool = False,
    country: str | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Fine-tune a sequence classifier, and write it with its card into a folder; returns what run.json says.

    base: a checkpoint as for `from_pretrained`. A classifier keeps its head and its labels; to any other encoder,
    or where `labels` are given, a new head is put, with these labels, or else those of the data. data: files, or
    data sets, as for `read_rows`; eval_data: likewise, measured after each epoch or every `eval_steps`: the best
    checkpoint is kept; without it, the last. save_steps: steps between two states to go on from. resume: go on
    with the run in `output`; overwrite: begin anew there. country: three letters, for the carbon of the energy
    (`codecarbon`, an extra). command: what the card shows.

    Under torchrun, the processes share the batches. `InputError` says which argument or row is wrong, and where
    the batch is that gave a loss which is not finite. Ctrl-C saves the state first, and is a KeyboardInterrupt.
    """
    for name, value in (("eval_steps", eval_steps), ("save_steps", save_steps)):
        check_count(name, value)
    processes = Processes.find()
    recipe = recipe or Recipe()
    output = Path(output)
    sources = [str(data)] if isinstance(data, str | Path) else [str(one) for one in data]
    where = _device(device, processes)
    rows = [row for source in sources for row in read_rows(source, columns)]
    model, tokenizer, new_head = prepare(
        base, rows, recipe, labels=labels, problem_type=problem_type, revision=revision
    )
    kept = Labels.of(model.config)
    examples, unlabelled = kept.read(rows)
    if not examples:
        raise InputError(f"{', '.join(sources)}: none of the {unlabelled} rows has a label")
    held, left_out = kept.read(read_rows(eval_data, columns)) if eval_data is not None else ([], 0)
    if eval_data is not None and not held:
        raise InputError(f"{eval_data}: none of the {left_out} rows has a label")
    metric = recipe.metric or METRICS[kept.problem_type][0]
    if metric not in METRICS[kept.problem_type]:
        known = ", ".join(METRICS[kept.problem_type])
        raise InputError(f"metric is {metric!r}: expected one of {known}, for {kept.problem_type}")
    if recipe.metric is not None and eval_data is None:
        raise InputError(f"metric is {metric!r}, but there is no eval_data to measure it on")
    run: dict[str, Any] = {
        "command": command or "from Python",
        "base": str(base),
        "revision": revision,
        "new_head": new_head,
        "data": {
            "train": sources,
            "examples": len(examples),
            "unlabelled": unlabelled,
            "eval": [str(eval_data)] if eval_data is not None else [],
            "columns": dataclasses.asdict(columns or Columns()),
        },
        "recipe": {**_shown(recipe), "metric": metric, "eval_steps": eval_steps},
        "model": _describe(model, kept),
        "machine": machine(where, processes.count),
        "versions": {"minidistil": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    meter = Meter(country, output)
    with processes.joined(where):
        processes.first_does(lambda: run.update(command=_claim(output, run, resume, overwrite)), where)
        if processes.first:
            names = ", ".join(kept.names[:10]) + (
                f" and {len(kept.names) - 10} more" if len(kept.names) > 10 else ""
            )
            out = f"; {unlabelled} rows without a label are left out" if unlabelled else ""
            print(f"{len(examples):,} examples; {kept.problem_type}: {names}{out}", file=sys.stderr)
        trainer = Trainer(model.to(where), tokenizer, recipe, kept, examples, held, metric, output, processes)
        trainer.resume()
        if processes.first and not trainer.step:  # a part of a run would say too little
            meter.start()
        trainer.run(eval_steps, save_steps)
        if processes.first:
            run |= {"progress": trainer.progress(), "emissions": meter.stop()}
            run["evaluation"] = [{"data": str(eval_data), **trainer.final()}] if held else []
            write_card(output, run)
            write_files(output, {"run.json": lambda path: write_json(path, run)})
            (output / "checkpoint.pt").unlink(missing_ok=True)  # last: until then, it can be resumed
        processes.wait()
    return run


def _shown(recipe: Recipe) -> dict[str, Any]:
    """Give a recipe as plain values, without the size that another replaces."""
    values = dataclasses.asdict(recipe)
    del values["batch_size" if recipe.batch_tokens is not None else "batch_tokens"]
    return values


def _device(device: str | torch.device | None, processes: Processes) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if processes.count > 1 and str(device) == "cuda":
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"  # each process has its own
    where = parse_device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    return where


def prepare(
    base: str | Path,
    rows: Sequence[Row],
    recipe: Recipe,
    *,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    revision: str | None = None,
) -> tuple[DistilBertForSequenceClassification, Tokenizer, bool]:
    """Load what to start from: a classifier, its tokenizer, and whether its head is new; see `fine_tune`."""
    files = find_files(base, revision)
    tokenizer = Tokenizer.from_pretrained(files)
    architectures = read_json(files.get("config.json")).get("architectures") or []
    new_head = labels is not None or (
        bool(architectures) and not any(str(name).endswith("ForSequenceClassification") for name in architectures)
    )
    torch.manual_seed(recipe.seed)
    if new_head:
        found = Labels.found_in(rows, problem_type)
        names = found.names if labels is None else tuple(labels)
        if len(set(names)) < len(names) or not names:
            raise InputError(f"labels are {list(names)}: expected different names")
        model = load(
            DistilBertForSequenceClassification, files, dtype="float32", new_head=True, num_labels=len(names)
        )
        changes: dict[str, Any] = {"id2label": dict(enumerate(names)), "problem_type": found.problem_type}
    else:
        model = load(DistilBertForSequenceClassification, files, dtype="float32")
        changes = {} if problem_type is None else {"problem_type": problem_type}
    if recipe.dropout is not None:
        changes |= dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), recipe.dropout)
    return _changed(model, dataclasses.replace(model.config, **changes)), tokenizer, new_head


def _changed(
    model: DistilBertForSequenceClassification, config: DistilBertConfig
) -> DistilBertForSequenceClassification:
    """Give the same weights with another config, in memory of their own: a mapped file is not to be trained."""
    changed = DistilBertForSequenceClassification(config, device="meta")
    changed.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    if config.sinusoidal_pos_embds:
        changed.distilbert.embeddings.position_embeddings.requires_grad_(False)
    return changed


def _describe(model: DistilBertForSequenceClassification, labels: Labels) -> dict[str, Any]:
    config = model.config
    return {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": config.n_layers,
        "dim": config.dim,
        "heads": config.n_heads,
        "vocabulary": config.vocab_size,
        "labels": list(labels.names),
        "problem_type": labels.problem_type,
    }


def _claim(output: Path, run: Mapping[str, Any], resume: bool, overwrite: bool) -> str:
    """Make the output folder this run's, or refuse where another run's, or anything else, would be lost.

    Returns the command that the run began with.
    """
    if resume and overwrite:
        raise InputError("resume and overwrite contradict each other: give one")
    there = output / "run.json"
    if output.is_dir():
        for left in output.glob(".saving-*"):  # by a run that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
    if resume and there.exists():
        before = read_json(there)
        if "progress" in before and not (output / "checkpoint.pt").exists():
            raise InputError(f"{output} holds a run that is finished: there is nothing to resume")
        for key in ("base", "revision", "new_head", "data", "recipe", "model"):
            if before.get(key) != json.loads(json.dumps(run[key])):
                raise InputError(
                    f"{there} has another {key}: {before.get(key)}; to resume it, give the same again"
                )
        return str(before["command"])
    if resume:
        raise InputError(f"{output} holds no run to resume: there is no run.json")
    if output.is_dir() and Path(str(run["base"])).is_dir() and output.samefile(str(run["base"])):
        raise InputError(f"{output} is what the run starts from: choose another folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not (overwrite and there.exists()):
        hint = "resume it (--resume), or begin anew (--overwrite)" if there.exists() else "choose another folder"
        raise InputError(f"{output} is not empty: {hint}")
    for name in WRITTEN:
        (output / name).unlink(missing_ok=True)
    write_files(output, {"run.json": lambda path: write_json(path, run)})
    return str(run["command"])


class Trainer:
    """The loop: batches, steps, evaluations, and the state to go on from."""

    def __init__(
        self,
        model: DistilBertForSequenceClassification,
        tokenizer: Tokenizer,
        recipe: Recipe,
        labels: Labels,
        examples: Sequence[Example],
        held: Sequence[Example],
        metric: str,
        output: Path,
        processes: Processes,
    ):
        self.model, self.tokenizer, self.recipe, self.labels = model, tokenizer, recipe, labels
        self.examples, self.held, self.metric = examples, held, metric
        self.output, self.processes = output, processes
        self.ids = _encode(tokenizer, examples, min(recipe.max_length, model.config.max_position_embeddings))
        self.lengths = [len(ids) for ids in self.ids]
        self.autocast = torch.autocast(
            model.device.type, parse_dtype(recipe.dtype), enabled=recipe.dtype != "float32"
        )
        on_cpu = recipe.dtype != "float32" and model.device.type == "cpu"
        self.fill = on_cpu
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=recipe.dtype == "float16")
        self.optimizer = optimizer_for(model, recipe)
        self.module: nn.Module = model.with_ops(attention=attention_float32) if on_cpu else model
        if processes.count > 1:
            self.module = nn.parallel.DistributedDataParallel(self.module)
        self.step = 0
        self.best: tuple[float, int] | None = None
        self.seen = {"examples": 0, "tokens": 0, "seconds": 0.0}
        self.skipped = 0  # steps in a row
        self.stop = _Stop()

    def steps(self) -> list[int]:
        """Give how many steps each epoch has; the last may be cut."""
        whole, part = divmod(self.recipe.epochs, 1)
        epochs = range(int(whole) + (part > 0))
        if self.recipe.batch_tokens is None:
            batches = math.ceil(len(self.lengths) / self.recipe.batch_size)
            counts = [math.ceil(batches / self.recipe.gradient_accumulation_steps) for _ in epochs]
        else:
            counts = [len(self.plan(epoch)) for epoch in epochs]
        return [*counts[: int(whole)], *(max(1, round(part * count)) for count in counts[int(whole) :])]

    def plan(self, epoch: int) -> list[list[list[int]]]:
        """Plan an epoch's steps: each the batches that it accumulates."""
        size = {"max_sequences": self.recipe.batch_size}
        if self.recipe.batch_tokens is not None:
            size = {"max_tokens": self.recipe.batch_tokens}
        batches = plan_epoch(self.lengths, **size, seed=self.recipe.seed, epoch=epoch)
        several = self.recipe.gradient_accumulation_steps
        return [batches[i : i + several] for i in range(0, len(batches), several)]

    def run(self, eval_steps: int | None, save_steps: int) -> None:
        """Train to the end, from wherever the state is."""
        counts = self.steps()
        total, done = sum(counts), 0
        progress = _Progress(total, self.step, self.processes.first)
        before, begin = self.seen["seconds"], time.perf_counter()
        with self.stop.listening(), _log(self.output, self.step, self.processes.first) as log:
            for epoch, count in enumerate(counts):
                if self.step < done + count:
                    for batches in self.plan(epoch)[self.step - done : count]:
                        record = self.take_step(batches, total)
                        self.seen["seconds"] = before + time.perf_counter() - begin
                        log({**record, "epoch": epoch})
                        progress.show(self.step, record)
                        ends = self.step == done + count
                        due = self.step % eval_steps == 0 if eval_steps else ends
                        if self.held and (due or self.step == total):
                            log({"step": self.step, **self._judge()})
                        best = self.best is not None and self.best[1] == self.step
                        self._maybe_save(ends or best or self.step % save_steps == 0)
                done += count
            progress.end()
        if not self.held and self.processes.first:
            self._write_model()  # the last is the best that is known

    def take_step(self, batches: list[list[int]], total: int) -> dict[str, Any]:
        """Do one step of the optimizer, over batches whose gradients add up; `total` steps make the run."""
        begin = time.perf_counter()
        torch.manual_seed(self.recipe.seed + 1_000_003 * self.step + self.processes.rank)
        count = sum(map(len, batches))
        rate = self.recipe.rate(self.step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.module.train()
        loss, tokens = torch.zeros((), device=self.model.device), 0
        for last, batch in zip([False] * (len(batches) - 1) + [True], batches, strict=True):
            with contextlib.nullcontext() if last else self._alone():
                mine = self.processes.share(batch)
                part = self._loss(mine or batch[:1]) * bool(mine) / count  # a process without any takes part
                # DistributedDataParallel averages gradients over the processes; the loss is a sum over examples
                self.scaler.scale(part * self.processes.count).backward()
            loss += part.detach()
            tokens += sum(self.lengths[i] for i in batch)
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm).item()
        value = self.processes.total(loss).item()
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if not math.isfinite(value) or self.skipped > (SKIPPED if self.scaler.is_enabled() else 0):
            raise InputError(
                f"step {self.step + 1} of {total} has the loss {value} and a gradient of length {norm}: its batch "
                f"is in {self._keep(batches)}; is the learning rate, {self.recipe.learning_rate}, too high?"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        self.seen["examples"] += count
        self.seen["tokens"] += tokens
        seconds = time.perf_counter() - begin
        found = {"loss": value, "learning_rate": rate, "tokens": tokens, "seconds": seconds}
        return {"step": self.step, **found, "grad_norm": norm if math.isfinite(norm) else None}

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Let gradients add up before the processes exchange them."""
        wrapped = isinstance(self.module, nn.parallel.DistributedDataParallel)
        return self.module.no_sync() if wrapped else contextlib.nullcontext()  # type: ignore[operator]

    def _loss(self, chosen: list[int]) -> Tensor:
        """Give the sum of some examples' losses."""
        ids: list[Sequence[int]] = [self.ids[i] for i in chosen]
        if self.fill:  # sequences whose logits nobody reads
            filler = training_filler_lengths(sum(map(len, ids)), self.model.config.max_position_embeddings)
            ids = with_filler(ids, filler, self.tokenizer.pad_id)
        batch = Batch.from_lists(ids).to(self.model.device)
        with self.autocast:
            logits = self.module(batch)[: len(chosen)]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = torch.tensor([self.examples[i].label for i in chosen], dtype=logits.dtype).to(logits.device)
        return losses(logits, targets, self.labels.problem_type).sum()

    def _keep(self, batches: list[list[int]]) -> Path:
        """Write a step's examples to a file, for whoever wants to know what is wrong with them."""
        path = self.output / "bad-batch.jsonl"
        if self.processes.first:
            chosen = [dataclasses.asdict(self.examples[i]) for batch in batches for i in batch]
            lines = "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in chosen)
            write_files(self.output, {path.name: lambda place: write_text(place, lines)})
        return path

    def _judge(self) -> dict[str, Any]:
        """Evaluate; if the model is the best so far, write it."""
        if not self.processes.first:
            return {}
        result = self._evaluate(self.model)
        value = score(result, self.metric)
        if self.best is None or value > self.best[0]:
            self.best = (value, self.step)
            self._write_model()
        kept = {key: entry for key, entry in result.items() if key not in ("confusion", "labels")}
        shown = f"{self.metric} {abs(value):.4f}" + (
            "" if self.best[1] == self.step else f", best {self.best[0]:.4f}"
        )
        print(f"step {self.step}: {shown}", file=sys.stderr)
        return {"evaluation": kept}

    def _evaluate(self, model: DistilBertForSequenceClassification) -> dict[str, Any]:
        return evaluate(model, self.tokenizer, self.held, max_length=self.recipe.max_length)

    def final(self) -> dict[str, Any]:
        """Measure the checkpoint that was written: the best."""
        best = load(DistilBertForSequenceClassification, self.output, dtype="float32", device=self.model.device)
        return {"at": f"step {self.best[1] if self.best else self.step}", "metrics": self._evaluate(best)}

    def _write_model(self) -> None:
        self.model.save_pretrained(self.output)
        self.tokenizer.save_pretrained(self.output)

    def progress(self) -> dict[str, Any]:
        """Give what was done, over all resumptions."""
        best = {} if self.best is None else {"best_step": self.best[1]}
        return {"steps": self.step, "epochs": self.recipe.epochs, **self.seen, **best}

    def _maybe_save(self, due: bool) -> None:
        """Save the state where it is due, or where somebody wants to stop."""
        asked = self.stop.asked
        if self.processes.count > 1:  # all stop at one step
            asked = bool(self.processes.total(torch.tensor(float(asked), device=self.model.device)).item())
        if (due or asked) and self.processes.first:
            self._save()
        if asked:
            self.processes.wait()
            raise Interrupted(f"stopped after step {self.step}: --resume goes on from there")

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "seen": self.seen,
        }
        write_files(self.output, {"checkpoint.pt": lambda path: _save_state(path, state)})

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        path = self.output / "checkpoint.pt"
        try:
            if path.exists():
                state = torch.load(path, map_location=self.model.device, weights_only=True)
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.scaler.load_state_dict(state["scaler"])
                self.step, self.best, self.seen = state["step"], state["best"], state["seen"]
        except Exception as error:  # torch.load has many
            raise InputError(f"{path} is not a state to go on from: {error}") from error
        steps = self.processes.total(torch.tensor(float(self.step), device=self.model.device)).item()
        if steps != self.step * self.processes.count:
            raise InputError(f"{path} is not there for every process: the folder must be one that all of them see")


def attention_float32(
    q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout_p: float = 0.0
) -> Tensor:
    """Attend in float32: on a CPU, attention's gradients in bfloat16 take many times as long."""
    with torch.autocast("cpu", enabled=False):
        return attention(q.float(), k.float(), v.float(), queries, keys, dropout_p)


def _encode(tokenizer: Tokenizer, examples: Sequence[Example], max_length: int) -> list[array[int]]:
    """Give the token ids of each text or pair, cut to a length."""
    ids = [array("i") for _ in examples]
    for paired in (False, True):
        chosen = [i for i, example in enumerate(examples) if (example.pair is not None) == paired]
        for block in (chosen[start : start + BLOCK] for start in range(0, len(chosen), BLOCK)):
            found = tokenizer.encode(
                [examples[i].text for i in block],
                [examples[i].pair or "" for i in block] if paired else None,
                max_length=max_length,
                names=[examples[i].place for i in block],
            )
            for i, sequence in zip(block, found.ids, strict=True):
                ids[i] = array("i", sequence)
    return ids


def _save_state(path: Path, state: Mapping[str, Any]) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(error) from error


@contextlib.contextmanager
def _log(output: Path, step: int, first: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Append to log.jsonl, after the lines up to a step; what a stopped run wrote after its last state goes."""
    if not first:
        yield lambda record: None
        return
    path = output / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
    write_files(output, {path.name: lambda place: write_text(place, kept)})
    with path.open("a", encoding="utf-8") as file:

        def write(record: Mapping[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write


class _Progress:
    """Loss, rate, tokens a second and time left, on stderr."""

    def __init__(self, total: int, step: int, shown: bool):
        self.total, self.begin, self.from_step = total, time.monotonic(), step
        self.last, self.tokens, self.loss = time.monotonic(), 0, math.nan
        self.shown = shown
        self.since = time.monotonic()

    def show(self, step: int, record: Mapping[str, Any]) -> None:
        """Take a step's record in, and say how far it is, now and then."""
        self.tokens += record["tokens"]
        self.loss = record["loss"] if math.isnan(self.loss) else self.loss + 0.05 * (record["loss"] - self.loss)
        now = time.monotonic()
        if not self.shown or (now - self.last < SHOW and step < self.total):
            return
        left = (now - self.begin) / (step - self.from_step) * (self.total - step)
        on_terminal = sys.stderr.isatty()
        print(
            f"{chr(13) if on_terminal else ''}step {step} of {self.total}, loss {self.loss:.4f}, "
            f"rate {record['learning_rate']:.2e}, {self.tokens / (now - self.since):,.0f} tokens a second, "
            f"{left / 60:.1f} min left ",
            end="" if on_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
        self.last = self.since = now
        self.tokens = 0

    def end(self) -> None:
        """Leave the line."""
        if self.shown and sys.stderr.isatty():
            print(file=sys.stderr)
