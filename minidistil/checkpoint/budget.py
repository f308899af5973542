"""What all files of a checkpoint's weights may take together, so that many small files cannot take long."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

LIMITS = {
    "bytes of headers": 2**20,  # of safetensors files, pickles and directories of archives; for 24 layers: 2**17
    "pickle opcodes": 50_000,  # for 24 layers: 20,000
}


class Budget:
    """Counts what the files of one checkpoint take."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(LIMITS, 0)

    def spend(self, path: Path, unit: str, number: int) -> None:
        """Count some more. Raises CheckpointError, which names the file, beyond the limit."""
        self.spent[unit] += number
        if self.spent[unit] > LIMITS[unit]:
            raise CheckpointError(f"{path} has too many {unit}: expected at most {LIMITS[unit]:,} in all files")
