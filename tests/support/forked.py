"""Child processes of the lab that are forked from the process of the tests, which need not import torch again."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import types
from typing import Any

import pytest

from minidistil.lab import child, worker


class Forked:
    """What a `ChildWorker` uses of subprocess.Popen."""

    def __init__(self, command: list[str], **options: Any):
        requests, self.stdin = _pipe()
        self.stdout, replies = _pipe()
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            faulthandler.disable()  # pytest's prints the stack of a crash
            try:
                os.dup2(requests.fileno(), 0)
                os.dup2(replies.fileno(), 1)
                self.stdin.close()
                self.stdout.close()
                child.main()
            finally:
                os._exit(1)
        requests.close()
        replies.close()

    def poll(self) -> int | None:
        """Return the exit code, or None if the process runs."""
        return self._wait(os.WNOHANG)

    def wait(self, timeout: float = 0) -> int:
        """Wait for the end, and return the exit code."""
        code = self._wait(0)
        assert code is not None
        return code

    def _wait(self, options: int) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self) -> None:
        """End the process."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _pipe() -> tuple[Any, Any]:
    read, write = os.pipe()
    return os.fdopen(read, "r", encoding="utf-8"), os.fdopen(write, "w", encoding="utf-8")


def fork_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the children of the lab from this process."""
    if sys.platform == "linux":
        monkeypatch.setattr(worker, "subprocess", types.SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE))
