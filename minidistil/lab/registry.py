"""Registry of implementations: by operation and name, with requirements and supported dtypes.

To register your own, decorate it in any Python file:

    from minidistil.lab import implementation

    @implementation("add_norm", "mine", dtypes=("float32",))
    def add_norm(x, residual, weight, bias, eps): ...

    minidistil lab check my_file.py

Signatures are those of `ops.py`. Wrap an operation that needs prepacked, fused or quantized weights in
`backends.prepared.Prepared`: `implementation("linear", "mine")(Prepared(prepare, run))`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import ops
from ..backends import onednn
from ..errors import InputError, install_command
from ..ops import Ops
from .configs import Tuned, variants_of

OPERATIONS = tuple(field.name for field in dataclasses.fields(Ops))
MODULES = ("embed", "linear", "add_norm", "attention", "block")  # of the built-in implementations
DTYPES = ("float32", "bfloat16", "float16")
PRECISIONS = ("int8",)
REFERENCE = "reference"  # name of the float64 implementation of every operation
T = TypeVar("T")


def _lacks_cuda(dtype: str) -> str | None:
    return None if torch.cuda.is_available() else "no CUDA device is available"


def _lacks_triton(dtype: str) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return f"triton is not installed: run {install_command('triton')}"
    return None  # runs in the interpreter without a GPU, see `triton_setup.py`


def _lacks_varlen(dtype: str) -> str | None:
    if (reason := _lacks_cuda(dtype)) is not None:
        return reason
    return None if torch.cuda.get_device_capability() >= (8, 0) else "the CUDA device is older than Ampere"


def _lacks_compiler(dtype: str) -> str | None:
    # torch.compile generates C++ on CPU and Triton on CUDA
    if torch.cuda.is_available():
        return _lacks_triton(dtype)
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    installed = any(shutil.which(name) for name in compilers if name)
    return None if installed else "torch.compile on CPU needs a C++ compiler: install g++ or clang++, or set CXX"


def _lacks_onednn(dtype: str) -> str | None:
    return onednn.lacks(torch.device("cpu"), getattr(torch, dtype))


# requirement -> function that returns why it is not met for a dtype, or None
NEEDS: dict[str, Callable[[str], str | None]] = {
    "cpu": lambda dtype: None,
    "cuda": _lacks_cuda,
    "triton": _lacks_triton,
    "varlen": _lacks_varlen,
    "compiler": _lacks_compiler,
    "onednn": _lacks_onednn,
}


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One implementation of an operation."""

    op: str
    name: str
    value: Any  # what `Ops` takes: a function, or a `Prepared`; None if another process holds it
    needs: tuple[str, ...] = ()  # keys of `NEEDS`
    dtypes: tuple[str, ...] = DTYPES  # claimed to be supported
    gradients: bool = False  # claimed support of autograd
    precision: str | None = None  # of the matmuls, if lower than the dtype: one of `PRECISIONS`
    about: str = ""  # one-line description
    file: str = ""
    live: bool = True  # whether it reads the weights themselves, not a copy of them
    config_of: str = ""  # name of the implementation of which this is one configuration

    def as_json(self) -> dict[str, Any]:
        """Return all fields except the function."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "value"}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Implementation:
        """Return the description of an implementation that another process holds."""
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists, "value": None})

    @property
    def title(self) -> str:
        """Return the name for reports."""
        return f"{self.op} {self.name}"

    def lacks(self, dtype: str | None = None) -> str | None:
        """Return why it cannot run on this machine in a dtype, or None. Without a dtype: in any claimed dtype."""
        if dtype is None:
            reasons = self.lacking.values()
            return "; ".join(dict.fromkeys(reasons)) if len(reasons) == len(self.dtypes) else None
        return next((reason for need in self.needs if (reason := NEEDS[need](dtype)) is not None), None)

    @property
    def lacking(self) -> dict[str, str]:
        """Return the claimed dtypes that cannot run on this machine, each with the reason."""
        return {dtype: reason for dtype in self.dtypes if (reason := self.lacks(dtype)) is not None}

    @property
    def device(self) -> str:
        """Return the device it runs on: CUDA if available, unless the implementation is for CPUs."""
        return "cuda" if torch.cuda.is_available() and not {"cpu", "onednn"} & {*self.needs} else "cpu"

    @property
    def interpreted(self) -> bool:
        """Return whether it runs in Triton's interpreter, which takes minutes for many tokens."""
        return self.device == "cpu" and "triton" in self.needs


