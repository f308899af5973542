"""The fastest 8-bit kernel and dtype of this processor.

`python -m minidistil.benchmarks.precisions` times the kernels that a CPU has; docs/benchmarks.md has the results.
On AVX2 one kernel is fastest for any number of rows, so the choice does not depend on it, and the scores of a text
are the same in every batch, up to float32 rounding.
"""

from __future__ import annotations

import functools
import platform
from typing import NamedTuple

import torch

from ..errors import warn
from . import fbgemm


class Fastest(NamedTuple):
    """What is fastest on a kind of processor."""

    int8: str  # kernel: "onednn", "fbgemm" or "float32"
    dtype: str  # of a whole model


FASTEST = {
    "AMX": Fastest("onednn", "bfloat16"),
    "AVX512-VNNI": Fastest("onednn", "int8"),
    "AVX2": Fastest("fbgemm", "int8"),  # also AVX-512 without VNNI, which is not measured
    "other": Fastest("float32", "float32"),  # ARM, where no 8-bit kernel is measured; torch without FBGEMM
}


def kind() -> str:
    """Return the kind of this processor, as PyTorch may use it: a key of FASTEST."""
    vnni = torch.cpu._is_vnni_supported() and torch.backends.mkldnn.is_available()
    if vnni and torch.ops.mkldnn._is_mkldnn_bf16_supported():  # false where ONEDNN_MAX_CPU_ISA excludes AVX-512
        return "AMX" if torch.cpu._is_amx_tile_supported() else "AVX512-VNNI"
    return "AVX2" if fbgemm.works() else "other"


def int8_kernel(device: torch.device) -> str:
    """Return the fastest kernel for 8-bit weights. Warns once if that is float32 on CPU."""
    if device.type == "cuda":
        return "int_mm"
    kernel = FASTEST[kind()].int8 if device.type == "cpu" else "float32"
    if kernel == "float32" and device.type == "cpu":
        _warn_int8()
    return kernel


def fastest_dtype() -> str:
    """Return the fastest dtype of a model on CPU, for inference."""
    return FASTEST[kind()].dtype


def warn_if_slow(dtype: torch.dtype) -> None:
    """Warn once for each dtype that is slower than float32 on this CPU, because it has no instructions for it."""
    if platform.machine().lower() in ("x86_64", "amd64") and _lacks_instructions(dtype):
        _warn_half(str(dtype).removeprefix("torch."))


def _lacks_instructions(dtype: torch.dtype) -> bool:
    if dtype == torch.float16:
        return not torch.ops.mkldnn._is_mkldnn_fp16_supported()
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return dtype == torch.bfloat16 and not (native and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def _warn_half(name: str) -> None:
    warn(
        f"{name} is slower than float32 on this CPU, which has no instructions for it: pass dtype='float32', or "
        "dtype='auto' to a pipeline for the fastest dtype"
    )


@functools.cache
def _warn_int8() -> None:
    warn(
        "int8 is not faster than float32 on this CPU with this torch: the 8-bit weights are computed in float32, "
        "with a copy of four times their size"
    )
