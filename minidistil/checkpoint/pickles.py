"""Read files of torch.save without unpickling them: no code runs, and memory is bounded by the size of the file.

A small interpreter executes the pickle opcodes that torch.save writes for a state dict. It creates only numbers,
strings, containers and descriptions of tensors; every other opcode or class is refused. The tensors are views of
the memory-mapped file. Python's module `pickletools` documents the opcodes.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import is_int
from ..errors import CheckpointError
from .budget import LIMITS, Budget
from .names import tied_name

MAX_BYTES = LIMITS["bytes of headers"]
MAX_DIMENSIONS = 8
MAGIC_NUMBER, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the format before torch 1.6
DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}  # opcodes and their objects
VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING")
FUNCTIONS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "collections.OrderedDict")


class _Unsupported(Exception):  # noqa: N818
    """The file is not a state dict; the message continues the name of the file."""


class _Function(NamedTuple):
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    elements: int

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


class _View(NamedTuple):
    """A tensor in a storage; the numbers are elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _File(io.FileIO):
    """A file that reads at most MAX_BYTES at a time, whatever length is stored in it."""

    def read(self, size: int | None = -1, /) -> bytes:
        bounded = MAX_BYTES if size is None or size < 0 else min(size, MAX_BYTES)
        return super().read(bounded) or b""


def read(path: Path, budget: Budget) -> dict[str, Tensor]:
    """Return the tensors of a file of torch.save by name. Raises CheckpointError."""
    unpickler = _Unpickler(path, budget)
    try:
        with _File(path) as file:
            is_archive = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            state, starts = (_read_archive if is_archive else _read_legacy)(unpickler, file, path.stat().st_size)
            return _tensors(state, starts, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except _Unsupported as error:
        raise CheckpointError(
            f"{path} {error}: expected a state dict: tensors by name; use a checkpoint with a model.safetensors"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a broken archive or pickle raises any of the standard library's exceptions
        raise CheckpointError(f"{path} is not a readable PyTorch file: {type(error).__name__}") from error


def _read_archive(unpickler: _Unpickler, file: _File, size: int) -> tuple[Any, dict[str, int]]:
    """Return the unpickled object, and where each storage starts in the file."""
    with zipfile.ZipFile(file) as archive:
        unpickler.spend("bytes of headers", size - archive.start_dir)
        records = {record.filename.partition("/")[2]: record for record in archive.infolist()}
        for record in records.values():
            if record.compress_type != zipfile.ZIP_STORED:
                raise _Unsupported(f"has a compressed record, {record.filename[:100]}")
        if sum(record.file_size for record in records.values()) > size:
            raise _Unsupported("has records that overlap")
        unpickler.spend("bytes of headers", records["data.pkl"].file_size)
        order = archive.read(records["byteorder"]).decode() if "byteorder" in records else "little"
        state = unpickler.load(io.BytesIO(archive.read(records["data.pkl"])))
    if order != sys.byteorder:
        raise _Unsupported(f"has the byte order {order[:100]!r}")
    starts = {}
    for key, storage in unpickler.storages.items():
        record = records[f"data/{key}"]
        if storage.nbytes > record.file_size:
            raise _Unsupported("has a storage that is larger than its record")
        file.seek(record.header_offset + 26)
        starts[key] = record.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))  # name, extra field
    return state, starts


def _read_legacy(unpickler: _Unpickler, file: _File, size: int) -> tuple[Any, dict[str, int]]:
    """Return the same for the format before torch 1.6: five pickles, then the storages."""
    pickles = io.BytesIO(file.read())
    magic, protocol, _, state, keys = [unpickler.load(pickles) for _ in range(5)]
    if (magic, protocol) != (MAGIC_NUMBER, PROTOCOL_VERSION):
        raise _Unsupported("is a pickle, but not of torch.save")
    unpickler.spend("bytes of headers", pickles.tell())
    if not isinstance(keys, list) or len(keys) != len(unpickler.storages):
        raise _Unsupported("has a broken list of storages")
    start, starts = pickles.tell(), {}
    for key in keys:
        file.seek(start)
        storage = unpickler.storages[key]
        if struct.unpack("<q", file.read(8)) != (storage.elements,):
            raise _Unsupported("has a storage of another size than in its pickle")
        if start + 8 + storage.nbytes > size:
            raise EOFError
        starts[key] = start + 8
        start += 8 + storage.nbytes
    return state, starts


def _tensors(state: object, starts: dict[str, int], memory: mmap.mmap) -> dict[str, Tensor]:
    """Return the tensors of a state dict, as views of the file."""
    if not isinstance(state, dict):
        raise _Unsupported(f"holds a {_kind(state)}")
    buffers: dict[str, Tensor] = {}
    used: dict[tuple[str, str], int] = {}  # bytes, by the key of the storage and the name of the weight
    total = dict.fromkeys(starts, 0)  # bytes, by the key of the storage
    for name, view in state.items():
        if not isinstance(view, _View):
            hint = " that may be the state dict" if isinstance(view, dict) else ""
            raise _Unsupported(f"holds {name[:100]!r}, a {_kind(view)}{hint}")
        name.encode()  # raises for a lone surrogate
        storage = view.storage
        weight = storage.key, tied_name(name)
        nbytes = max(used.get(weight, 0), math.prod(view.size) * storage.dtype.itemsize)
        total[storage.key] += nbytes - used.get(weight, 0)
        used[weight] = nbytes
        if total[storage.key] > storage.nbytes:
            raise _Unsupported(f"holds {name[:100]!r}, which shares its memory with other weights")
        if storage.key not in buffers:
            buffers[storage.key] = _buffer(storage, starts[storage.key], memory)
    return {
        name: buffers[view.storage.key].as_strided(view.size, view.stride, view.offset)
        for name, view in state.items()
    }


