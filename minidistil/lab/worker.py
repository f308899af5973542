"""Where an implementation runs: in a child process with a time limit, or in this process."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import Error, InputError
from .arena import Arena
from .registry import Implementation
from .server import Server

START_SECONDS = 120.0  # limit to import torch and the user's file
CALL_SECONDS = 60.0  # limit of one request
LEAST_BYTES = 2**24  # of an arena
FREE_BYTES = 2**30  # in memory, to place arenas there
CODE = "import sys; sys.path.append(sys.argv[1]); from minidistil.lab.child import main; main()"


class Rejected(Exception):  # noqa: N818
    """The reason for rejecting an implementation."""


class Died(Rejected):
    """The process of an implementation ended, or did not answer in time."""


class LocalWorker:
    """Runs implementations in this process. Their code could change the judge: use it for code that you trust."""

    def __init__(self, implementations: Sequence[Implementation]):
        values = {(each.op, each.name): each.value for each in implementations}
        self.server = Server(lambda op, name: values[op, name])
        self.arena, self.threads = Arena(0), torch.get_num_threads()

    def reserve(self, size: int) -> None:
        """Free all places, and make the arena at least this large."""
        self.server.do_free()
        if size > self.arena.size:
            self.arena = Arena(max(size, LEAST_BYTES))
        self.arena.clear()
        self.server.arena = self.arena

    def ask(self, do: str, limit: float | None = None, **request: Any) -> dict[str, Any]:
        """Return the reply to a request. Raises Rejected. There is no time limit."""
        return _checked(self.server.answer(json.loads(json.dumps({"do": do, **request}))))

    def close(self) -> None:
        """Free all inputs and results."""
        self.server.do_free()


class ChildWorker:
    """Runs the implementations of a file, and the built-in ones, in a child process."""

    def __init__(self, path: str = "", seconds: float = CALL_SECONDS):
        """Start the child, and load the file: `loaded` lists what it registers. Raises Rejected and InputError."""
        if path and (not path.endswith(".py") or not Path(path).is_file()):
            raise InputError(f"cannot read {path}: expected a Python file with a name that ends in .py")
        self.path, self.seconds, self.threads = path, seconds, torch.get_num_threads()
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True, dir=_folder_in_memory())
        self.arena, self.files = Arena(0), itertools.count()
        command = [sys.executable, "-P", "-c", CODE, str(Path(__file__).parents[2])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        self.replies: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            request = {"path": str(Path(path).resolve()) if path else "", "threads": self.threads}
            reply = self.ask("load", limit=START_SECONDS, **request)
            self._map(LEAST_BYTES)
            self.loaded = [Implementation.from_json(each) for each in reply.get("loaded", [])]
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.replies.put(line)
        self.replies.put("")  # the process ended

    def reserve(self, size: int) -> None:
        """Free all places, and make the arena at least this large."""
        if size > self.arena.size:
            self._map(size)
        self.ask("free")
        self.arena.clear()

    def _map(self, size: int) -> None:
        path = str(Path(self.folder.name) / f"arena{next(self.files)}")
        self.arena = Arena(size, path, create=True)
        self.ask("map", path=path, size=size)

    def ask(self, do: str, limit: float | None = None, **request: Any) -> dict[str, Any]:
        """Return the reply to a request. Raises Rejected, and Died without a reply within `limit` seconds."""
        assert self.process.stdin is not None
        limit = self.seconds if limit is None else limit
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.replies.get(timeout=limit)
        except queue.Empty:
            self.close()
            raise Died(f"it does not return within {limit:g} s") from None
        except (OSError, ValueError):  # a closed pipe, at its other end or at this one
            line = ""
        if not line:
            raise Died(f"its process ends with {self._exit()} before it returns a result")
        try:
            return _checked(json.loads(line))
        except ValueError as error:
            if isinstance(error, Error):
                raise
            self.close()
            raise Died("its process writes something else than results to the judge") from None

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self.process.poll() is None

    def restart(self) -> None:
        """Start the process again. Raises Rejected and InputError."""
        self.close()
        ChildWorker.__init__(self, self.path, self.seconds)

    def _exit(self) -> str:
        code = self.process.wait(5)
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
        return f"signal {-code}"

    def close(self) -> None:
        """End the child."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self.folder.cleanup()


Worker = LocalWorker | ChildWorker


def _checked(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise ValueError("expected a dict")
    if "usage" in reply:
        raise InputError(f"{reply['usage']}")  # of the process of the user's file
    if "error" in reply:
        raise Rejected("".join(c if c.isprintable() else " " for c in str(reply["error"]))[:500])
    return reply


def _folder_in_memory() -> str | None:
    """Return a folder whose files are not written to a disk, if it has enough space: Linux has one."""
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > FREE_BYTES else None


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Use this number of threads in this process: the judge's would compete with those of a child process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed_ask(worker: Worker, do: str, **request: Any) -> tuple[dict[str, Any], float]:
    """Return the reply to a request, and the seconds by the clock of this process."""
    begin = time.perf_counter()
    reply = worker.ask(do, **request)
    return reply, time.perf_counter() - begin
