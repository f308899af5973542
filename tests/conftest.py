"""Settings, hooks and fixtures of all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

import minidistil
from support.errors import RAISED, Message, unraised

WHOLE = pytest.StashKey[bool]()  # whether the whole suite runs
NEVER = pytest.StashKey[list[Message]]()  # errors of the package that no test raised

hypothesis.settings.register_profile("no deadline", deadline=None)  # machines differ, and no test asserts a time
hypothesis.settings.load_profile("no deadline")
hypothesis.settings.register_profile("few examples", deadline=None, max_examples=10)
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the real Hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, as torch.compile does


initialize = minidistil.Error.__init__


def _record(error: minidistil.Error, message: str, *, subject: str | None = None) -> None:
    initialize(error, message, subject=subject)
    RAISED.add((type(error).__name__, str(error)))


minidistil.Error.__init__ = _record  # type: ignore[method-assign]


def pytest_configure(config: pytest.Config) -> None:
    """Use one thread in each of several test processes, and few examples per property in the fast subset."""
    if config.getoption("numprocesses", None):
        os.environ["OMP_NUM_THREADS"] = "1"  # NumPy reads it when it is imported
    if "not full" in config.option.markexpr:
        hypothesis.settings.load_profile("few examples")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without garbage collection, which would take 2 s because transformers is large."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Mark the tests that `-m "not full"` skips, and record whether the whole suite runs."""
    seen: set[str] = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if test in seen or item.get_closest_marker("slow"):  # the first case of a parametrized test is not full
            item.add_marker("full")
        else:
            seen.add(test)
    files = {item.path for item in items}
    option = session.config.option
    every_test = not option.keyword and option.markexpr == "not slow" and not option.collectonly
    session.config.stash[WHOLE] = every_test and files >= set(Path(__file__).parent.rglob("test_*.py"))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail if the whole suite passed, but no test raised some error of the package."""
    config = session.config
    whole = config.stash.get(WHOLE, False)
    if hasattr(config, "workeroutput"):  # a worker of pytest-xdist: the controller decides
        config.workeroutput["errors"] = (whole, sorted(RAISED))
    elif exitstatus == pytest.ExitCode.OK and whole and (never := unraised(RAISED)):
        config.stash[NEVER] = never
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the errors that a worker process raised."""
    whole, raised = getattr(node, "workeroutput", {}).get("errors", (False, []))
    node.config.stash[WHOLE] = whole
    RAISED.update(map(tuple, raised))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List the errors that no test raised."""
    if never := config.stash.get(NEVER, []):
        terminalreporter.section("errors that no test raised", red=True)
        for message in never:
            terminalreporter.line(f"{message.module}: {message.text}")


@pytest.fixture(autouse=True)
def _skip_without_cuda(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run with one thread: several threads make small models slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a CPU for which oneDNN has no bfloat16 matmul."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)


@pytest.fixture(autouse=True)
def _progress_bars():
    """Enable progress bars, which other tests disable through transformers."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    if disabled:
        enable_progress_bars()
    yield
    if disabled:
        disable_progress_bars()
