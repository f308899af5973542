"""Each operation compared with its definition, in float64, one sequence at a time."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minidistil import Layout, Ops, reference
from minidistil.ops import add_norm, attention, attention_by_length, embed, linear_gelu, qkv


def attend_one_by_one(q, k, v, queries, keys):
    """Compute softmax(q kᵀ / √d) v by its definition, for each sequence separately."""
    outputs = []
    parts = (x.split(layout.lengths) for x, layout in ((q, queries), (k, keys), (v, keys)))
    for a, b, c in zip(*parts, strict=True):
        scores = torch.einsum("qhd,khd->hqk", a, b) / a.shape[-1] ** 0.5
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), c))
    return torch.cat(outputs)


def attention_padded(*args):
    """Compute attention as in a compiled model."""
    with mock.patch("torch.compiler.is_compiling", return_value=True):
        return attention(*args)


@pytest.mark.parametrize("implementation", [attention, attention_padded, attention_by_length])
@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6), first=st.booleans())
def test_attention_stays_inside_each_sequence(implementation, lengths, first):
    keys = Layout.from_lengths(lengths)
    queries = keys.first_tokens() if first else keys
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), 2, 8, dtype=torch.float64, generator=generator) for _ in range(3))
    q = queries.select(q)
    out = implementation(q, k, v, queries, keys, 0.0)
    torch.testing.assert_close(out, attend_one_by_one(q, k, v, queries, keys), atol=1e-12, rtol=0)


def test_attention_of_no_sequences_is_empty():
    layout = Layout.from_lengths([])
    x = torch.zeros(0, 2, 8)
    assert attention(x, x, x, layout, layout).shape == (0, 2, 8)


def test_a_run_of_equal_lengths_is_one_call(monkeypatch):
    """Equal lengths need no mask, so that SDPA can use the flash kernel on CUDA."""
    calls = []
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def count(q, k, v, **options):
        calls.append((q.shape, options))
        return sdpa(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count)
    for lengths, shapes in (([5] * 4, [(4, 2, 5, 8)]), ([5, 5, 3], [(2, 2, 5, 8), (1, 2, 3, 8)])):
        layout = Layout.from_lengths(lengths)
        x = torch.randn(sum(lengths), 2, 8)
        calls.clear()
        attention(x, x, x, layout, layout)
        assert [shape for shape, _ in calls] == shapes
        assert all("attn_mask" not in options for _, options in calls)


def test_add_norm_survives_a_large_mean():
    """Computing the variance as E[x²] - E[x]² passes on ordinary inputs and fails on these."""
    generator = torch.Generator().manual_seed(0)
    x, residual = torch.randn(2, 7, 64, generator=generator) + 1000
    weight, bias = torch.randn(2, 64, generator=generator)
    out = add_norm(x, residual, weight, bias, 1e-12)
    names = {"n.weight": weight.double().numpy(), "n.bias": bias.double().numpy()}
    expected = reference.layer_norm(names, "n", (x + residual).double().numpy())
    assert np.abs(out.numpy() - expected).max() < 1e-3


def test_add_norm_of_equal_values_is_its_bias():
    x = torch.full((2, 64), 3.0)
    bias = torch.randn(64)
    assert torch.equal(add_norm(x, x, torch.ones(64), bias, 1e-12), bias.expand(2, 64))


def test_gelu_is_exact_and_not_the_tanh_approximation():
    lin = torch.nn.Linear(1, 1).double()
    with torch.no_grad():
        lin.weight.fill_(1.0)
        lin.bias.zero_()
        x = torch.linspace(-6, 6, 101, dtype=torch.float64)[:, None]
        out = linear_gelu(x, lin)
    assert np.abs(out.numpy() - reference.gelu(x.numpy())).max() < 1e-15
    assert (out - torch.nn.functional.gelu(x, approximate="tanh")).abs().max() > 1e-4


def test_qkv_is_three_linear_layers():
    lins = [torch.nn.Linear(8, 8) for _ in range(3)]
    x = torch.randn(5, 8)
    for out, lin in zip(qkv(x, *lins), lins, strict=True):
        assert torch.equal(out, lin(x))


def test_embed_is_word_plus_position_normalized():
    word, position = torch.randn(10, 8), torch.randn(6, 8)
    weight, bias = torch.randn(8), torch.randn(8)
    ids, positions = torch.tensor([3, 3, 9]), torch.tensor([0, 5, 1])
    expected = torch.nn.functional.layer_norm(word[ids] + position[positions], (8,), weight, bias, 1e-12)
    assert torch.equal(embed(ids, positions, word, position, weight, bias, 1e-12), expected)


def test_plain_operations_are_live():
    assert Ops().live
