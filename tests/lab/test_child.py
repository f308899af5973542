"""The process that holds the user's file: nothing that its code does reaches the judge."""

from __future__ import annotations

import sys

import pytest

from minidistil import InputError
from minidistil.cli.main import main
from minidistil.lab import gate, registry, skeletons
from minidistil.lab.cases import case
from minidistil.lab.worker import ChildWorker, Died, Rejected

pytestmark = pytest.mark.usefixtures("one_thread")
HEAD = """
import ctypes, os, sys, time
import torch, torch.nn.functional as F
from minidistil.lab import implementation

"""
BODY = """
@implementation("add_norm", "mine", dtypes=("float32",))
def add_norm(x, residual, weight, bias, eps):
    {}
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)
"""
REPLACES_THE_JUDGE = """
from minidistil.lab import gate, server, state, tolerance
gate.Trial.judge = lambda *arguments, **options: 0.0
gate.check = lambda *arguments, **options: None
tolerance.Expected.errors = lambda self, y: (0.0, 0.0)
server.Server._check = lambda *arguments: None
"""
SMALL = ["--case", "rows=9 width=100", "--quiet"]


@pytest.fixture
def write(tmp_path):
    def write(code, name="mine.py"):
        (tmp_path / name).write_text(code, encoding="utf-8")
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (HEAD + "sys.exit(0)\n" + BODY.format(""), "it calls sys.exit(0) (mine.py, line 6)"),
        (HEAD + BODY.format("sys.exit(0)"), "it calls sys.exit(0) (mine.py, line 9)"),
        (HEAD + BODY.format("os._exit(0)"), "its process ends with exit code 0 before it returns a result"),
        pytest.param(
            HEAD + BODY.format("ctypes.string_at(0)"),
            "its process ends with signal SIGSEGV before it returns a result",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals"),
        ),
        (HEAD + BODY.format("time.sleep(99)"), "it does not return within 2 s"),
        (HEAD + BODY.format("1 / 0"), "it raises ZeroDivisionError: division by zero (mine.py, line 9)"),
        (
            HEAD + REPLACES_THE_JUDGE + BODY.format("return torch.zeros_like(x)"),
            "the output has a relative error of 1.0e+00",
        ),
        (HEAD + "time.perf_counter = lambda: 0.0\n" + BODY.format(""), "it replaces time.perf_counter"),
        (
            HEAD + "torch.set_default_dtype(torch.float64)\n" + BODY.format(""),
            "it changes a setting of its process: the default dtype: torch.float32 became torch.float64",
        ),
        (HEAD + BODY.format("return torch.zeros_like(x)"), "the output has a relative error of 1.0e+00"),
    ],
    ids=["exit at import", "exit", "os._exit", "crash", "hang", "raises", "judge", "clock", "settings", "zeros"],
)
def test_the_exit_code_is_1_without_a_right_result(write, capsys, code, reason):
    limit = "2" if "sleep" in code else "60"
    assert main(["lab", "check", write(code), "--limit", limit, *SMALL]) == 1
    out = capsys.readouterr().out
    assert out.startswith("REJECTED")
    assert reason in out


def test_the_exit_code_is_0_for_a_right_kernel_and_2_for_a_wrong_command(write, capsys):
    path = write(HEAD + "print('printed by the file')\n" + BODY.format("print('and here')"))
    assert main(["lab", "check", path, *SMALL]) == 0
    assert capsys.readouterr().out.startswith("passed    add_norm mine: 2 checks")
    assert main(["lab", "check", path, "banana"]) == 2
    assert "has no implementation 'banana': expected one of mine" in capsys.readouterr().err
    assert main(["lab", "check", path, "--dtype", "int4"]) == 2
    assert "--dtype is 'int4': expected one of float32" in capsys.readouterr().err


