"""Import Triton for the lab: compiler with a GPU, interpreter without, a stub if it is not installed."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # read when a kernel is defined; the interpreter runs programs in NumPy
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels then WIDEN to float32: NumPy has no bfloat16
ROWS = 64 if INTERPRETED else 1  # per program of a LayerNorm kernel; in NumPy 64 rows are as fast as one


class _Missing:
    """Replace Triton if it is not installed: kernels stay plain functions, which are never called."""

    @staticmethod
    def jit(kernel: Any) -> Any:
        return kernel


try:
    triton: Any = importlib.import_module("triton")
    tl: Any = importlib.import_module("triton.language")
except ImportError:
    triton = tl = _Missing()
else:
    # if Triton was imported before (by torch.compile, for example), tl.sum and others are compiled kernels
    for namespace in (tl, tl.standard, tl.tensor) if INTERPRETED else ():
        for name, kernel in [*vars(namespace).items()]:
            if isinstance(kernel, triton.JITFunction):
                setattr(namespace, name, triton.jit(kernel.fn))
