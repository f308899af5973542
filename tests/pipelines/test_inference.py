"""The last block computes only the tokens that the head needs, with the same result."""

import numpy as np
import pytest
import torch

import minidistil
from minidistil.ops import Ops
from minidistil.pipelines.inference import Engine

MASK = 4
SEQUENCES = [(1, 5, MASK, 6, 2), (1, MASK, 7, MASK, 8, 9, 2), (1, 5, 6, 7, 8, 2, MASK), (1, 2, MASK)]
CONFIG = minidistil.DistilBertConfig(20, dim=16, hidden_dim=32, n_heads=2, n_layers=3)


def engine(model_class, task):
    """Return an engine, and a list that records the number of queries of each attention call."""
    torch.manual_seed(1)
    seen = []

    def attention(q, *arguments, **options):
        seen.append(len(q))
        return Ops.attention(q, *arguments, **options)

    return Engine(model_class(CONFIG).with_ops(attention=attention), task), seen


def reference(model, sequences):
    with torch.inference_mode():
        return [model(minidistil.Batch.from_lists([ids])).numpy() for ids in sequences]


def test_fill_mask_computes_masks_only_in_the_last_block():
    runner, seen = engine(minidistil.DistilBertForMaskedLM, "fill-mask")
    outputs = runner.run("masked_logits", SEQUENCES, mask_id=MASK)
    tokens = sum(map(len, SEQUENCES))
    assert seen == [tokens, tokens, sum(ids.count(MASK) for ids in SEQUENCES)]
    for ids, logits, every in zip(SEQUENCES, outputs, reference(runner.model, SEQUENCES), strict=True):
        np.testing.assert_allclose(logits, every[[i for i, token in enumerate(ids) if token == MASK]], atol=1e-6)


def test_cls_pooling_computes_first_tokens_only_in_the_last_block():
    runner, seen = engine(minidistil.DistilBertModel, "sentence-embedding")
    outputs = runner.run("pooled", SEQUENCES, modes=("cls",))
    tokens = sum(map(len, SEQUENCES))
    assert seen == [tokens, tokens, len(SEQUENCES)]
    for (vector,), every in zip(outputs, reference(runner.model, SEQUENCES), strict=True):
        np.testing.assert_allclose(vector, every[0], atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_outputs_come_in_order_with_the_rows_of_each_sequence(batch_size):
    runner, _ = engine(minidistil.DistilBertModel, "feature-extraction")
    sequences = [*SEQUENCES, SEQUENCES[0]]
    outputs = runner.run("token_logits", sequences, batch_size)
    assert [output.dtype for output in outputs] == [np.float32] * len(sequences)
    for output, every in zip(outputs, reference(runner.model, sequences), strict=True):
        np.testing.assert_allclose(output, every, atol=1e-6)
    assert np.array_equal(outputs[0], outputs[-1])
