"""A Hub on this machine: what huggingface_hub asks for to download a file, and nothing else.

A client is a fresh process, because huggingface_hub reads its environment once, when it is imported. It is
forked off one that has torch loaded, so that a test waits for its own work only. This module runs in both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LARGE = (".safetensors", ".bin", ".h5")  # what the Hub keeps elsewhere, and redirects to
METHODS = multiprocessing.get_all_start_methods()
CONTEXT: Any = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
CONTEXT.set_forkserver_preload(
    ["torch", "minidistil.checkpoint", "minidistil.pipelines", "httpx", "httpx2", "filelock", "yaml", "tqdm"]
)


@dataclasses.dataclass
class Repository:
    """One repository: commits, each with all its files, and branches that name commits."""

    token: str | None = None  # what a private repository asks for
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Make a commit that holds these files, and point a branch to it."""
        commit = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


class Hub:
    """The server, and what can go wrong with it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []  # what it was asked of repositories, such as "GET config.json"
        self.status: int | None = None  # answer everything with this error
        self.cut: str | None = None  # break off in the middle of this file
        self.after_get: Callable[[str], None] = lambda filename: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Stop answering, and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def downloads(self) -> list[str]:
        """The names of the files that were downloaded since the last call, in order."""
        names = [request.removeprefix("GET ") for request in self.requests if request.startswith("GET ")]
        self.requests.clear()
        return names


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        match = re.fullmatch(r"/(stored/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if self.hub.status is not None:
            return self.refuse(self.hub.status)
        if match is None:  # huggingface_hub's own affairs, such as what to name its user agent
            return self.refuse(404)
        stored, name, revision, filename = match.groups()
        self.hub.requests.append(f"{self.command} {filename}")
        repository = self.hub.repositories.get(name)
        authorization = self.headers.get("Authorization")
        if repository is None or (repository.token and authorization != f"Bearer {repository.token}"):
            return self.refuse(404 if authorization else 401, "RepoNotFound")
        if repository.gated:
            return self.refuse(403, "GatedRepo")
        commit = repository.branches.get(unquote(revision), unquote(revision))
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        if filename not in repository.commits[commit]:
            return self.refuse(404, "EntryNotFound", commit)
        content = repository.commits[commit][filename]
        etag = hashlib.sha256(content).hexdigest()
        if filename.endswith(LARGE) and not stored:
            where = f"{self.hub.url}/stored/{name}/resolve/{commit}/{filename}"
            linked = {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}
            return self.give(302, b"", False, {"Location": where, "X-Repo-Commit": commit, **linked})
        self.give(200, content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, cut=filename == self.hub.cut)
        if body:
            self.hub.after_get(filename)
        return None

    def refuse(self, status: int, code: str | None = None, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": commit}
        self.give(status, b"", False, {key: value for key, value in headers.items() if value})

    def give(self, status: int, content: bytes, body: bool, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A Hub that is stopped at the end."""
    hub = Hub()
    try:
        yield hub
    finally:
        hub.stop()


@dataclasses.dataclass
class Client:
    """A user with a cache: each call is another process."""

    endpoint: str
    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of this user's processes."""
        ours = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_")
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(ours) and not key.lower().endswith("_proxy")
        }
        return {
            **kept,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "TOKENIZERS_PARALLELISM": "false",
            **more,
        }

    def __call__(self, function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
        """Call a function in a new process, with its environment; what it raises is raised here."""
        enter = (self.environment(**environment),)
        with ProcessPoolExecutor(1, mp_context=CONTEXT, initializer=_enter, initargs=enter) as process:
            return process.submit(function, *arguments).result(timeout=120)


def _enter(environment: dict[str, str]) -> None:
    assert "huggingface_hub" not in sys.modules  # it has not read another environment before
    os.environ.clear()
    os.environ.update(environment)
    time.sleep = lambda seconds: None  # huggingface_hub waits between its retries


# What a client does


def load(name: str, **options: Any) -> float:
    """Load a model; its classifier's first bias tells whose it is."""
    import minidistil

    return minidistil.from_pretrained(name, **options).state_dict()["classifier.bias"][0].item()


def load_pinned(name: str, revision: str) -> float:
    return load(name, revision=revision)


def tokenize(name: str, text: str) -> list[int]:
    """Load a tokenizer, and encode."""
    import minidistil

    return minidistil.Tokenizer.from_pretrained(name).encode([text]).ids[0]


def zero_shot(name: str) -> dict[str, Any]:
    """Load a pipeline, and classify."""
    import minidistil

    pipe = minidistil.pipeline("zero-shot-classification", name, device="cpu")
    return pipe("the team won", candidate_labels=["a", "b"])


def command(*arguments: str) -> tuple[int, str, str]:
    """Run the command line: its exit status, and what it writes to stdout and stderr."""
    from minidistil.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(list(arguments))
    return status, out.getvalue(), err.getvalue()
