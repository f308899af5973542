"""A local Hub server, which implements only the requests that huggingface_hub makes to download a file.

As on the Hub, large files are on another host, which accepts no token, and broken downloads can be resumed.

A client is a new process, because huggingface_hub reads its environment once, when it is imported. It is forked
from a process that has imported torch, to save time. Both processes import this module.
"""

from __future__ import annotations

import collections
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
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch

LARGE = (".safetensors", ".bin", ".h5")  # files that the Hub redirects to another host
METHODS = multiprocessing.get_all_start_methods()
CONTEXT: Any = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
PRELOADED = ["pytest", "torch", "minidistil.pipelines.inference", "minidistil.cli.main"]
PRELOADED += ["httpx", "httpx2", "httpcore", "httpcore2", "truststore", "filelock", "yaml", "tqdm.auto"]
CONTEXT.set_forkserver_preload(PRELOADED)


def etag_of(content: bytes, large: bool = True) -> str:
    """Return the ETag of a file's content: a SHA-256, or the hash of git's blob."""
    return (hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)).hexdigest()


@dataclasses.dataclass
class Repository:
    """A repository: commits with their files, and branches that point to commits."""

    token: str | None = None  # needed to read a private repository
    gated: bool = False
    moved_to: str | None = None  # the new name of a renamed repository
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Create a commit with these files, and point a branch to it."""
        commit = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


class Hub:
    """The server, with faults that tests can set."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []  # such as "GET config.json"
        self.sent: collections.Counter[str] = collections.Counter()  # bytes per file
        self.status: int | None = None  # the status of all responses
        self.errors: dict[str, list[int]] = {}  # request -> statuses of the next responses
        self.cuts: collections.Counter[str] = collections.Counter()  # file -> number of downloads to break off
        self.wrong: set[str] = set()  # files that are sent with a wrong byte
        self.moved: dict[str, str] = {}  # file -> another commit that responses name
        self.etags: Callable[[str], str] = str  # changes the ETags that responses have
        self.expired: str | None = None  # an expired token
        self.after_get: Callable[[str], None] = lambda filename: None
        bound = type("Bound", (Handler,), {"hub": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), bound) for _ in range(2)]
        self.url, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop answering, and free the ports."""
        for server, thread in zip(self._servers, self._threads, strict=True):
            if thread.is_alive():
                server.shutdown()
                server.server_close()
                thread.join()

    def downloads(self) -> list[str]:
        """Return the names of the files that were downloaded since the last call, in order."""
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
        match = re.fullmatch(r"/(stored/)?((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if self.hub.status is not None:
            return self.refuse(self.hub.status)
        if match is None:  # requests for other purposes than files
            return self.refuse(404)
        stored, name, revision, filename = match.groups()
        request = f"{self.command} {filename}"
        self.hub.requests.append(request)
        if self.hub.errors.get(request):
            return self.refuse(self.hub.errors[request].pop(0))
        authorization = self.headers.get("Authorization")
        if stored:  # the storage host accepts no token
            return self.refuse(400) if authorization else self.send_file(name, unquote(revision), filename, body)
        if self.hub.expired and authorization == f"Bearer {self.hub.expired}":
            return self.reply(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.token and authorization != f"Bearer {repository.token}"):
            return self.refuse(404 if authorization else 401, "RepoNotFound")
        if repository.moved_to:
            return self.reply(307, {"Location": f"/{repository.moved_to}/resolve/{revision}/{filename}"})
        if repository.gated:
            return self.refuse(403, "GatedRepo")
        commit = repository.branches.get(unquote(revision), unquote(revision))
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        if filename not in repository.commits[commit]:
            return self.refuse(404, "EntryNotFound", commit)
        if filename.endswith(LARGE):
            content = repository.commits[commit][filename]
            where = f"{self.hub.storage}/stored/{name}/resolve/{commit}/{filename}"
            linked = {"X-Linked-ETag": f'"{self.hub.etags(etag_of(content))}"', "X-Linked-Size": str(len(content))}
            return self.reply(
                302, {"Location": where, "X-Repo-Commit": self.hub.moved.get(filename, commit), **linked}
            )
        return self.send_file(name, commit, filename, body)

    def refuse(self, status: int, code: str | None = None, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": commit}
        self.reply(status, {key: value for key, value in headers.items() if value})

    def send_file(self, name: str, commit: str, filename: str, body: bool) -> None:
        """Send a file, or the rest of it; if the download is to break off, only the first half."""
        content = self.hub.repositories[name].commits[commit][filename]
        size = len(content)
        headers = {
            "ETag": f'"{self.hub.etags(etag_of(content, filename.endswith(LARGE)))}"',
            "X-Repo-Commit": self.hub.moved.get(filename, commit),
            "Content-Disposition": f'inline; filename="{filename}";',
        }
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= size > 0:
            return self.reply(416, {"Content-Range": f"bytes */{size}"})
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.reply(206 if start else 200, {**headers, "Content-Length": str(size - start)})
        if body:
            cut = self.hub.cuts[filename] > 0
            self.hub.cuts[filename] -= cut
            part = content[start : (start + size) // 2 if cut else size]
            if filename in self.hub.wrong:
                part = bytes([part[0] ^ 1]) + part[1:]
            self.hub.sent[filename] += len(part)
            self.wfile.write(part)
            self.hub.after_get(filename)
        return None

    def reply(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Run a Hub, and stop it at the end."""
    hub = Hub()
    try:
        yield hub
    finally:
        hub.stop()


