"""The 8-bit backend: quantization, errors of the logits, saving and loading."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import minidistil
from minidistil import Batch, CheckpointError, InputError, Ops, ops
from minidistil.backends import fbgemm, int8
from support.places import OURS
from support.twins import FORMS, LENGTHS, inputs, theirs, twins

BATCH = Batch.from_lists([[1, 2, 3], [4], [5, 6]])
ONEDNN = pytest.mark.skipif(
    int8.prepare(torch.nn.Linear(1, 1)).kernel != "onednn",
    reason="needs a CPU with AVX-512 VNNI, for oneDNN's 8-bit matmuls",
)


def numbers(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Return rows of very different magnitudes; the first is 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * 10 ** torch.randn(rows, 1, generator=generator)
    x[0] = 0
    return x


def answer(model, batch=BATCH):
    with torch.inference_mode():
        return model(batch)


@pytest.fixture
def folder(tmp_path):
    """Create the folder of a tiny classifier."""
    twins()[0].save_pretrained(tmp_path / "floats")
    return tmp_path / "floats"


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_quantization_changes_no_number_by_more_than_half_a_step(rows, columns, seed):
    x = numbers(rows, columns, seed)
    for quantize in (int8.quantize, int8.quantize_weight):
        integers, scale = quantize(x)
        assert integers.dtype == torch.int8
        assert integers.abs().max() <= 127
        assert ((integers * scale - x).abs() <= 0.5001 * scale).all()


@pytest.mark.full
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_quantizing_a_quantized_weight_changes_no_bit(rows, columns, seed):
    integers, scale = int8.quantize_weight(numbers(rows, columns, seed))
    integers_again, scale_again = int8.quantize_weight(integers * scale)
    assert torch.equal(integers_again, integers)
    assert torch.equal(scale_again, scale)


@pytest.fixture(params=["AMX", "no AMX"])
def processor(request, monkeypatch):
    """Run the code for CPUs with AMX, and without; both run on any CPU."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: request.param == "AMX")


