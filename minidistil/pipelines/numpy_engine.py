"""The model behind a pipeline in NumPy, which answers before torch is imported.

`reference.py` computes one sequence at a time, in float32. For many tokens, torch takes over.

Shapes: L tokens of a sequence, D model width, C labels, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import reference
from ..checkpoint.arrays import read_arrays
from ..checkpoint.files import Files
from ..checkpoint.tasks import TASKS
from ..config import DistilBertConfig
from ..reference import Array
from .base import Engine, Ids, check_finite
from .scores import Array as Rows

MAX_TOKENS = 1024  # of a call; NumPy computes them in about the time that it takes to import torch


def load_engine(files: Files, task: str) -> Engine:
    """Load the model of a task into NumPy; into torch if only torch can read its files."""
    loaded = read_arrays(files, TASKS[task].model_class)
    engine: Engine = _in_torch(files, task) if loaded is None else NumpyEngine(files, task, *loaded)
    return engine


def _in_torch(files: Files, task: str) -> Any:
    from ..backends.onednn import keep_memory  # here torch is imported
    from .inference import Engine, choose_device

    keep_memory()
    return Engine.load(files, task, None, choose_device(None))


class NumpyEngine:
    """Runs `reference.py` for a pipeline, in float32."""

    def __init__(self, files: Files, task: str, config: DistilBertConfig, weights: reference.Weights):
        """Wrap the config and the weights of a checkpoint, the files of which torch may load later."""
        self.files, self.task, self.config, self.weights = files, task, config, weights
        self.plain_batches = 1  # of the engine in torch

    @functools.cached_property
    def successor(self) -> Any:
        """The same model in torch."""
        engine = _in_torch(self.files, self.task)
        engine.plain_batches = self.plain_batches
        return engine

    def run(
        self, output: str, sequences: Sequence[Ids], batch_size: int | None = None, **options: Any
    ) -> list[Rows]:
        """Return an output in `OUTPUTS` for each sequence; see `Engine`. torch takes over for many tokens."""
        distinct = list(dict.fromkeys(sequences))
        if sum(map(len, distinct)) > MAX_TOKENS or not all(distinct):  # reference.py takes no empty sequence
            rows: list[Rows] = self.successor.run(output, sequences, batch_size, **options)
            return rows
        for ids in distinct:
            self.config.check_ids(max(ids), len(ids) - 1)
        results = {ids: self._rows(output, ids, options) for ids in distinct}
        return [results[ids] for ids in sequences]

    def _rows(self, output: str, ids: Ids, options: dict[str, Any]) -> Rows:
        config = self.config
        with np.errstate(all="ignore"):  # nan and inf are refused below
            hidden = reference.encode(
                self.weights, ids, config.n_heads, activation=config.activation, dtype=np.float32
            )[-1]
            rows: Rows = np.asarray(OUTPUTS[output](self, np.array(ids), hidden, **options), np.float32)
        check_finite(bool(np.isfinite(rows).all()), "torch.float32")
        return rows

    # What only Python code asks of an engine.

    @property
    def device(self) -> Any:
        """Device of the model."""
        return self.successor.device

    @property
    def dtype(self) -> Any:
        """Dtype in which the model computes."""
        return self.successor.dtype

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of the model into a folder."""
        self.successor.save_pretrained(folder)

    def hand_over(self) -> Any:
        """Return the model in torch."""
        return self.successor.hand_over()


# ids: (L,) of the sequence. hidden: (L, D), its last hidden states


def sequence_logits(engine: NumpyEngine, ids: Array, hidden: Array) -> Array:
    """Return one row: (1, C)."""
    return reference.sequence_head(engine.weights, hidden)[None]


def token_logits(engine: NumpyEngine, ids: Array, hidden: Array) -> Array:
    """Return one row per token: (L, C), or (L, D) from an encoder."""
    return reference.token_head(engine.weights, hidden) if "classifier.weight" in engine.weights else hidden


def span_logits(engine: NumpyEngine, ids: Array, hidden: Array) -> Array:
    """Return the logits of an answer's start and end at each token: (L, 2)."""
    return reference.span_head(engine.weights, hidden)


def masked_logits(engine: NumpyEngine, ids: Array, hidden: Array, mask_id: int) -> Array:
    """Return one row per masked token: (masks, V)."""
    return reference.word_head(engine.weights, hidden[ids == mask_id], engine.config.activation)


def pooled(engine: NumpyEngine, ids: Array, hidden: Array, modes: tuple[str, ...], skip: int = 0) -> Array:
    """Return poolings of the hidden states after the first `skip`: (1, modes * D), 0 without tokens."""
    if len(hidden) <= skip:
        return np.zeros((1, len(modes) * hidden.shape[1]))
    positions = np.arange(1, len(hidden) + 1)[skip:]
    return np.concatenate([POOLINGS[mode](hidden[skip:], positions) for mode in modes])[None]


POOLINGS: dict[str, Callable[[Array, Array], Array]] = {  # hidden states (L, D), positions (L,) -> (D,)
    "cls": lambda x, _: x[0],
    "lasttoken": lambda x, _: x[-1],
    "max": lambda x, _: x.max(0),
    "mean": lambda x, _: x.mean(0),
    "mean_sqrt_len_tokens": lambda x, _: x.sum(0) / len(x) ** 0.5,
    "weightedmean": lambda x, positions: positions @ x / positions.sum(),
}
OUTPUTS: dict[str, Callable[..., Array]] = {
    function.__name__: function for function in (sequence_logits, token_logits, span_logits, masked_logits, pooled)
}
