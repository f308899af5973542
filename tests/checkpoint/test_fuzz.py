"""Damaged checkpoints are loaded or refused, within limits of time and memory."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterable

import pytest

from support.fuzz.cases import TARGETS, make
from support.fuzz.worker import FAULTS, MAX_GROWTH, Worker, outcomes

linux = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux to measure memory")
LOADED = {  # minimum share of cases that load; 0.1 for other targets
    "safetensors: length": 0.0,  # only the right length loads
    "safetensors: header": 0.01,  # nearly every value must be right
    "zip: pickle": 0.05,
}


def check(cases: Iterable[int]) -> Counter[tuple[str, str]]:
    """Run cases, check that each is loaded or refused, and count the outcomes per target."""
    counts: Counter[tuple[str, str]] = Counter()
    broken = []
    for outcome in outcomes(cases):
        name, _, content, _ = make(outcome.case)
        if outcome.crc:  # made in the process of the worker
            assert outcome.crc == zlib.crc32(content[TARGETS[name].file]), outcome
        counts[outcome.target, outcome.kind] += 1
        if outcome.kind not in ("logits", "refused"):
            broken.append(f"{outcome}\n{outcome.details}")
    repeat = "`PYTHONPATH=tests python -m support.fuzz NUMBER` repeats one"
    assert not broken, f"{len(broken)} cases; {repeat}\n" + "\n".join(broken)
    return counts


@pytest.mark.full
@linux
def test_200_damaged_checkpoints_are_loaded_or_refused() -> None:
    counts = check(range(200))
    kinds: Counter[str] = Counter()
    for (_, kind), count in counts.items():
        kinds[kind] += count
    assert kinds["refused"] >= 60
    assert kinds["logits"] >= 20


@pytest.mark.slow
@linux
def test_2000_damaged_checkpoints_are_loaded_or_refused() -> None:
    counts = check(range(2000))
    for target in TARGETS:
        loaded, refused = counts[target, "logits"], counts[target, "refused"]
        assert abs(loaded + refused - 2000 / len(TARGETS)) < 1, target
        assert refused >= 0.3 * (loaded + refused), target
        assert loaded >= LOADED.get(target, 0.1) * (loaded + refused), target


@pytest.mark.full
def test_200_cases_cover_nearly_every_kind_of_damage() -> None:
    seen = {make(case)[:2] for case in range(200)}
    assert len(seen) > 150
    everything = {(name, damage) for name, target in TARGETS.items() for damage in target.damages}
    assert everything == seen | {make(case)[:2] for case in range(200, 300)}


@pytest.mark.full
def test_a_case_depends_on_its_number_only() -> None:
    made = [make(case) for case in range(60)]
    for case in reversed(range(60)):
        name, damage, content, before = make(case)
        assert (name, damage, content, before) == made[case]
        assert content[TARGETS[name].file] != before
    assert len({str(sorted(content.items())) for _, _, content, _ in made}) == 60


@pytest.mark.slow
@linux
def test_a_worker_reports_bugs_and_continues() -> None:
    expected = {
        -1: "killed by signal 6",
        -2: "hang",
        -3: "too slow",
        -4: "too much memory",
        -5: "too much memory",
        -6: "refused",
        -7: "builtins.BaseException",
        -8: "builtins.ValueError",
    }
    assert expected.keys() == FAULTS.keys()
    with Worker() as worker:
        assert worker.run(0).kind == "refused"
        for case, kind in expected.items():
            worker.timeout = 2.0 if kind == "hang" else 60.0
            worker.max_growth = 2**28 if case == -5 else MAX_GROWTH
            assert worker.run(case).kind == kind
            assert worker.run(0).kind == "refused"
