"""Text → answers, with the task names, arguments and results of transformers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.files import find_files
from ..checkpoint.tasks import TASKS
from ..checkpoint.tokenizer import load_tokenizer
from ..errors import InputError
from ..tokenizer import Tokenizer
from .base import Pipeline

if TYPE_CHECKING:
    import torch

    from ..model import Model


def pipeline(
    task: str,
    model: str | Path | Model | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    **defaults: Any,
) -> Pipeline:
    """Create a pipeline for a task.

    Args:
        task: a name in `checkpoint.tasks.TASKS`.
        model: a name as for `from_pretrained`, or a model; None: the default model of the task, if it has one.
        tokenizer: a name or a tokenizer; None: the tokenizer of the checkpoint.
        revision: a branch, tag or commit of the model's repository on the Hub.
        dtype: as for `from_pretrained`.
        device: -1 is the CPU, another integer that CUDA device; None: CUDA if there is one, or the device of a
            loaded model.
        defaults: arguments of every call; see `run` of each task.

    Raises InputError for arguments that do not fit together.
    """
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"task is {task!r}: expected one of {', '.join(TASKS)}")
    model = TASKS[task].default_model if model is None else model
    if model is None:
        raise InputError("model is missing: expected a folder, a Hub id or a model")
    task_class = pipeline_class(task)
    task_class.check_arguments(defaults)  # before a long download

    from ..model import Model  # here torch is imported
    from .inference import Engine, choose_device

    if isinstance(model, Model):
        if tokenizer is None or dtype is not None or revision is not None:
            raise InputError("a loaded model needs its tokenizer, and takes no dtype or revision: pass tokenizer=")
        if device is not None and (target := choose_device(device)) != model.device:
            model = model.to(target)
        engine = Engine(model, task)
    else:
        files = find_files(model, revision)  # once: model and tokenizer come from the same commit
        target = choose_device(device)
        declared, files = task_class.declared(files)  # the small files first: errors come before a long download
        files.get("config.json")
        tokenizer = load_tokenizer(files) if tokenizer is None else tokenizer
        defaults = {**declared, **defaults}
        engine = Engine.load(files, task, dtype, target)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    return task_class(task, engine, tokenizer, **defaults)


def pipeline_class(task: str) -> type[Pipeline]:
    """Import and return the pipeline class of a task."""
    module, name = TASKS[task].pipeline.split(".")
    cls: type[Pipeline] = getattr(importlib.import_module(f".{module}", __name__), name)
    return cls
