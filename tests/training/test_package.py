"""The package's public names are imported on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minidistil import training


@pytest.mark.full
def test_the_public_names_can_be_imported_and_cost_nothing():
    code = "import sys\nfrom minidistil.training.records import read_rows\nimport minidistil.training\n"
    code += "assert 'torch' not in sys.modules\nfrom minidistil.training import Recipe, evaluate, fine_tune\n"
    code += "print(Recipe().epochs, evaluate.__name__, fine_tune.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5 evaluate fine_tune\n"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'banana'"):
        _ = training.banana
