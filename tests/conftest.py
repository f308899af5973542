"""What every test file shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("no deadline", deadline=None)  # machines differ; no test asserts a time
hypothesis.settings.load_profile("no deadline")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the real Hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork


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
