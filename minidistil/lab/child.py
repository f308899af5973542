"""The child process that holds the user's file: a `Server` that reads requests from stdin."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from . import registry, state
from .server import Server


class ChildServer(Server):
    """A server that loads a file."""

    def __init__(self) -> None:
        super().__init__(lambda op, name: registry.find(op, name).value)

    def do_load(self, path: str, threads: int) -> dict[str, Any]:
        """Load the user's file; without one, the built-in implementations."""
        torch.set_num_threads(threads)
        registry.implementations()
        self.folder = str(Path(path).resolve().parent) if path else ""
        self.settings, self.functions = state.settings(), state.functions()
        try:
            loaded = registry.load(path) if path else []
        except InputError as error:
            return {"usage": str(error)}
        if not state.changed_settings(self.settings):  # which `answer` reports
            self.do_state()
        return {"loaded": [each.as_json() for each in loaded]}


def main() -> None:
    """Serve until stdin closes: a request is a line of JSON. Replies go to what was stdout."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the user's code prints goes to stderr
    server = ChildServer()
    for line in requests:
        replies.write(json.dumps(server.answer(json.loads(line))) + "\n")
        replies.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of the user's code must not keep the process alive
