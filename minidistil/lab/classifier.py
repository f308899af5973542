"""A whole classifier in the process of an implementation, which runs the same batches on each request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ..batching import split_into_batches
from ..benchmarks.measure import mark, seconds_between, seconds_of
from ..benchmarks.runtimes import load_transformers, padded
from ..checkpoint.load import from_pretrained
from ..layout import Batch
from ..ops import Ops
from .operations import ALL

TOKENS = 2048  # at most, per batch


class Classifier:
    """A classifier with the given operations."""

    def __init__(self, model: str, dtype: str, device: str, ops: Ops):
        self.device, self.batches = device, list[Any]()
        self.model: Callable[..., Any] = from_pretrained(
            model, task="text-classification", dtype=dtype, device=device, ops=ops
        )

    def set_texts(self, ids: Sequence[Sequence[int]]) -> None:
        """Set the token ids of the texts to classify."""
        parts = split_into_batches(ids, max_tokens=TOKENS)
        self.batches = [Batch.from_lists(part).to(self.device) for part in parts]

    @torch.inference_mode()
    def run(self) -> Tensor:
        """Return the logits of all texts: (n, C)."""
        return torch.cat([self.model(batch) for batch in self.batches])

    def share(self, op: str) -> float:
        """Return the part of the time that is spent in an operation, as plain PyTorch computes it."""
        spans: list[tuple[Any, Any]] = []
        plain = self.model
        whole = seconds_of(self.run, self.device)
        self.model = plain.with_ops(**{op: timed(ALL[op].plain, self.device, spans)})  # type: ignore[attr-defined]
        self.run()
        self.model = plain
        return sum(seconds_between(*span) for span in spans) / whole


class TransformersClassifier(Classifier):
    """The same classifier, as transformers runs it: padded batches of the same texts."""

    def __init__(self, model: str, dtype: str, device: str):
        self.device, self.batches = device, []
        with TemporaryDirectory() as folder:
            from_pretrained(model, task="text-classification").save_pretrained(folder)
            peer = load_transformers(Path(folder), dtype, "sdpa").to(device)
        self.model = lambda batch: peer(input_ids=batch[0], attention_mask=batch[1]).logits

    def set_texts(self, ids: Sequence[Sequence[int]]) -> None:
        """Set the token ids of the texts to classify."""
        parts = map(padded, split_into_batches(ids, max_tokens=TOKENS))
        self.batches = [[torch.from_numpy(x).to(self.device) for x in part] for part in parts]


def timed(value: Any, device: str, spans: list[tuple[Any, Any]]) -> Callable[..., Any]:
    """Wrap an operation to append the begin and end of each call to `spans`."""

    def operation(*arguments: Any, **context: Any) -> Any:
        begin = mark(device)
        result = value(*arguments, **context)
        spans.append((begin, mark(device)))
        return result

    operation.live = getattr(value, "live", True)  # type: ignore[attr-defined]
    return operation
