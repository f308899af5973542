"""Check a file of torch.save before it is loaded: its size in memory is bounded by its size on disk.

`torch.load(weights_only=True)` runs no code, but a small file can make it allocate gigabytes, or crash it with
nested tuples. This module interprets the opcodes on a stack of descriptions instead of objects, and refuses those
that a state dict does not need. Python's module `pickletools` documents the opcodes.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import CheckpointError

MAX_OPCODES = 100_000  # a state dict of 24 layers has about 20,000
MAX_DEPTH = 32  # of containers in containers
MAX_NODES = 1_000  # objects in a tuple, nested ones included
MAX_DIGITS = 16  # bytes of an integer
ITEM_SIZES = {
    "BFloat16Storage": 2, "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8, "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "IntStorage": 4,
    "LongStorage": 8, "ShortStorage": 2, "UntypedStorage": 1,
}  # fmt: skip
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
FUNCTIONS = {TENSOR, PARAMETER, "collections.OrderedDict", "torch.Size", "torch.device"}


class Value:
    """The description of an object that is not created."""

    def __init__(self, kind: str, content: Any = None, depth: int = 0, nodes: int = 1):
        self.kind, self.content, self.depth, self.nodes = kind, content, depth, nodes
        self.closed = False  # part of another object, and must not change


def check(path: Path) -> bool:
    """Raise CheckpointError for a file that needs more memory than its size, or is not a state dict.

    Return whether it is an archive, which can be memory-mapped; files from before torch 1.6 cannot. A broken file
    raises exceptions of the standard library.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # the format before torch 1.6: pickles, then the storages
            file.seek(0)
            for _ in range(4):  # magic number, protocol, system, the state dict
                _Machine(path, size, None).run(file)
            return False
    with zipfile.ZipFile(path) as archive:
        records = {}
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{path}: {record.filename[:100]} is compressed: expected a file of torch.save"
                )
            folder, _, name = record.filename.partition("/")
            records[name] = record.file_size
        if sum(records.values()) > size:
            raise CheckpointError(f"{path} has records that overlap: expected a file of torch.save")
        with archive.open(f"{folder}/data.pkl") as pickle:
            _Machine(path, size, records).run(pickle)
    return True


