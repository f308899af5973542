"""Implementations of the operations, each by its name: what it needs, and whether it can run here.

A file of your own is enough:

    from minidistil.lab import implementation

    @implementation("add_norm", "mine", dtypes=("float32",))
    def add_norm(x, residual, weight, bias, eps): ...

    minidistil lab check my_file.py

The signatures are those of `ops.py`. A product's implementation is a `Product`, of two functions:
`implementation("linear", "mine")(Product(prepare, run))`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from ..ops import Ops

OPERATIONS = tuple(field.name for field in dataclasses.fields(Ops))
PAGES = ("embed", "linear", "add_norm", "attention", "block")  # where what comes with the package is
DTYPES = ("float32", "bfloat16", "float16")
PRECISIONS = ("int8",)
REFERENCE = "reference"  # the name of what each page begins with
T = TypeVar("T")


def _lacks_cuda() -> str | None:
    return None if torch.cuda.is_available() else "there is no CUDA device here"


def _lacks_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install 'minidistil[triton]'"
    return None  # without a GPU its interpreter runs, see `triton_setup.py`


def _lacks_varlen() -> str | None:
    if (lacking := _lacks_cuda()) is not None:
        return lacking
    return None if torch.cuda.get_device_capability() >= (8, 0) else "the CUDA device is older than Ampere"


def _lacks_compiler() -> str | None:
    """On a CPU torch.compile writes C++; on CUDA it writes Triton."""
    if torch.cuda.is_available():
        return _lacks_triton()
    found = any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
    return None if found else "there is no C++ compiler, which torch.compile needs on a CPU"


NEEDS: dict[str, Callable[[], str | None]] = {  # what an implementation may need, and why it is not there
    "cpu": lambda: None,
    "cuda": _lacks_cuda,
    "triton": _lacks_triton,
    "varlen": _lacks_varlen,
    "compiler": _lacks_compiler,
    "onednn": lambda: None if torch.backends.mkldnn.is_available() else "this torch has no oneDNN",
}


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to do an operation."""

    op: str
    name: str
    value: Any  # what `Ops` takes
    needs: tuple[str, ...] = ()  # names in `NEEDS`
    dtypes: tuple[str, ...] = DTYPES  # that it claims to work in
    gradients: bool = False  # whether it claims to give them
    precision: str | None = None  # what its products compute in, if less than the dtype: one of `PRECISIONS`
    about: str = ""  # one line: what it does otherwise than the one before it
    file: str = ""

    @property
    def title(self) -> str:
        """What reports call it."""
        return f"{self.op} {self.name}"

    @property
    def lacks(self) -> str | None:
        """Why it cannot run here; None if it can."""
        return next((lacking for need in self.needs if (lacking := NEEDS[need]()) is not None), None)

    @property
    def device(self) -> str:
        """Where it runs here: on the CUDA device, if there is one and it is not made for CPUs."""
        return "cuda" if torch.cuda.is_available() and not {"cpu", "onednn"} & {*self.needs} else "cpu"


_found: dict[tuple[str, str], Implementation] = {}


def implementation(
    op: str,
    name: str,
    *,
    needs: Iterable[str] = (),
    dtypes: Iterable[str] = DTYPES,
    gradients: bool = False,
    precision: str | None = None,
    about: str = "",
) -> Callable[[T], T]:
    """Register a function, or a `Product`, as an implementation of an operation.

    op: a field of `Ops`. needs: names in `NEEDS`. dtypes, gradients: what it claims, and is checked for.
    precision: one of `PRECISIONS`, where its products compute in less than its dtypes; they are judged by plain
    ones that do so too. about: one line; without it the first of its docstring. `InputError` for what is not
    known, and for a name that is taken.
    """
    needs, dtypes = tuple(needs), tuple(dtypes)
    of_precision = [] if precision is None else [precision]
    for what, given, known in (
        ("op", [op], OPERATIONS),
        ("needs", needs, NEEDS),
        ("dtypes", dtypes, DTYPES),
        ("precision", of_precision, PRECISIONS),
    ):
        if unknown := [one for one in given if one not in known]:
            raise InputError(f"{what} of {op} {name} has {unknown[0]!r}: expected one of {', '.join(known)}")

    def register(value: T) -> T:
        code = getattr(getattr(value, "run", value), "__code__", None)
        file = code.co_filename if code else ""
        line = about or (getattr(value, "__doc__", None) or "").strip().split("\n")[0]
        taken = _found.get((op, name))
        if taken is not None and taken.file != file:
            raise InputError(f"{op} {name} is there already, in {taken.file}: give this one another name")
        _found[op, name] = Implementation(op, name, value, needs, dtypes, gradients, precision, line, file)
        return value

    return register


