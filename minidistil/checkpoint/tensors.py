"""The tensors in a checkpoint's files, by their names in the file, each read on demand.

Reads safetensors and PyTorch files, single or sharded with an index. No code in a file is executed. Files of
safetensors are opened without torch, and can be read into NumPy or into torch.
"""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..config import read_json
from ..errors import CheckpointError
from .budget import Budget
from .files import Files

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = "model.safetensors"
FILES = (  # in the order of transformers
    FLOATS,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INT8 = "model-int8.safetensors"  # minidistil's own format: a name that transformers does not load
FLOAT_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}  # that models compute in
MAX_TENSORS = 2048  # of a checkpoint, which is more than MAX_LAYERS layers have
MAX_SHARDS = 64
POINTER = b"version https://git-lfs"  # the start of a file that git-lfs has not downloaded


class Stored(NamedTuple):
    """A tensor in a file."""

    shape: list[int]
    dtype: str  # a value of FLOAT_DTYPES, or the file's name of a dtype that models cannot compute in
    read: Callable[[], Tensor]
    array: Callable[[], NDArray[Any]] | None = None  # the same without torch; None where only torch can read it

    def float32(self) -> NDArray[np.float32]:
        """Read the tensor into NumPy, in float32, through torch if only torch can read it."""
        if self.array is None:
            return self.read().detach().float().numpy()
        with np.errstate(over="ignore"):  # numbers beyond float32 are inf, as in torch
            return np.asarray(self.array(), np.float32)


def find_weights(files: Files, *, int8: bool = False) -> tuple[Path, dict[str, Stored]]:
    """Return the file that holds or lists a checkpoint's tensors, and the tensors by name.

    int8: prefer weights in 8 bits. Raises CheckpointError for files that are missing, broken or unsafe.
    """
    path = files.get(*((INT8, *FILES) if int8 else (*FILES, INT8)))
    tensors = _sharded(files, path) if path.name.endswith(".index.json") else _read(path, Budget())
    if len(tensors) > MAX_TENSORS:
        raise CheckpointError(f"{path} has {len(tensors):,} tensors: expected at most {MAX_TENSORS:,}")
    return path, tensors


def _read(path: Path, budget: Budget) -> dict[str, Stored]:
    try:
        with path.open("rb") as file:
            start = file.read(len(POINTER))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if start == POINTER:
        raise CheckpointError(f"{path} is a git-lfs pointer, not the file: run git lfs pull, or download it again")
    return _safetensors(path, budget) if path.name.endswith(".safetensors") else _pickled(path, budget)


def _safetensors(path: Path, budget: Budget) -> dict[str, Stored]:
    """Memory-map a safetensors file: a tensor is read when it is used."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            budget.spend(path, "bytes of headers", length)
            header = file.read(length)
        checked = safe_open(path, framework="np")
        slices = {name: checked.get_slice(name) for name in checked.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    places = json.loads(header)
    opened = functools.cache(lambda: safe_open(path, framework="pt"))  # imports torch
    memory = functools.cache(lambda: _mapped(path))

    def stored(name: str, shape: list[int], kind: str) -> Stored:
        dtype = FLOAT_DTYPES.get(kind, kind)
        start = 8 + length + places[name]["data_offsets"][0]
        in_numpy = kind in FLOAT_DTYPES and kind != "BF16"
        return Stored(
            shape,
            dtype,
            lambda: opened().get_tensor(name),
            (lambda: np.ndarray(shape, dtype, memory(), start)) if in_numpy else None,
        )

    return {name: stored(name, part.get_shape(), part.get_dtype()) for name, part in slices.items()}


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _pickled(path: Path, budget: Budget) -> dict[str, Stored]:
    """Map a file of torch.save, without executing its code."""
    from . import pickles  # imports torch

    return {
        name: Stored(list(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.detach)
        for name, tensor in pickles.read(path, budget).items()
    }


def _sharded(files: Files, index: Path) -> dict[str, Stored]:
    """Read every file of an index, and check that it holds the tensors that the index names."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f"{index}: weight_map is {shard_of!r}: expected a file for each name")
    if len(shard_of) > MAX_TENSORS:
        raise CheckpointError(f"{index} names {len(shard_of):,} tensors: expected at most {MAX_TENSORS:,}")
    ending = ".safetensors" if index.name.endswith(".safetensors.index.json") else ".bin"
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard or not shard.endswith(ending):
            raise CheckpointError(f"{index}: {name} is in {shard!r}: expected a {ending} file beside the index")
    shards = sorted(set(shard_of.values()))
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{index} names {len(shards):,} files: expected at most {MAX_SHARDS}")
    tensors: dict[str, Stored] = {}
    budget = Budget()
    for shard in shards:
        try:
            path = files.get(shard)
        except CheckpointError as error:
            raise CheckpointError(f"{index} names {shard}, but {error}") from error
        for name, stored in _read(path, budget).items():
            if shard_of.get(name) != shard:
                place = f"places in {shard_of[name]}" if name in shard_of else "does not name"
                raise CheckpointError(f"{path} holds {name}, which {index.name} {place}")
            tensors[name] = stored
    for name, shard in shard_of.items():
        if name not in tensors:
            raise CheckpointError(f"{index}: {name} is not in {shard}")
    return tensors
