"""The runtimes that people run DistilBERT with, each loaded from one checkpoint as its own guide says.

A `Contender` is a name, a precision, and a way to load: folder and threads → a function from token ids of n
sequences to logits (n, C). Every one gets the same ids, so tokenizing is nobody's; each pads, packs and plans
as it likes. A worker holds one of them in a process of its own, so that no runtime's threads, memory or settings
touch another's: `python -m minidistil.benchmarks.runtimes NAME PRECISION FOLDER`, then a line of JSON for each thing to run.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from ..backends import onednn as packed
from ..checkpoint.load import from_pretrained
from ..errors import InputError, require
from ..layout import Batch
from ..pipelines.base import TOKENS

Sequences: TypeAlias = Sequence[Sequence[int]]
Run: TypeAlias = Callable[[Sequences], np.ndarray]
BATCH = 32  # how many sequences a peer is given at once


class Contender(NamedTuple):
    """A runtime at one precision."""

    name: str
    precision: str
    load: Callable[[Path, int], Run]
    pads: bool = True  # or lays tokens end to end
    prunes: bool = False  # whether its last layer computes first tokens only

    @property
    def title(self) -> str:
        """What a report calls it."""
        return f"{self.name} {self.precision}"


def by_count(sequences: Sequences, count: int | None = None) -> Iterator[Sequences]:
    """Cut sequences into batches of so many, in the order that they have."""
    count = BATCH if count is None else count
    for begin in range(0, len(sequences), count):
        yield sequences[begin : begin + count]


def by_tokens(sequences: Sequences, most: int | None = None) -> Iterator[Sequences]:
    """Cut sequences into batches of so many tokens at most, in the order that they have."""
    most = TOKENS if most is None else most
    begin, tokens = 0, 0
    for i, sequence in enumerate(sequences):
        if i > begin and tokens + len(sequence) > most:
            yield sequences[begin:i]
            begin, tokens = i, 0
        tokens += len(sequence)
    yield sequences[begin:]


def batched(run: Run) -> Run:
    """Let a runtime work in batches of a fixed count."""
    return lambda sequences: np.concatenate([run(some) for some in by_count(sequences)])


def padded(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Lay ids out in rows: two of (n, L) int64, ids and mask."""
    ids = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = 1
    return ids, mask


def ours(precision: str) -> Callable[[Path, int], Run]:
    """This project, as its command line runs it."""

    def load(folder: Path, threads: int) -> Run:
        torch.set_num_threads(threads)
        packed.keep_memory()
        model = from_pretrained(folder, task="text-classification", dtype=precision)
        if packed.packable(model.ops):
            model = model.with_ops(**packed.PRODUCTS)

        def logits(sequences: Sequences) -> torch.Tensor:
            return model(Batch.from_lists(packed.filled(sequences)))[: len(sequences)].float()

        def run(sequences: Sequences) -> np.ndarray:
            with torch.inference_mode():
                return torch.cat([logits(some) for some in by_tokens(sequences)]).numpy()

        return run

    return load


def of_transformers(precision: str, attention: str, compiled: bool = False) -> Callable[[Path, int], Run]:
    """Transformers, padded to the longest of a batch."""

    def load(folder: Path, threads: int) -> Run:
        torch.set_num_threads(threads)
        model = load_transformers(folder, precision, attention)
        call = torch.compile(model, dynamic=True) if compiled else model

        def run(sequences: Sequences) -> np.ndarray:
            ids, mask = map(torch.from_numpy, padded(sequences))
            with torch.inference_mode():
                return call(input_ids=ids, attention_mask=mask).logits.float().numpy()

        return batched(run)

    return load


def load_transformers(folder: Path, precision: str, attention: str) -> Any:
    """Load transformers' classifier, with one of its forms of attention."""
    transformers = require("transformers", extra="peers")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    dtype = getattr(torch, precision)
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    return load(folder, dtype=dtype, attn_implementation=attention).eval()


def onnxruntime(precision: str) -> Callable[[Path, int], Run]:
    """ONNX Runtime: exported, fused by its transformer optimizer, and quantised dynamically for int8."""

    def load(folder: Path, threads: int) -> Run:
        runtime = require("onnxruntime", extra="peers")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = runtime.InferenceSession(_onnx(folder, precision), options, providers=["CPUExecutionProvider"])

        def run(sequences: Sequences) -> np.ndarray:
            ids, mask = padded(sequences)
            return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

        return batched(run)

    return load


def _onnx(folder: Path, precision: str) -> str:
    """Export once a folder and precision; give the path."""
    plain, fused, small = (folder / f"{name}.onnx" for name in ("plain", "fused", "int8"))
    wanted = small if precision == "int8" else fused
    if wanted.exists():
        return str(wanted)
    require("onnx", extra="peers")
    optimizer = require("onnxruntime.transformers.optimizer", extra="peers")
    quantization = require("onnxruntime.quantization", extra="peers")
    model = load_transformers(folder, "float32", "eager")
    if not fused.exists():
        ids = torch.ones(2, 16, dtype=torch.int64)
        sizes = {0: "n", 1: "L"}
        torch.onnx.export(
            model,
            (ids, ids),
            str(plain),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": sizes, "attention_mask": sizes, "logits": {0: "n"}},
            dynamo=False,
        )
        config = model.config
        found = optimizer.optimize_model(str(plain), "bert", num_heads=config.n_heads, hidden_size=config.dim)
        found.save_model_to_file(str(fused))
        plain.unlink()
    if precision == "int8":
        quantization.quantize_dynamic(
            str(fused),
            str(small),
            per_channel=True,
            reduce_range=False,
            extra_options={"DefaultTensorType": 1},  # what the optimizer's own operations give: float
        )
    return str(wanted)


