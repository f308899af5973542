"""DistilBERT from scratch: loads the Hub's weights, gives transformers' logits, weighs what torch weighs.

The public names, each looked up when it is first asked for, so that importing this costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint.load import from_pretrained
    from .config import DistilBertConfig
    from .errors import CheckpointError, Error, InputError, MissingDependency
    from .layout import Batch, Layout
    from .model import (
        DistilBertForMaskedLM,
        DistilBertForMultipleChoice,
        DistilBertForQuestionAnswering,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertModel,
        SpanLogits,
    )
    from .ops import Ops, Product
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
    "Product",
    "SpanLogits",
    "Tokenizer",
    "Trace",
    "from_pretrained",
    "pipeline",
    "trace",
]

_HOME = {  # public name -> module
    **dict.fromkeys(["CheckpointError", "Error", "InputError", "MissingDependency"], "errors"),
    **dict.fromkeys([name for name in __all__ if name.startswith("DistilBert")], "model"),
    "SpanLogits": "model",
    **dict.fromkeys(["Batch", "Layout"], "layout"),
    **dict.fromkeys(["Ops", "Product"], "ops"),
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
