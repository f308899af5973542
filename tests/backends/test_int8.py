"""8 bits: what they hold, how far answers move, and that what is saved is what is loaded."""

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
from minidistil.backends import int8
from support.places import OURS
from support.twins import FORMS, LENGTHS, inputs, theirs, twins

BATCH = Batch.from_lists([[1, 2, 3], [4], [5, 6]])
ONEDNN = pytest.mark.skipif(
    not int8.prepare(torch.nn.Linear(1, 1)).onednn, reason="no fast 8-bit products of oneDNN here"
)


def numbers(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Rows of very different sizes, one of them zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * 10 ** torch.randn(rows, 1, generator=generator)
    x[0] = 0
    return x


def answer(model, batch=BATCH):
    with torch.inference_mode():
        return model(batch)


@pytest.fixture
def folder(tmp_path):
    """A tiny classifier's folder."""
    twins()[0].save_pretrained(tmp_path / "floats")
    return tmp_path / "floats"


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_no_number_moves_by_more_than_half_a_step(rows, columns, seed):
    x = numbers(rows, columns, seed)
    for quantize in (int8.quantize, int8.quantize_weight):
        whole, scale = quantize(x)
        assert whole.dtype == torch.int8
        assert whole.abs().max() <= 127
        assert ((whole * scale - x).abs() <= 0.5001 * scale).all()


@pytest.mark.full
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_quantizing_what_was_quantized_gives_the_same_bits(rows, columns, seed):
    whole, scale = int8.quantize_weight(numbers(rows, columns, seed))
    again, same = int8.quantize_weight(whole * scale)
    assert torch.equal(again, whole)
    assert torch.equal(same, scale)


@pytest.fixture(params=["AMX", "no AMX"])
def processor(request, monkeypatch):
    """How 8 bits are multiplied with AMX, and without; each works everywhere."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: request.param == "AMX")


@pytest.mark.parametrize("rows", [0, 1, 17, 300, 1000])
@pytest.mark.usefixtures("processor")
def test_a_product_is_that_of_the_rounded_numbers_exactly(rows):
    x, lin = numbers(rows + 1, 64, 1)[1:], torch.nn.Linear(64, 48)
    state = int8.prepare(lin)
    whole, scale = int8.quantize(x)
    weight, weight_scale = int8.quantize_weight(lin.weight.detach())
    exact = (whole.double() @ weight.double().T) * scale * weight_scale.T + lin.bias.detach()
    with torch.inference_mode():
        assert torch.allclose(int8.linear(x, state).double(), exact, rtol=1e-5, atol=1e-5)
        other = state._replace(weight=weight, onednn=False)  # torch._int_mm, as on CUDA
        assert torch.allclose(int8.linear(x, other).double(), exact, rtol=1e-5, atol=1e-5)
        gelu = torch.nn.functional.gelu(exact)
        assert torch.allclose(int8.linear_gelu(x, state).double(), gelu, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("no_bfloat16")  # as where oneDNN is restricted to AVX2 on a processor that has more
def test_onednn_is_not_asked_where_its_sums_of_16_bits_would_saturate(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert not int8.prepare(torch.nn.Linear(1, 1)).onednn


@ONEDNN
def test_signed_and_unsigned_numbers_have_one_product(monkeypatch):
    state, (whole, _) = int8.prepare(torch.nn.Linear(64, 48)), int8.quantize(numbers(9, 64, 4))
    found = []
    for amx in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        found.append(int8.by_onednn(whole, state))
    assert torch.equal(*found)


@ONEDNN
def test_onednn_multiplies_by_a_kernel_and_not_by_its_reference():
    code = "import torch; from minidistil.backends import int8\n"
    code += "x, lin = torch.randn(16, 768), torch.nn.Linear(768, 768)\n"
    code += "with torch.inference_mode(): int8.linear(x, int8.prepare(lin))"
    told = {**os.environ, "ONEDNN_VERBOSE": "1"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=told, check=True, capture_output=True, text=True
    ).stdout
    products = [line for line in said.splitlines() if ",exec,cpu,matmul," in line]
    assert products
    assert not any(",ref" in line for line in products)


@pytest.mark.parametrize("rows", [0, 1, int8.ROWS, 2 * int8.ROWS + 3])
@pytest.mark.usefixtures("processor")
def test_a_feed_forward_is_its_two_products_one_after_the_other(rows):
    x, lins = numbers(rows + 1, 16, 3)[1:], (torch.nn.Linear(16, 64), torch.nn.Linear(64, 16))
    first, second = map(int8.prepare, lins)
    whole = int8.quantized()["feed_forward"]
    with torch.inference_mode():
        expected = int8.linear(int8.linear_gelu(x, first), second)
        assert torch.equal(whole.run(x, whole.prepare(*lins)), expected)
        assert torch.equal(whole(x, *(lin.eval() for lin in lins)), expected)


def test_query_key_and_value_are_those_of_three_products():
    x, lins = numbers(5, 16, 2), [torch.nn.Linear(16, 16) for _ in range(3)]
    with torch.inference_mode():
        together = int8.qkv(x, int8.prepare(*lins))
        for one, lin in zip(together, lins, strict=True):
            assert torch.equal(one, int8.linear(x, int8.prepare(lin)))


@pytest.mark.full
def test_a_texts_answer_does_not_hang_on_its_neighbours(folder):
    model = minidistil.from_pretrained(folder, dtype="int8")
    texts = [[1, 2, 3], [900] * 40, [5], [7] * 300]
    together = answer(model, Batch.from_lists(texts))
    for i, text in enumerate(texts):
        assert torch.allclose(answer(model, Batch.from_lists([text]))[0], together[i], atol=1e-5)


@pytest.mark.full
def test_answers_stay_near_those_in_float32(folder):
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
def test_saved_and_loaded_is_the_same_bit_for_bit_and_again(tmp_path, name):
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
def test_the_file_is_about_a_quarter(tmp_path):
    minidistil.from_pretrained(OURS).save_pretrained(tmp_path / "floats")
    minidistil.from_pretrained(OURS, dtype="int8").save_pretrained(tmp_path / "small")
    large, small = tmp_path / "floats" / "model.safetensors", tmp_path / "small" / "model-int8.safetensors"
    assert small.stat().st_size < 0.28 * large.stat().st_size


@pytest.mark.full
def test_transformers_does_not_take_the_file_for_its_own(tmp_path):
    minidistil.from_pretrained(OURS, dtype="int8").save_pretrained(tmp_path)
    with pytest.raises(OSError, match="no file named model"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_neither_form_is_saved_beside_the_other(folder, tmp_path):
    model = minidistil.from_pretrained(folder, dtype="int8")
    with pytest.raises(
        InputError, match=r"holds a model\.safetensors, beside which model-int8\.safetensors would be ambiguous"
    ):
        model.save_pretrained(folder)
    model.save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"holds a model-int8\.safetensors, beside which model\.safetensors"):
        minidistil.from_pretrained(folder).save_pretrained(tmp_path / "small")


def test_a_file_in_8_bits_gives_no_other_dtype_and_no_new_head(folder, tmp_path):
    minidistil.from_pretrained(folder, dtype="int8").save_pretrained(tmp_path / "small")
    for options in ({"dtype": "float32"}, {"dtype": torch.bfloat16}, {"new_head": True}):
        with pytest.raises(InputError, match="is stored in 8 bits, for inference only"):
            minidistil.from_pretrained(tmp_path / "small", **options)


def test_a_file_with_other_tensors_is_refused_with_all_that_is_wrong(folder, tmp_path):
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


def test_other_operations_compose_and_other_products_are_refused(folder):
    seen = []

    def attention(*args):
        seen.append(1)
        return ops.attention(*args)

    model = minidistil.from_pretrained(folder, dtype="int8", ops=Ops(attention=attention))
    assert torch.equal(answer(model), answer(minidistil.from_pretrained(folder, dtype="int8")))
    assert len(seen) == model.config.n_layers
    with pytest.raises(InputError, match="cannot be combined with ops that replace linear: pass one of them"):
        minidistil.from_pretrained(folder, dtype="int8", ops=Ops(linear=ops.linear_gelu))


def test_plain_products_do_not_read_8_bits(folder):
    model = minidistil.from_pretrained(folder, dtype="int8")
    plain = model.with_ops(**{name: getattr(Ops(), name) for name in int8.quantized()})
    with pytest.raises(InputError, match="stored in 8 bits, which only"):
        answer(plain)
    plain.save_pretrained(folder.parent / "small")  # what it stores is in 8 bits, whatever computes with it
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
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # none was converted before
    assert torch.equal(answer(model.float().to("cpu")), expected)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})
    with pytest.raises(InputError, match=r"in training mode, but its operations are for inference: call eval\(\)"):
        answer(model.train())
    assert torch.equal(answer(model.eval()), expected)


def test_an_adapter_is_not_quantized():
    adapter = torch.nn.Sequential(torch.nn.Linear(8, 8)).eval()
    with pytest.raises(InputError, match=r"only nn\.Linear can be quantized, found Sequential"):
        int8.prepare(adapter)


def test_the_products_alone_serve_a_model_in_float32(folder):
    model = minidistil.from_pretrained(folder)
    view = model.with_ops(**int8.quantized())
    assert (answer(view) - answer(model)).abs().max() < 0.2 * answer(model).abs().max()
    view.save_pretrained(folder)  # whose parameters are what they were
    assert torch.equal(answer(minidistil.from_pretrained(folder)), answer(model))


@pytest.mark.full
def test_loading_imports_no_compiler(folder, tmp_path):
    import subprocess
    import sys

    minidistil.from_pretrained(folder, dtype="int8").save_pretrained(tmp_path / "small")
    code = "import sys, minidistil; minidistil.from_pretrained(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "small")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_both_files_downloaded_by_hand_the_asked_one_is_read(folder, tmp_path):
    minidistil.from_pretrained(folder, dtype="int8").save_pretrained(tmp_path / "small")
    shutil.copy(tmp_path / "small" / "model-int8.safetensors", folder)
    assert not [*minidistil.from_pretrained(folder).buffers()]
    assert [*minidistil.from_pretrained(folder, dtype="int8").buffers()]


@pytest.mark.cuda
@pytest.mark.parametrize("length", [1, 16, 17, 300])
def test_cuda_gives_the_cpus_answers(folder, length):
    batch = Batch.from_lists([[7] * length])
    expected = answer(minidistil.from_pretrained(folder, dtype="int8"), batch)
    found = answer(minidistil.from_pretrained(folder, dtype="int8", device="cuda"), batch.to("cuda"))
    assert torch.allclose(found.cpu(), expected, atol=1e-3)