_registered: dict[tuple[str, str], Implementation] = {}


def implementation(
    op: str,
    name: str,
    *,
    needs: Iterable[str] = (),
    dtypes: Iterable[str] = DTYPES,
    gradients: bool = False,
    precision: str | None = None,
    about: str = "",
    configs: Sequence[Mapping[str, Any]] = (),
) -> Callable[[T], T]:
    """Register a function, or a `Prepared`, as an implementation of an operation.

    Args:
        op: a field of `Ops`.
        needs: keys of `NEEDS`.
        dtypes: supported dtypes, which the gate checks.
        gradients: whether autograd is supported, which the gate checks.
        precision: one of `PRECISIONS`, if the matmuls compute in less than the dtype. The tolerance is then based
            on plain matmuls in that precision.
        about: one-line description; by default the first line of the docstring.
        configs: keywords of the function, such as [{"rows": 4}, {"rows": 16}]. Each configuration is registered as
            an implementation, "mine rows=4". The one called `name` times them in its first call with new shapes,
            and keeps the fastest.

    Raises InputError for unknown values and for a name that another file registered.
    """
    needs, dtypes = tuple(needs), tuple(dtypes)
    for argument, values, known in (
        ("op", [op], OPERATIONS),
        ("needs", needs, NEEDS),
        ("dtypes", dtypes, DTYPES),
        ("precision", [] if precision is None else [precision], PRECISIONS),
    ):
        if unknown := [value for value in values if value not in known]:
            raise InputError(
                f"{argument} of {op} {name}: unknown {unknown[0]!r}, expected one of {', '.join(known)}"
            )

    def register(value: T) -> T:
        title = f"{op} {name}"
        function = getattr(value, "run", value)
        code = getattr(function, "__code__", None)
        file = code.co_filename if code else ""
        line = about or (getattr(function, "__doc__", None) or "").strip().split("\n")[0].removesuffix(".")
        variants = variants_of(title, value, configs) if configs and callable(value) else {}
        for each, variant in [*variants.items(), ("", Tuned(variants) if variants else value)]:
            full_name = f"{name} {each}".rstrip()
            _check_signature(op, full_name, variant)
            taken = _registered.get((op, full_name))
            if taken is not None and taken.file != file:
                raise InputError(f"{op} {full_name} is already registered in {taken.file}: choose another name")
            live, config_of = getattr(variant, "live", True), name if each else ""
            _registered[op, full_name] = Implementation(
                op, full_name, variant, needs, dtypes, gradients, precision, line, file, live, config_of
            )
        return value

    return register


def _check_signature(op: str, name: str, value: Any) -> None:
    """Raise InputError for a value that cannot be called like the operation."""
    if not callable(value):
        raise InputError(f"{op} {name} is {type(value).__name__}: expected a function, or a Prepared")
    try:
        expected, given = inspect.signature(getattr(ops, op)), inspect.signature(value)
    except ValueError:  # a builtin without a signature
        return
    kinds = expected.parameters.values()
    positional = [x for x in kinds if x.kind is not x.KEYWORD_ONLY and x.default is x.empty]
    keywords = [x.name for x in kinds if x.kind is x.KEYWORD_ONLY]
    try:
        given.bind(*positional, **dict.fromkeys(keywords))
    except TypeError:
        raise InputError(
            f"{op} {name} takes {given}: expected {expected}, as in ops.py; wrap functions of prepared weights as "
            "minidistil.backends.prepared.Prepared(prepare, run)"
        ) from None


