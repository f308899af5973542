"""Hold out about one pair in 36, with all pairs of a premise on the same side. The recipe was chosen on them.

python split.py train.jsonl.gz --train kept.jsonl.gz --held-out held.jsonl.gz
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from typing import Any


def held_out(row: dict[str, Any]) -> bool:
    """Return whether a pair is held out. Depends on the premise only, so its pairs stay together."""
    return hashlib.sha256(row["premise"].strip().lower().encode()).digest()[0] < 7


def read(path: str) -> list[dict[str, Any]]:
    """Return the rows of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def main() -> None:
    """Write the training pairs and the held-out pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--train", required=True)
    parser.add_argument("--held-out", required=True)
    given = parser.parse_args()
    rows = read(given.data)
    for path, side in ((given.train, False), (given.held_out, True)):
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows if held_out(row) is side)


if __name__ == "__main__":
    main()
