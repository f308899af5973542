"""Changes of a model for fine-tuning: less memory, more tokens, and adapters merged into the weights."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checks import plain
from ..errors import InputError
from ..heads import DistilBertForMaskedLM
from ..model import Model

M = TypeVar("M", bound=Model)


def gradient_checkpointing(model: M) -> M:
    """Return a view of a model that stores only the input of each block, and recomputes the block for gradients.

    A training step needs less memory and takes longer. The gradients are the same, with dropout too.
    """
    block = model.ops.block

    def recomputed(x: Tensor, module: nn.Module, **context: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return block(x, module, **context)
        return checkpoint(block, x, module, use_reentrant=False, **context)

    return model.with_ops(block=recomputed)


@torch.no_grad()
def resize_token_embeddings(model: Model, vocab_size: int) -> None:
    """Change the number of word embeddings in place. New rows are drawn as for a new model.

    Call it after adding tokens to a tokenizer, and before making an optimizer or a view of the model. A masked
    language model scores the new words too. Raises InputError for a quantized or prepacked model, and
    CheckpointError for a size that a config cannot have.
    """
    if not model.ops.live:
        raise InputError("the model's operations are for inference: resize the model that it was made from")
    config = dataclasses.replace(model.config, vocab_size=plain(vocab_size))
    vocab_size = config.vocab_size
    words = model.get_input_embeddings()
    words.weight = _resized(words.weight, vocab_size, config.initializer_range)
    for part in model.modules():
        if isinstance(part, DistilBertForMaskedLM):
            projector = part.vocab_projector
            projector.weight = _resized(projector.weight, vocab_size, config.initializer_range)
            projector.bias = _resized(projector.bias, vocab_size, 0.0)
            projector.out_features = vocab_size
            part.tie()
        if isinstance(part, Model):
            part.config = config


def _resized(old: Tensor, rows: int, std: float) -> nn.Parameter:
    """Return a parameter with more or fewer rows."""
    new = old.new_empty(rows, *old.shape[1:]).normal_(0.0, std)
    new[: len(old)] = old[:rows]
    return nn.Parameter(new, requires_grad=old.requires_grad)


def merge_adapters(model: Model) -> None:
    """Merge what `peft.inject_adapter_in_model` has wrapped into the weights, in place.

    Layers get the sum of their weights and the adapter's; modules_to_save are replaced by their trained copies.
    Raises InputError for a projector that shares its weight with the word embeddings.
    """
    merged: list[str] = []
    for name, layer in [*model.named_modules()]:
        if name.startswith(tuple(merged)):  # inside a layer that is merged already
            continue
        if name.endswith("vocab_projector") and hasattr(layer, "set_adapter") and model.config.tie_word_embeddings:
            raise InputError(
                f"{name} shares its weight with the word embeddings, which its adapter would change: pass "
                'exclude_modules=["vocab_projector"] to the configuration of peft'
            )
        if hasattr(layer, "unload_and_optionally_merge_module"):  # modules_to_save, and others without a matrix
            base = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        elif hasattr(layer, "get_base_layer") and hasattr(layer, "merge"):
            layer.merge()
            base = layer.get_base_layer()
        else:
            continue
        model.set_submodule(name, base)
        merged.append(f"{name}.")
