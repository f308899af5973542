"""Settings and functions of this process that an implementation must leave as they are."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import torch

SETTINGS: dict[str, Callable[[], Any]] = {
    "the default dtype": torch.get_default_dtype,
    "the default device": torch.get_default_device,
    "the precision of float32 matmuls": torch.get_float32_matmul_precision,
    "the number of threads": torch.get_num_threads,
    "the number of interop threads": torch.get_num_interop_threads,
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "autocast": lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "oneDNN": lambda: torch.backends.mkldnn.enabled,
    "flushing of denormal numbers": lambda: float(torch.tensor([1e-39]) * 1.0) == 0,
    "TF32 of cuDNN": lambda: torch.backends.cudnn.allow_tf32,
    "the benchmark mode of cuDNN": lambda: torch.backends.cudnn.benchmark,
    "the modes of function overrides": lambda: torch._C._len_torch_function_stack(),
}
MODULES = (  # whose functions are compared
    *("time", "torch", "torch.cuda", "torch.nn.functional", "torch.autograd", "numpy"),
    *("minidistil.ops", "minidistil.layout", "minidistil.lab.arena", "minidistil.lab.server"),
    *("minidistil.lab.operations", "minidistil.lab.registry"),
)
CLASSES = (torch.Tensor, torch.nn.Module, torch.nn.Linear, torch.cuda.Event)


def settings() -> dict[str, str]:
    """Return the settings of this process as text."""
    return {name: str(read()) for name, read in SETTINGS.items()}


def changed_settings(before: dict[str, str]) -> list[str]:
    """Return what changed, as text."""
    now = settings()
    return [f"{name}: {value} became {now[name]}" for name, value in before.items() if now[name] != value]


def functions() -> dict[str, Any]:
    """Return the functions and classes that an implementation could replace, by name."""
    found = {}
    for module in MODULES:
        for name, value in vars(importlib.import_module(module)).items():
            if callable(value):
                found[f"{module}.{name}"] = value
    for owner in CLASSES:
        found |= {
            f"{owner.__module__}.{owner.__name__}.{name}": x for name, x in vars(owner).items() if callable(x)
        }
    return found


def replaced_functions(before: dict[str, Any]) -> list[str]:
    """Return the names of functions that were replaced."""
    now = functions()
    # torch itself wraps functions when its compiler is imported
    return [
        name
        for name, value in before.items()
        if now.get(name) is not value and not str(getattr(now.get(name), "__module__", "")).startswith("torch.")
    ]


def clock() -> float:
    """Return the seconds of a clock, which was captured before any implementation was loaded."""
    return _perf_counter()


_perf_counter = time.perf_counter
