"""Hostile checkpoints are loaded or refused within a second of CPU time and 1 GB of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.fuzz.hostile import HOSTILE
from support.fuzz.worker import Worker

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux to measure memory"),
]
LOADED = {  # the only hostile files that are good
    *(
        f"{file}: {kind}"
        for file in ("config.json", "tokenizer_config.json")
        for kind in ("NaN", "keys twice", "120,000 keys")
    ),
    "config.json: a string of 3 MB",
    "config.json: objects under long names",
    "config.json: 48 layers",
    "tokenizer_config.json: a string of 3 MB",
    "tokenizer_config.json: a maximum length of 10**400",
    "tokenizer.json: 9,000 added tokens",
    "tokenizer.json: 9,000 added tokens with spaces",
    "tokenizer.json: 9,000 added tokens with spaces that are not normalized",
    "tokenizer.json: long added tokens with spaces",
    "tokenizer.json: padding to 10**9",
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_loaded_or_refused(worker: Worker, name: str) -> None:
    outcome = worker.run(name)
    assert outcome.kind == ("logits" if name in LOADED else "refused"), f"{outcome}\n{outcome.details}"
