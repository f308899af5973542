"""Run implementations on request. In a child process it holds the user's file; the judge is in the parent.

The user's code can change everything in its process, this module included. So the parent trusts none of it: it
draws the inputs, reads the bytes of the outputs, compares the bytes around them, and measures with its own clock.
What this module reports by itself, such as aliases and changed settings, serves honest mistakes.

A request is a dict with the name of a method as "do". So is a reply, with "error" after an exception.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..layout import Layout, Subset
from ..ops import Ops
from . import state
from .arena import FENCE, Arena
from .classifier import Classifier, TransformersClassifier
from .operations import ALL, as_tuple
from .profiler import profile_call
from .registry import fast, line_of

FLUSHED_BYTES = {"cpu": 2**26, "cuda": 2**28}  # buffer that is written to flush the caches
COMPILATIONS = 10_000  # at most, of one function
MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "grad": torch.enable_grad,
}
# captured before any implementation is loaded
_copy, _sum, _add, _synchronize = Tensor.copy_, Tensor.sum, Tensor.add_, torch.cuda.synchronize


@dataclasses.dataclass
class Bound:
    """An implementation with its inputs, ready to be called."""

    call: Callable[..., Any]
    op: str
    device: str
    inputs: dict[str, Any]
    spans: list[tuple[str, Tensor, Tensor]]  # tensors on a device: name, memory there, memory in the arena
    leaves: Mapping[str, Tensor]
    value: Any  # the implementation
    outputs: tuple[Tensor, ...] = ()


class Problem(Exception):  # noqa: N818
    """The reason for refusing a result."""


class Server:
    """Answers requests. find(op, name) returns the implementation."""

    def __init__(self, find: Callable[[str, str], Any], folder: str = ""):
        self.find, self.folder = find, folder
        self.bound: dict[int, Bound] = {}
        self.models: dict[int, Classifier] = {}
        self.settings, self.functions = state.settings(), state.functions()
        self.flushed: Tensor | None = None
        self.allocated = 0  # bytes on the CUDA device, when `do_memory` began
        self.arena: Arena

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a request. Never raises, except KeyboardInterrupt."""
        request = dict(request)
        try:
            reply: dict[str, Any] = getattr(self, f"do_{request.pop('do')}")(**request) or {}
        except Problem as problem:
            reply = {"error": str(problem)}
        except (Exception, SystemExit) as error:
            reply = {"error": describe(error, self.folder)}
        if changed := state.changed_settings(self.settings):
            reply.setdefault("error", f"it changes a setting of its process: {'; '.join(changed)}")
        return reply

    def do_map(self, path: str, size: int) -> None:
        """Open the shared memory."""
        self.bound.clear()
        self.arena = Arena(size, path)

    def do_bind(
        self,
        handle: int,
        op: str,
        name: str,
        inputs: dict[str, Any],
        device: str = "cpu",
        requires: list[str] | None = None,
    ) -> None:
        """Bind an implementation to inputs. requires: inputs with gradients."""
        spans: list[tuple[str, Tensor, Tensor]] = []
        values = {key: self._value(key, x, device, spans) for key, x in inputs.items()}
        if isinstance(values.get("queries"), str):  # the name of the input that is the same object
            values["queries"] = values[values["queries"]]
        leaves = {
            key: nn.Parameter(values[key], requires_grad=key in requires)
            for key in values
            if requires is not None and isinstance(values[key], Tensor) and values[key].is_floating_point()
        }
        with contextlib.nullcontext() if requires is not None else torch.no_grad():
            call = ALL[op].bind(value := self.find(op, name), {**values, **leaves})
        self.bound[handle] = Bound(call, op, device, values, spans, leaves, value)

    def do_run(
        self,
        handles: list[int],
        outputs: list[list[Any]],
        mode: str = "no_grad",
        fences: bool = False,
        changed: list[str] | None = None,
        context: dict[str, Any] | None = None,
        calls: int = 1,
    ) -> dict[str, Any]:
        """Call bound implementations and copy each result to its places.

        Args:
            fences: fill the memory that the implementation allocates with NaN, and check the memory around it.
            changed: inputs with new values, whose version counters are to show it.
            calls: of each implementation; the last one counts.

        Returns the seconds of each call, and the configurations that were chosen.
        """
        seconds, configs = [], []
        for handle, places in zip(handles, outputs, strict=True):
            bound = self.bound[handle]
            self._refresh(bound, changed or [])
            watched = _FencedMemory() if fences else contextlib.nullcontext()
            with MODES[mode](), watched, np.errstate(all="ignore"):  # of Triton's interpreter, for NaN
                for _ in range(calls):
                    begin = state.clock()
                    results = as_tuple(bound.call(**(context or {})))
                    if bound.device != "cpu":
                        _synchronize()  # work on any stream
                    seconds.append(state.clock() - begin)
            earlier = [x for other in self.bound.values() for x in other.outputs]
            self._check(bound, results, places, earlier, mode)
            bound.outputs = results
            self._deliver(results, places)
            for _, memory, span in bound.spans:
                _copy(span, memory)
            if isinstance(watched, _FencedMemory):
                watched.check()
            configs.append(getattr(bound.value, "last", ""))
        return {"seconds": seconds, "configs": configs}

    def do_backward(self, handle: int, upstream: list[Any], gradients: list[Any]) -> dict[str, Any]:
        """Compute the gradients of the inputs that require them, and return the seconds."""
        bound = self.bound[handle]
        leaves = [x for x in bound.leaves.values() if x.requires_grad]
        dys = [self.arena.tensor(place).to(bound.device) for place in upstream]
        for output in bound.outputs:
            if output.numel() and not output.requires_grad:
                raise Problem("it is registered with gradients=True, but its output does not require gradients")
        if not any(output.numel() for output in bound.outputs):
            return {}
        begin = state.clock()
        results = torch.autograd.grad(bound.outputs, leaves, dys, materialize_grads=True)
        if bound.device != "cpu":
            _synchronize()
        seconds = state.clock() - begin
        self._deliver(results, gradients)
        return {"seconds": [seconds]}

    def do_reread(self, handle: int, outputs: list[Any]) -> None:
        """Copy the last results again: they must not have changed."""
        self._deliver(self.bound[handle].outputs, outputs)

    def do_free(self) -> None:
        """Forget all inputs and results."""
        self.bound.clear()

    def do_keep_compilations(self) -> None:
        """Keep a compilation for each shape: after 8 of them, torch would run without the compiler."""
        config: Any = importlib.import_module("torch._dynamo.config")
        config.recompile_limit = config.accumulated_recompile_limit = COMPILATIONS

    def do_reset_compiler(self) -> None:
        """Forget compilations, which count towards the recompilation limit."""
        torch.compiler.reset()

    def do_cache(self, handles: list[int], cold: bool) -> None:
        """Flush the caches, or read the inputs into them."""
        for handle in handles:
            bound = self.bound[handle]
            if cold:
                if self.flushed is None:
                    self.flushed = torch.zeros(FLUSHED_BYTES[bound.device] // 4, device=bound.device)
                _add(self.flushed, 1)  # reads and writes: write-only stores can bypass the cache
            else:
                for x in bound.inputs.values():
                    if isinstance(x, Tensor):
                        _sum(x)
            if bound.device != "cpu":
                _synchronize()

    def do_load_model(
        self, handle: int, kind: str, model: str, dtype: str, device: str, op: str = "", name: str = ""
    ) -> None:
        """Load a classifier. kind: "minidistil", with the implementation of an op; "fastest"; "transformers"."""
        if kind == "transformers":
            self.models[handle] = TransformersClassifier(model, dtype, device)
        else:
            ops = fast(device, dtype) if kind == "fastest" else Ops(**({op: self.find(op, name)} if op else {}))
            self.models[handle] = Classifier(model, dtype, device, ops)

    def do_set_texts(self, handle: int, ids: list[list[int]]) -> None:
        """Set the token ids that a classifier runs."""
        self.models[handle].set_texts(ids)

    def do_classify(self, handle: int, logits: list[Any]) -> None:
        """Classify the texts, and copy the logits to their place."""
        _copy(self.arena.tensor(logits), self.models[handle].run())

    def do_share(self, handle: int, op: str) -> dict[str, Any]:
        """Return the part of a classifier's time that is spent in an operation."""
        return {"share": self.models[handle].share(op)}

    def do_profile(self, handle: int, path: str, mode: str) -> dict[str, Any]:
        """Profile a call of an implementation, and write a trace."""
        bound = self.bound[handle]
        with MODES[mode]():
            return profile_call(bound.call, path, bound.device)

    def do_memory(self, device: str) -> dict[str, Any]:
        """Return the peak of the memory that was allocated since the last request, and begin again."""
        if device == "cpu":  # measured from outside, see `memory.py`
            gc.collect()
            with contextlib.suppress(OSError, AttributeError):  # the C library of Linux
                ctypes.CDLL(None).malloc_trim(0)
            return {}
        peak = torch.cuda.max_memory_allocated() - self.allocated
        torch.cuda.reset_peak_memory_stats()
        self.allocated = torch.cuda.memory_allocated()
        return {"peak": peak}

    def do_state(self) -> None:
        """Raise Problem if functions were replaced."""
        if replaced := state.replaced_functions(self.functions):
            raise Problem(f"it replaces {', '.join(replaced[:3])}")

    def _value(self, name: str, x: Any, device: str, spans: list[tuple[str, Tensor, Tensor]]) -> Any:
        """Return an input: a tensor at a place, a layout, or the value itself."""
        if isinstance(x, list):
            tensor = self.arena.tensor(x)
            if device == "cpu":
                return tensor
            span = tensor.as_strided((x[4] + 2 * FENCE,), (1,), 0)
            memory = span.to(device)
            spans.append((name, memory, span))
            return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return layout_from_json(x).to(device) if isinstance(x, dict) else x

    def _refresh(self, bound: Bound, changed: list[str]) -> None:
        """Announce new values of inputs to version counters, and copy them to the device."""
        for _, memory, span in bound.spans:
            _copy(memory.detach(), span)
        for name in changed:
            for x in (bound.leaves.get(name), bound.inputs.get(name)):
                if isinstance(x, Tensor):
                    torch.autograd.graph.increment_version(x)

    def _check(
        self, bound: Bound, results: tuple[Any, ...], places: list[Any], earlier: list[Tensor], mode: str
    ) -> None:
        """Raise Problem unless the results are plain tensors of the expected shapes, in memory of their own."""
        if len(results) != len(places):
            raise Problem(f"it returns {len(results)} outputs instead of {len(places)}")
        inputs = {name: x for name, x in bound.inputs.items() if isinstance(x, Tensor)}
        for i, (y, place) in enumerate(zip(results, places, strict=True)):
            name = f"output {i}" if len(places) > 1 else "the output"
            if type(y) is not Tensor or y.layout != torch.strided:
                raise Problem(f"{name} is a {type(y).__module__}.{type(y).__name__}: expected a plain tensor")
            if (str(y.dtype), list(y.shape)) != (f"torch.{place[0]}", place[1]):
                raise Problem(
                    f"{name} has dtype {y.dtype} and shape {tuple(y.shape)}: "
                    f"expected torch.{place[0]} and {tuple(place[1])}"
                )
            if y.device.type != bound.device:
                raise Problem(f"{name} is on {y.device}: expected {bound.device}")
            for what, x in [
                *((f"its input {key}", x) for key, x in inputs.items()),
                *(("an earlier output", x) for x in earlier),
            ]:
                if y.numel() and x.numel() and y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
                    raise Problem(f"{name} shares its memory with {what}: expected a new tensor")
            if any(y.data_ptr() == other.data_ptr() and y.numel() for other in results[:i]):
                raise Problem(f"{name} shares its memory with another output")

    def _deliver(self, results: tuple[Tensor, ...], places: list[Any]) -> None:
        """Copy results to their places."""
        with torch.no_grad():
            for i, (y, place) in enumerate(zip(results, places, strict=True)):
                if (str(y.dtype), list(y.shape)) != (f"torch.{place[0]}", place[1]):
                    raise Problem(
                        f"result {i} has dtype {y.dtype} and shape {tuple(y.shape)}: expected {place[:2]}"
                    )
                _copy(self.arena.tensor(place), y)


class _FencedMemory(TorchDispatchMode):
    """Fill and surround every newly allocated uninitialized tensor with NaN."""

    EMPTY = (
        "aten::empty",
        "aten::empty_like",
        "aten::new_empty",
        "aten::empty_strided",
        "aten::new_empty_strided",
    )

    def __init__(self) -> None:
        super().__init__()
        self.fenced: list[tuple[Tensor, int]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the compiler would be imported, which takes 3 s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name not in self.EMPTY or not isinstance(result, Tensor) or result.device.type == "meta":
            return result
        if not result.is_floating_point() or not result.is_contiguous():
            return result
        size = result.numel()
        memory = torch.full((size + 2 * FENCE,), math.nan, dtype=result.dtype, device=result.device)
        self.fenced.append((memory, size))
        return memory[FENCE : FENCE + size].view(result.shape)

    def check(self) -> None:
        """Raise Problem if NaN before or after a tensor was overwritten."""
        for memory, size in self.fenced:
            if not (memory[:FENCE].isnan().all() and memory[FENCE + size :].isnan().all()):
                raise Problem("it writes out of bounds, before or after an output or a temporary tensor")


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """Return a layout as numbers."""
    return {name: x.tolist() if isinstance(x, Tensor) else x for name, x in vars(layout).items()}


def layout_from_json(fields: dict[str, Any]) -> Layout:
    """Return the layout with these fields."""
    tensors = {
        name: torch.tensor(x, dtype=torch.int32 if name.startswith("cu_seqlens") else torch.int64)
        for name, x in fields.items()
        if isinstance(x, list) and name != "lengths"
    }
    return (Subset if "indices" in fields else Layout)(**{**fields, **tensors})


def describe(error: BaseException, folder: str) -> str:
    """Return the message of an exception, with the file and line of the user's code."""
    if isinstance(error, SystemExit):
        what = f"it calls sys.exit({'' if error.code is None else error.code})"
    else:
        what = f"it raises {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return what + line_of(error, folder)
