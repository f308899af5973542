"""The inference runtimes of the comparison, each loaded from the same checkpoint as its guide recommends.

A `Runtime` has a name, a dtype and a loader: folder, threads → a function from the token ids of n sequences to
logits (n, C). All receive the same ids, so tokenization is not measured; each has its own padding, packing and
batching. A process runs only one runtime, so threads, memory and settings are not shared:

    python -m minidistil.benchmarks.runtimes NAME DTYPE FOLDER

It reads a line of JSON for each measurement, and prints a line of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from ..backends import onednn
from ..batching import filler_lengths, split_into_batches, with_filler
from ..checkpoint.load import from_pretrained
from ..errors import InputError, require
from ..layout import Batch
from ..pipelines.inference import TOKENS
from .measure import mark, peak_memory, seconds_between

Sequences: TypeAlias = Sequence[Sequence[int]]
Logits: TypeAlias = Callable[[Sequences], np.ndarray]
BATCH_SIZE = 32  # sequences per batch of the runtimes that pad


class Runtime(NamedTuple):
    """A runtime in one dtype."""

    name: str
    dtype: str
    load: Callable[[Path, int], Logits]
    pads: bool = True  # False: packs the tokens of all sequences
    prunes: bool = False  # whether the last layer computes the first token of each sequence only

    @property
    def title(self) -> str:
        """The name in reports."""
        return f"{self.name} {self.dtype}"


def batched(logits: Logits) -> Logits:
    """Return a function that runs a runtime in batches of BATCH_SIZE sequences, in the given order."""
    return lambda sequences: np.concatenate(
        [logits(batch) for batch in split_into_batches(sequences, max_sequences=BATCH_SIZE)]
    )


def padded(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Return input_ids and attention_mask, two int64 arrays (n, L)."""
    ids = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = 1
    return ids, mask


def minidistil_loader(dtype: str) -> Callable[[Path, int], Logits]:
    """Return a loader of minidistil, as the command line runs it."""

    def load(folder: Path, threads: int) -> Logits:
        torch.set_num_threads(threads)
        onednn.keep_memory()
        model = from_pretrained(folder, task="text-classification", dtype=dtype)
        if onednn.prepackable(model.ops) and onednn.works(model.device, model.dtype):
            model = model.with_ops(**onednn.prepacked())

        def logits_of(batch: Sequences) -> torch.Tensor:
            filled = with_filler(batch, filler_lengths([len(sequence) for sequence in batch]))
            return model(Batch.from_lists(filled))[: len(batch)].float()

        def logits(sequences: Sequences) -> np.ndarray:
            with torch.inference_mode():
                batches = split_into_batches(sequences, max_tokens=TOKENS)
                return torch.cat([logits_of(batch) for batch in batches]).numpy()

        return logits

    return load


def transformers_loader(dtype: str, attention: str, compiled: bool = False) -> Callable[[Path, int], Logits]:
    """Return a loader of transformers, padded to the longest sequence of each batch."""

    def load(folder: Path, threads: int) -> Logits:
        torch.set_num_threads(threads)
        model = load_transformers(folder, dtype, attention)
        call = torch.compile(model, dynamic=True) if compiled else model

        def logits(sequences: Sequences) -> np.ndarray:
            ids, mask = map(torch.from_numpy, padded(sequences))
            with torch.inference_mode():
                return call(input_ids=ids, attention_mask=mask).logits.float().numpy()

        return batched(logits)

    return load


def load_transformers(folder: Path, dtype: str, attention: str) -> Any:
    """Load transformers' classifier. attention: its `attn_implementation`."""
    transformers = require("transformers", extra="peers")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    return load(folder, dtype=getattr(torch, dtype), attn_implementation=attention).eval()


def onnxruntime_loader(dtype: str) -> Callable[[Path, int], Logits]:
    """Return a loader of ONNX Runtime: exported, fused by its transformer optimizer, and for int8 quantized."""

    def load(folder: Path, threads: int) -> Logits:
        runtime = require("onnxruntime", extra="peers")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = runtime.InferenceSession(
            _export_onnx(folder, dtype), options, providers=["CPUExecutionProvider"]
        )

        def logits(sequences: Sequences) -> np.ndarray:
            ids, mask = padded(sequences)
            return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

        return batched(logits)

    return load


def _export_onnx(folder: Path, dtype: str) -> str:
    """Export the checkpoint to ONNX if needed, and return the file's path."""
    plain, fused, quantized = (folder / f"{name}.onnx" for name in ("plain", "fused", "int8"))
    path = quantized if dtype == "int8" else fused
    if path.exists():
        return str(path)
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
        optimized = optimizer.optimize_model(str(plain), "bert", num_heads=config.n_heads, hidden_size=config.dim)
        optimized.save_model_to_file(str(fused))
        plain.unlink()
    if dtype == "int8":
        quantization.quantize_dynamic(
            str(fused),
            str(quantized),
            per_channel=True,
            reduce_range=False,
            extra_options={"DefaultTensorType": 1},  # float, for fused operations whose type is not inferred
        )
    return str(path)


