"""The fastest kernel and dtype of a processor."""

from __future__ import annotations

import platform
import re

import pytest
import torch

import minidistil
from minidistil.backends import fbgemm, processor
from support.places import OURS, ROOT

TABLE = ROOT / "docs" / "benchmarks.md"


def simulate(monkeypatch, *, vnni=False, avx512=False, amx=False, bf16=False, avx2=True):
    """Simulate a processor with these instructions."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(fbgemm, "works", lambda: avx2)
    processor._warn_half.cache_clear()


@pytest.mark.parametrize(
    ("instructions", "kind"),
    [
        ({"vnni": True, "avx512": True, "amx": True, "bf16": True}, "AMX"),
        ({"vnni": True, "avx512": True}, "AVX512-VNNI"),
        ({"vnni": True}, "AVX2"),  # ONEDNN_MAX_CPU_ISA=AVX2
        ({"avx512": True}, "AVX2"),
        ({}, "AVX2"),
        ({"avx2": False}, "other"),
    ],
)
def test_the_kernel_is_chosen_by_the_instructions(monkeypatch, instructions, kind):
    simulate(monkeypatch, **instructions)
    processor._warn_int8.cache_clear()
    fastest = processor.FASTEST[kind]
    assert processor.kind() == kind
    assert processor.fastest_dtype() == fastest.dtype
    if fastest.int8 == "float32":
        with pytest.warns(UserWarning, match="int8 is not faster"):
            assert processor.int8_kernel(torch.device("cpu")) == fastest.int8
    else:
        assert processor.int8_kernel(torch.device("cpu")) == fastest.int8
    assert processor.int8_kernel(torch.device("cuda")) == "int_mm"
    assert processor.int8_kernel(torch.device("mps")) == "float32"


def test_each_choice_is_the_fastest_of_the_measured_table():
    """A row: | AVX2 | fbgemm | 1.8 | 1.6 | ...: the speed over float32, for each number of rows."""
    rows = re.findall(r"^\| (\S+) \| (\w+) \| ([\d. |]+) \|$", TABLE.read_text(encoding="utf-8"), re.M)
    rows = [(kind, kernel, [*map(float, speeds.split(" | "))]) for kind, kernel, speeds in rows]
    measured = {kind for kind, *_ in rows if kind in processor.FASTEST}
    assert "AVX2" in measured
    for kind in measured:
        speeds = {kernel: numbers for other, kernel, numbers in rows if other == kind} | {"float32": [1.0] * 99}
        chosen = speeds[processor.FASTEST[kind].int8]
        for numbers in speeds.values():
            assert all(mine >= other for mine, other in zip(chosen, numbers, strict=False))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_without_instructions_is_reported_once_with_the_remedy(monkeypatch, dtype):
    simulate(monkeypatch)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False, raising=False)
    remedy = rf"{dtype} is slower than float32 on this CPU.* pass dtype='float32', or dtype='auto'"
    with pytest.warns(UserWarning, match=remedy) as caught:
        _ = [minidistil.from_pretrained(OURS, dtype=dtype) for _ in range(2)]
    assert len(caught) == 1


@pytest.mark.parametrize("instructions", [{"avx512": True, "bf16": True}, {"avx512": True, "amx": True}])
def test_bfloat16_with_instructions_is_not_reported(monkeypatch, instructions):
    simulate(monkeypatch, **instructions)
    processor.warn_if_slow(torch.bfloat16)  # a warning would be an error
    processor.warn_if_slow(torch.float32)


@pytest.mark.parametrize(
    ("kind", "expected"), [("AMX", torch.bfloat16), ("AVX2", "int8"), ("other", torch.float32)]
)
@pytest.mark.filterwarnings("ignore:.*slower than float32 on this CPU")
def test_auto_is_the_fastest_dtype_of_a_pipeline(monkeypatch, kind, expected):
    monkeypatch.setattr(processor, "kind", lambda: kind)
    pipe = minidistil.pipeline("zero-shot-classification", OURS, device="cpu", dtype="auto")
    quantized = bool([*pipe.model.buffers()])
    assert ("int8" if quantized else pipe.dtype) == expected