def _buffer(storage: _Storage, start: int, memory: mmap.mmap) -> Tensor:
    """Return the elements of a storage. They are copied if they are not aligned, which torch's operations need."""
    if not storage.elements:
        return torch.empty(0, dtype=storage.dtype)
    if start % storage.dtype.itemsize == 0:
        return torch.frombuffer(memory, dtype=storage.dtype, count=storage.elements, offset=start)
    with memoryview(memory) as whole:
        return torch.frombuffer(bytearray(whole[start : start + storage.nbytes]), dtype=storage.dtype)


def _kind(value: object) -> str:
    return "Tensor" if isinstance(value, _View) else type(value).__name__


class _Unpickler:
    """The pickle machine: a stack, marks and a memo."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path, self.budget = path, budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def load(self, pickle: io.BytesIO) -> Any:
        """Execute a pickle, and return its object."""
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name == "STOP":
                break
            self.spend("pickle opcodes", 1)
            self.step(opcode.name, argument)
        return self.stack.pop()

    def spend(self, unit: str, number: int) -> None:
        self.budget.spend(self.path, unit, number)

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in VALUES:
            stack.append(argument)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.pop_marked() if name == "TUPLE" else self.pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self.pop_marked() if name == "APPENDS" else self.pop(1)
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.pop_marked() if name == "SETITEMS" else self.pop(2)
            self.top(dict).update(zip(map(_checked_key, items[::2]), items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_named(argument.replace(" ", ".", 1)))
        elif name == "BINPERSID":
            stack.append(self.storage(*self.pop(1)))
        elif name == "REDUCE":
            stack.append(self.call(*self.pop(2)))
        elif name == "BUILD":  # the attribute _metadata of a state dict
            self.pop(1)
            self.top(dict)
        elif name != "PROTO":
            raise _Unsupported(f"has the pickle opcode {name}")

    def pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise _Unsupported("has a broken pickle")
        del self.stack[-count:]
        return items

    def pop_marked(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise _Unsupported(f"has a {_kind(self.stack[-1])} instead of a {kind.__name__}")
        return self.stack[-1]

    def storage(self, reference: object) -> _Storage:
        """Return the storage of ("storage", type, key, device, number of elements), and None in the old format."""
        match reference:
            case ("storage", torch.dtype() as dtype, str(key), str(), int(elements), *rest):
                storage = self.storages.setdefault(key, _Storage(key, dtype, elements))
                if elements >= 0 and storage == (key, dtype, elements) and rest in ([], [None]):
                    return storage
        raise _Unsupported("has a broken reference to a storage")

    def call(self, function: object, arguments: object) -> Any:
        match function, arguments:
            case _Function(name), (_Storage() as storage, int(offset), tuple(size), tuple(stride), bool(), dict()):
                if name == "torch._utils._rebuild_tensor_v2":
                    return _checked(_View(storage, offset, size, stride))
            case _Function("torch._utils._rebuild_parameter"), (_View() as view, bool(), dict()):
                return view
            case _Function("collections.OrderedDict"), ():
                return {}
            case _Function("collections.OrderedDict"), (list(pairs),):  # as saved by Python 2
                self.spend("pickle opcodes", len(pairs))
                return {_checked_key(key): value for key, value in pairs}
        name = function.name if isinstance(function, _Function) else f"a {_kind(function)}"
        kinds = map(_kind, arguments[:MAX_DIMENSIONS] if isinstance(arguments, tuple) else ())
        raise _Unsupported(f"calls {name} with ({', '.join(kinds)})")


def _named(name: str) -> torch.dtype | _Function:
    """Return the class of storages, as its dtype, or the function of this name."""
    if name.startswith("torch.") and name[6:] in DTYPES:
        return DTYPES[name[6:]]
    if name in FUNCTIONS:
        return _Function(name)
    raise _Unsupported(f"refers to {name[:100]}, which is not allowed")


def _checked_key(key: object) -> object:
    """Return a key of a dict. Other objects may take long to hash, and hashes of integers may be equal."""
    if isinstance(key, str):
        return key
    raise _Unsupported(f"has a {_kind(key)} as a key")


def _checked(view: _View) -> _View:
    """Return a view that is inside its storage, and has no more elements than it."""
    numbers = (view.offset, *view.size, *view.stride)
    if not len(view.size) == len(view.stride) <= MAX_DIMENSIONS or not all(map(is_int, numbers)):
        raise _Unsupported("has a tensor with a broken shape")
    elements = math.prod(view.size)
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.size, view.stride, strict=True))
    if min(numbers) < 0 or elements > view.storage.elements or (elements and last >= view.storage.elements):
        raise _Unsupported("has a tensor of more elements than its storage")
    return view
