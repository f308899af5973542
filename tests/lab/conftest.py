"""Fixtures of the tests of the lab: forked children, small shapes and few checks."""

from __future__ import annotations

import pytest

from minidistil.benchmarks import measure
from minidistil.lab import gate, implementations, registry, server, suites, timer, workloads
from support.forked import fork_children

SMALL = {"WIDTH": 24, "HIDDEN": 48, "HEADS": 2, "WORDS": 50, "POSITIONS": 16}
SMALL |= {"LENGTHS": ([3], [2, 5]), "EQUAL": [4] * 2}
SMALL |= {"LINEAR_SHAPES": {"qkv": [(24, 24)], "linear": [(24, 24), (48, 24)], "linear_gelu": [(24, 48)]}}


@pytest.fixture
def small_shapes(monkeypatch, one_thread):
    """Use small shapes, small buffers and two quick cases; undo registrations after the test."""
    implementations()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    quick_cases = suites.quick_cases
    monkeypatch.setattr(suites, "quick_cases", lambda op: quick_cases(op)[:2])
    monkeypatch.setitem(gate.DRAWS, "quick", 0)
    for name, value in SMALL.items():
        monkeypatch.setattr(workloads, name, value)
    monkeypatch.setattr(server, "FLUSHED_BYTES", {"cpu": 2**12, "cuda": 2**12})
    monkeypatch.setattr(measure, "MATMUL_ROWS", 8)
    monkeypatch.setattr(measure, "COPY_BYTES", {"cpu": 2**12, "cuda": 2**12})


@pytest.fixture
def small_lab(monkeypatch, small_shapes):
    """Use what `small_shapes` does, and withdraw no time: copies of a few bytes are slow."""
    monkeypatch.setattr(timer, "CEILING", 1e9)


@pytest.fixture(autouse=True)
def forked_children(request, monkeypatch):
    """Fork the children of the lab from this process, unless a test asks for `new_process`."""
    if "new_process" not in request.fixturenames:
        fork_children(monkeypatch)


@pytest.fixture
def new_process():
    """Start children of the lab as users do."""
