"""A process that loads damaged checkpoints, and its outcomes: logits, an error of minidistil, or a bug."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import mmap
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from support.fuzz import hostile
from support.fuzz.cases import TARGETS, make
from support.fuzz.checkpoints import Content, intact
from support.fuzz.hostile import HOSTILE
from support.fuzz.tables import TEXTS
from support.places import ROOT

SECONDS = 1.0  # limit of a case
GROWTH = 2**30  # limit of a case, in bytes of memory
TIMEOUT = 15.0  # seconds after which the process is killed
MAX_GROWTH = 2 * GROWTH  # bytes of growth at which the process is killed


class Outcome(NamedTuple):
    """The outcome of a case."""

    case: int | str  # the number of a damaged checkpoint, or the name of a hostile one
    target: str
    damage: str
    kind: str  # "logits", "refused", or a kind of bug
    message: str = ""
    seconds: float = 0.0
    growth: int = 0  # bytes
    crc: int = 0  # of the damaged file
    details: str = ""

    def __str__(self) -> str:
        cost = f"{self.seconds:.2f} s, {self.growth / 2**20:.0f} MiB"
        return f"case {self.case} ({self.damage} in {self.target}): {self.kind} after {cost}: {self.message}"


def answer(folder: Path) -> str:
    """Load a folder and classify texts: "logits", "not finite", or "refused: ..." with an error of minidistil."""
    import minidistil

    with contextlib.suppress(minidistil.Error):  # the pipeline works without a class in config.json
        minidistil.from_pretrained(folder)
    try:
        pipe = minidistil.pipeline("text-classification", folder, device="cpu")
        results = [pipe(TEXTS, top_k=None, function_to_apply=function) for function in (None, "none")]
    except minidistil.Error as error:
        return f"refused: {type(error).__name__}: {error}"
    scores = [label["score"] for rows in results for row in rows for label in row]
    return "logits" if scores and all(map(math.isfinite, scores)) else "not finite"


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _panic() -> None:
    raise BaseException("a panic of Rust is not an Exception")


def _compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


FAULTS: dict[int, Callable[[], object]] = {  # bugs that a worker must report, by negative case numbers
    -1: os.abort,
    -2: lambda: time.sleep(100),
    -3: lambda: _compute(1.1 * SECONDS),
    -4: lambda: bytearray(b"x") * int(1.1 * GROWTH),
    -5: lambda: [bytearray(b"x") * 2**20 for _ in range(2**16)],
    -6: lambda: mmap.mmap(-1, 4 * GROWTH),  # never touched, so no growth
    -7: _panic,
    -8: lambda: math.sqrt(-1),
}


def content_of(case: int | str) -> tuple[str, str, Content]:
    """Return the damaged file of a case, the damage, and all files."""
    if isinstance(case, str):
        return HOSTILE[case][2], case, hostile.make(case)
    name, damage, content, _ = make(max(case, 0))
    return name, damage, content


def run(case: int | str) -> Outcome:
    """Run a case in this process."""
    fault = FAULTS.get(case, lambda: None) if isinstance(case, int) else lambda: None
    name, damage, content = content_of(case)
    folder = Path(tempfile.mkdtemp())  # a new one, because files of the last may still be mapped
    try:
        for filename, part in content.items():
            (folder / filename).write_bytes(part)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
        before = _memory("VmRSS")
        start = time.process_time()  # other processes may be busy
        details = ""
        try:
            fault()
            result = answer(folder)
        except BaseException as error:  # a panic of Rust is not an Exception
            result = f"{type(error).__module__}.{type(error).__qualname__}: {str(error)[:500]}"
            details = traceback.format_exc()
        seconds = time.process_time() - start
        growth = _memory("VmHWM") - before
    finally:
        shutil.rmtree(folder)
    kind, _, message = result.partition(": ")
    kind = "too much memory" if growth > GROWTH else "too slow" if seconds > SECONDS else kind
    crc = zlib.crc32(content[TARGETS[name].file]) if isinstance(case, int) else 0
    return Outcome(case, name, damage, kind, message.replace(str(folder), "FOLDER"), seconds, growth, crc, details)


def work() -> None:
    """Read numbers of cases from stdin, run them, and write a line with each outcome."""
    import resource

    import torch

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries is not an outcome
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for target in TARGETS.values():
        for tokenizer in target.tokenizers:
            with tempfile.TemporaryDirectory() as name:
                for filename, part in intact(tokenizer, target.weights).items():
                    Path(name, filename).write_bytes(part)
                assert answer(Path(name)) == "logits", (tokenizer, target.weights, answer(Path(name)))
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=out, flush=True)


class Worker:
    """A process that runs cases. It is restarted if a case kills it."""

    def __init__(self) -> None:
        self.timeout, self.max_growth = TIMEOUT, MAX_GROWTH
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            self.place = tempfile.mkdtemp()  # temporary files, which a killed process leaves behind
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115
            paths = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {
                "PYTHONPATH": os.pathsep.join(paths),
                "TMPDIR": self.place,
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": "1",
            }
            command = [sys.executable, "-X", "utf8", "-m", "support.fuzz", "--work"]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**os.environ, **environment},
            )
            line = self._line(self.process, 300.0, 2**40)
            if line != b"ready\n":
                raise RuntimeError(f"the worker did not start: {line!r}\n{self.stop()}")
        return self.process

    def stop(self) -> str:
        """Stop the process, and return the end of its stderr."""
        if self.process is None:
            return ""
        process, self.process = self.process, None
        process.kill()
        process.communicate()
        shutil.rmtree(self.place)
        with self.errors:
            self.errors.seek(0)
            return self.errors.read().decode(errors="replace")[-3000:]

    def run(self, case: int | str) -> Outcome:
        process = self.start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(case).encode() + b"\n")
        process.stdin.flush()
        line = self._line(process, self.timeout, self.max_growth)
        if isinstance(line, bytes) and line.endswith(b"\n"):
            return Outcome(*json.loads(line))
        if isinstance(line, bytes):
            code = process.wait()
            line = f"killed by signal {-code}" if code < 0 else f"exit {code}"
        return Outcome(case, *content_of(case)[:2], line, details=self.stop())

    @staticmethod
    def _line(process: subprocess.Popen[bytes], timeout: float, max_growth: int) -> bytes | str:
        """Read a line. b"": the process ended; "hang" or "too much memory": it must be stopped."""
        assert process.stdout is not None
        memory = Path(f"/proc/{process.pid}/statm")
        before = int(memory.read_text(encoding="ascii").split()[1])
        deadline = time.monotonic() + timeout
        while not select.select([process.stdout], [], [], 0.02)[0]:
            pages = (memory.read_text(encoding="ascii").split() or [0, 0])[1]
            if (int(pages) - before) * os.sysconf("SC_PAGE_SIZE") > max_growth:
                return "too much memory"
            if time.monotonic() > deadline:
                return "hang"
        return process.stdout.readline()


def outcomes(cases: Iterable[int | str]) -> Iterator[Outcome]:
    """Run cases; repeat a case with a bug in a new worker, because a busy machine may be slow."""
    with Worker() as worker:
        for case in cases:
            outcome = worker.run(case)
            if outcome.kind not in ("logits", "refused"):
                worker.stop()
                again = worker.run(case)
                outcome = outcome if again.kind == outcome.kind else again
            yield outcome
