"""DistilBERT from scratch: loads Hub checkpoints and matches the logits of transformers.

The public names are imported on first use, so that `import minidistil` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.prepared import Prepared
    from .checkpoint.load import from_pretrained
    from .config import DistilBertConfig
    from .errors import CheckpointError, Error, InputError, MissingDependency
    from .heads import (
        DistilBertForMaskedLM,
        DistilBertForMultipleChoice,
        DistilBertForQuestionAnswering,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        SpanLogits,
    )
    from .layout import Batch, Layout, Subset
    from .model import DistilBertModel
    from .ops import Ops
    from .pipelines import pipeline
    from .tokenizer import Tokenizer
    from .tracing import Trace, trace

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "CheckpointError",
    "DistilBertConfig",
    "DistilBertForMaskedLM",
    "DistilBertForMultipleChoice",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "Error",
    "InputError",
    "Layout",
    "MissingDependency",
    "Ops",
    "Prepared",
    "SpanLogits",
    "Subset",
    "Tokenizer",
    "Trace",
    "from_pretrained",
    "pipeline",
    "trace",
]

_HOME = {  # public name -> module
    **dict.fromkeys(["CheckpointError", "Error", "InputError", "MissingDependency"], "errors"),
    **dict.fromkeys([name for name in __all__ if name.startswith("DistilBertFor")], "heads"),
    "SpanLogits": "heads",
    "DistilBertModel": "model",
    **dict.fromkeys(["Batch", "Layout", "Subset"], "layout"),
    "Ops": "ops",
    "Prepared": "backends.prepared",
    **dict.fromkeys(["Trace", "trace"], "tracing"),
    "DistilBertConfig": "config",
    "Tokenizer": "tokenizer",
    "from_pretrained": "checkpoint.load",
    "pipeline": "pipelines",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
