"""The tensors in a checkpoint's files, by the names that they have there, each read when it is asked for.

Safetensors, or PyTorch's own files, whole or in shards with an index. Nothing in a file can run.
"""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import read_json
from ..errors import CheckpointError
from .files import Files

FORMS = (  # as transformers looks for them
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INT8 = "model-int8.safetensors"  # of our own: what int8.py stores, which transformers must not take for its own
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
POINTER = b"version https://git-lfs"  # what git leaves in a large file's place where git-lfs is not installed


class Stored(NamedTuple):
    """A tensor in a file."""

    shape: list[int]
    dtype: torch.dtype | str  # a string, if it is none that models compute in
    read: Callable[[], Tensor]


def find_weights(files: Files, *, int8: bool = False) -> tuple[Path, dict[str, Stored]]:
    """Find a checkpoint's tensors, and the file that holds or lists them.

    int8: whether what is stored in 8 bits comes first, or after all else. `CheckpointError` where files are
    missing, broken or not to be trusted.
    """
    path = files.get(*((INT8, *FORMS) if int8 else (*FORMS, INT8)))
    return path, _sharded(files, path) if path.name.endswith(".index.json") else _read(path)


def _read(path: Path) -> dict[str, Stored]:
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CheckpointError(
                f"{path} is a pointer to the file, not the file: run git lfs pull, or download it again"
            )
    return _safetensors(path) if path.name.endswith(".safetensors") else _pickled(path)


def _safetensors(path: Path) -> dict[str, Stored]:
    """Map a safetensors file into memory: its tensors are read where they are used."""
    try:
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: Stored(
                part.get_shape(),
                DTYPES.get(part.get_dtype(), part.get_dtype()),
                functools.partial(file.get_tensor, name),
            )
            for name, part in slices.items()
        }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def _pickled(path: Path) -> dict[str, Stored]:
    """Read a file that torch.save wrote, through a reader that knows tensors and containers, and runs nothing."""
    try:
        with path.open("rb") as file:
            mapped = file.read(4) == b"PK\x03\x04"  # the form before torch 1.6 cannot be mapped into memory
        if mapped:
            _refuse_packed(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except Exception as error:  # torch's reader has no error of its own
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} asks for {wanted[1]}, which could run code, and is refused: expected tensors and nothing "
                "else; does the checkpoint have a model.safetensors?"
            ) from error
        raise CheckpointError(f"{path} is not a readable PyTorch file: {type(error).__name__}") from error
    if not isinstance(tensors, dict):
        raise CheckpointError(
            f"{path} holds a {type(tensors).__name__}: expected a state dict, of tensors by name"
        )
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path} has a {type(name).__name__} for a name: expected tensors by name")
        if not isinstance(value, Tensor):
            hint = ": save that alone" if isinstance(value, dict) else ""
            raise CheckpointError(
                f"{path} holds {name!r}, a {type(value).__name__}: expected tensors by name{hint}"
            )
        if value.layout is not torch.strided or value.is_nested or value.is_meta:
            raise CheckpointError(f"{path}: {name} is sparse, ragged or without values: expected a dense tensor")
    return {name: _stored(tensor) for name, tensor in tensors.items()}


def _refuse_packed(path: Path) -> None:
    """Refuse an archive that torch did not write: it would map packed bytes as weights, and unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{path}: {record.filename} is compressed: expected what torch.save writes")


def _stored(tensor: Tensor) -> Stored:
    kind = str(tensor.dtype).removeprefix("torch.")
    dtype = tensor.dtype if tensor.dtype in DTYPES.values() else kind
    return Stored(list(tensor.shape), dtype, tensor.resolve_neg)  # safetensors would write a view's other sign


def _sharded(files: Files, index: Path) -> dict[str, Stored]:
    """Read every file that an index names, and hold it to what the index says."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f"{index}: weight_map is {shard_of!r}: expected a file for each name")
    ending = ".safetensors" if index.name.endswith(".safetensors.index.json") else ".bin"
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard or not shard.endswith(ending):
            raise CheckpointError(f"{index}: {name} is in {shard!r}: expected a {ending} file beside the index")
    found: dict[str, Stored] = {}
    for shard in sorted(set(shard_of.values())):
        try:
            path = files.get(shard)
        except CheckpointError as error:
            raise CheckpointError(f"{index} names {shard}, but {error}") from error
        for name, stored in _read(path).items():
            if shard_of.get(name) != shard:
                place = f"places in {shard_of[name]}" if name in shard_of else "does not name"
                raise CheckpointError(f"{path} holds {name}, which {index.name} {place}")
            found[name] = stored
    for name, shard in shard_of.items():
        if name not in found:
            raise CheckpointError(f"{index}: {name} is not in {shard}")
    return found
