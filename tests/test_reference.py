"""The NumPy reference compared with transformers in float64."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from minidistil import reference
from support.twins import CONFIGS, FORMS, inputs, theirs, twins


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_match_transformers_to_1e_10(name, form):
    _, other = twins(name, torch.float64)
    ids, mask = inputs(form, 17, other.config.vocab_size)
    with torch.inference_mode():
        expected = other(input_ids=ids, attention_mask=mask).logits.numpy()
    for row, kept in enumerate(mask.bool()):
        logits = reference.classify(
            weights_of(other),
            ids[row, kept].tolist(),
            other.config.n_heads,
            positions=kept.nonzero().flatten().tolist(),
            activation=other.config.activation,
        )
        assert np.abs(logits - expected[row]).max() < 1e-10 * np.abs(expected).max()


def test_hidden_states_of_every_layer_match_transformers():
    _, other = twins("12 layers", torch.float64)
    ids, mask = inputs("alone", 128, 1000)
    with torch.inference_mode():
        expected = other.distilbert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    hidden = reference.encode(weights_of(other.distilbert), ids[0].tolist(), n_heads=4)
    assert len(hidden) == len(expected) == 13
    for x, other_x in zip(hidden, expected, strict=True):
        assert np.abs(x - other_x[0].numpy()).max() < 1e-10


def test_float32_weights_are_converted_to_float64():
    _, other = twins()
    logits = reference.classify(weights_of(other), [1, 2, 3], n_heads=4)
    expected = reference.classify(
        {name: array.astype(np.float64) for name, array in weights_of(other).items()}, [1, 2, 3], n_heads=4
    )
    assert logits.dtype == np.float64
    assert np.abs(logits - expected).max() < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hidden_states_and_logits_have_the_dtype_that_is_passed(dtype):
    _, other = twins()
    weights = weights_of(other)
    expected = reference.classify(weights, [1, 2, 3], n_heads=4)
    logits = reference.classify(weights, [1, 2, 3], n_heads=4, dtype=dtype)
    assert {x.dtype for x in reference.encode(weights, [1, 2, 3], n_heads=4, dtype=dtype)} == {np.dtype(dtype)}
    assert logits.dtype == dtype
    assert np.abs(logits - expected).max() < 100 * np.finfo(dtype).eps * np.abs(expected).max()


HEADS = {
    "DistilBertForTokenClassification": reference.token_head,
    "DistilBertForMaskedLM": reference.word_head,
    "DistilBertForQuestionAnswering": reference.span_head,
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_match_transformers_to_1e_10(name):
    other = theirs({"id2label": {0: "a", 1: "b"}}, name).double()
    ids, mask = inputs("alone", 17, other.config.vocab_size)
    with torch.inference_mode():
        output = other(input_ids=ids, attention_mask=mask)
    expected = output[0] if len(output) == 1 else torch.stack([*output.values()], dim=-1)
    weights = weights_of(other)
    logits = HEADS[name](weights, reference.encode(weights, ids[0].tolist(), n_heads=4)[-1])
    assert np.abs(logits - expected[0].numpy()).max() < 1e-10 * expected.abs().max()


def test_erf_is_accurate_to_1e_15():
    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(size=20_000) * 2, np.linspace(-8, 8, 4097), [0, 1e-300, np.inf, -np.inf]])
    expected = np.array([math.erf(value) for value in x])
    assert np.abs(reference.erf(x) - expected).max() < 1e-15
    assert np.abs(reference.erf(x.astype(np.float32)) - expected).max() < 2e-7
    assert np.isnan(reference.erf(np.array([np.nan]))).all()


def test_the_reference_needs_no_torch():
    code = "import sys, minidistil.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