def implementations(op: str | None = None) -> list[Implementation]:
    """Give what is registered, what comes with the package included; of one operation, or of all."""
    for page in PAGES:
        importlib.import_module(f".{page}", __package__)
    if op is not None and op not in OPERATIONS:
        raise InputError(f"there is no operation {op!r}: expected one of {', '.join(OPERATIONS)}")
    found = [one for one in _found.values() if op in (None, one.op)]
    return sorted(found, key=lambda one: OPERATIONS.index(one.op))


def find(op: str, name: str) -> Implementation:
    """Give one that can run here; InputError for an unknown one, and for one that cannot, with the reason."""
    named = {one.name: one for one in implementations(op)}
    if name not in named:
        raise InputError(f"{op} has no implementation {name!r}: expected one of {', '.join(named)}")
    if (lacking := named[name].lacks) is not None:
        raise InputError(f"{op} {name} cannot run here: {lacking}")
    return named[name]


def refuse_gradients(title: str, *inputs: Tensor) -> None:
    """Raise InputError where a gradient would be lost: the answer of what has none knows nothing of its inputs."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        raise InputError(f"{title} has no gradients: call it under torch.inference_mode()")


FASTEST = {  # by device and operation; what is not named is PyTorch's own
    "cpu": {"qkv": "packed", "linear": "packed", "linear_gelu": "packed"},
    "cuda": {"embed": "triton", "qkv": "stacked", "add_norm": "triton", "attention": "varlen"},
}


def fast(device: str = "cpu", dtype: str | torch.dtype = "float32") -> Ops:
    """Give the fastest operations for answering on a device in a dtype: `from_pretrained(..., ops=fast("cuda"))`.

    On a CPU they are what `minidistil bench` measured; on CUDA they are chosen by what each saves, and not by a
    measurement yet: `minidistil lab bench OP` makes one. What cannot run here is left out, and PyTorch's own
    operation stays. They are for answering only: some hold a copy of the weights. `InputError` for another device
    or dtype, and for CUDA where there is none.
    """
    dtype, kind = str(dtype).removeprefix("torch."), torch.device(device).type
    for what, given, known in (("device", kind, FASTEST), ("dtype", dtype, DTYPES)):
        if given not in known:
            raise InputError(f"{what} is {given!r}: expected one of {', '.join(known)}")
    if kind == "cuda" and (lacking := _lacks_cuda()) is not None:
        raise InputError(f"device is {device!r}: {lacking}")
    found = [one for one in implementations() if FASTEST[kind].get(one.op) == one.name]
    return Ops(**{one.op: one.value for one in found if one.lacks is None and dtype in one.dtypes})


def load(path: str) -> list[Implementation]:
    """Run a file of Python, and give what it registers; InputError where that is nothing."""
    implementations()
    before = dict(_found)
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise InputError(f"cannot read {path}: expected a file of Python, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} raises {type(error).__name__}: {error}") from error
    found = [one for key, one in _found.items() if before.get(key) is not one]
    if not found:
        raise InputError(f'{path} registers nothing: expected @implementation("add_norm", "mine") or the like')
    return found
