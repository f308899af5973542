"""Fine-tuning: labeled data, the recipe, the loop, metrics and the model card."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adaptation import gradient_checkpointing, merge_adapters, resize_token_embeddings
    from .evaluation import evaluate
    from .fine_tuning import fine_tune
    from .recipe import Recipe

__all__ = [
    "Recipe",
    "evaluate",
    "fine_tune",
    "gradient_checkpointing",
    "merge_adapters",
    "resize_token_embeddings",
]

_MODULES = {  # imported on first use
    "Recipe": "recipe",
    "evaluate": "evaluation",
    "fine_tune": "fine_tuning",
    **dict.fromkeys(("gradient_checkpointing", "merge_adapters", "resize_token_embeddings"), "adaptation"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