def openvino_loader(dtype: str) -> Callable[[Path, int], Logits]:
    """Return a loader of OpenVINO: converted from transformers' PyTorch module, which keeps fused attention."""

    def load(folder: Path, threads: int) -> Logits:
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
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        }
        compiled = runtime.Core().compile_model(path, "CPU", settings)
        request = compiled.create_infer_request()

        def logits(sequences: Sequences) -> np.ndarray:
            ids, mask = padded(sequences)
            outputs = request.infer({"input_ids": ids, "attention_mask": mask})
            return np.array(outputs[compiled.output(0)], dtype=np.float32)

        return batched(logits)

    return load


def ctranslate2_loader(dtype: str) -> Callable[[Path, int], Logits]:
    """Return a loader of CTranslate2, which runs the encoder on packed tokens; NumPy runs the head."""

    def load(folder: Path, threads: int) -> Logits:
        runtime = require("ctranslate2", extra="peers")
        path = folder / "ctranslate2"
        if not path.exists():
            require("transformers", extra="peers").logging.set_verbosity_error()
            runtime.converters.TransformersConverter(str(folder)).convert(str(path))
        encoder = runtime.Encoder(
            str(path), device="cpu", compute_type=dtype, inter_threads=1, intra_threads=threads
        )
        head = from_pretrained(folder, task="text-classification").state_dict()
        w1, b1 = (head[f"pre_classifier.{name}"].numpy() for name in ("weight", "bias"))
        w2, b2 = (head[f"classifier.{name}"].numpy() for name in ("weight", "bias"))

        def logits(sequences: Sequences) -> np.ndarray:
            states = np.array(encoder.forward_batch([list(ids) for ids in sequences]).last_hidden_state)
            return np.maximum(states[:, 0] @ w1.T + b1, 0) @ w2.T + b2

        return batched(logits)

    return load


RUNTIMES = (
    Runtime("minidistil", "float32", minidistil_loader("float32"), pads=False, prunes=True),
    Runtime("minidistil", "bfloat16", minidistil_loader("bfloat16"), pads=False, prunes=True),
    Runtime("minidistil", "int8", minidistil_loader("int8"), pads=False, prunes=True),
    Runtime("transformers eager", "float32", transformers_loader("float32", "eager")),
    Runtime("transformers SDPA", "float32", transformers_loader("float32", "sdpa")),
    Runtime("transformers SDPA", "bfloat16", transformers_loader("bfloat16", "sdpa")),
    Runtime("transformers compiled", "float32", transformers_loader("float32", "sdpa", compiled=True)),
    Runtime("transformers compiled", "bfloat16", transformers_loader("bfloat16", "sdpa", compiled=True)),
    Runtime("ONNX Runtime", "float32", onnxruntime_loader("float32")),
    Runtime("ONNX Runtime", "int8", onnxruntime_loader("int8")),
    Runtime("OpenVINO", "float32", openvino_loader("float32")),
    Runtime("OpenVINO", "bfloat16", openvino_loader("bfloat16")),
    Runtime("CTranslate2", "float32", ctranslate2_loader("float32"), pads=False),
    Runtime("CTranslate2", "int8", ctranslate2_loader("int8"), pads=False),
)


def find_runtime(name: str, dtype: str) -> Runtime:
    """Return the runtime of this name and dtype. Raises InputError for an unknown one."""
    for runtime in RUNTIMES:
        if (runtime.name, runtime.dtype) == (name, dtype):
            return runtime
    titles = ", ".join(runtime.title for runtime in RUNTIMES)
    raise InputError(f"unknown runtime {name} {dtype}: expected one of {titles}")


def work(name: str, dtype: str, folder: str) -> None:
    """Run measurements of one runtime: read each as a line of JSON from stdin, print its result as JSON."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # send output of runtimes to stderr
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    runtime = find_runtime(name, dtype)
    runtime.load(Path(folder), threads)  # converts the checkpoint, so that the load time excludes it
    begin = mark()
    logits_of = runtime.load(Path(folder), threads)
    print(json.dumps({"load": seconds_between(begin, mark())}), file=stdout, flush=True)
    cases: dict[str, Sequences] = {}
    for line in sys.stdin:
        request = json.loads(line)
        sequences = cases[request["case"]] = request.get("ids") or cases[request["case"]]
        times = []
        for _ in range(request["times"]):
            begin = mark()
            logits = logits_of(sequences)
            times.append(seconds_between(begin, mark()))
        reply: dict[str, Any] = {"memory": peak_memory()}
        reply |= {"seconds": statistics.median(times)} if times else {}
        reply |= {"logits": logits.tolist()} if request.get("logits") else {}
        print(json.dumps(reply), file=stdout, flush=True)


if __name__ == "__main__":
    work(*sys.argv[1:])
