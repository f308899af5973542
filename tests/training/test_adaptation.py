"""Gradient checkpointing, resized embeddings, and adapters: by hand, and by peft where it is installed."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from torch import nn

import minidistil
from minidistil import Batch, CheckpointError, DistilBertConfig, InputError
from minidistil.backends import onednn
from minidistil.training import gradient_checkpointing, merge_adapters, resize_token_embeddings
from support.twins import ours, theirs

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {"vocab_size": 30, "dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 3, "pad_token_id": 0}
BATCH = Batch.from_lists([[1, 2, 3], [4, 5, 6, 7, 8]])
TARGETS = ["q_lin", "v_lin", "lin1"]


def new(head="DistilBertForSequenceClassification", **sizes):
    torch.manual_seed(0)
    return getattr(minidistil, head)(DistilBertConfig(**{**SIZES, **sizes}))


def stored_bytes(model):
    """Return the bytes that autograd stores for one backward pass, and the gradients."""
    sizes = []
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.nbytes), x)[1], lambda x: x):
        loss = model(BATCH).square().sum()
    loss.backward()
    return sum(sizes), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_stores_less_for_the_same_gradients():
    model = new().train()  # with dropout
    other = copy.deepcopy(model)
    stored, gradients = stored_bytes(model)
    less, same = stored_bytes(gradient_checkpointing(other))
    assert less < stored / 4
    for name, gradient in gradients.items():
        assert torch.equal(same[name], gradient)


def test_a_checkpointed_view_keeps_replaced_operations_and_runs_without_gradients():
    model = new().eval()
    view = gradient_checkpointing(model.with_ops(linear=lambda x, lin: 2 * lin(x)))
    with torch.inference_mode():
        assert torch.equal(view(BATCH), model.with_ops(linear=lambda x, lin: 2 * lin(x))(BATCH))
    assert torch.equal(gradient_checkpointing(model)(BATCH), model(BATCH))


@pytest.mark.parametrize("size", [40, 30, 25])
@pytest.mark.parametrize("head", ["DistilBertModel", "DistilBertForMaskedLM"])
def test_resized_embeddings_keep_their_rows_as_in_transformers(head, size, tmp_path):
    other = theirs({**SIZES, "n_layers": 1}, head)
    model = ours(other)
    batch = Batch.from_lists([[1, 2, 3], [4, 20, 24]])
    resize_token_embeddings(model, size)
    other.resize_token_embeddings(size, mean_resizing=False)
    assert model.config.vocab_size == len(model.get_input_embeddings().weight) == size
    with torch.no_grad():
        old = min(size, 30)
        result, expected = model(batch), other(*batch.padded())[0].flatten(0, 1)
        torch.testing.assert_close(result[:, :old], expected[:, :old], atol=1e-5, rtol=0)
        assert result.shape == expected.shape
        if size > 30:
            model(Batch.from_lists([[size - 1]]))
            assert 0.005 < model.get_input_embeddings().weight[30:].std() < 0.04
    model.save_pretrained(tmp_path)
    assert torch.equal(minidistil.from_pretrained(tmp_path)(batch), model(batch))
    assert type(model).from_pretrained(tmp_path).config.vocab_size == size


def test_an_untied_projector_is_resized_too():
    model = new("DistilBertForMaskedLM", tie_word_embeddings=False).eval()
    scores = model(BATCH)
    resize_token_embeddings(model, 33)
    assert model(BATCH).shape == (8, 33)
    torch.testing.assert_close(model(BATCH)[:, :30], scores)
    model(BATCH).sum().backward()
    assert model.vocab_projector.weight.grad.shape == (33, 16)


def test_an_invalid_size_and_a_model_for_inference_are_not_resized():
    model = new()
    for size in (0, None, "40"):
        with pytest.raises(CheckpointError, match=f"vocab_size is {size!r}: expected an integer"):
            resize_token_embeddings(model, size)
    with pytest.raises(InputError, match="operations are for inference"):
        resize_token_embeddings(model.with_ops(**onednn.prepacked()), 40)
    assert model.config.vocab_size == 30


class Adapter(nn.Module):
    """A layer with the interface of peft's."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.delta = nn.Parameter(torch.full_like(base.weight, 0.1))

    def forward(self, x):
        return self.base_layer(x) + x @ self.delta.T

    def merge(self):
        self.base_layer.weight.data += self.delta

    def get_base_layer(self):
        return self.base_layer


def test_adapters_are_merged_before_saving(tmp_path):
    model = new().eval()
    layer = model.distilbert.transformer.layer[1]
    layer.ffn.lin1, layer.attention.q_lin = Adapter(layer.ffn.lin1), Adapter(layer.attention.q_lin)
    adapted = model(BATCH)
    with pytest.raises(InputError, match=r"a DistilBertFor\S+ has no parameter \S+q_lin\.delta: merge adapters"):
        model.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())
    merge_adapters(model)
    torch.testing.assert_close(model(BATCH), adapted)
    model.save_pretrained(tmp_path)
    assert torch.equal(minidistil.from_pretrained(tmp_path)(BATCH), model(BATCH))


# peft


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft")


def lora(peft, **options):
    return peft.LoraConfig(target_modules=TARGETS, r=4, init_lora_weights=False, **options)


