"""Tests that need a GPU: which kernels run, device synchronization, and numerical errors."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch

import minidistil
from minidistil import Batch
from minidistil.lab import fast
from minidistil.lab.static_shapes import Budget
from support.twins import CONFIGS, FORMS, LENGTHS, inputs, ours, theirs, twins

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_float64_error_is_at_most_1_5_times_that_of_transformers(name, dtype):
    other = theirs(CONFIGS[name]).to("cuda", dtype)
    mine, other64 = ours(other), copy.deepcopy(other).double()
    my_errors, their_errors = [], []
    for form in FORMS:
        for length in LENGTHS:
            ids, mask = (x.cuda() for x in inputs(form, length, mine.config.vocab_size))
            with torch.inference_mode():
                reference = other64(input_ids=ids, attention_mask=mask).logits
                my_errors.append((mine(ids, mask).double() - reference).flatten())
                their_errors.append(
                    (other(input_ids=ids, attention_mask=mask).logits.double() - reference).flatten()
                )
    my_error, their_error = torch.cat(my_errors), torch.cat(their_errors)
    assert my_error.square().mean().sqrt() <= 1.5 * their_error.square().mean().sqrt()
    assert my_error.abs().max() <= 3 * their_error.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_equal_lengths_reach_the_flash_kernel(dtype):
    mine = copy.deepcopy(twins("heads of 64")[0]).to("cuda", dtype)
    batch = Batch.from_padded(*inputs("equal", 128, 1000)).to("cuda")
    with torch.inference_mode(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as prof:
        mine(batch)
    assert any("flash" in event.key for event in prof.key_averages())


@pytest.mark.parametrize("form", ["equal", "ragged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_attention_runs_a_fused_kernel(form, dtype):
    mine = copy.deepcopy(twins("heads of 64")[0]).to("cuda", dtype)
    batch = Batch.from_padded(*inputs(form, 128, 1000)).to("cuda")
    with torch.inference_mode(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
        mine(batch)
    names = [event.key for event in prof.key_averages()]
    assert any(re.search("scaled_dot_product_(flash|efficient|cudnn)_attention", name) for name in names), names
    assert not any("attention_math" in name for name in names)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_never_synchronizes_with_the_device(form):
    mine = copy.deepcopy(twins()[0]).cuda()
    batch = Batch.from_padded(*inputs(form, 128, 1000)).to("cuda")
    with torch.inference_mode():
        mine(batch)
        torch.cuda.set_sync_debug_mode("error")
        try:
            mine(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_fastest_operations_match_the_model_and_never_synchronize(form, dtype):
    mine = copy.deepcopy(twins("heads of 64")[0]).to("cuda", dtype)
    quick = mine.with_ops(**vars(fast("cuda", dtype)))
    batch = Batch.from_padded(*inputs(form, 128, 1000)).to("cuda")
    near = 1e-4 if dtype == torch.float32 else 0.05
    with torch.inference_mode():
        torch.testing.assert_close(quick(batch), mine(batch), atol=near, rtol=near)
        torch.cuda.set_sync_debug_mode("error")
        try:
            quick(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("quick", [False, True])
def test_one_recorded_graph_serves_every_batch_within_its_size(quick, compiled):
    mine = copy.deepcopy(twins("heads of 64")[0]).to("cuda", torch.bfloat16)
    model = mine.with_ops(**vars(fast("cuda", torch.bfloat16))) if quick else mine
    budget = Budget(model, tokens=512, sequences=16, longest=64, compiled=compiled)
    for lengths in ([3, 64, 20], [1], [40] * 8, [5, 6, 7]):
        ids = [[1 + (7 * i + j) % 99 for j in range(length)] for i, length in enumerate(lengths)]
        with torch.inference_mode():
            expected = mine(Batch.from_lists(ids).to("cuda"))
        torch.testing.assert_close(budget(ids), expected, atol=0.05, rtol=0.05)


def test_padded_inputs_synchronize_once():
    mine = copy.deepcopy(twins()[0]).cuda()
    ids, mask = (x.cuda() for x in inputs("ragged", 128, 1000))
    with torch.inference_mode():
        mine(ids, mask)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                mine(ids, mask)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(warned) == 1, [str(warning.message) for warning in warned]


def test_the_dtype_on_cuda_is_that_of_the_files(tmp_path):
    twins("plain", torch.float16)[0].save_pretrained(tmp_path)
    assert minidistil.from_pretrained(tmp_path, device="cuda").dtype == torch.float16
    assert minidistil.from_pretrained(tmp_path, device="cuda", dtype="float32").dtype == torch.float32
