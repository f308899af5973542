"""Text → answers, with the task names, arguments and results of transformers."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.arguments import RENAMED, merged
from ..checkpoint.files import Files, find_files
from ..checkpoint.tasks import TASKS
from ..checkpoint.tokenizer import load_tokenizer
from ..errors import InputError
from ..tokenizer import Tokenizer
from .base import WINDOW, Engine, Pipeline

if TYPE_CHECKING:
    import torch

    from ..model import Model


def pipeline(
    task: str | None = None,
    model: str | Path | Model | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> Pipeline:
    """Create a pipeline for a task.

    Args:
        task: a name in `checkpoint.tasks.TASKS`; None: the first that the model's class has.
        model: a name as for `from_pretrained`, or a model; None: the default model of the task, if it has one.
        tokenizer: a name or a tokenizer; None: the tokenizer of the checkpoint.
        revision: a branch, tag or commit of the model's repository on the Hub.
        dtype: as for `from_pretrained`, but "auto" on CPU is the dtype that is fastest there, which may be int8.
        device: -1 is the CPU, another integer that CUDA device; None: CUDA if there is one, or the device of a
            loaded model.
        token: access token of the Hub; None or True: that of `hf auth login`; False: none.
        local_files_only: use cached files only.
        model_kwargs: any of these arguments in a dict, as transformers takes them.
        defaults: arguments of every call; see `run` of each task. `torch_dtype` is `dtype`, `device_map` is
            `device`.

    Raises InputError for arguments that do not fit together.
    """
    if model_kwargs is not None or RENAMED.keys() & defaults.keys():
        named: dict[str, Any] = {
            "task": task,
            "model": model,
            "tokenizer": tokenizer,
            "revision": revision,
            "dtype": dtype,
        }
        named |= {"device": device, "token": token, "local_files_only": local_files_only or None}
        passed = {name: value for name, value in named.items() if value is not None}
        return pipeline(**merged(passed, defaults, model_kwargs))
    if task is not None and (not isinstance(task, str) or task not in TASKS):
        raise InputError(f"task is {task!r}: expected one of {', '.join(TASKS)}", subject="task")
    if model is None and task is not None:
        model = TASKS[task].default_model
    if model is None:
        raise InputError("model is missing: expected a folder, a Hub id or a model")
    if task is not None:
        defaults = pipeline_class(task).checked_arguments(defaults)  # before a long download

    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(find_files(tokenizer, None, token, local_files_only))

    from ..checkpoint.architectures import class_for_files  # here torch is imported
    from ..model import Model
    from .inference import Engine, choose_device

    if isinstance(model, Model):
        if tokenizer is None or dtype is not None or revision is not None:
            raise InputError("a loaded model needs its tokenizer, and takes no dtype or revision: pass tokenizer=")
        task = _task_of(type(model)) if task is None else task
        if device is not None and (target := choose_device(device)) != model.device:
            model = model.to(target)
        return pipeline_class(task)(task, Engine(model, task), tokenizer, **defaults)
    files = find_files(model, revision, token, local_files_only)  # once: all files are of the same commit
    load_engine = functools.partial(Engine.load, dtype=dtype, device=choose_device(device))
    task = _task_of(class_for_files(files, new_head=False)) if task is None else task
    return pipeline_from_files(task, files, load_engine, tokenizer, **defaults)


def pipeline_from_files(
    task: str,
    files: Files,
    load_engine: Callable[[Files, str], Engine],
    tokenizer: Tokenizer | None = None,
    **defaults: Any,
) -> Pipeline:
    """Create a pipeline from the files of a checkpoint. load_engine: load the model of a task from its files."""
    task_class = pipeline_class(task)
    declared, files = task_class.declared(files)  # the small files first: errors come before a long download
    files.get("config.json")
    tokenizer = load_tokenizer(files) if tokenizer is None else tokenizer
    return task_class(task, load_engine(files, task), tokenizer, **{**declared, **defaults})


def numpy_pipeline(task: str, model: str | Path, revision: str | None = None) -> Pipeline:
    """Create a pipeline that imports torch only for many tokens, or for files that NumPy cannot read.

    task, model, revision: as for `pipeline`. It computes in float32, on the CPU.
    """
    from .numpy_engine import load_engine

    pipe = pipeline_from_files(task, find_files(model, revision), load_engine)
    pipe.first_window = WINDOW  # so that the engine knows how much there is to compute
    return pipe


def _task_of(model_class: type[Model]) -> str:
    """Return the first task of a model class."""
    for task, (name, *_) in TASKS.items():
        if name == model_class.__name__:
            return task
    raise InputError(
        f"there is no pipeline for a {model_class.__name__}: call the model, or pass task= ({', '.join(TASKS)})",
        subject="task",
    )


def pipeline_class(task: str) -> type[Pipeline]:
    """Import and return the pipeline class of a task."""
    module, name = TASKS[task].pipeline.split(".")
    cls: type[Pipeline] = getattr(importlib.import_module(f".{module}", __name__), name)
    return cls
