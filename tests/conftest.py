"""What every test file shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from errors import RAISED

import minidistil

hypothesis.settings.register_profile("no deadline", deadline=None)  # machines differ; no test asserts a time
hypothesis.settings.load_profile("no deadline")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the real Hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, as torch.compile does


def _record(error: minidistil.Error, *arguments: object) -> None:
    ValueError.__init__(error, *arguments)
    RAISED.add((type(error).__name__, str(error)))


minidistil.Error.__init__ = _record  # type: ignore[method-assign]


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Put what judges the whole suite last, and leave it out where only a part runs."""
    files = {item.path for item in items}
    whole = files >= set(Path(__file__).parent.glob("test_*.py")) and not session.config.option.keyword
    for item in [item for item in items if item.get_closest_marker("after_all_others")]:
        items.remove(item)
        items.append(item)
        if not whole:
            item.add_marker(pytest.mark.skip(reason="only the whole suite can tell"))


@pytest.fixture(autouse=True)
def _skip_without_cuda(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small models slow where the machine has other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
