"""8-bit matmuls by FBGEMM: no sum saturates, and the global state of PyTorch is unchanged."""

from __future__ import annotations

import types
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minidistil.backends import fbgemm, int8, processor

HERE = pytest.mark.skipif(not fbgemm.works(), reason="needs FBGEMM, on a CPU with AVX2")


def draw_weight(outputs, inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
    weight[0] = 127  # every pair is too large
    return weight


def largest_pair(weight):
    """Return the largest sum of two neighboring weights of one sign, of each output."""
    width = weight.shape[1]
    pairs = [weight[:, i : i + 2].int() for i in range(0, width, 2)]
    sums = [torch.maximum(p.clamp(min=0).sum(1), -p.clamp(max=0).sum(1)) for p in pairs]
    return torch.stack(sums).amax(0)


@given(st.integers(1, 9), st.integers(1, 33), st.integers(0, 99))
def test_fitted_weights_have_no_pair_that_saturates(outputs, inputs, seed):
    weight, scale = draw_weight(outputs, inputs, seed), torch.rand(outputs) + 0.1
    fitted, fitted_scale = fbgemm.fit(weight, scale)
    assert (largest_pair(fitted) <= fbgemm.PAIR).all()
    assert fbgemm.PAIR * 2 * fbgemm.ZERO_POINT <= 32767
    error = (fitted * fitted_scale[:, None] - weight * scale[:, None]).abs()
    assert (error <= 0.5001 * fitted_scale[:, None]).all()
    small = largest_pair(weight) < fbgemm.PAIR
    assert torch.equal(fitted[small], weight[small])
    assert torch.equal(fitted_scale[small], scale[small])


@HERE
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 7), (32, 64), (33, 3072)])
def test_sums_of_the_largest_activations_and_weights_are_exact(outputs, inputs):
    weight, scale = fbgemm.fit(draw_weight(outputs, inputs, 1), torch.ones(outputs))
    signs = torch.randint(0, 2, (20, inputs), generator=torch.Generator().manual_seed(2)) * 2 - 1
    x = torch.cat([127 * signs, torch.full((1, inputs), 127), torch.full((1, inputs), -127)]).float()
    expected = (x.double() @ weight.double().T) * scale
    result = fbgemm.multiply(x, fbgemm.prepack(weight, scale)).double()
    assert torch.allclose(result, expected, rtol=1e-6, atol=1e-3)


@HERE
def test_packing_warns_of_nothing_and_restores_the_engine():
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fbgemm.prepack(draw_weight(8, 8, 3), torch.ones(8))
        with pytest.raises(RuntimeError):
            fbgemm.prepack(draw_weight(8, 8, 3), torch.ones(7))
    assert torch.backends.quantized.engine == engine


@pytest.mark.parametrize("present", [(), fbgemm.OPERATORS[:1]])
def test_without_the_quantized_operators_int8_computes_in_float32_and_warns_once(monkeypatch, present):
    operators = types.SimpleNamespace(**dict.fromkeys(present))
    monkeypatch.setattr(torch.ops, "quantized", operators, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    processor._warn_int8.cache_clear()
    lin = torch.nn.Linear(16, 8)
    with pytest.warns(UserWarning, match="int8 is not faster than float32 on this CPU") as caught:
        state, _ = int8.prepare_each(lin, lin)
    assert len(caught) == 1
    assert state.kernel == "float32"
    x, (weight, scale) = torch.randn(5, 16), int8.quantize_weight(lin.weight.detach())
    with torch.inference_mode():
        expected = torch.nn.functional.linear(x, weight * scale, lin.bias)
        assert torch.allclose(int8.linear(x, state), expected, atol=1e-6)
        assert torch.allclose(int8.linear_gelu(x, state), torch.nn.functional.gelu(expected), atol=1e-6)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        plain = int8.prepare(lin)
        assert isinstance(plain.weight, torch.nn.Linear)
        assert torch.allclose(int8.linear(x, plain), expected, atol=1e-6)


def test_operators_that_saturate_are_not_used(monkeypatch):
    multiply = fbgemm.multiply
    monkeypatch.setattr(fbgemm, "multiply", lambda x, packed: multiply(x, packed).clamp(-1000, 1000))
    assert not fbgemm.works()
