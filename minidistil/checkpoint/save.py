"""Save a model as a checkpoint in the Hub's format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..backends import int8
from ..errors import InputError
from ..model import Model
from .architectures import MODELS
from .files import write_files, write_json
from .tensors import FLOATS, INT8


def save(model: Model, folder: str | Path) -> None:
    """Write config.json and model.safetensors, in the dtype of the parameters, as transformers reads them.

    An int8 model is written as model-int8.safetensors. Raises InputError for a folder that holds the other file,
    because it would be ambiguous which of them to load.
    """
    from safetensors.torch import save_file

    if model.device.type == "meta":
        raise InputError("there is nothing to save: the model is on the meta device, without weights")
    quantized = any(isinstance(part, int8.Linear8) for part in model.modules())
    if type(model) in MODELS.values() and not quantized:
        _refuse_adapters(model)
    # named_parameters() yields tied parameters once, under their first name
    named = int8.to_stored(model) if quantized else dict(model.named_parameters())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    file, other = (INT8, FLOATS) if quantized else (FLOATS, INT8)
    if Path(folder, other).exists():
        raise InputError(
            f"{folder} holds a {other}, beside which {file} would be ambiguous: choose another folder"
        )
    dtype = str(model.dtype).removeprefix("torch.")
    config = dataclasses.replace(model.config, architectures=(type(model).__name__,), dtype=dtype)
    write_files(
        folder,
        {
            file: lambda path: save_file(tensors, path, metadata={"format": "pt"}),
            "config.json": lambda path: write_json(path, config.to_dict()),
        },
    )


def _refuse_adapters(model: Model) -> None:
    """Raise InputError for parameters that the model's class lacks, since the checkpoint would not load."""
    blank: Model = type(model)(model.config, device="meta")  # type: ignore[call-arg]
    known = {name for name, _ in blank.named_parameters(remove_duplicate=False)}
    for name, _ in model.named_parameters():
        if name not in known:
            raise InputError(
                f"a {type(model).__name__} has no parameter {name}: merge adapters first, with merge_and_unload() "
                "of peft or with minidistil.training.merge_adapters"
            )