def test_injected_adapters_train_and_are_saved_restored_and_merged(peft, tmp_path):
    model, plain = peft.inject_adapter_in_model(lora(peft), new()).eval(), new().eval()
    adapted = model(BATCH)
    assert not torch.allclose(adapted, plain(BATCH))
    adapted.sum().backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained
    assert all("lora_" in name for name in trained)
    state = peft.get_peft_model_state_dict(model)
    other = peft.inject_adapter_in_model(lora(peft), new()).eval()
    peft.set_peft_model_state_dict(other, state)
    assert torch.equal(other(BATCH), adapted)
    with pytest.raises(InputError, match="merge adapters first"):
        model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"only nn.Linear can be prepacked, found peft\."), torch.inference_mode():
        model.with_ops(**onednn.prepacked())(BATCH)
    merge_adapters(model)
    torch.testing.assert_close(model(BATCH), adapted)
    model.save_pretrained(tmp_path)
    assert torch.equal(minidistil.from_pretrained(tmp_path)(BATCH), model(BATCH))


def test_a_peft_model_without_a_task_type_trains_and_is_saved_restored_and_merged(peft, tmp_path):
    wrapped = peft.get_peft_model(new(), lora(peft)).eval()
    ids, mask = BATCH.padded()
    adapted = wrapped(BATCH)
    assert torch.equal(wrapped(input_ids=ids, attention_mask=mask), adapted)
    wrapped.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(new(), tmp_path).eval()
    assert torch.equal(again(BATCH), adapted)
    for load in (minidistil.from_pretrained, minidistil.Tokenizer.from_pretrained):
        with pytest.raises(CheckpointError, match=r"but adapter_config.json of peft: load its base model"):
            load(tmp_path)
    with pytest.raises(
        InputError, match=r"is a PeftModel: expected a folder or a Hub id, or the .* get_base_model"
    ):
        minidistil.pipeline("text-classification", again)
    merged = again.merge_and_unload()
    assert type(merged) is minidistil.DistilBertForSequenceClassification
    torch.testing.assert_close(merged(BATCH), adapted)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(minidistil.from_pretrained(tmp_path / "merged")(BATCH), merged(BATCH))


@pytest.mark.parametrize("targets", [TARGETS, ["lin1", "lin2", "out_lin"]], ids=str)
@pytest.mark.parametrize("saved", [["classifier"], ["classifier", "pre_classifier"]], ids=str)
def test_modules_to_save_are_merged_too(peft, tmp_path, targets, saved):
    config = peft.LoraConfig(target_modules=targets, modules_to_save=saved, init_lora_weights=False)
    model = peft.inject_adapter_in_model(config, new()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    adapted = model(BATCH)
    with pytest.raises(InputError, match="merge adapters first"):
        model.save_pretrained(tmp_path)
    merge_adapters(model)
    torch.testing.assert_close(model(BATCH), adapted)
    model.save_pretrained(tmp_path)
    assert torch.equal(minidistil.from_pretrained(tmp_path)(BATCH), model(BATCH))


def test_an_adapter_of_a_tied_projector_is_not_merged_into_the_word_embeddings(peft):
    model = new("DistilBertForMaskedLM")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules="all-linear"), model)
    with pytest.raises(InputError, match="vocab_projector shares its weight with the word embeddings"):
        merge_adapters(model)
    model = new("DistilBertForMaskedLM")
    config = peft.LoraConfig(
        target_modules="all-linear", exclude_modules=["vocab_projector"], init_lora_weights=False
    )
    adapted = peft.inject_adapter_in_model(config, model).eval()(BATCH)
    merge_adapters(model)
    torch.testing.assert_close(model(BATCH), adapted)


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_a_task_type_of_peft_is_refused_with_what_to_do(peft, task_type):
    wrapped = peft.get_peft_model(new(), lora(peft, task_type=task_type))
    with pytest.raises(TypeError, match=r"use peft without task_type.*merge_and_unload"):
        wrapped(*BATCH.padded())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_an_adapter_of_transformers_is_merged_into_the_model(peft, tmp_path):
    other = theirs({**SIZES, "n_layers": 1}, "DistilBertForSequenceClassification")
    model = ours(other)
    wrapped = peft.get_peft_model(other, lora(peft, task_type="SEQ_CLS")).eval()
    expected = wrapped(*BATCH.padded()).logits
    wrapped.save_pretrained(tmp_path)
    merged = peft.PeftModel.from_pretrained(model, tmp_path).merge_and_unload()
    torch.testing.assert_close(merged(BATCH), expected, atol=1e-5, rtol=0)


# Folders that training leaves, and names in its files


def test_the_error_for_a_folder_without_a_model_names_the_models_in_it(tmp_path):
    for name in ("checkpoint-1000", "checkpoint-500"):
        new().save_pretrained(tmp_path / name)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text('{"word_embedding_dimension": 16}')
    found = (
        "has no config.json, but these folders in it hold a model: checkpoint-500, checkpoint-1000. Pass one of"
    )
    with pytest.raises(CheckpointError, match=re.escape(found)):
        minidistil.from_pretrained(tmp_path)
    minidistil.from_pretrained(tmp_path / "checkpoint-500")


def test_the_error_for_an_adapter_says_what_it_is(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(
        CheckpointError, match=r"has no config.json, but adapter_config.json of peft: load its base"
    ):
        minidistil.from_pretrained(tmp_path)
    new().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model.safetensors or .*, but adapter_config.json of peft"):
        minidistil.from_pretrained(tmp_path)


@pytest.mark.parametrize("prefix", ["model.", "model.encoder.", "base_model.model."])
def test_the_error_for_names_under_a_prefix_names_it(tmp_path, prefix):
    model = new()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    message = f"every name in the file begins with {prefix[:-1]}: save the state dict of"
    with pytest.raises(CheckpointError, match=message):
        minidistil.from_pretrained(tmp_path)
