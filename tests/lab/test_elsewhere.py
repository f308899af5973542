"""The kernels from elsewhere in docs/kernels: they pass the check, or are refused where they cannot run."""

from __future__ import annotations

import ast
import shutil
import sys

import pytest
import torch

from minidistil.cli.main import main
from minidistil.lab import gate
from minidistil.lab.worker import ChildWorker
from support.places import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = ROOT / "docs" / "kernels"
NEEDS_CUDA = {  # file: package
    "hub.py": "kernels",
    "liger.py": "liger_kernel",
    "flash_attention.py": "flash_attn",
    "helion_tiles.py": "helion",
}
CPP = pytest.mark.skipif(
    sys.platform == "win32" or not (shutil.which("g++") and shutil.which("ninja")),
    reason="load_inline needs g++ and ninja",
)
TENSORS = """
from torch.utils.cpp_extension import load_inline
from minidistil.lab import implementation

SOURCE = '''
using torch::Tensor;
Tensor add_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, double eps) {
  auto sum = x + residual;
  auto centered = sum - sum.mean(-1, true);
  return centered * torch::rsqrt(centered.square().mean(-1, true) + eps) * weight + bias;
}
'''
module = load_inline("minidistil_add_norm_of_tensors", SOURCE, functions=["add_norm"])
implementation("add_norm", "C++ tensors", needs=("cpu",), dtypes=("float32",))(
    lambda x, residual, weight, bias, eps: module.add_norm(x, residual, weight, bias, eps)
)
"""


def verdict(path, **options):
    worker = ChildWorker(str(path))
    try:
        [each] = worker.loaded
        return gate.check(each, worker, quick=True, draws=1, **options)
    finally:
        worker.close()


@pytest.mark.parametrize("name", ["custom_op.py", pytest.param("cpp.py", marks=CPP), "numba_loop.py"])
def test_a_kernel_from_elsewhere_passes(name):
    if name == "numba_loop.py":
        pytest.importorskip("numba")
    result = verdict(FILES / name, dtypes=["float32"])
    assert (result.passed, result.checks > 10) == (True, True), "\n".join(gate.show(result))


@CPP
@pytest.mark.slow
def test_a_function_of_tensors_in_cpp_passes(tmp_path):
    """Its headers take most of a minute to compile."""
    (tmp_path / "mine.py").write_text(TENSORS, encoding="utf-8")
    assert verdict(tmp_path / "mine.py").passed


@pytest.mark.parametrize("name", NEEDS_CUDA)
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_kernel_for_gpus_is_skipped_with_its_reason_without_its_package(name, capsys):
    assert main(["lab", "check", str(FILES / name)]) == 0
    assert "cannot run here: no CUDA device is available" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.parametrize("name", NEEDS_CUDA)
def test_a_kernel_for_gpus_passes(name):
    pytest.importorskip(NEEDS_CUDA[name])
    result = verdict(FILES / name)
    assert result.passed, "\n".join(gate.show(result))


def test_the_page_lists_every_file():
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    for path in FILES.glob("*.py"):
        assert f"](kernels/{path.name})" in page
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