@pytest.mark.parametrize("rows", [0, 1, 17, 300, 1000])
@pytest.mark.usefixtures("processor")
def test_a_linear_layer_is_exact_for_the_quantized_numbers(rows):
    x, lin = numbers(rows + 1, 64, 1)[1:], torch.nn.Linear(64, 48)
    state = int8.prepare(lin)
    integers, scale = int8.quantize(x)
    weight, weight_scale = int8.quantize_weight(lin.weight.detach())
    if state.kernel == "fbgemm":
        weight, weight_scale = fbgemm.fit(weight, weight_scale[:, 0])
        weight_scale = weight_scale[:, None]
    expected = (integers.double() @ weight.double().T) * scale * weight_scale.T + lin.bias.detach()
    with torch.inference_mode():
        assert torch.allclose(int8.linear(x, state).double(), expected, rtol=1e-5, atol=1e-5)
        other = state._replace(weight=weight, kernel="int_mm", scale=weight_scale[:, 0])  # as on CUDA
        assert torch.allclose(int8.linear(x, other).double(), expected, rtol=1e-5, atol=1e-5)
        gelu = torch.nn.functional.gelu(expected)
        assert torch.allclose(int8.linear_gelu(x, state).double(), gelu, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("no_bfloat16")  # as where oneDNN is restricted to AVX2 on a CPU with AVX-512
def test_onednn_is_not_used_where_its_16_bit_sums_would_saturate(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert int8.prepare(torch.nn.Linear(1, 1)).kernel != "onednn"


@ONEDNN
def test_signed_and_unsigned_matmuls_are_equal(monkeypatch):
    state, (integers, _) = int8.prepare(torch.nn.Linear(64, 48)), int8.quantize(numbers(9, 64, 4))
    outputs = []
    for amx in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        outputs.append(int8.by_onednn(integers, state))
    assert torch.equal(*outputs)


@ONEDNN
def test_onednn_runs_an_optimized_kernel_and_not_its_reference_loop():
    code = "import torch; from minidistil.backends import int8\n"
    code += "x, lin = torch.randn(16, 768), torch.nn.Linear(768, 768)\n"
    code += "with torch.inference_mode(): int8.linear(x, int8.prepare(lin))"
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    matmuls = [line for line in output.splitlines() if ",exec,cpu,matmul," in line]
    assert matmuls
    assert not any(",ref" in line for line in matmuls)


@pytest.mark.parametrize("rows", [0, 1, int8.ROWS, 2 * int8.ROWS + 3])
@pytest.mark.usefixtures("processor")
def test_a_feed_forward_is_its_two_linear_layers(rows):
    x, lins = numbers(rows + 1, 16, 3)[1:], (torch.nn.Linear(16, 64), torch.nn.Linear(64, 16))
    first, second = map(int8.prepare, lins)
    whole = int8.quantized()["feed_forward"]
    with torch.inference_mode():
        expected = int8.linear(int8.linear_gelu(x, first), second)
        assert torch.equal(whole.run(x, whole.prepare(*lins)), expected)
        assert torch.equal(whole(x, *(lin.eval() for lin in lins)), expected)


def test_query_key_and_value_equal_three_linear_layers():
    x, lins = numbers(5, 16, 2), [torch.nn.Linear(16, 16) for _ in range(3)]
    with torch.inference_mode():
        together = int8.qkv(x, int8.prepare(*lins))
        for part, lin in zip(together, lins, strict=True):
            assert torch.equal(part, int8.linear(x, int8.prepare(lin)))


@pytest.mark.full
def test_logits_of_a_text_do_not_depend_on_other_texts(folder):
    model = minidistil.from_pretrained(folder, dtype="int8")
    texts = [[1, 2, 3], [900] * 40, [5], [7] * 300]
    together = answer(model, Batch.from_lists(texts))
    for i, text in enumerate(texts):
        assert torch.allclose(answer(model, Batch.from_lists([text]))[0], together[i], atol=1e-5)


@pytest.mark.full
def test_logits_are_close_to_float32(folder):
    plain, small = minidistil.from_pretrained(folder), minidistil.from_pretrained(folder, dtype="int8")
    errors, sizes = [], []
    for form in FORMS:
        for length in LENGTHS:
            batch = Batch.from_padded(*inputs(form, length, 1000))
            errors.append((answer(small, batch) - answer(plain, batch)).flatten())
            sizes.append(answer(plain, batch).flatten())
    error = torch.cat(errors).square().mean() / torch.cat(sizes).square().mean()
    assert error.sqrt() < 0.1


@pytest.mark.parametrize("name", ["DistilBertForMaskedLM", "DistilBertForTokenClassification", "DistilBertModel"])
def test_a_saved_model_is_loaded_bit_for_bit(tmp_path, name):
    theirs({}, name).save_pretrained(tmp_path / "floats")
    model = minidistil.from_pretrained(tmp_path / "floats", dtype="int8")
    model.save_pretrained(tmp_path / "small")
    assert not (tmp_path / "small" / "model.safetensors").exists()
    loaded = minidistil.from_pretrained(tmp_path / "small")
    assert torch.equal(answer(loaded), answer(model))
    loaded.save_pretrained(tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model-int8.safetensors") for name in ("small", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.full
def test_the_file_is_about_a_quarter_of_float32(tmp_path):
    minidistil.from_pretrained(OURS).save_pretrained(tmp_path / "floats")
    minidistil.from_pretrained(OURS, dtype="int8").save_pretrained(tmp_path / "small")
    large, small = tmp_path / "floats" / "model.safetensors", tmp_path / "small" / "model-int8.safetensors"
    assert small.stat().st_size < 0.28 * large.stat().st_size


@pytest.mark.full
def test_transformers_does_not_load_the_file(tmp_path):
    minidistil.from_pretrained(OURS, dtype="int8").save_pretrained(tmp_path)
    with pytest.raises(OSError, match="no file named model"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_int8_and_float_files_are_not_saved_in_one_folder(folder, tmp_path):
    model = minidistil.from_pretrained(folder, dtype="int8")
    with pytest.raises(
        InputError, match=r"holds a model\.safetensors, beside which model-int8\.safetensors would be ambiguous"
    ):
        model.save_pretrained(folder)
    model.save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"holds a model-int8\.safetensors, beside which model\.safetensors"):
        minidistil.from_pretrained(folder).save_pretrained(tmp_path / "small")


def test_an_int8_file_has_no_other_dtype_and_no_new_head(folder, tmp_path):
    minidistil.from_pretrained(folder, dtype="int8").save_pretrained(tmp_path / "small")
    for options in ({"dtype": "float32"}, {"dtype": torch.bfloat16}, {"new_head": True}):
        with pytest.raises(InputError, match="is stored in 8 bits, for inference only"):
            minidistil.from_pretrained(tmp_path / "small", **options)


def test_a_file_with_other_tensors_is_refused_with_all_differences(folder, tmp_path):
    minidistil.from_pretrained(folder, dtype="int8").save_pretrained(tmp_path / "small")
    path = tmp_path / "small" / "model-int8.safetensors"
    tensors = load_file(path)
    del tensors["classifier.bias"]
    tensors["banana"] = torch.ones(1)
    name = "distilbert.transformer.layer.0.attention.q_lin.weight"
    tensors[name] = tensors[name].float()
    save_file(tensors, path)
    problems = (
        r"in 8 bits; missing: classifier\.bias; unexpected: banana; of another shape or dtype: .*q_lin\.weight"
    )
    with pytest.raises(CheckpointError, match=problems):
        minidistil.from_pretrained(tmp_path / "small")


def test_other_operations_compose_and_other_linear_layers_are_refused(folder):
    seen = []

    def attention(*args):
        seen.append(1)
        return ops.attention(*args)

    model = minidistil.from_pretrained(folder, dtype="int8", ops=Ops(attention=attention))
    assert torch.equal(answer(model), answer(minidistil.from_pretrained(folder, dtype="int8")))
    assert len(seen) == model.config.n_layers
    with pytest.raises(InputError, match="cannot be combined with ops that replace linear: pass one or the other"):
        minidistil.from_pretrained(folder, dtype="int8", ops=Ops(linear=ops.linear_gelu))


def test_default_operations_do_not_read_int8_layers(folder):
    model = minidistil.from_pretrained(folder, dtype="int8")
    plain = model.with_ops(**{name: getattr(Ops(), name) for name in int8.quantized()})
    with pytest.raises(InputError, match="stored in 8 bits, which only"):
        answer(plain)
    plain.save_pretrained(folder.parent / "small")  # the weights are stored in 8 bits, whatever the operations
    assert torch.equal(answer(minidistil.from_pretrained(folder.parent / "small")), answer(model))


def test_a_quantized_model_is_neither_trained_nor_converted(folder):
    model = minidistil.from_pretrained(folder, dtype="int8")
    expected = answer(model)
    encoder = model.distilbert
    for part in (model, encoder, encoder.embeddings, encoder.transformer, encoder.transformer.layer[0].ffn.lin1):
        for convert in (part.half, part.double, lambda part=part: part.to(torch.bfloat16)):
            with pytest.raises(
                InputError, match=r"an int8 model cannot be converted to .*load the checkpoint with"
            ):
                convert()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # no parameter was converted
    assert torch.equal(answer(model.float().to("cpu")), expected)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})
    with pytest.raises(InputError, match=r"in training mode, but its operations are for inference: call eval\(\)"):
        answer(model.train())
    assert torch.equal(answer(model.eval()), expected)


def test_an_adapter_is_not_quantized():
    adapter = torch.nn.Sequential(torch.nn.Linear(8, 8)).eval()
    with pytest.raises(InputError, match=r"only nn\.Linear can be quantized, found torch\.nn\..*Sequential"):
        int8.prepare(adapter)


def test_the_operations_also_run_a_float32_model(folder):
    model = minidistil.from_pretrained(folder)
    view = model.with_ops(**int8.quantized())
    assert (answer(view) - answer(model)).abs().max() < 0.2 * answer(model).abs().max()
    view.save_pretrained(folder)  # the parameters of the view are unchanged
    assert torch.equal(answer(minidistil.from_pretrained(folder)), answer(model))


@pytest.mark.full
def test_loading_does_not_import_the_compiler(folder, tmp_path):
    import subprocess
    import sys

    minidistil.from_pretrained(folder, dtype="int8").save_pretrained(tmp_path / "small")
    code = "import sys, minidistil; minidistil.from_pretrained(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "small")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_if_a_folder_has_both_files_the_dtype_decides(folder, tmp_path):
    minidistil.from_pretrained(folder, dtype="int8").save_pretrained(tmp_path / "small")
    shutil.copy(tmp_path / "small" / "model-int8.safetensors", folder)
    assert not [*minidistil.from_pretrained(folder).buffers()]
    assert [*minidistil.from_pretrained(folder, dtype="int8").buffers()]


@pytest.mark.cuda
@pytest.mark.parametrize("length", [1, 16, 17, 300])
def test_cuda_matches_the_cpu(folder, length):
    batch = Batch.from_lists([[7] * length])
    expected = answer(minidistil.from_pretrained(folder, dtype="int8"), batch)
    logits = answer(minidistil.from_pretrained(folder, dtype="int8", device="cuda"), batch.to("cuda"))
    assert torch.allclose(logits.cpu(), expected, atol=1e-3)
