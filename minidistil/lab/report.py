"""Text reports of the lab's measurements."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from .server import FLUSHED_BYTES

NOISY = 0.25  # interquartile range / median of times above which a speedup is marked as unreliable


def add_speeds(rows: dict[str, Any]) -> None:
    """Add each implementation's speed relative to plain PyTorch, and whether it is unreliable."""
    for row in rows.values():
        for cache in ("cold", "warm"):
            timed, plain = row[cache], rows.get("torch", row)[cache]
            timed["speed"] = plain["seconds"] / timed["seconds"] if "torch" in rows else None
            timed["noisy"] = any(each["spread"] > NOISY * each["seconds"] for each in (timed, plain))


def header(report: dict[str, Any]) -> Iterator[str]:
    """Yield the header of a `bench` report: the machine, and a legend of the table."""
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    backward = " backward" if report["direction"] == "backward" else ""
    yield f"{report['op']}{backward} in {report['dtype']}; {report['machine']}, {threads}; torch {report['torch']}"
    copies, matmuls = (rate / 1e9 for rate in report["ceilings"].values())
    yield f"ceilings: copy {copies:.1f} GB/s, matmul {matmuls:,.0f} GFLOP/s"
    flushed = FLUSHED_BYTES[report["device"]] >> 20
    yield f"cold: after writing {flushed} MB to flush the caches; warm: right after the same call"
    yield "of bound: lower bound of the time at these ceilings / time; above 100% with warm caches or 8 bits"
    yield f"speed: relative to torch; ? marks an IQR above {NOISY:.0%} of the time (busy machine)"


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the rest of a `bench` report: skipped and rejected implementations, and a table per case."""
    yield from reasons(report)
    width = max((len(name) for case in report["cases"].values() for name in case["rows"]), default=0)
    for title, case in report["cases"].items():
        cost = f"{case['bytes'] / 1e6:,.2f} MB, {case['operations'] / 1e6:,.1f} MFLOP"
        yield f"\n{title}: {cost}, at least {case['bound'] * 1e3:.4f} ms, bound by {case['bound by']}"
        columns = f"{'IQR':>9} {'of bound':>8} {'speed':>7}"
        yield f"  {'':<{width}} {'cold ms':>10} {columns}   {'warm ms':>10} {columns}"
        for name, row in sorted(case["rows"].items(), key=lambda item: item[1]["cold"]["seconds"]):
            yield f"  {name:<{width}} {_cells(row['cold'])}   {_cells(row['warm'])}"


def reasons(report: dict[str, Any]) -> Iterator[str]:
    """Yield the implementations that are not timed, with reasons."""
    found = {name: f"skipped: {reason}" for name, reason in report["skipped"].items()} | report["rejected"]
    width = max(map(len, found), default=0)
    yield from (f"  {name:<{width}}  {reason}" for name, reason in found.items())


def sweep_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the rest of a report over the cases of a sweep: one table of cold times and speeds."""
    yield from reasons(report)
    width = max(map(len, report["cases"]), default=0)
    names = list(next(iter(report["cases"].values()))["rows"]) if report["cases"] else []
    yield f"\n{'':<{width}} {'bound ms':>10}" + "".join(f" {name[:17]:>18}" for name in names)
    for title, case in report["cases"].items():
        cells = (case["rows"][name]["cold"] for name in names)
        times = "".join(f" {timed['seconds'] * 1e3:10.4f} {_speed(timed):>7}" for timed in cells)
        yield f"{title:<{width}} {case['bound'] * 1e3:10.4f}{times}"


def _speed(timed: dict[str, Any]) -> str:
    return "" if timed["speed"] is None else f"{timed['speed']:.2f}{'?' if timed['noisy'] else 'x'}"


def _cells(timed: dict[str, Any]) -> str:
    return f"{timed['seconds'] * 1e3:10.4f} {timed['spread'] * 1e3:9.4f} {timed['share']:8.0%} {_speed(timed):>7}"


def in_model_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report of `bench_model`."""
    yield f"{report['op']} {report['name']} in {report['model']}, {report['dtype']}; {report['machine']}"
    yield f"{report['examples']} examples, {report['tokens']:,} tokens, {report['batches']} batches"
    pairs = list(zip(report["seconds"], report["spread"], strict=True))
    before, after = (f"{seconds * 1e3:.1f} ms (IQR {spread * 1e3:.1f})" for seconds, spread in pairs)
    busy = any(spread > NOISY * seconds for seconds, spread in pairs)
    rows = [
        ("share of the model's time in this operation", f"{report['share']:.1%}", ""),
        ("speed of the model, if it took no time", f"{report['most']:.2f}x", ""),
        ("speed of the model, measured", f"{report['speed']:.2f}{'?' if busy else 'x'}", f"{before} to {after}"),
        ("largest change of a logit", f"{report['largest change']:.1e}", ""),
        (report["metric"], f"{report['score'][0]:.4f}", f"to {report['score'][1]:.4f}"),
    ]
    yield from (f"  {label:<43} {value:>8}  {more}".rstrip() for label, value, more in rows)
    if len(report["rows"]) > 2:
        width = max(len(row["name"]) for row in report["rows"])
        yield f"  {'':<{width}} {'ms':>9} {'tokens/s':>10}  largest change of a logit"
        for row in report["rows"]:
            rates = f"{row['seconds'] * 1e3:9.1f} {row['tokens per second']:10,.0f}"
            yield f"  {row['name']:<{width}} {rates}  {row['largest change']:.1e}"


def profile_lines(measured: dict[str, Any], command: Sequence[str]) -> Iterator[str]:
    """Yield the report of `bench.profile`. command: the one that printed it."""
    what = "operators of PyTorch" if measured["device"] == "cpu" else "kernel launches"
    yield f"{measured['title']}: {measured['launches']} {what}"
    for row in measured["longest"]:
        yield f"  {row['seconds'] * 1e3:10.4f} ms  {row['calls']:4} x  {row['name'][:80]}"
    yield f"trace: {measured['trace']}, for ui.perfetto.dev"
    ncu = ["ncu", "--target-processes", "all", "--profile-from-start", "off", "--set", "full", "-o", "kernel"]
    yield f"Nsight Compute, on a GPU: {shlex.join([*ncu, *command])}"
