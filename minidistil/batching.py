"""Group sequences into batches, and round the sizes of batches up with filler sequences.

Packed batches need no padding to their longest sequence. But oneDNN generates a kernel for each new number of
rows, and a CUDA graph has a fixed size. There, filler sequences are appended, and their results are dropped.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from .errors import InputError

WINDOW = 100  # training batches whose examples are sorted by length together
MAX_TOKEN_MULTIPLE = 64  # for inference, the number of tokens is rounded up to a multiple of at most this
MIN_TOKENS_TO_FILL = 257  # smaller inference batches get no filler, which would cost more than it saves
MIN_TRAINING_MULTIPLE = 64  # for training, it is rounded up to a multiple of at least this
TRAINING_FILLER_LENGTH = 32  # tokens of a filler sequence in training

T = TypeVar("T")


def batch_by_size(
    lengths: Sequence[int],
    order: Sequence[int] | None = None,
    *,
    max_tokens: int | None = None,
    max_sequences: int | None = None,
    even: bool = False,
) -> Iterator[list[int]]:
    """Cut sequences into batches, greedily; yield each batch as a list of indices into `lengths`.

    Args:
        lengths: tokens of each sequence.
        order: the indices to batch, in this order; None: all of them, in order.
        max_tokens: most tokens of a batch. A longer sequence gets a batch of its own.
        max_sequences: most sequences of a batch.
        even: make batches with about the same number of tokens, so that the last is not small. Needs `max_tokens`.
    """
    order = range(len(lengths)) if order is None else order
    target = math.inf  # tokens of each batch
    if even and max_tokens is not None:
        total = sum(lengths[i] for i in order)
        target = total / max(1, -(-total // max_tokens))
    batch: list[int] = []
    tokens, planned = 0, 0.0  # planned: all tokens so far, minus the target of each finished batch
    for i in order:
        too_many = max_tokens is not None and tokens + lengths[i] > max_tokens
        if batch and (too_many or planned >= target or len(batch) == max_sequences):
            yield batch
            batch, tokens, planned = [], 0, planned - target
        batch.append(i)
        tokens += lengths[i]
        planned += lengths[i]
    if batch:
        yield batch


def split_into_batches(
    sequences: Sequence[Sequence[T]], *, max_tokens: int | None = None, max_sequences: int | None = None
) -> Iterator[list[Sequence[T]]]:
    """Cut sequences into batches in the given order; see `batch_by_size`."""
    lengths = [len(sequence) for sequence in sequences]
    for batch in batch_by_size(lengths, max_tokens=max_tokens, max_sequences=max_sequences):
        yield [sequences[i] for i in batch]


def plan_epoch(
    lengths: Sequence[int],
    *,
    max_tokens: int | None = None,
    max_sequences: int | None = None,
    seed: int,
    epoch: int,
) -> list[list[int]]:
    """Return the batches of one training epoch, as lists of indices: every example once.

    Examples are shuffled, sorted by length within windows of about 100 batches, and cut into batches, which are
    shuffled again. The lengths within a batch are similar. The plan depends only on lengths, size, seed and epoch.

    Raises:
        InputError: unless exactly one of `max_tokens` and `max_sequences` is given.
    """
    if (max_sequences is None) == (max_tokens is None):
        raise InputError("the batch size is not clear: pass either max_sequences or max_tokens")
    rng = random.Random(f"{seed}, epoch {epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    mean = max(1, sum(lengths) // max(1, len(lengths)))
    window = WINDOW * (max_sequences or max(1, (max_tokens or 0) // mean))
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window], key=lengths.__getitem__)
        batches += batch_by_size(lengths, by_length, max_tokens=max_tokens, max_sequences=max_sequences)
    rng.shuffle(batches)
    return batches


def bucket_width(size: int) -> int:
    """Return the power of two between size / 16 and size / 8: rounding up to its multiples leaves few sizes.

    There are eight multiples from one power of two to the next, and rounding up adds at most an eighth.
    """
    return 1 << max(0, size.bit_length() - 4)


def split_evenly(total: int, count: int) -> list[int]:
    """Split a total into `count` integers that differ by at most 1."""
    each, rest = divmod(total, count)
    return [each + (i < rest) for i in range(count)]


def filler_lengths(lengths: Sequence[int]) -> list[int]:
    """Return the lengths of the filler sequences of a batch for inference on a CPU.

    The numbers of tokens and of sequences are both rounded up. oneDNN generates a kernel for each number of rows,
    which can take longer than the matmul, and caches it (half a megabyte). With filler there are a few dozen
    different numbers of rows, for 2 % more tokens. No filler sequence is longer than the longest sequence.
    """
    tokens, count = sum(lengths), len(lengths)
    token_multiple, count_multiple = min(MAX_TOKEN_MULTIPLE, bucket_width(tokens)), bucket_width(count)
    if tokens < MIN_TOKENS_TO_FILL or (tokens % token_multiple, count % count_multiple) == (0, 0):
        return []
    more = -count % count_multiple or count_multiple
    while (added := more + -(tokens + more) % token_multiple) > more * max(lengths):
        more += count_multiple
    return split_evenly(added, more)


def training_filler_lengths(tokens: int, max_length: int) -> list[int]:
    """Return the lengths of the filler sequences of a training batch on a CPU.

    Only the number of tokens is rounded up. max_length: number of positions of the model.
    """
    missing = -tokens % max(MIN_TRAINING_MULTIPLE, bucket_width(tokens))
    length = min(TRAINING_FILLER_LENGTH, max_length)
    return [min(length, missing - start) for start in range(0, missing, length)]


def with_filler(
    sequences: Sequence[Sequence[int]], lengths: Sequence[int], token_id: int = 0
) -> list[Sequence[int]]:
    """Return sequences of token ids, followed by filler sequences of these lengths that repeat one token."""
    return [*sequences, *([token_id] * length for length in lengths)]
