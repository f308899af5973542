"""Interleaved measurement, rates and plots; no test asserts a time."""

from __future__ import annotations

import pytest

from minidistil.benchmarks import measure
from minidistil.benchmarks.measure import interquartile_range, is_known, take_turns


def recorded(order, i, times):
    times = iter(times)

    def call():
        order.append(i)
        return next(times)

    return call


def test_turns_rotate_and_the_first_round_is_a_warm_up():
    order = []
    calls = [lambda i=i: order.append(i) or len(order) for i in range(3)]
    results = take_turns(calls, 2, warm_up=1)
    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert results == [[6, 8], [4, 9], [5, 7]]


def test_measurement_ends_when_all_means_are_known():
    order = []
    calls = [recorded(order, 0, [1.0] * 99), recorded(order, 1, [1.0, 3.0] + [2.0] * 97)]
    runs = take_turns(calls, seconds=60)
    assert measure.MIN_ROUNDS < len(runs[0]) == len(runs[1]) < 99
    assert is_known(runs[1])
    assert not is_known(runs[1][:-1])
    assert order[:6] == [0, 1, 1, 0, 0, 1]


def test_measurement_ends_when_the_time_is_up():
    runs = take_turns([recorded([], 0, [1.0] * 9), recorded([], 1, [1.0, 9.0] * 9)], seconds=0)
    assert [len(times) for times in runs] == [measure.MIN_ROUNDS] * 2


def test_a_slow_call_is_repeated_less_often(monkeypatch):
    calls = []
    monkeypatch.setattr(measure, "seconds_of", lambda call, device: call() or 1.0)
    assert measure.least_seconds(lambda: calls.append(1), 10) == 1.0
    assert len(calls) == 1 + measure.ENOUGH_SECONDS
    calls.clear()
    assert measure.least_seconds(lambda: calls.append(1), 2) == 1.0
    assert len(calls) == 3


def test_the_interquartile_range_is_that_of_the_middle_half():
    assert interquartile_range([5.0]) == 0
    assert interquartile_range([100.0, 1.0, 3.0, 2.0, 4.0]) == 2


def test_the_copy_rate_is_a_rate(monkeypatch):
    monkeypatch.setattr(measure, "COPY_BYTES", {"cpu": 2**12})
    assert measure.copy_rate() > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_the_matmul_rate_counts_two_operations_per_weight_and_row(monkeypatch, dtype):
    monkeypatch.setattr(measure, "least_seconds", lambda call, repeats, device: call() is None or 0.5)
    assert measure.matmul_rate([(16, 32), (32, 8)], dtype, rows=64) == 2 * 64 * (16 * 32 + 32 * 8) / (0.5 + 0.5)


def test_peak_memory_is_in_megabytes():
    assert 50 < measure.peak_memory() < 1e6
