"""Traced hidden states and attention maps, compared with transformers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers

import minidistil
from minidistil import Batch, InputError
from support.twins import inputs, twins


@pytest.fixture(scope="module")
def traced():
    mine, other = twins("12 layers")
    ids, mask = inputs("ragged", 17, 1000)
    batch = Batch.from_padded(ids, mask)
    eager = transformers.DistilBertModel(other.config)
    eager.load_state_dict(other.distilbert.state_dict())
    eager.set_attn_implementation("eager")
    with torch.inference_mode():
        output = eager.eval()(ids, mask, output_hidden_states=True, output_attentions=True)
    return minidistil.trace(mine, batch), output, batch


def test_hidden_states_match_transformers(traced):
    trace, output, batch = traced
    assert len(trace.hidden) == len(output.hidden_states) == 13
    for mine, expected in zip(trace.hidden, output.hidden_states, strict=True):
        torch.testing.assert_close(mine, batch.layout.unpad(expected), atol=5e-5, rtol=0)


def test_attention_maps_match_transformers(traced):
    trace, output, batch = traced
    for layer, expected in enumerate(output.attentions):
        for sequence, length in enumerate(batch.layout.lengths):
            attention_map = trace.attention(layer, sequence)
            assert attention_map.shape == (4, length, length)
            torch.testing.assert_close(attention_map, expected[sequence, :, :length, :length], atol=5e-5, rtol=0)


def test_the_trace_of_a_classifier_has_all_tokens_of_the_last_layer():
    mine, _ = twins()
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    trace = minidistil.trace(mine, batch)
    assert [state.shape for state in trace.hidden] == [(len(batch.ids), 64)] * 3
    with torch.inference_mode():
        assert torch.equal(trace.hidden[-1], mine.distilbert(batch))


@pytest.mark.parametrize(
    ("layer", "sequence", "message"), [(0, 4, "sequence is 4"), (12, 0, "layer is 12"), (-1, 0, "layer is -1")]
)
def test_a_layer_or_sequence_out_of_range_is_refused(traced, layer, sequence, message):
    with pytest.raises(InputError, match=message):
        traced[0].attention(layer, sequence)


def test_only_a_batch_is_traced():
    with pytest.raises(InputError, match="batch is Tensor: expected a Batch"):
        minidistil.trace(twins()[0], inputs("ragged", 17, 1000)[0])


@pytest.mark.full
def test_trace_is_still_a_function_after_its_module_was_imported():
    code = "import minidistil; from minidistil.tracing import Trace; assert callable(minidistil.trace)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
