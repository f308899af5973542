"""Pipelines in forked and spawned processes, in other threads and in signal handlers."""

from __future__ import annotations

import contextlib
import http.server
import multiprocessing
import os
import signal
import socket
import threading
import urllib.parse
import urllib.request

import pytest
import torch

import minidistil
from minidistil import tokenizer as tokenizer_module
from support.places import OURS
from support.twins import assert_same

TEXT = "A man sleeps while it rains."
TEXTS = [TEXT, "It is dry.", "The team won. " * 30]
TIMEOUT = 60  # seconds; a child that waits for a thread of its parent waits for ever
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),  # Python 3.12 warns if there are threads
]


@pytest.fixture(scope="module")
def pipe():
    """Load the shipped float16 checkpoint with two threads, and answer, so that its weights are prepacked."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    pipe = minidistil.pipeline("text-classification", OURS, device="cpu")
    for _ in range(3):
        pipe(TEXTS)
    yield pipe
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def answers(pipe):
    return pipe(TEXTS)


def pool(method, processes=1):
    return multiprocessing.get_context(method).Pool(processes)


def forked(call):
    """Return the result of a call in a forked child."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(call()), daemon=True)
    child.start()
    try:
        assert receiver.poll(TIMEOUT), "the child hangs"
        return receiver.recv()
    finally:
        child.kill()
        child.join()


def test_a_forked_child_answers_with_the_model_of_its_parent(pipe, answers):
    assert_same(forked(lambda: pipe(TEXTS)), answers)


def test_a_forked_child_answers_with_a_model_that_its_parent_only_loaded(answers):
    torch.set_num_threads(2)
    new = minidistil.pipeline("text-classification", OURS, device="cpu")  # converted from float16 in two threads
    assert_same(forked(lambda: [new(TEXTS) for _ in range(3)][-1]), answers)


def test_a_forked_child_loads_a_model_of_its_own(pipe, answers):
    assert_same(forked(lambda: minidistil.pipeline("text-classification", OURS, device="cpu")(TEXTS)), answers)


def test_a_child_of_a_forked_child_answers(pipe, answers):
    def grandchild():
        pipe(TEXT)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if len(pipe(TEXTS)) == len(TEXTS) else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert forked(grandchild) == 0


def test_threads_of_a_forked_child_answer(pipe, answers):
    def threads():
        found = []
        workers = [threading.Thread(target=lambda: found.append(pipe(TEXTS))) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return found

    for found in forked(threads):
        assert_same(found, answers)


@pytest.mark.parametrize("work", ["tokenize", "answer"])
def test_a_fork_while_other_threads_work_does_not_hang_the_child(pipe, answers, work):
    stop = threading.Event()

    def run():
        while not stop.is_set():
            if work == "tokenize":
                pipe.tokenizer.encode(["A man sleeps. " * 100] * 20, max_length=8)
            else:
                pipe(TEXTS)

    workers = [threading.Thread(target=run) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(5):
            assert_same(forked(lambda: pipe(TEXTS)), answers)
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_a_pool_of_forked_processes_answers(pipe, answers):
    with pool("fork", 2) as workers:
        calls = [workers.apply_async(pipe, (TEXTS,)) for _ in range(4)]
        for call in calls:
            assert_same(call.get(TIMEOUT), answers)


@pytest.mark.full
def test_a_pool_of_spawned_processes_answers(pipe, answers):
    with pool("spawn") as workers:
        assert_same(workers.apply_async(pipe, (TEXTS,)).get(TIMEOUT), answers)


class Answers(torch.utils.data.Dataset):
    """A data set that answers each text with a pipeline."""

    def __init__(self, pipe):
        self.pipe = pipe

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, i):
        return self.pipe({"text": TEXTS[i]})


def first(batch):
    return batch[0]


def test_workers_of_a_data_loader_answer(pipe, answers):
    options = {"num_workers": 2, "multiprocessing_context": "fork", "timeout": TIMEOUT}
    loader = torch.utils.data.DataLoader(Answers(pipe), collate_fn=first, **options)
    assert_same(list(loader), answers)


def test_workers_of_a_server_that_loaded_the_model_before_it_forked_answer(pipe, answers):
    """Like gunicorn with preload_app and threads: the parent listens, and its children accept requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = urllib.parse.unquote(self.path.removeprefix("/"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(pipe({"text": text})["label"].encode())

        def log_message(self, *arguments):
            pass

    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        children = []
        for _ in range(2):
            if (pid := os.fork()) == 0:
                with contextlib.suppress(BaseException):
                    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
                    server.socket = listener
                    server.serve_forever()
                os._exit(1)
            children.append(pid)
        try:
            for _ in range(4):
                for text, answer in zip(TEXTS, answers, strict=True):
                    url = f"http://127.0.0.1:{listener.getsockname()[1]}/{urllib.parse.quote(text)}"
                    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                        assert response.read().decode() == answer["label"]
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


class Interrupted:
    """A tokenizer of the library that receives a signal just before it encodes."""

    def __init__(self, backend):
        self.backend = backend

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def encode_batch_fast(self, *arguments, **options):
        signal.raise_signal(signal.SIGUSR1)
        return self.backend.encode_batch_fast(*arguments, **options)


@pytest.mark.filterwarnings("ignore:texts longer than")
def test_a_signal_handler_may_call_the_pipeline_that_it_interrupts(pipe, answers, monkeypatch):
    found = []

    def handler(number, frame):
        monkeypatch.undo()
        found.append(pipe(TEXTS, max_length=3))

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        expected = pipe(TEXTS, max_length=3)
        monkeypatch.setattr(pipe.tokenizer, "backend", Interrupted(pipe.tokenizer.backend))
        assert_same(pipe(TEXTS), answers)  # truncated to the length of this call, not to that of the handler's
        assert_same(found, [expected])
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_signal_handler_may_fork(pipe, answers):
    found = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: found.append(forked(lambda: pipe(TEXTS))))
    try:
        with tokenizer_module.LOCK:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert_same(found, [answers])