def openvino(precision: str) -> Callable[[Path, int], Run]:
    """OpenVINO: converted from the module of transformers, which keeps its fused attention."""

    def load(folder: Path, threads: int) -> Run:
        runtime = require("openvino", extra="peers")
        path = folder / "openvino.xml"
        if not path.exists():
            ids = torch.ones(2, 16, dtype=torch.int64)
            model = load_transformers(folder, "float32", "sdpa")
            inputs = {"input_ids": ids, "attention_mask": ids}
            converted = runtime.convert_model(model, example_input=inputs)
            runtime.save_model(converted, path, compress_to_fp16=False)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        }
        compiled = runtime.Core().compile_model(path, "CPU", settings)
        request = compiled.create_infer_request()

        def run(sequences: Sequences) -> np.ndarray:
            ids, mask = padded(sequences)
            found = request.infer({"input_ids": ids, "attention_mask": mask})
            return np.array(found[compiled.output(0)], dtype=np.float32)

        return batched(run)

    return load


def ctranslate2(precision: str) -> Callable[[Path, int], Run]:
    """CTranslate2, which packs tokens too: the encoder is its own, the head is two products of NumPy."""

    def load(folder: Path, threads: int) -> Run:
        runtime = require("ctranslate2", extra="peers")
        path = folder / "ctranslate2"
        if not path.exists():
            require("transformers", extra="peers").logging.set_verbosity_error()
            runtime.converters.TransformersConverter(str(folder)).convert(str(path))
        encoder = runtime.Encoder(
            str(path), device="cpu", compute_type=precision, inter_threads=1, intra_threads=threads
        )
        head = from_pretrained(folder, task="text-classification").state_dict()
        w1, b1 = (head[f"pre_classifier.{name}"].numpy() for name in ("weight", "bias"))
        w2, b2 = (head[f"classifier.{name}"].numpy() for name in ("weight", "bias"))

        def run(sequences: Sequences) -> np.ndarray:
            states = np.array(encoder.forward_batch([list(ids) for ids in sequences]).last_hidden_state)
            return np.maximum(states[:, 0] @ w1.T + b1, 0) @ w2.T + b2

        return batched(run)

    return load


CONTENDERS = (
    Contender("minidistil", "float32", ours("float32"), pads=False, prunes=True),
    Contender("minidistil", "bfloat16", ours("bfloat16"), pads=False, prunes=True),
    Contender("minidistil", "int8", ours("int8"), pads=False, prunes=True),
    Contender("transformers eager", "float32", of_transformers("float32", "eager")),
    Contender("transformers SDPA", "float32", of_transformers("float32", "sdpa")),
    Contender("transformers SDPA", "bfloat16", of_transformers("bfloat16", "sdpa")),
    Contender("transformers compiled", "float32", of_transformers("float32", "sdpa", compiled=True)),
    Contender("transformers compiled", "bfloat16", of_transformers("bfloat16", "sdpa", compiled=True)),
    Contender("ONNX Runtime", "float32", onnxruntime("float32")),
    Contender("ONNX Runtime", "int8", onnxruntime("int8")),
    Contender("OpenVINO", "float32", openvino("float32")),
    Contender("OpenVINO", "bfloat16", openvino("bfloat16")),
    Contender("CTranslate2", "float32", ctranslate2("float32"), pads=False),
    Contender("CTranslate2", "int8", ctranslate2("int8"), pads=False),
)


def find(name: str, precision: str) -> Contender:
    """Find a contender."""
    for contender in CONTENDERS:
        if (contender.name, contender.precision) == (name, precision):
            return contender
    known = ", ".join(contender.title for contender in CONTENDERS)
    raise InputError(f"there is no {name} {precision}: expected one of {known}")


def work(name: str, precision: str, folder: str) -> None:
    """Serve one contender: a line of JSON in, with the `case` to run; a line of JSON out."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")  # what a runtime prints must not be taken for an answer
    os.dup2(2, 1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    contender = find(name, precision)
    prepare = contender.load(Path(folder), threads)  # a first time, to convert what is not converted
    del prepare
    begin = time.perf_counter()
    run = contender.load(Path(folder), threads)
    print(json.dumps({"load": time.perf_counter() - begin}), file=answer, flush=True)
    cases: dict[str, Sequences] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        sequences = cases[asked["case"]] = asked.get("ids") or cases[asked["case"]]
        seconds = []
        for _ in range(asked["times"]):
            begin = time.perf_counter()
            logits = run(sequences)
            seconds.append(time.perf_counter() - begin)
        found: dict[str, Any] = {"memory": peak_memory()}
        found |= {"seconds": statistics.median(seconds)} if seconds else {}
        found |= {"logits": logits.tolist()} if asked.get("logits") else {}
        print(json.dumps(found), file=answer, flush=True)


def peak_memory() -> float:
    """Give the most memory that this process had at once, in MB, as Linux counts it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3


if __name__ == "__main__":
    work(*sys.argv[1:])
