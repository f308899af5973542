"""Memory that the judge and the process of an implementation share: tensors as raw bytes in one file.

Nothing that the other process writes is unpickled. A `Place` says where a tensor lies, in numbers. All bytes
between the tensors are 0xFF, which is NaN in every floating dtype: out-of-bounds reads put NaN into a result, and
out-of-bounds writes change bytes that the judge compares.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

FENCE = 64  # elements before and after each tensor
PAGE = 1 << 16


class Place(NamedTuple):
    """Where a tensor lies in an arena. Serialized as a list of its fields."""

    dtype: str
    shape: list[int]
    strides: list[int]
    first: int  # elements before the tensor's first one, without the fence
    span: int  # elements that it occupies, with gaps
    offset: int  # of the fence before it, in bytes


def strides_of(layout: str, shape: Sequence[int]) -> tuple[list[int], int, int]:
    """Return strides, span and first element of a tensor.

    layout: "contiguous"; "columns": of a tensor with twice the columns, as from chunk; "alternate": every other
    element of the last dimension; "transposed": the first and last dimension swapped in memory; "offset": one
    element after an aligned address; "expanded": stride 0 along the first dimension.
    """
    shape = list(shape)
    dense = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    size = math.prod(shape)
    if layout == "columns" and len(shape) > 1:
        return [2 * dense[0], *dense[1:]], 2 * size, 0
    if layout in ("columns", "alternate") or (layout == "transposed" and len(shape) < 2):
        return [2 * stride for stride in dense], 2 * size, 0
    if layout == "transposed":
        swapped = [shape[-1], *shape[1:-1], shape[0]]
        strides = [math.prod(swapped[i + 1 :]) for i in range(len(shape))]
        return [strides[-1], *strides[1:-1], strides[0]], size, 0
    if layout == "expanded":
        return [0, *dense[1:]], dense[0] if size else 0, 0
    return dense, size + (layout == "offset"), int(layout == "offset")


class Arena:
    """A block of shared memory, or of ordinary memory if there is no path."""

    def __init__(self, size: int, path: str | None = None, create: bool = False):
        self.size = max(-(-size // PAGE), 1) * PAGE
        if path is None:
            self.memory: Any = mmap.mmap(-1, self.size)
        else:
            with Path(path).open("w+b" if create else "r+b") as file:
                file.truncate(self.size)
                self.memory = mmap.mmap(file.fileno(), self.size)
        self.bytes = np.frombuffer(self.memory, dtype=np.uint8)
        self.end = 0

    def clear(self) -> None:
        """Free all places."""
        self.bytes[: self.end] = 0xFF
        self.end = 0

    def place(self, shape: Sequence[int], dtype: str, layout: str = "contiguous") -> Place:
        """Reserve memory for a tensor, between fences of 0xFF."""
        strides, span, first = strides_of(layout, shape)
        size = (span + 2 * FENCE) * getattr(torch, dtype).itemsize
        begin, self.end = self.end, self.end + -(-size // 64) * 64
        if self.end > self.size:
            raise MemoryError(f"an arena of {self.size} bytes is full")
        self.bytes[begin : self.end] = 0xFF
        return Place(dtype, list(shape), strides, first, span, begin)

    def tensor(self, place: Place | list[Any]) -> Tensor:
        """Return the tensor at a place, in the shared memory."""
        dtype, shape, strides, first, span, offset = place
        flat = torch.frombuffer(self.memory, dtype=getattr(torch, dtype), count=span + 2 * FENCE, offset=offset)
        return flat.as_strided(shape, strides, FENCE + first)


def bytes_for(shape: Sequence[int], dtype: str, layout: str = "contiguous") -> int:
    """Return the bytes that a tensor takes in an arena."""
    return (strides_of(layout, shape)[1] + 2 * FENCE) * getattr(torch, dtype).itemsize + 64
