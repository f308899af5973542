"""Check several implementations of one process, and print their verdicts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from ..errors import InputError
from ..training.progress import progress_bar
from .cases import parse
from .gate import DRAWS, Expectations, Verdict, check, runnable_dtypes, show
from .registry import DTYPES, Implementation
from .suites import CASES, quick_cases
from .worker import Died, LocalWorker, Worker, threads


def check_all(
    chosen: Sequence[Implementation],
    worker: Worker,
    *,
    quick: bool = False,
    case: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    stop: bool = False,
    quiet: bool = False,
    silent: bool = False,
) -> list[Verdict]:
    """Check implementations, except those that cannot run here. A process that ends is started again.

    Args:
        case: the name of the only case to check.
        dtype: the only dtype to check.
        quiet: show no progress on stderr.
        silent: do not print the verdicts.

    The other arguments are those of `check`. Raises InputError for an unknown dtype or case.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"--dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    dtypes = None if dtype is None else [dtype]
    verdicts, known = [], Expectations()
    for each in chosen:
        if (reason := each.lacks()) is not None:
            print(f"skipped   {each.title}: cannot run here: {reason}", file=sys.stderr)
            continue
        cases = None if case is None else [parse(each.op, case)]
        listed = cases or (quick_cases(each.op) if quick else CASES[each.op])
        drawn = 0 if cases else DRAWS["quick" if quick else "full"]
        total = len(runnable_dtypes(each, dtypes)) * (len(listed) + drawn)
        with threads(1), progress_bar(each.title, total, unit="case", leave=False, quiet=quiet) as bar:
            verdict = check(
                each,
                worker,
                quick=quick,
                cases=cases,
                dtypes=dtypes,
                seed=seed,
                stop=stop,
                expectations=known,
                progress=bar.update,
            )
        verdicts.append(verdict)
        if not silent:
            print(*show(verdict), sep="\n", flush=True)
        if not isinstance(worker, LocalWorker) and not worker.alive:
            with contextlib.suppress(Died):
                worker.restart()
    return verdicts
