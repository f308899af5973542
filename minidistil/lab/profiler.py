"""Profile one call: a trace of PyTorch's profiler, and the number of kernel launches or operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

LONGEST = 5  # kernels to list


def profile_call(call: Callable[[], object], path: str, device: str) -> dict[str, Any]:
    """Call once for Nsight Compute and once with PyTorch's profiler. Write a trace, and return what ran.

    Returns "launches": kernels launched on CUDA, or operators of PyTorch that call no others on CPU; "seconds": of
    the longest ones, by name; "calls" of each.
    """
    activities = [ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.profiler.start()  # of `ncu --profile-from-start off`
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
    with profile(activities=activities) as measured:
        with record_function("call"):
            call()
        if device != "cpu":
            torch.cuda.synchronize()
    measured.export_chrome_trace(path)
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in measured.events():
        on_device = event.device_type.name != "CPU"
        if (
            on_device
            if device != "cpu"
            else (event.name.startswith(("aten::", "mkldnn::")) and not event.cpu_children)
        ):
            calls[event.name] += 1
            seconds[event.name] += (event.device_time_total if on_device else event.cpu_time_total) / 1e6
    longest = [
        {"name": name, "seconds": time, "calls": calls[name]} for name, time in seconds.most_common(LONGEST)
    ]
    return {"launches": sum(calls.values()), "longest": longest}
