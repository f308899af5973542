"""Load a model: files → tensors → parameters."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..backends import int8, processor
from ..checks import plain
from ..config import CHOICES
from ..errors import CheckpointError, InputError
from ..model import Model, draw
from ..ops import Ops
from .architectures import class_for_files, class_for_task, with_new_labels
from .arguments import resolved
from .config import read_config, refuse_unsupported_bert
from .files import Files, find_files
from .matching import listed, match
from .names import POSITIONS, PROJECTOR, WORDS
from .tensors import INT8, Stored, find_weights

M = TypeVar("M", bound=Model)

if hasattr(os, "register_at_fork"):  # a forked child has no OpenMP threads, and would wait for them for ever
    os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


def from_pretrained(
    name: str | Path | Files,
    *,
    task: str | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    ops: Ops | None = None,
    new_head: bool = False,
    num_labels: int | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **other: Any,
) -> Model:
    """Load a checkpoint, in eval mode.

    Args:
        name: a folder, a checkpoint in weights/, or a Hub id.
        task: the name of a pipeline's task; None: the class that config.json names in `architectures`.
        revision: a branch, tag or commit on the Hub.
        dtype: "float32", "bfloat16", "float16", "float64" or a torch.dtype; "auto": the dtype of the files; None:
            float32 on CPU, "auto" elsewhere; "int8": the blocks' linear layers in 8 bits and the rest in float32,
            for inference only.
        device: None: the CPU.
        ops: the operations to compute with.
        new_head: ignore the head in the files and draw a new one, as transformers does, with torch's generator.
        num_labels: number of labels of the new head; None: the labels of config.json.
        token: access token of the Hub; None or True: that of `hf auth login`; False: none.
        local_files_only: use cached files only.
        other: `torch_dtype` and `device_map`, which are `dtype` and `device`, and arguments of transformers that
            hold here anyway.

    Single-segment BERT checkpoints are converted to DistilBERT. Raises CheckpointError, which names the file and
    the tensor or key, and InputError, which names the argument. On CPU, weights in the dtype of the file are
    memory-mapped, not copied.
    """
    dtype, device = resolved(dtype, device, other)
    files = find_files(name, revision, token, local_files_only)
    cls = class_for_files(files, new_head) if task is None else class_for_task(task)
    return load(cls, files, dtype=dtype, device=device, ops=ops, new_head=new_head, num_labels=num_labels)


@torch.inference_mode(mode=False)  # weights that are made in inference mode could never be changed or trained
def load(
    cls: type[M],
    name: str | Path | Files,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    ops: Ops | None = None,
    new_head: bool = False,
    num_labels: int | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **other: Any,
) -> M:
    """Load a checkpoint as a given class; see `from_pretrained`."""
    dtype, device = resolved(dtype, device, other)
    if ops is not None and not isinstance(ops, Ops):
        raise InputError(f"ops is {type(ops).__name__}: expected Ops(...)")
    target = parse_device("cpu" if device is None else device)
    quantize = dtype in ("int8", torch.int8)
    if quantize:
        ops = int8.compose(ops)
    target_dtype = torch.float32 if quantize else _target_dtype(dtype, target)
    files = find_files(name, revision, token, local_files_only)
    config, bert = read_config(files)
    if bert and not new_head:
        refuse_unsupported_bert(files, cls.__name__.removeprefix("Distil"))
    if new_head:
        config = with_new_labels(cls, config, plain(num_labels), files)
    elif num_labels is not None:
        raise InputError(f"num_labels is {num_labels!r}, but only a new head can have it: pass new_head=True")
    path, stored = find_weights(files, int8=quantize and not new_head)
    try:
        model = cls(config, device="meta")  # type: ignore[call-arg]
    except CheckpointError as error:
        raise CheckpointError(f"{files.get('config.json')}: {error}") from error
    if path.name == INT8:
        if new_head or not (quantize or dtype in (None, "auto")):
            raise InputError(f"{path} is stored in 8 bits, for inference only: omit dtype= and new_head=")
        int8.quantize_model(model)
        model.load_state_dict(_read_int8(path, stored, model, target), strict=False, assign=True)
        return model.eval().with_ops(**vars(ops if quantize else int8.compose(ops)))
    tensors = _read(path, stored, model, target, target_dtype, bert, new_head)
    if config.tie_word_embeddings and _differ(tensors.get(f"distilbert.{WORDS}"), tensors.get(PROJECTOR)):
        model = cls(dataclasses.replace(config, tie_word_embeddings=False), device="meta")  # type: ignore[call-arg]
    if new_head:  # after reading, which checks the sizes: a wrong config must not allocate memory
        _draw_heads(model, like=next(iter(tensors.values())))
    model.load_state_dict(tensors, strict=False, assign=True)
    model.eval()
    if target.type == "cpu":
        processor.warn_if_slow(model.dtype)
    if quantize:
        int8.quantize_model(model)
    replaced = {name: op for name, op in vars(ops or Ops()).items() if op is not getattr(Ops, name)}
    return model.with_ops(**replaced) if replaced else model


@torch.no_grad()
def _draw_heads(model: Model, like: Tensor) -> None:
    """Draw random weights for everything except the encoder of a model on the meta device."""
    for name, part in model.named_children():
        if name != "distilbert":
            part.to_empty(device="cpu")
            draw(part, model.config.initializer_range)
            part.to(like.device, like.dtype)


def _differ(words: Tensor | None, projector: Tensor | None) -> bool:
    """Return whether the projector differs from the word embeddings; then, as in transformers, it is not tied."""
    return (
        words is not None
        and projector is not None
        and projector is not words
        and not torch.equal(projector, words)
    )


def _target_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """Return the dtype to load; None: the dtype of the files."""
    if dtype is None and device.type == "cpu":
        return torch.float32
    return None if dtype is None or dtype == "auto" else parse_dtype(dtype, "int8")


def parse_dtype(dtype: str | torch.dtype, *others: str) -> torch.dtype:
    """Return the torch.dtype of a name that models can compute in. others: further names for the error message."""
    name = str(dtype).removeprefix("torch.")
    names = [choice for choice in CHOICES["dtype"] if choice]
    if name not in names:
        raise InputError(f"dtype is {name!r}: expected one of {', '.join([*names, *others])}")
    return getattr(torch, name)


def parse_device(device: str | int | torch.device) -> torch.device:
    """Return a torch.device of this machine.

    -1 is the CPU, another integer the CUDA device of that index; "auto" is CUDA if there is one.
    """
    device = plain(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(device, int):
        device = f"cuda:{device}" if device >= 0 else "cpu"
    try:
        parsed = torch.device(device)
        if parsed.type not in ("cpu", "cuda"):
            torch.empty(1, device=parsed).cpu()  # the exception depends on the missing type of device
    except Exception as error:
        raise InputError(f"device is {device!r}: expected cpu, cuda, cuda:1 or another device of torch") from error
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {str(parsed)!r}: torch finds {torch.cuda.device_count()} CUDA devices")
    if parsed.type == "cuda" and parsed.index is None:
        return torch.device("cuda", torch.cuda.current_device())  # the device of the parameters has an index
    return torch.device("cpu") if parsed.type == "cpu" else parsed


def _read(
    path: Path,
    stored: Mapping[str, Stored],
    model: Model,
    device: torch.device,
    dtype: torch.dtype | None,
    bert: bool,
    new_head: bool,
) -> dict[str, Tensor]:
    """Return the tensors of a model by parameter name. dtype: None is the dtype of the files."""
    shapes = {
        name: list(p.shape)
        for name, p in model.named_parameters(remove_duplicate=False)
        if not new_head or name.startswith("distilbert.")
    }
    config = model.config
    planned = match(path, stored, shapes, config, type(model).__name__, bert)
    if dtype is None:
        dtype = parse_dtype(config.dtype or stored[next(iter(planned.sources.values()))].dtype)
    tensors = {source: stored[source].read().detach() for source in planned.sources.values()}
    if planned.segments:
        position = next(source for name, source in planned.sources.items() if name.endswith(POSITIONS))
        tensors[position] = _fold(tensors[position], stored[planned.segments].read().detach())
    converted = {source: tensor.to(device, dtype).contiguous() for source, tensor in tensors.items()}
    return {name: converted[source] for name, source in planned.sources.items()}


def _read_int8(path: Path, stored: Mapping[str, Stored], model: Model, device: torch.device) -> dict[str, Tensor]:
    """Read the tensors of a quantized model, which is on the meta device; the file must have exactly these."""
    expected = {
        name: (list(part.shape), "I8" if part.dtype == torch.int8 else str(part.dtype).removeprefix("torch."))
        for name, part in int8.to_stored(model).items()
    }
    mismatched = [
        f"{name} {stored[name].shape} {stored[name].dtype} (expected {shape} {dtype})"
        for name, (shape, dtype) in expected.items()
        if name in stored and (stored[name].shape, stored[name].dtype) != (shape, dtype)
    ]
    kinds = (
        ("missing", [name for name in expected if name not in stored]),
        ("unexpected", [name for name in stored if name not in expected]),
        ("of another shape or dtype", mismatched),
    )
    problems = "; ".join(f"{kind}: {listed(names)}" for kind, names in kinds if names)
    if problems:
        raise CheckpointError(f"{path} does not hold this model's weights in 8 bits; {problems}")
    return int8.from_stored(model, {name: stored[name].read().to(device) for name in expected})


def _fold(positions: Tensor, segments: Tensor) -> Tensor:
    """Add the first segment embedding of a BERT to each position embedding: (positions, D), (segments, D)."""
    wide = torch.promote_types(positions.dtype, torch.float32)
    return positions.to(wide) + segments[0].to(wide)
