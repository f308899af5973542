"""Operations over prepared weights: prepacked, fused or quantized once, then used for many batches.

A prepared operation keeps an alias and the version counter of every tensor that its weights were made from. Each
call compares them, and prepares again after a tensor was replaced or modified: by an optimizer's step, by to(),
by load_state_dict(), or by an assignment, through any view of the model. Two changes are not noticed: a write
through `.data` or through a NumPy array that shares the memory, which PyTorch does not count; and any change of
the weights of a compiled model, until the model is called once without torch.compile.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import InputError


class Entry(NamedTuple):
    """Prepared weights, and the tensors that they were made from."""

    state: Any
    sources: list[tuple[Tensor | None, int]]  # an alias of each tensor, and its version at that time


class Prepared:
    """An operation over weights that are prepared once. For inference only.

    prepare(*modules) -> state; run(x, state, **context) -> result. The state is made in the first call with these
    modules, and again after a change of their tensors. It is freed with the modules or with this object. Copies
    and pickles exclude it. `prepare` must refuse modules that it cannot replace, such as adapters.
    """

    live = False

    def __init__(self, prepare: Callable[..., Any], run: Callable[..., Any]):
        self.prepare, self.run = prepare, run
        self._entries: weakref.WeakKeyDictionary[nn.Module, Entry] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.prepare, self.run)

    def __call__(self, x: Tensor, *modules: nn.Module, **context: Any) -> Any:
        """Run on x. Raises InputError in training mode, with forward hooks, and where autograd would record."""
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in _parameters(modules))):
            raise InputError("prepared weights have no gradients: call the model under torch.inference_mode()")
        entry = self._entries.get(modules[0])
        if entry is None or not (torch.compiler.is_compiling() or _unchanged(entry, modules)):
            entry = self._prepare(modules)
        return self.run(x, entry.state, **context)

    def _prepare(self, modules: tuple[nn.Module, ...]) -> Entry:
        with self._lock:
            entry = self._entries.get(modules[0])
            if entry is None or not _unchanged(entry, modules):  # else another thread has prepared them
                tensors = _tensors(modules)
                _watched.update({tensor: True for tensor in tensors if tensor is not None})
                sources = [(t if t is None else t.detach(), _version(t)) for t in tensors]
                with torch.no_grad():
                    entry = Entry(self.prepare(*modules), sources)
                self._entries[modules[0]] = entry
            return entry


def _unchanged(entry: Entry, modules: Iterable[nn.Module]) -> bool:
    tensors = _tensors(modules)
    if len(tensors) != len(entry.sources):
        return False
    for tensor, (alias, version) in zip(tensors, entry.sources):  # noqa: B905, called for every linear layer
        if tensor is None or alias is None:
            if tensor is not alias:
                return False
        elif tensor._version != version or not alias.is_set_to(tensor):
            return False
    return True


def _tensors(modules: Iterable[nn.Module]) -> list[Tensor | None]:
    """Return all parameters and buffers. Raises InputError in training mode and with forward hooks."""
    tensors: list[Tensor | None] = []
    for module in modules:
        if module.training:
            raise InputError("the model is in training mode, but its operations are for inference: call eval()")
        if module._forward_pre_hooks or module._forward_hooks:
            raise InputError(f"a {type(module).__name__} has forward hooks, which would not run: remove them")
        tensors += module._parameters.values()
        if module._buffers:
            tensors += module._buffers.values()
        if module._modules:
            tensors += _tensors(m for m in module._modules.values() if m is not None)
    return tensors


def _parameters(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    return (parameter for module in modules for parameter in module.parameters())


def _version(tensor: Tensor | None) -> int:
    if tensor is None:
        return 0
    if tensor.is_inference():
        raise InputError(
            "weights made under torch.inference_mode() cannot be prepared: PyTorch does not count changes of them"
        )
    return tensor._version


# PyTorch does not increment the versions of tensors in a step of a fused optimizer. This hook does.
_watched = WeakIdKeyDictionary()  # the tensors that prepared weights were made from


def _count_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.autograd.graph.increment_version([p for p in parameters if p.grad is not None and p in _watched])


register_optimizer_step_post_hook(_count_step)