class _Machine:
    """The pickle machine: a stack, marks and a memo, with descriptions instead of objects."""

    def __init__(self, path: Path, size: int, records: dict[str, int] | None):
        self.path, self.size, self.records = path, size, records
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}
        self.storages: dict[str, int] = {}  # bytes of each storage
        self.bytes = 0  # of all storages

    def refuse(self, found: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} {found}: expected a state dict: tensors by name; "
            "use a checkpoint with a model.safetensors"
        )

    def run(self, file: IO[bytes]) -> None:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count == MAX_OPCODES:
                raise self.refuse(f"has more than {MAX_OPCODES:,} pickle opcodes")
            self.step(opcode.name, argument)

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "STOP"):
            return
        if name == "MARK":
            self.marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT"):
            stack.append(Value("scalar"))
        elif name in ("BININT", "BININT1", "BININT2", "LONG1"):
            if abs(argument) >> 8 * MAX_DIGITS:
                raise self.refuse("has an integer of more than 16 bytes")
            stack.append(Value("int", argument))
        elif name in ("BINUNICODE", "SHORT_BINSTRING", "BINSTRING"):
            stack.append(Value("str", argument))
        elif name == "GLOBAL":
            stack.append(self.named(".".join(argument.split(" ", 1))))
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append(self.container(name[6:].lower(), []))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            items = self.pop_marked() if name == "TUPLE" else self.pop(int(name[-1]))
            stack.append(self.container("tuple", items))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            items = self.pop_marked() if name[-1] == "S" else self.pop(2 if name == "SETITEM" else 1)
            if name.startswith("SETITEM"):
                for key in items[::2]:
                    if key.kind not in ("str", "int", "scalar"):
                        raise self.refuse(f"has a {key.kind} as a key")
            self.fill(stack[-1], items)
        elif name == "BINPERSID":
            stack.append(self.storage(*self.pop(1)))
        elif name == "REDUCE":
            stack.append(self.call(*self.pop(2)))
        elif name == "BUILD":  # the attribute _metadata of a state dict
            (state,) = self.pop(1)
            if stack[-1].kind != "dict" or state.kind != "dict":
                raise self.refuse(f"sets the state of a {stack[-1].kind}")
            self.fill(stack[-1], [state])
        else:
            raise self.refuse(f"has the pickle opcode {name}")

    def pop(self, count: int) -> list[Value]:
        items = self.stack[-count:]
        if len(items) < count or (self.marks and len(self.stack) - count < self.marks[-1]):
            raise self.refuse("has a broken pickle")
        del self.stack[-count:]
        return items

    def pop_marked(self) -> list[Value]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def container(self, kind: str, items: list[Value]) -> Value:
        """Return a container. Only tuples can be hashed, which visits every object in them."""
        value = Value(kind, None if kind == "dict" else [])
        self.fill(value, items)
        if kind == "tuple":
            value.nodes = 1 + sum(item.nodes for item in items)
            if value.nodes > MAX_NODES:
                raise self.refuse(f"has a tuple of more than {MAX_NODES:,} objects")
        return value

    def fill(self, value: Value, items: list[Value]) -> None:
        if value.closed or (items and value.kind not in ("list", "dict", "tuple")):
            raise self.refuse(f"adds to a {value.kind} that is part of another object")
        if value.kind != "dict":
            value.content += items
        for item in items:
            item.closed = True
            value.depth = max(value.depth, item.depth + 1)
        if value.depth > MAX_DEPTH:
            raise self.refuse(f"has containers nested deeper than {MAX_DEPTH}")

    def named(self, name: str) -> Value:
        kind = name.rpartition(".")[2]
        if name.startswith(("torch.", "torch.storage.")) and kind in ITEM_SIZES:
            return Value("storage type", kind)
        if name in FUNCTIONS:
            return Value("function", name)
        if name == f"torch.{kind}" and isinstance(getattr(torch, kind, None), torch.dtype):
            return Value("scalar")
        raise CheckpointError(
            f"{self.path} refers to {name[:100]}, which is not allowed: expected tensors only; "
            "use a checkpoint with a model.safetensors"
        )

    def storage(self, reference: Value) -> Value:
        """Return a storage of ("storage", type, key, device, number of elements), and count its bytes once."""
        parts = [(part.kind, part.content) for part in reference.content or ()]
        kinds = [kind for kind, _ in parts[:5]]
        if kinds != ["str", "storage type", "str", "str", "int"] or parts[0][1] != "storage":
            raise self.refuse("has a broken reference to a storage")
        key, elements = parts[2][1], parts[4][1]
        number = elements * ITEM_SIZES[parts[1][1]]
        if elements < 0 or (self.records is not None and self.records.get(f"data/{key}", -1) < number):
            raise self.refuse("has a storage that is larger than its record")
        more = max(0, number - self.storages.get(key, 0))
        self.storages[key] = self.storages.get(key, 0) + more
        self.bytes += more
        if self.bytes > self.size:
            raise self.refuse("has storages that are larger than the file")
        return Value("storage", elements)

    def call(self, function: Value, arguments: Value) -> Value:
        if function.kind != "function" or arguments.kind != "tuple":
            raise self.refuse(f"calls a {function.kind}")
        values = arguments.content
        kinds = [value.kind for value in values]
        if function.content == TENSOR:
            if kinds[:4] != ["storage", "int", "tuple", "tuple"]:
                raise self.refuse("has a broken tensor")
            size, stride = ([item.content for item in value.content] for value in values[2:4])
            if any(not isinstance(number, int) or number < 0 for number in (*size, *stride)):
                raise self.refuse("has a tensor with a broken shape")
            if math.prod(size) > values[0].content:
                raise self.refuse("has a tensor of more elements than its storage")
            return Value("tensor")
        if function.content == PARAMETER and kinds[:1] == ["tensor"]:
            return Value("tensor")
        if function.content == "collections.OrderedDict":
            pairs = values[0].content if kinds == ["list"] else []  # as saved by Python 2
            if kinds in ([], ["list"]) and all((pair.content or [None])[0].kind == "str" for pair in pairs):
                return Value("dict", depth=arguments.depth)
        if function.content in ("torch.Size", "torch.device"):
            return Value("scalar", depth=arguments.depth, nodes=arguments.nodes)
        raise self.refuse(f"calls {function.content} with {', '.join(kinds)[:100] or 'nothing'}")