def implementations(op: str | None = None) -> list[Implementation]:
    """Return all implementations, built-in and registered, of one operation or of all."""
    for module in MODULES:
        importlib.import_module(f".{module}", __package__)
    if op is not None and op not in OPERATIONS:
        raise InputError(f"unknown operation {op!r}: expected one of {', '.join(OPERATIONS)}")
    selected = [each for each in _registered.values() if op in (None, each.op)]
    return sorted(selected, key=lambda each: OPERATIONS.index(each.op))


def find(op: str, name: str) -> Implementation:
    """Return an implementation. Raises InputError if it does not exist or cannot run on this machine."""
    named = {each.name: each for each in implementations(op)}
    if name not in named:
        raise InputError(f"{op} has no implementation {name!r}: expected one of {', '.join(named)}")
    if (reason := named[name].lacks()) is not None:
        raise InputError(f"{op} {name} cannot run here: {reason}")
    return named[name]


def refuse_gradients(title: str, *inputs: Tensor) -> None:
    """Raise InputError if autograd would record these inputs, since the implementation has no backward."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        raise InputError(f"{title} has no backward pass: call it under torch.inference_mode()")


FASTEST = {  # by device and operation; the default for all others
    "cpu": {"qkv": "prepacked", "linear": "prepacked", "linear_gelu": "prepacked"},
    "cuda": {"embed": "triton", "qkv": "stacked", "add_norm": "triton", "attention": "varlen"},
}


def fast(device: str = "cpu", dtype: str | torch.dtype = "float32") -> Ops:
    """Return the fastest operations for inference on a device: `from_pretrained(..., ops=fast("cuda"))`.

    The CPU choice was measured with `minidistil bench`. The CUDA choice has not been measured:
    run `minidistil lab bench OP`. The default operation replaces an implementation that cannot run on this machine
    in this dtype. Some implementations keep a copy of the weights and support inference only.

    Raises InputError for an unknown device or dtype, and for "cuda" without a CUDA device.
    """
    dtype, kind = str(dtype).removeprefix("torch."), torch.device(device).type
    for argument, value, known in (("device", kind, FASTEST), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise InputError(f"{argument} is {value!r}: expected one of {', '.join(known)}")
    if kind == "cuda" and (reason := _lacks_cuda(dtype)) is not None:
        raise InputError(f"device is {device!r}: {reason}")
    fastest = [each for each in implementations() if FASTEST[kind].get(each.op) == each.name]
    return Ops(**{each.op: each.value for each in fastest if dtype in each.dtypes and each.lacks(dtype) is None})


def load(path: str) -> list[Implementation]:
    """Run a Python file and return the implementations it registers. Raises InputError if it registers none.

    The file gets a private module name, so that a file named triton.py does not replace the package. Modules
    beside it can be imported, after installed packages.
    """
    implementations()
    before = dict(_registered)
    file = Path(path).resolve()
    if file.suffix != ".py" or not file.is_file():
        raise InputError(f"cannot read {path}: expected a Python file with a name that ends in .py")
    spec = importlib.util.spec_from_file_location(f"minidistil_lab_file_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} raises {type(error).__name__}: {error}{line_of(error, str(file.parent))}"
        ) from error
    added = [each for key, each in _registered.items() if before.get(key) is not each]
    if not added:
        raise InputError(f'{path} registers nothing: expected @implementation("add_norm", "mine") or similar')
    return added


def line_of(error: BaseException, folder: str) -> str:
    """Return the file and line of the user's code that raised an error, in parentheses, or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(f.filename, f.lineno) for f in frames if folder and f.filename.startswith(folder)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    return f" ({Path(places[-1][0]).name}, line {places[-1][1]})" if places else ""
