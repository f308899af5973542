"""Hidden states → one vector per sequence, as in sentence-transformers' Pooling module.

Every pooling except "max" is a weighted sum of a sequence's hidden states.

Shapes: n sequences, L padded length, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def pool(states: Tensor, mask: Tensor, modes: Iterable[str]) -> Tensor:
    """Concatenate poolings of the masked tokens: (n, L, D), (n, L) bool -> (n, modes * D), 0 without tokens."""
    return torch.cat(
        [_pool_max(states, mask) if mode == "max" else _sum(states, WEIGHTS[mode](mask)) for mode in modes], 1
    )


def _pool_max(states: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum of each element over the tokens: (n, D)."""
    if not mask.any():
        return _sum(states, mask)
    largest = states.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
    return largest.masked_fill(~mask.any(1, keepdim=True), 0)


def _sum(states: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the hidden states: (n, L, D), (n, L) -> (n, D)."""
    return (weights.to(states.dtype)[:, None] @ states).squeeze(1)


def _positions(mask: Tensor) -> Tensor:
    """Return the positions of the masked tokens, counted from 1, and 0 elsewhere: (n, L)."""
    return mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)


def _total(weights: Tensor) -> Tensor:
    """Return the sum of each row, at least 1: (n, 1)."""
    return weights.sum(1, keepdim=True).clamp(min=1)


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {  # of the tokens: (n, L) bool -> (n, L)
    "cls": lambda mask: mask & (mask.cumsum(1) == 1),  # the first
    "lasttoken": lambda mask: mask & (mask.cumsum(1) == mask.sum(1, keepdim=True)),
    "mean": lambda mask: mask / _total(mask),
    "mean_sqrt_len_tokens": lambda mask: mask / _total(mask).sqrt(),
    "weightedmean": lambda mask: _positions(mask) / _total(_positions(mask)),
}
