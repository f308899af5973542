"""Paths of the project."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("MINIDISTIL_SHARED", ROOT.parent / "shared"))  # too large for the repository
OURS = ROOT / "weights" / "minidistil-mnli"  # six layers, 384 wide, for natural-language inference
