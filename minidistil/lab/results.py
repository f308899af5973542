"""Times as lines of JSON, with the machine, versions, commit and seed, and a comparison with earlier ones."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError

KEY = ("op", "name", "dtype", "direction", "case", "cache")  # times that can be compared
MACHINE = ("device", "machine", "threads")
COMMON = (
    *("op", "dtype", "direction", *MACHINE),
    *("torch", "numpy", "python", "minidistil", "commit", "date", "seed"),
)
COSTS = ("case", "bytes", "operations", "bound")


def origin(file: str) -> dict[str, Any]:
    """Return the date, the versions, and the commit of the file's folder; by default of minidistil."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    versions = {"numpy": np.__version__, "python": platform.python_version(), "minidistil": __version__}
    return {"date": now, **versions, "commit": _commit(Path(file or __file__).resolve().parent)}


def _commit(folder: Path) -> str | None:
    """Return the Git commit of a folder, with "-dirty" after changes, or None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # Git is not installed
        return None
    return done.stdout.strip() or None


def rows_of(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each time of a `bench` report as a flat dict."""
    common = {name: report[name] for name in COMMON}
    for title, case in report["cases"].items():
        costs = {name: case[name] for name in COSTS}
        for name, row in case["rows"].items():
            memory = {"peak bytes": row["peak bytes"], "config": row["config"]}
            for cache in ("cold", "warm"):
                yield common | {"name": name, "title": title, "cache": cache} | row[cache] | memory | costs


def append_results(path: str, report: dict[str, Any]) -> None:
    """Append the times of a report to a file."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows_of(report))


def check_results(path: str | None) -> None:
    """Raise InputError if results cannot be written there. None is no file."""
    if path is not None and (Path(path).suffix != ".jsonl" or not Path(path).resolve().parent.is_dir()):
        raise InputError(f"cannot write {path}: expected a file name ending in .jsonl, in an existing folder")


def read_results(path: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the times in a file, by the values of `KEY`: the last one of each. Raises InputError."""
    results = {}
    try:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            results[tuple(row[name] for name in KEY)] = row
            if not isinstance(row["seconds"], float) or [name for name in COMMON if name not in row]:
                raise InputError(f"{path}, line {number}: expected a line that minidistil lab wrote with --out")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}, line {number}: expected a line that minidistil lab wrote with --out") from error
    return results


def compare(path: str, earlier: dict[tuple[Any, ...], dict[str, Any]], report: dict[str, Any]) -> Iterator[str]:
    """Yield each time of a report next to the earlier one, as text."""
    pairs = [(earlier.get(tuple(row[name] for name in KEY)), row) for row in rows_of(report)]
    known = [(old, new) for old, new in pairs if old is not None]
    yield f"\nagainst {path}: {len(known)} of {len(pairs)} times are there"
    commit = ""
    for old, new in known:
        where = f"  {old['date'][:10]}, commit {old['commit']}, torch {old['torch']}"
        if other := [f"{name} {old[name]}" for name in MACHINE if old[name] != new[name]]:
            where += f"; NOT COMPARABLE: {', '.join(other)}"
        if where != commit:
            yield (commit := where)
        title = f"{new['name']}, {new['title']}, {new['cache']}"
        times = f"{old['seconds'] * 1e3:.4f} ms to {new['seconds'] * 1e3:.4f} ms"
        yield f"  {title:<70} {times}  {old['seconds'] / new['seconds']:.2f}x"
