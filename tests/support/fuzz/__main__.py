"""Run cases: `PYTHONPATH=tests python -m support.fuzz 7` repeats case 7, and `0-199` runs two hundred."""

from __future__ import annotations

import sys

from support.fuzz.cases import TARGETS, make
from support.fuzz.worker import outcomes, work


def main() -> None:
    """Run the cases of the command line, 7 or 0-199, and print bugs; for a single case, print all outcomes."""
    counts: dict[str, dict[str, int]] = {}
    for argument in sys.argv[1:]:
        first, _, last = argument.partition("-")
        chosen = range(int(first), int(last or first) + 1)
        for outcome in outcomes(chosen):
            kinds = counts.setdefault(outcome.target, {})
            kinds[outcome.kind] = kinds.get(outcome.kind, 0) + 1
            if len(chosen) == 1 or outcome.kind not in ("logits", "refused"):
                print(outcome, outcome.details, sep="\n", flush=True)
        if len(chosen) == 1:
            name, _, content, before = make(int(first))
            show(before, content[TARGETS[name].file])
    for name, kinds in counts.items():
        print(f"{name}: {kinds}")


def show(before: bytes, after: bytes) -> None:
    """Print the parts of two files between their common beginning and end."""
    start = _shared(before, after)
    end = _shared(before[start:][::-1], after[start:][::-1])
    print(f"from byte {start}: {before[start : len(before) - end][:300]!r}")
    print(f"became: {after[start : len(after) - end][:300]!r}")


def _shared(a: bytes, b: bytes) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--work"] else main()