@pytest.mark.usefixtures("new_process")
def test_a_replaced_judge_does_not_judge(write):
    """Even a file that also restores what it replaced, so that nothing is noticed, only delivers bytes."""
    hidden = "from minidistil.lab import gate\nold = gate.check\ngate.Trial.judge = lambda *a, **o: 0.0\n"
    worker = ChildWorker(write(HEAD + hidden + BODY.format("return torch.zeros_like(x)")))
    try:
        verdict = gate.check(worker.loaded[0], worker, cases=[case("add_norm", rows=3, width=4)])
    finally:
        worker.close()
    assert "the output has a relative error of" in verdict.findings[0].reason


def test_the_process_survives_a_large_case_and_ends_with_its_worker(write):
    worker = ChildWorker(write(HEAD + BODY.format("")))
    cases = [case("add_norm", rows=9, width=8), case("add_norm", rows=1500, width=768)]
    assert gate.check(worker.loaded[0], worker, cases=cases).passed
    assert worker.alive
    worker.close()
    assert not worker.alive
    with pytest.raises(Died, match="its process ends with signal SIGKILL"):
        worker.ask("state")


@pytest.mark.usefixtures("new_process")
def test_output_that_is_not_a_reply_is_a_failure(write):
    code = HEAD + BODY.format("[os.write(fd, b'nonsense\\n') for fd in range(3, 9) if _is_pipe(fd)]")
    code += "\ndef _is_pipe(fd):\n    try:\n        return os.path.exists(f'/proc/self/fd/{fd}') and 'pipe' in "
    code += "os.readlink(f'/proc/self/fd/{fd}')\n    except OSError:\n        return False\n"
    if sys.platform != "linux":
        pytest.skip("finds the pipe in /proc")
    worker = ChildWorker(write(code))
    verdict = gate.check(worker.loaded[0], worker, cases=[case("add_norm", rows=3, width=4)])
    worker.close()
    assert not verdict.passed


@pytest.mark.usefixtures("new_process")
def test_a_file_named_like_a_package_does_not_replace_it_and_helpers_can_be_imported(write):
    write("scale = 1.0", "my_helper.py")
    code = (
        HEAD + "import my_helper, triton\nassert hasattr(triton, 'jit')\n" + BODY.format("assert my_helper.scale")
    )
    worker = ChildWorker(write(code, "triton.py"))
    try:
        assert gate.check(worker.loaded[0], worker, cases=[case("add_norm", rows=3, width=4)]).passed
    finally:
        worker.close()


def test_a_function_that_cannot_be_called_like_the_operation_is_refused_at_registration():
    with pytest.raises(
        InputError, match=r"linear mine takes \(x, state, more\): expected .*lin: .* wrap functions"
    ):
        registry.implementation("linear", "mine")(lambda x, state, more: x)
    with pytest.raises(InputError, match="linear mine is int: expected a function, or a Prepared"):
        registry.implementation("linear", "mine")(3)


def test_a_rejected_request_leaves_the_worker_usable(write):
    worker = ChildWorker(write(HEAD + BODY.format("")))
    try:
        with pytest.raises(Rejected, match="it raises AttributeError"):
            worker.ask("nonsense")
        worker.ask("state")
    finally:
        worker.close()


@pytest.mark.full
@pytest.mark.parametrize("op", registry.OPERATIONS)
def test_a_skeleton_passes(tmp_path, monkeypatch, op):
    path = skeletons.write_skeleton(op, str(tmp_path / "mine.py"))
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    [each] = registry.load(path)
    verdict = gate.check(each, quick=True, draws=1, dtypes=["float32"])
    assert verdict.passed, "\n".join(gate.show(verdict))


def test_a_skeleton_does_not_overwrite_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "new", "add_norm"]) == 0
    assert (
        capsys.readouterr().out
        == "wrote my_add_norm.py: check it with minidistil lab check my_add_norm.py --quick\n"
    )
    assert main(["lab", "new", "add_norm"]) == 2
    assert "cannot write my_add_norm.py: expected the name of a new file" in capsys.readouterr().err
    with pytest.raises(InputError, match="unknown operation 'banana'"):
        skeletons.write_skeleton("banana")
