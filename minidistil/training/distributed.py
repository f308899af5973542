"""Data-parallel training in the processes that torchrun starts."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..checkpoint.load import parse_device
from ..errors import InputError

TIMEOUT = datetime.timedelta(days=7)  # the other processes wait while the first evaluates


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a run: those that torchrun started, or only this one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """Return the processes that torchrun's environment variables describe."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def first(self) -> bool:
        """Return whether this process evaluates and writes: rank 0."""
        return self.rank == 0

    def device(self, device: str | torch.device | None) -> torch.device:
        """Return the device of this process. None: CUDA if available; "cuda": one GPU per process."""
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.count > 1 and str(device) == "cuda":
            device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
        parsed = parse_device(device)
        if parsed.type == "cuda":
            torch.cuda.set_device(parsed)
        return parsed

    @contextlib.contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Connect the processes, within a `with` block."""
        if self.count > 1:
            backend = "nccl" if device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(backend, timeout=TIMEOUT)
        try:
            yield
        finally:
            if self.count > 1:
                torch.distributed.destroy_process_group()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are averaged over the processes."""
        return nn.parallel.DistributedDataParallel(model) if self.count > 1 else model

    def share(self, batch: list[int]) -> list[int]:
        """Return this process's part of a batch."""
        return batch[self.rank :: self.count]

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def run_on_first(self, action: Callable[[], None], device: torch.device) -> None:
        """Call a function in the first process; if it raises, raise in every process."""
        failure: Exception | None = None
        if self.first:
            try:
                action()
            except Exception as error:
                failure = error
        if self.total(torch.tensor(float(failure is not None), device=device)).item():
            raise failure or InputError("the first process failed to start: see its error message")

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.count > 1:
            torch.distributed.barrier()


def no_sync(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context in which gradients accumulate without being exchanged."""
    wrapped = isinstance(module, nn.parallel.DistributedDataParallel)
    return module.no_sync() if wrapped else contextlib.nullcontext()  # type: ignore[operator]
