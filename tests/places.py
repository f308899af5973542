"""Where things lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("MINIDISTIL_SHARED", ROOT.parent / "shared"))  # too large for the repository
MINILM = SHARED / "weights" / "minilm-l6-mnli"  # six layers, 384 wide, fine-tuned on NLI
needs_minilm = pytest.mark.skipif(not MINILM.is_dir(), reason=f"the real checkpoint is not at {MINILM}")
