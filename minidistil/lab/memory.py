"""Peak memory of a call: on Linux that of the process, seen from outside; on CUDA PyTorch's counter."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from .worker import LocalWorker, Worker


def peak_bytes(worker: Worker, device: str, call: Callable[[], object]) -> int | None:
    """Return the bytes that a call allocates at its peak, results included, or None if they cannot be measured.

    Call it once before: the first call also allocates what later ones reuse.
    """
    if device != "cpu":
        worker.ask("memory", device=device)
        call()
        return int(worker.ask("memory", device=device)["peak"])
    worker.ask("memory", device=device)  # returns free memory to the system
    process = Path(f"/proc/{os.getpid() if isinstance(worker, LocalWorker) else worker.process.pid}")
    with contextlib.suppress(OSError):  # not on Linux
        (process / "clear_refs").write_text("5", encoding="ascii")  # resets the peak
        before = _kilobytes(process, "VmRSS")
        call()
        return 1024 * (_kilobytes(process, "VmHWM") - before)
    return None


def _kilobytes(process: Path, name: str) -> int:
    [value] = re.findall(rf"^{name}:\s+(\d+) kB", (process / "status").read_text(encoding="ascii"), re.MULTILINE)
    return int(value)
