"""Triton for the pages: on a GPU the real one, elsewhere its interpreter, nothing where it is not installed."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: each program runs in NumPy
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # where a kernel's WIDEN is set: it multiplies no bfloat16
ROWS = 64 if INTERPRETED else 1  # that a program normalises: in NumPy many cost as little as one


class _Missing:
    """What stands in for it: kernels stay functions that nobody calls."""

    @staticmethod
    def jit(kernel: Any) -> Any:
        return kernel


try:
    triton: Any = importlib.import_module("triton")
    tl: Any = importlib.import_module("triton.language")
except ImportError:
    triton = tl = _Missing()
else:
    # `tl.sum` and others are kernels too: compiled ones, where Triton was imported before, as torch.compile does
    for place in (tl, tl.standard, tl.tensor) if INTERPRETED else ():
        for name, kernel in [*vars(place).items()]:
            if isinstance(kernel, triton.JITFunction):
                setattr(place, name, triton.jit(kernel.fn))
