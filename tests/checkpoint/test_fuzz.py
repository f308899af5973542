"""Whatever is wrong with a checkpoint's files, it loads or is refused, soon and in little memory."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterable

import pytest

from support.fuzz.cases import TARGETS, make
from support.fuzz.worker import GREED, SABOTAGE, Worker, outcomes

linux = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux to measure memory")
LOADED = {  # how large a share is loaded at least, where it is not a tenth
    "safetensors: length": 0.0,  # nothing but the true length can be
    "safetensors: header": 0.01,  # nearly all that it says has to be true
    "zip: pickle": 0.05,
}


def check(cases: Iterable[int]) -> Counter[tuple[str, str]]:
    """Run cases, none of which may break the promise, and count what came of each target."""
    counts: Counter[tuple[str, str]] = Counter()
    broken = []
    for outcome in outcomes(cases):
        name, _, content, _ = make(outcome.case)
        if outcome.crc:  # made in another process
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
def test_every_kind_of_damage_has_its_turn_in_200_cases() -> None:
    seen = {make(case)[:2] for case in range(200)}
    assert len(seen) > 150
    everything = {(name, damage) for name, target in TARGETS.items() for damage in target.damages}
    assert everything == seen | {make(case)[:2] for case in range(200, 300)}


@pytest.mark.full
def test_a_case_is_made_from_its_number_alone() -> None:
    made = [make(case) for case in range(60)]
    for case in reversed(range(60)):
        name, damage, content, before = make(case)
        assert (name, damage, content, before) == made[case]
        assert content[TARGETS[name].file] != before
    assert len({str(sorted(content.items())) for _, _, content, _ in made}) == 60


@pytest.mark.slow
@linux
def test_a_worker_notices_what_breaks_the_promise_and_goes_on() -> None:
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
    assert expected.keys() == SABOTAGE.keys()
    with Worker() as worker:
        assert worker.run(0).kind == "refused"
        for case, kind in expected.items():
            worker.patience = 2.0 if kind == "hang" else 60.0
            worker.greed = 2**28 if case == -5 else GREED
            assert worker.run(case).kind == kind
            assert worker.run(0).kind == "refused"
