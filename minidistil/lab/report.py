"""Text reports of the lab's measurements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .server import FLUSHED_BYTES

NOISY = 0.25  # interquartile range / median of times above which a speedup is marked as unreliable


def add_speeds(rows: dict[str, Any]) -> None:
    """Add each implementation's speed relative to plain PyTorch, and whether it is unreliable."""
    for row in rows.values():
        for cache, timed in row.items():
            plain = rows.get("torch", row)[cache]
            timed["speed"] = plain["seconds"] / timed["seconds"] if "torch" in rows else None
            timed["noisy"] = any(each["spread"] > NOISY * each["seconds"] for each in (timed, plain))


def header(report: dict[str, Any]) -> Iterator[str]:
    """Yield the header of a `bench` report: the machine, and a legend of the table."""
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    yield f"{report['op']} in {report['dtype']}; {report['machine']}, {threads}; torch {report['torch']}"
    copies, matmuls = (rate / 1e9 for rate in report["ceilings"].values())
    yield f"ceilings: copy {copies:.1f} GB/s, matmul {matmuls:,.0f} GFLOP/s"
    flushed = FLUSHED_BYTES[report["device"]] >> 20
    yield f"cold: after writing {flushed} MB to flush the caches; warm: right after the same call"
    yield "of bound: lower bound of the time at these ceilings / time; above 100% with warm caches or 8 bits"
    yield f"speed: relative to torch; ? marks an IQR above {NOISY:.0%} of the time (busy machine)"


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the rest of a `bench` report: skipped and rejected implementations, and a table per case."""
    reasons = {name: f"skipped: {reason}" for name, reason in report["skipped"].items()} | report["rejected"]
    names = {*reasons, *(name for case in report["cases"].values() for name in case["rows"])}
    width = max(map(len, names), default=0)
    yield from (f"  {name:<{width}}  {reason}" for name, reason in reasons.items())
    for title, case in report["cases"].items():
        cost = f"{case['bytes'] / 1e6:,.2f} MB, {case['operations'] / 1e6:,.1f} MFLOP"
        yield f"\n{title}: {cost}, at least {case['bound'] * 1e3:.4f} ms, bound by {case['bound by']}"
        columns = f"{'IQR':>9} {'of bound':>8} {'speed':>7}"
        yield f"  {'':<{width}} {'cold ms':>10} {columns}   {'warm ms':>10} {columns}"
        for name, row in sorted(case["rows"].items(), key=lambda item: item[1]["cold"]["seconds"]):
            yield f"  {name:<{width}} {_cells(row['cold'])}   {_cells(row['warm'])}"


def _cells(timed: dict[str, Any]) -> str:
    speed = "" if timed["speed"] is None else f"{timed['speed']:.2f}{'?' if timed['noisy'] else 'x'}"
    return f"{timed['seconds'] * 1e3:10.4f} {timed['spread'] * 1e3:9.4f} {timed['share']:8.0%} {speed:>7}"


def in_model_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report of `bench_model`."""
    yield f"{report['op']} {report['name']} in {report['model']}, {report['dtype']}; {report['machine']}"
    yield f"{report['examples']} examples, {report['tokens']:,} tokens, {report['batches']} batches"
    pairs = zip(report["seconds"], report["spread"], strict=True)
    before, after = (f"{seconds * 1e3:.1f} ms (IQR {spread * 1e3:.1f})" for seconds, spread in pairs)
    rows = [
        ("share of the model's time in this operation", f"{report['share']:.1%}", ""),
        ("speed of the operation, relative to torch", f"{report['speed of the operation']:.2f}x", ""),
        ("speed of the model, by Amdahl's law", f"{report['speed allowed']:.2f}x", ""),
        ("speed of the model, measured", f"{report['speed']:.2f}x", f"{before} to {after}"),
        ("largest change of a logit", f"{report['largest change']:.1e}", ""),
        (report["metric"], f"{report['score'][0]:.4f}", f"to {report['score'][1]:.4f}"),
    ]
    yield from (f"  {label:<42} {value:>8}  {more}".rstrip() for label, value, more in rows)
