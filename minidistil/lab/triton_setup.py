"""Triton for the lab: the compiler on a GPU, its interpreter elsewhere, a stub where it is not installed."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: programs run in NumPy
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # sets WIDEN in kernels: NumPy has no bfloat16
ROWS = 64 if INTERPRETED else 1  # per program of a LayerNorm kernel; in NumPy many rows are as fast as one


class _Missing:
    """Replaces the module if Triton is not installed: kernels stay plain functions, which are never called."""

    @staticmethod
    def jit(kernel: Any) -> Any:
        return kernel


try:
    triton: Any = importlib.import_module("triton")
    tl: Any = importlib.import_module("triton.language")
except ImportError:
    triton = tl = _Missing()
else:
    # tl.sum and others are kernels too, and compiled ones if torch.compile, for example, imported Triton before
    for namespace in (tl, tl.standard, tl.tensor) if INTERPRETED else ():
        for name, kernel in [*vars(namespace).items()]:
            if isinstance(kernel, triton.JITFunction):
                setattr(namespace, name, triton.jit(kernel.fn))
