"""Measurement of time, memory and the machine's peak rates, for the benchmarks and the lab.

Shapes: T rows (tokens), K and N input and output width of a linear layer.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..backends import int8, onednn
from ..training.machine import processor

MIN_ROUNDS, MAX_ROUNDS = 5, 1000  # of `take_turns` with a time limit
PRECISION = 0.02  # relative standard error below which a mean is known well enough
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # size of the tensor that `copy_rate` copies
MATMUL_ROWS = 2048  # T of the matmuls that `matmul_rate` times
ENOUGH_SECONDS = 3.0
QUEUED_CALLS = 10  # calls in the CUDA queue ahead of a timed one, which hide its launch

Result = TypeVar("Result")


# Timers


def mark(device: str = "cpu") -> Any:
    """Return a time stamp: seconds on CPU, an event in the device's queue on CUDA."""
    if device == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Return the seconds between two time stamps. On CUDA, wait for the second one."""
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def seconds_of(call: Callable[[], Any], device: str = "cpu") -> float:
    """Time one call."""
    begin = mark(device)
    call()
    return seconds_between(begin, mark(device))


def least_seconds(call: Callable[[], Any], repeats: int, device: str = "cpu") -> float:
    """Return the shortest time of a call, after a warm-up call. On CUDA the launch is not counted.

    Slow calls are repeated less often, until their total reaches ENOUGH_SECONDS.
    """
    call()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < ENOUGH_SECONDS:
        for _ in range(QUEUED_CALLS if device == "cuda" else 0):
            call()
        seconds.append(seconds_of(call, device))
    return min(seconds)


# Interleaved measurement: a slow phase of the machine affects everything that is compared


def take_turns(
    calls: Sequence[Callable[[], Result]],
    rounds: int = MAX_ROUNDS,
    *,
    warm_up: int = 0,
    seconds: float | None = None,
) -> list[list[Result]]:
    """Call each function once per round, in an order that rotates, and return the results of each.

    Args:
        rounds: number of rounds, after `warm_up` rounds whose results are dropped.
        seconds: stop early after this time, or once the results, which must be times, have means known to 2 %;
            run at least `MIN_ROUNDS`.
    """
    results: list[list[Result]] = [[] for _ in calls]
    begin = time.perf_counter()
    for turn in range(-warm_up, rounds):
        if (
            seconds is not None
            and turn >= MIN_ROUNDS
            and (time.perf_counter() > begin + seconds or all(map(is_known, results)))  # type: ignore[arg-type]
        ):
            break
        for place in range(len(calls)):
            i = (warm_up + turn + place) % len(calls)
            result = calls[i]()
            if turn >= 0:
                results[i].append(result)
    return results


def is_known(times: Sequence[float]) -> bool:
    """Return whether the standard error of the mean is below 2 % of it."""
    return statistics.stdev(times) / math.sqrt(len(times)) < PRECISION * statistics.fmean(times)


def interquartile_range(times: Sequence[float]) -> float:
    """Return the interquartile range; 0 for a single time."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return high - low


# The machine


def default_device() -> str:
    """Return "cuda" if there is a CUDA device, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine_name(device: str = "cpu") -> str:
    """Return the name of the processor and system, or of the CUDA device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()}"


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return the description of the machine for reports."""
    threads = torch.get_num_threads()
    return {"device": device, "machine": machine_name(device), "threads": threads, "torch": torch.__version__}


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB, as Linux counts it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3


def copy_rate(device: str = "cpu") -> float:
    """Measure the rate of a copy in memory, in bytes per second, counting both reads and writes."""
    x = torch.ones(COPY_BYTES[device] // 4, device=device)
    out = torch.empty_like(x)
    return 2 * x.nbytes / least_seconds(lambda: out.copy_(x), 10, device)


def matmul_rate(
    shapes: Sequence[tuple[int, int]], dtype: str, device: str = "cpu", rows: int | None = None
) -> float:
    """Measure the rate of the fastest linear layers, in FLOP/s (int8: operations per second).

    Args:
        shapes: (K, N) of each layer; the rate is that of one call of each, by its fastest kernel.
        rows: T; the default is MATMUL_ROWS.
    """
    rows, operations, seconds = rows or MATMUL_ROWS, 0, 0.0
    with torch.no_grad():
        for inputs, outputs in shapes:
            operations += 2 * rows * inputs * outputs
            kernels = matmul_kernels(rows, inputs, outputs, dtype, device)
            seconds += min(least_seconds(kernel, 12, device) for kernel in kernels)
    return operations / seconds


def matmul_kernels(
    rows: int, inputs: int, outputs: int, dtype: str, device: str = "cpu"
) -> list[Callable[[], Any]]:
    """Return a call of each kernel that can compute a (T, K) by (K, N) matmul here."""
    kernels: list[Callable[[], Any]]
    if dtype == "int8":
        integers = torch.randint(-127, 128, (rows, inputs), dtype=torch.int8, device=device)  # (T, K)
        weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, device=device)  # (N, K)
        scale, bias = torch.rand(outputs, 1, device=device), torch.zeros(outputs, device=device)
        quantized = int8.prepare(int8.Linear8(weight, scale, bias))
        floats = integers.float()
        by_name: dict[str, Callable[[], Any]] = {
            "onednn": lambda: int8.by_onednn(integers, quantized),
            "int_mm": lambda: int8.by_int_mm(integers, quantized),
            "fbgemm": lambda: int8.multiply(floats, quantized),
            "float32": lambda: int8.linear(floats, quantized),
        }
        return [by_name[quantized.kernel]]
    x = torch.randn(rows, inputs).to(device, getattr(torch, dtype))  # (T, K)
    lin = torch.nn.Linear(inputs, outputs, device=device, dtype=x.dtype)
    kernels = [lambda: lin(x)]
    if onednn.works(x.device, x.dtype):
        prepacked = onednn.prepack(lin)
        kernels.append(lambda: onednn.linear(x, prepacked))
    return kernels