@dataclasses.dataclass
class Client:
    """A user with a cache. Each call runs in a new process."""

    endpoint: str
    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment variables of this user's processes."""
        prefixes = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_")
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(prefixes) and not key.lower().endswith("_proxy")
        }
        return {
            **kept,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "TOKENIZERS_PARALLELISM": "false",
            **more,
        }

    def __call__(self, function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
        """Call a function in a new process with this environment, and return its result or raise its exception."""
        enter = (self.environment(**environment),)
        with ProcessPoolExecutor(1, mp_context=CONTEXT, initializer=_enter, initargs=enter) as process:
            return process.submit(function, *arguments).result(timeout=120)


def _enter(environment: dict[str, str]) -> None:
    assert "huggingface_hub" not in sys.modules  # which would have read another environment
    os.environ.clear()
    os.environ.update(environment)
    time.sleep = waits.append  # huggingface_hub waits between its retries
    torch.set_num_threads(1)  # other tests may run beside these


# Functions that a client runs

waits: list[float] = []  # seconds that the process would have waited


def load_without_waiting(name: str) -> float:
    """Load a model that cannot be loaded, and return the seconds that it waited, or raise another error."""
    import minidistil

    try:
        minidistil.from_pretrained(name)
    except minidistil.CheckpointError as error:
        if "cannot reach the Hub" not in str(error):
            raise
    return sum(waits)


def load(name: str, **options: Any) -> float:
    """Load a model, and return the first bias of its classifier, which identifies the checkpoint."""
    import minidistil

    return minidistil.from_pretrained(name, **options).state_dict()["classifier.bias"][0].item()


def load_interrupted(name: str) -> bool:
    """Load a model, and return whether a Ctrl-C at the end of the download of its weights reached the caller."""
    import minidistil
    from minidistil.checkpoint import files

    verify = files.HubRepository._verify

    def interrupt(repository: Any, path: Path, filename: str, commit: str) -> None:
        if filename == "model.safetensors":
            raise KeyboardInterrupt
        verify(repository, path, filename, commit)

    files.HubRepository._verify = interrupt  # type: ignore[method-assign]
    try:
        minidistil.from_pretrained(name)
    except KeyboardInterrupt:
        return True
    return False


def warnings_of_loading(name: str) -> list[str]:
    """Load a model, and return its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(name)
    return [str(warning.message) for warning in caught]


def load_with(name: str, options: dict[str, Any]) -> float:
    """Load a model with options."""
    return load(name, **options)


def load_in(folder: str, name: str) -> float:
    """Load a model from another working directory."""
    os.chdir(folder)
    return load(name)


def load_pinned(name: str, revision: str) -> float:
    return load(name, revision=revision)


def checksum(tensors: Mapping[str, Any]) -> str:
    """Return a checksum of names and values."""
    return etag_of(b"".join(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors)))


def load_all(name: str) -> str:
    """Load a model, and return the checksum of its weights."""
    import minidistil

    return checksum(minidistil.from_pretrained(name).state_dict())


def tokenize(name: str, text: str) -> list[int]:
    """Load a tokenizer, and encode a text."""
    import minidistil

    return minidistil.Tokenizer.from_pretrained(name).encode([text]).ids[0]


def run_pipeline(task: str, name: str, arguments: dict[str, Any]) -> Any:
    """Load a pipeline, and call it."""
    import minidistil

    answer = minidistil.pipeline(task, name, device="cpu")(**arguments)
    return answer.tolist() if hasattr(answer, "tolist") else answer


def zero_shot(name: str) -> Any:
    """Load a zero-shot pipeline, and classify a text."""
    return run_pipeline(
        "zero-shot-classification", name, {"sequences": "the team won", "candidate_labels": ["a", "b"]}
    )


class Terminal(io.StringIO):
    """A stream whose isatty() returns True."""

    def isatty(self) -> bool:
        return True


def command(*arguments: str) -> tuple[int, str, str]:
    """Run the command line, and return its exit status, stdout and stderr."""
    return _command(arguments, io.StringIO())


def command_on_a_terminal(*arguments: str) -> tuple[int, str, str]:
    """Run the command line with stderr on a terminal."""
    return _command(arguments, Terminal())


def _command(arguments: Sequence[str], stderr: io.StringIO) -> tuple[int, str, str]:
    from minidistil.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(stderr) as err:
        status = main(list(arguments))
    return status, out.getvalue(), err.getvalue()
