"""Operations over prepared weights: prepacked, fused or quantized once, then used for many batches.

A prepared operation keeps every tensor that its weights were made from, with its version counter and address. Each
call compares them, and prepares again after a tensor was replaced or modified: by an optimizer's step, by to(),
by load_state_dict(), or by an assignment, through any view of the model. Changes that PyTorch does not count are
not noticed: writes through `.data` or through a NumPy array that shares the memory, a view of the same memory that
is assigned to `.data`, the functions of `torch.optim` with fused=True, and collectives of torch.distributed.
Neither are changes of the weights of a compiled model, until it is called once without torch.compile. Call a view
once before you compile it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from ..errors import InputError
from ..forks import fork_safe_lock

LOCK = fork_safe_lock()  # of all preparations


class PreparationError(InputError):
    """Modules that prepared weights cannot replace, such as adapters. The default operations run them."""


class Entry(NamedTuple):
    """Prepared weights, and what they were made from. The first module is left out: they are freed with it."""

    state: Any
    others: tuple[nn.Module, ...]  # the modules of the call but the first
    kinds: list[type]  # the classes of all modules of the call
    attributes: list[dict[str, Any]]  # of each module and submodule, and not a copy
    members: list[tuple[dict[str, Any], str, Any, type]]  # submodules, parameters, buffers, in their module's dict
    tensors: list[tuple[Tensor, int, int]]  # each parameter and buffer with its version and its address


class Prepared:
    """An operation over weights that are prepared once. For inference only.

    prepare(*modules) -> state; run(x, state, **context) -> result. The state is made in the first call with these
    modules, and again after a change of their tensors. It is freed with the modules or with this object. Copies
    and pickles exclude it. `prepare` must raise PreparationError for modules that it cannot replace.
    """

    live = False

    def __init__(self, prepare: Callable[..., Any], run: Callable[..., Any]):
        self.prepare, self.run = prepare, run
        self._entries: weakref.WeakKeyDictionary[nn.Module, Entry] = weakref.WeakKeyDictionary()

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
        with LOCK:
            entry = self._entries.get(modules[0])
            if entry is None or not _unchanged(entry, modules):  # else another thread has prepared them
                sources = _sources(modules)
                with torch.no_grad():
                    entry = Entry(self.prepare(*modules), modules[1:], [*map(type, modules)], *sources)
                self._entries[modules[0]] = entry
            return entry


def _unchanged(entry: Entry, modules: tuple[nn.Module, ...]) -> bool:
    """Return whether weights were prepared from these modules as they are. Called for each layer of each batch."""
    if modules[1:] != entry.others or [*map(type, modules)] != entry.kinds:
        return False
    for own in entry.attributes:
        if own["training"] or own["_forward_hooks"] or own["_forward_pre_hooks"] or not _ASSIGNED.isdisjoint(own):
            return False
    for parent, name, member, kind in entry.members:
        if parent.get(name) is not member or type(member) is not kind:
            return False
    for tensor, version, address in entry.tensors:
        if tensor._version != version or tensor.data_ptr() != address:
            return False
    return not (_global_forward_hooks or _global_forward_pre_hooks)


def _sources(modules: tuple[nn.Module, ...]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the last fields of an `Entry`. Raises InputError where prepared weights would ignore something."""
    if _global_forward_hooks or _global_forward_pre_hooks:
        raise PreparationError("there are global forward hooks, which would not run: remove them")
    found = list(modules)
    attributes, members = [], []
    for module in found:  # grows: the submodules of each module are appended
        own = vars(module)
        if module.training or module._forward_hooks or module._forward_pre_hooks or not _ASSIGNED.isdisjoint(own):
            raise PreparationError(_refusal(module))
        attributes.append(own)
        for parent in (module._modules, module._parameters, module._buffers):
            members += [(parent, name, member, type(member)) for name, member in parent.items()]
        found += [child for child in module._modules.values() if child is not None]
    tensors = [member for _, _, member, _ in members if isinstance(member, Tensor)]
    return attributes, members, [(tensor, _version(tensor), tensor.data_ptr()) for tensor in tensors]


_ASSIGNED = {"forward", "weight", "bias"}  # attributes that replace those of the class, or the parameters


def _refusal(module: nn.Module) -> str:
    """Return why prepared weights cannot replace a module."""
    kind = type(module).__name__
    if module.training:
        return "the model is in training mode, but its operations are for inference: call eval()"
    if assigned := sorted(_ASSIGNED & module.__dict__.keys()):
        return f"the {assigned[0]} of a {kind} was replaced by an attribute: define a module, or use a parameter"
    return f"a {kind} has forward hooks, which would not run: remove them"


def refuse_adapters(what: str, *layers: nn.Module, kinds: tuple[type, ...] = (nn.Linear,)) -> None:
    """Raise PreparationError for layers of other classes and layers without bias. what: such as "quantized"."""
    for layer in layers:
        if type(layer) not in kinds:  # an adapter or a parametrization has a forward of its own
            raise PreparationError(
                f"only nn.Linear can be {what}, found {type(layer).__module__}.{type(layer).__name__}: "
                "merge it into the weights"
            )
        if layer.bias is None:
            raise PreparationError(f"a linear layer has no bias, so it cannot be {what}: expected a bias")


def _parameters(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    return (parameter for module in modules for parameter in module.parameters())


def _version(tensor: Tensor) -> int:
    if tensor.is_inference():
        raise InputError("weights made under torch.inference_mode() cannot be prepared: load the model outside it")
    return tensor._version


def _count_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Increment the versions of parameters, which PyTorch omits in a step of a fused optimizer."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version(group["params"])


register_optimizer_step_post_hook(_count_step)
