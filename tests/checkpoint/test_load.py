"""Loading and saving of checkpoints in folders: dtypes, devices, broken files, names and classes."""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import minidistil
from minidistil import CheckpointError, DistilBertForSequenceClassification, DistilBertModel, InputError
from minidistil.checkpoint import files, tensors
from minidistil.checkpoint import save as saving
from minidistil.checkpoint.files import write_json
from support.places import OURS, ROOT
from support.tokenizer_files import write_vocab

TINY = {
    "vocab_size": 60,
    "max_position_embeddings": 16,
    "dim": 32,
    "n_heads": 4,
    "n_layers": 2,
    "hidden_dim": 48,
    "id2label": {0: "entailment", 1: "neutral", 2: "contradiction"},
    "label2id": {"entailment": 0, "neutral": 1, "contradiction": 2},
    "finetuning_task": "mnli",
}
IDS = torch.arange(24).reshape(3, 8) + 5
HALVES = [torch.float16, torch.bfloat16]


def make(cls="DistilBertForSequenceClassification"):
    """Return a transformers model with random weights."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, cls)(transformers.DistilBertConfig(**TINY)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def open_in_transformers(folder):
    import transformers

    return transformers.AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs():
    return make()


@pytest.fixture(scope="module")
def saved(theirs, tmp_path_factory):
    """Save a model with transformers. Tests must not change the folder."""
    folder = tmp_path_factory.mktemp("saved")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """Return a copy of that folder, which a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "folder"))


def change_config(folder, **values):
    path = folder / "config.json"
    stored = {**json.loads(path.read_text("utf-8")), **values}
    path.write_text(json.dumps({key: value for key, value in stored.items() if value is not ...}), "utf-8")


def change_weights(folder, change):
    """Change the tensors of a folder with a function."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def same_bits(ours, theirs):
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


# Loading


def test_weights_that_transformers_saved_are_loaded_bit_for_bit(theirs, saved):
    same_bits(minidistil.from_pretrained(saved).state_dict(), theirs.state_dict())


def test_logits_are_those_of_transformers(theirs, saved):
    with torch.inference_mode():
        torch.testing.assert_close(
            minidistil.from_pretrained(saved)(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5
        )


def test_an_encoder_without_a_head_is_loaded(tmp_path):
    theirs = make("DistilBertModel")
    theirs.save_pretrained(tmp_path)
    ours = minidistil.from_pretrained(tmp_path)
    assert type(ours) is DistilBertModel
    with torch.inference_mode():
        torch.testing.assert_close(ours(IDS), theirs(IDS).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_a_folder_may_be_a_string_or_a_path_and_relative(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    monkeypatch.setenv("HOME", str(saved.parent))
    for name in (saved, str(saved), saved.name, f"./{saved.name}", f"~/{saved.name}"):
        assert minidistil.from_pretrained(name).config.extra["finetuning_task"] == "mnli"


def test_from_pretrained_of_a_class_loads_that_class(saved):
    assert type(DistilBertForSequenceClassification.from_pretrained(saved)) is DistilBertForSequenceClassification
    assert type(DistilBertModel.from_pretrained(saved)) is DistilBertModel


def test_a_loaded_model_is_in_eval_mode_with_all_weights(saved):
    model = minidistil.from_pretrained(saved)
    assert not any(module.training for module in model.modules())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_loading_draws_no_random_number(saved):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    minidistil.from_pretrained(saved)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_operations_that_are_passed_are_used(saved):
    ops = minidistil.Ops(add_norm=lambda x, residual, weight, bias, eps: residual)
    model = minidistil.from_pretrained(saved, ops=ops)
    assert model.ops == ops
    assert not torch.equal(model(IDS), minidistil.from_pretrained(saved)(IDS))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to list memory-mapped files")
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_weights_in_the_dtype_of_the_file_are_memory_mapped(theirs, tmp_path, dtype):
    make().to(dtype).save_pretrained(tmp_path)
    model = minidistil.from_pretrained(tmp_path, dtype=dtype)
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line.split()[0].split("-") for line in lines if line.endswith(f"{tmp_path}/model.safetensors")]
    spans = [(int(start, 16), int(end, 16)) for start, end in mapped]
    for name, parameter in model.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in spans), name


def test_changing_loaded_weights_never_changes_the_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    model = minidistil.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before
    assert minidistil.from_pretrained(folder).classifier.weight.any()


# Dtypes and devices


@pytest.mark.parametrize("stored", HALVES)
def test_half_precision_files_are_loaded_in_float32_by_default(tmp_path, stored):
    theirs = make().to(stored)
    theirs.save_pretrained(tmp_path)
    same_bits(minidistil.from_pretrained(tmp_path).state_dict(), theirs.float().state_dict())


@pytest.mark.parametrize("stored", [torch.float32, *HALVES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
def test_any_file_is_loaded_in_any_dtype(tmp_path, stored, dtype):
    theirs = make().to(stored)
    theirs.save_pretrained(tmp_path)
    for name in (dtype, str(dtype), str(dtype).removeprefix("torch.")):
        same_bits(minidistil.from_pretrained(tmp_path, dtype=name).state_dict(), theirs.to(dtype).state_dict())


def test_auto_is_the_dtype_of_the_files(saved, tmp_path):
    minidistil.from_pretrained(saved, dtype="bfloat16").save_pretrained(tmp_path)
    assert minidistil.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert minidistil.from_pretrained(tmp_path).dtype == torch.float32


def test_a_file_may_hold_several_dtypes(folder):
    def halve_some(tensors):
        tensors.update({name: tensor.half() for name, tensor in tensors.items() if "norm" not in name.lower()})

    change_weights(folder, halve_some)
    assert {parameter.dtype for parameter in minidistil.from_pretrained(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float", "int4", "float8_e4m3fn", "", torch.int64, torch.complex64, 32])
def test_a_dtype_that_models_do_not_compute_in_is_refused(saved, dtype):
    with pytest.raises(InputError, match=r"dtype is .*float32"):
        minidistil.from_pretrained(saved, dtype=dtype)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", 99, ""])
def test_an_unavailable_device_is_refused(saved, device):
    with pytest.raises(InputError, match="device is"):
        minidistil.from_pretrained(saved, device=device)


@pytest.mark.cuda
@pytest.mark.parametrize("stored", [torch.float32, *HALVES])
def test_on_cuda_the_dtype_is_that_of_the_files(tmp_path, stored):
    make().to(stored).save_pretrained(tmp_path)
    model = minidistil.from_pretrained(tmp_path, device="cuda")
    assert {(parameter.dtype, parameter.device.type) for parameter in model.parameters()} == {(stored, "cuda")}
    change_config(tmp_path, dtype="float32")
    assert minidistil.from_pretrained(tmp_path, device="cuda").dtype == torch.float32
    change_config(tmp_path, dtype=...)
    assert minidistil.from_pretrained(tmp_path, device="cuda").dtype == stored


# Broken files


def test_missing_unexpected_and_misshapen_weights_are_named_in_one_error(folder):
    def change(tensors):
        del tensors["classifier.bias"]
        tensors["extra.weight"] = torch.zeros(2)
        tensors["pre_classifier.weight"] = torch.zeros(32, 31)

    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        minidistil.from_pretrained(folder)
    message = str(caught.value)
    assert "missing: classifier.bias" in message
    assert "unexpected: extra.weight" in message
    assert "pre_classifier.weight [32, 31] (expected [32, 32])" in message


def test_too_many_tensors_are_refused(folder, monkeypatch):
    monkeypatch.setattr(tensors, "MAX_TENSORS", 3)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has \d+ tensors: expected at most 3"):
        minidistil.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"weight_map": dict.fromkeys("abcd", "a.safetensors")})
    with pytest.raises(CheckpointError, match=r"index\.json names 4 tensors: expected at most 3"):
        minidistil.from_pretrained(folder)


def test_too_many_shards_are_refused(folder):
    (folder / "model.safetensors").unlink()
    shard_of = {f"w{i}": f"{i}.safetensors" for i in range(65)}
    write_json(folder / "model.safetensors.index.json", {"weight_map": shard_of})
    with pytest.raises(CheckpointError, match=r"index\.json names 65 files: expected at most 64"):
        minidistil.from_pretrained(folder)


def test_a_long_list_of_names_is_shortened(folder):
    change_weights(folder, lambda tensors: tensors.update({f"extra.{i}": torch.zeros(1) for i in range(30)}))
    with pytest.raises(CheckpointError, match=r"extra\.\d+ and 22 more"):
        minidistil.from_pretrained(folder)


def test_an_encoder_is_not_loaded_as_a_classifier(tmp_path):
    make("DistilBertModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing: pre_classifier\..*new_head=True"):
        minidistil.from_pretrained(tmp_path, task="text-classification")


def test_another_number_of_labels_is_an_error_with_the_shapes(folder):
    change_config(folder, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(CheckpointError, match=r"classifier\.weight \[3, 32\] \(expected \[2, 32\]\)"):
        minidistil.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_not_floating_point_are_refused(folder, dtype):
    change_weights(folder, lambda tensors: tensors.update({"classifier.bias": torch.ones(3).to(dtype)}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*classifier\.bias"):
        minidistil.from_pretrained(folder)


def header(**tensors):
    content = json.dumps(tensors).encode()
    return struct.pack("<Q", len(content)) + content


BROKEN = {
    "empty": lambda whole: b"",
    "seven bytes": lambda whole: whole[:7],
    "garbage": lambda whole: b"\x80\x04pickle" * 1000,
    "half": lambda whole: whole[: len(whole) // 2],
    "all but a byte": lambda whole: whole[:-1],
    "a byte too many": lambda whole: whole + b"\0",
    "a header alone": lambda whole: whole[: 8 + struct.unpack("<Q", whole[:8])[0]],
    "a header longer than the file": lambda whole: struct.pack("<Q", len(whole)) + whole[8:],
    "a header of 2**64 - 1 bytes": lambda whole: b"\xff" * 8 + whole[8:],
    "a header that is not JSON": lambda whole: struct.pack("<Q", 4) + b"oops",
    "a header with tensors beyond the end": lambda whole: header(
        **{"classifier.bias": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    ),
    "an unknown dtype": lambda whole: (
        header(**{"classifier.bias": {"dtype": "F12", "shape": [3], "data_offsets": [0, 12]}}) + b"\0" * 12
    ),
    "a git-lfs pointer": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("how", BROKEN)
def test_an_error_for_broken_weights_names_the_file(folder, how):
    path = folder / "model.safetensors"
    path.write_bytes(BROKEN[how](path.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        minidistil.from_pretrained(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        minidistil.from_pretrained(folder)
    assert name in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_or_a_dangling_link_instead_of_a_file_is_an_error(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        minidistil.from_pretrained(folder)
    (folder / name).rmdir()
    (folder / name).symlink_to(folder / "gone")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + " is a broken link"):
        minidistil.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_device_or_a_pipe_instead_of_a_file_is_an_error(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + " is not a file"):
        minidistil.from_pretrained(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + " is not a file"):
        minidistil.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(folder, name):
    (folder / "model.safetensors" if name == "pytorch_model.bin" else folder / name).unlink()
    (folder / name).symlink_to("/proc/self/mem")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + ".*Errno 5"):
        minidistil.from_pretrained(folder)


def test_an_optional_file_that_is_a_broken_link_is_an_error_of_the_tokenizer(tmp_path):
    write_vocab(tmp_path, do_lower_case=False)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer_config.json").symlink_to("../blobs/gone")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is a broken link: restore the file"):
        minidistil.Tokenizer.from_pretrained(tmp_path)


def test_pipes_and_devices_in_subfolders_are_not_read_for_a_hint(tmp_path):
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "sub" / "a_config.json")
    (tmp_path / "sub" / "config.json").symlink_to("/dev/zero")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "distilbert"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"these folders in it hold a model: model\. Pass"):
        minidistil.from_pretrained(tmp_path)


def test_an_error_for_a_broken_config_names_the_file(folder):
    change_config(folder, n_heads=5)
    with pytest.raises(CheckpointError, match=r"config\.json: n_heads is 5"):
        minidistil.from_pretrained(folder)


# Names


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_instead_of_a_folder_is_refused(saved, name):
    for path in (saved / name, str(saved / name)):
        with pytest.raises(CheckpointError, match="expected a folder"):
            minidistil.from_pretrained(path)


def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path):
    gone = tmp_path / "gone"
    for name in (gone, str(gone), "./gone", "../gone", "~/gone", "a/b/gone", "a\\gone", Path("gone")):
        with pytest.raises(CheckpointError, match="there is no folder"):
            minidistil.from_pretrained(name)


def test_an_error_for_a_mistyped_folder_names_similar_ones(tmp_path, monkeypatch):
    for name in ("runs/model", "runs/model-2", "runs/other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path / "runs" / "modle", "./runs/modle"):
        with pytest.raises(
            CheckpointError, match=r"there is no folder .*similar folders: \S*runs/model, "
        ) as caught:
            minidistil.from_pretrained(name)
        assert "other" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["~nobody-of-this-name/model", "a\0b", "two words", "a//b", "-a", "a/b:c", "x" * 300]
)
def test_an_invalid_name_is_refused(name):
    with pytest.raises(CheckpointError):
        minidistil.from_pretrained(name)


def test_a_revision_of_a_folder_is_refused(saved):
    with pytest.raises(InputError, match="revision"):
        minidistil.from_pretrained(saved, revision="main")


# Classes


def test_the_class_is_the_first_known_architecture(folder):
    change_config(folder, architectures=["SomethingElse", "DistilBertForSequenceClassification"])
    assert type(minidistil.from_pretrained(folder)) is DistilBertForSequenceClassification


@pytest.mark.parametrize("architectures", [..., None, [], ["SomethingElse"]])
def test_without_a_known_architecture_a_task_is_needed(folder, architectures):
    change_config(folder, architectures=architectures)
    with pytest.raises(CheckpointError, match=r"architectures.*task="):
        minidistil.from_pretrained(folder)
    for task in ("text-classification", "sentiment-analysis", "zero-shot-classification"):
        model = minidistil.from_pretrained(folder, task=task)
        assert type(model) is DistilBertForSequenceClassification


def test_an_unknown_architecture_is_named(folder):
    change_config(folder, architectures=["SomethingElse"])
    with pytest.raises(CheckpointError, match="SomethingElse"):
        minidistil.from_pretrained(folder)


def test_an_unknown_task_is_refused_with_the_known_ones(saved):
    with pytest.raises(InputError, match=r"'translation'.*zero-shot-classification"):
        minidistil.from_pretrained(saved, task="translation")


# Saving


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_a_saved_model_has_the_same_logits_in_transformers(theirs, saved, tmp_path, dtype):
    minidistil.from_pretrained(saved, dtype=dtype).save_pretrained(tmp_path)
    reopened = open_in_transformers(tmp_path)
    expected = make().to(dtype)
    assert type(reopened) is type(theirs)
    same_bits(reopened.state_dict(), expected.state_dict())
    with torch.inference_mode():
        assert torch.equal(reopened(IDS).logits, expected(IDS).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
def test_a_saved_model_is_loaded_bit_for_bit(saved, tmp_path, dtype):
    model = minidistil.from_pretrained(saved, dtype=dtype)
    model.save_pretrained(tmp_path)
    same_bits(minidistil.from_pretrained(tmp_path, dtype=dtype).state_dict(), model.state_dict())


def test_config_keys_survive_saving(theirs, saved, tmp_path):
    minidistil.from_pretrained(saved).save_pretrained(tmp_path)
    before = json.loads((saved / "config.json").read_text("utf-8"))
    after = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert before.items() <= after.items()
    expected = open_in_transformers(saved).config.to_dict() | {"_name_or_path": str(tmp_path)}
    assert open_in_transformers(tmp_path).config.to_dict() == expected


def test_the_saved_config_names_the_dtype_and_the_class(saved, tmp_path):
    model = minidistil.from_pretrained(saved, dtype="bfloat16")
    model.distilbert.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert stored["dtype"] == "bfloat16"
    assert stored["architectures"] == ["DistilBertModel"]
    assert type(minidistil.from_pretrained(tmp_path)) is DistilBertModel


def test_saving_creates_the_folder_and_its_parents(saved, tmp_path):
    minidistil.from_pretrained(saved).save_pretrained(str(tmp_path / "new" / "folder"))
    assert set(contents(tmp_path / "new" / "folder")) == {"config.json", "model.safetensors"}


def test_saving_does_not_change_other_files(saved, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    minidistil.from_pretrained(saved).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_saving_over_the_file_that_the_model_is_mapped_from_is_safe(folder):
    model = minidistil.from_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(2):
        model.save_pretrained(folder)
        same_bits(model.state_dict(), before)
        same_bits(minidistil.from_pretrained(folder).state_dict(), before)
    with torch.no_grad():
        model.classifier.bias.add_(1)
    model.save_pretrained(folder)
    assert torch.equal(minidistil.from_pretrained(folder).classifier.bias, before["classifier.bias"] + 1)
    words = "distilbert.embeddings.word_embeddings.weight"
    assert torch.equal(model.state_dict()[words], before[words])


def test_saving_another_model_over_the_file_that_a_model_is_mapped_from_is_safe(folder):
    model = minidistil.from_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_ours().save_pretrained(folder)
    same_bits(model.state_dict(), before)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def changed(folder):
    """Load a folder and change a weight, so that saving would change a file."""
    model = minidistil.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias.add_(1)
    return model


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt(), RuntimeError("bug")])
def test_a_failed_save_does_not_change_the_folder(folder, monkeypatch, error):
    def fail(path, values):
        path.write_text("{")
        raise error

    before, model = contents(folder), changed(folder)
    monkeypatch.setattr(saving, "write_json", fail)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else type(error)):
        model.save_pretrained(folder)
    assert contents(folder) == before


def test_a_save_that_cannot_write_one_file_writes_none(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    before = contents(folder)
    with pytest.raises(CheckpointError):
        make_ours().save_pretrained(folder)
    assert contents(folder) == before


def make_ours():
    return DistilBertForSequenceClassification(minidistil.DistilBertConfig.from_dict(TINY))


def test_saving_to_the_path_of_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="cannot write"):
            make_ours().save_pretrained(target)
    assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user without the permissions of root"
)
def test_saving_into_a_folder_without_permission_is_an_error(folder):
    before, model = contents(folder), changed(folder)
    folder.chmod(0o500)
    with pytest.raises(CheckpointError, match="cannot write"):
        model.save_pretrained(folder)
    folder.chmod(0o700)
    assert contents(folder) == before


def test_saved_files_have_default_permissions(saved, tmp_path):
    # temporary files can be read by their owner only
    minidistil.from_pretrained(saved).save_pretrained(tmp_path)
    (tmp_path / "plain").touch()
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(set(modes.values())) == 1, modes


# PyTorch files


def test_a_compressed_archive_is_refused(saved, tmp_path):
    """Compressed records would be mapped as weights, or decompressed to any size."""
    shutil.copy(saved / "config.json", tmp_path)
    torch.save(load_file(saved / "model.safetensors"), tmp_path / "whole.bin")
    with (
        zipfile.ZipFile(tmp_path / "whole.bin") as whole,
        zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as compressed,
    ):
        for name in whole.namelist():
            compressed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin has a compressed record, whole/\S+: expected"):
        minidistil.from_pretrained(tmp_path)


def test_a_negated_view_is_refused(saved, tmp_path):
    shutil.copy(saved / "config.json", tmp_path)
    tensors = load_file(saved / "model.safetensors")
    tensors["classifier.weight"] = torch._neg_view(-tensors["classifier.weight"])
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"calls torch\._utils\._rebuild_tensor_v2 with \(.*dict\)"):
        minidistil.from_pretrained(tmp_path)


# Checkpoints that ship with the package


@pytest.mark.parametrize("place", ["minidistil/weights", "weights"])
def test_a_shipped_checkpoint_is_loaded_by_its_name(saved, tmp_path, monkeypatch, place):
    shutil.copytree(saved, tmp_path / place / "tiny")
    monkeypatch.setattr(files, "__file__", str(tmp_path / "minidistil" / "checkpoint" / "files.py"))
    same_bits(minidistil.from_pretrained("tiny").state_dict(), minidistil.from_pretrained(saved).state_dict())
    with pytest.raises(InputError, match="revision"):
        minidistil.from_pretrained("tiny", revision="main")


def test_a_folder_is_preferred_to_a_shipped_checkpoint(saved, tmp_path, monkeypatch):
    (tmp_path / "weights" / "tiny").mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(tmp_path / "minidistil" / "checkpoint" / "files.py"))
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        minidistil.from_pretrained("tiny")
    shutil.copytree(saved, tmp_path / "here" / "tiny")
    monkeypatch.chdir(tmp_path / "here")
    minidistil.from_pretrained("tiny")


@pytest.mark.full
def test_a_wheel_contains_the_checkpoints(saved, tmp_path):
    pytest.importorskip("hatchling", reason="needs hatchling to build a wheel: pip install hatchling")
    project, site = tmp_path / "project", tmp_path / "site"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "weights", "__pycache__", "dist", "build"))
    shutil.copytree(saved, project / "weights" / "tiny")  # instead of the real ones, which are large
    (project / "weights" / "tiny" / "README.md").write_text("a model card")
    (project / "weights" / "README.md").write_text("what there is")
    run(["-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=project)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    expected = ["README.md", "tiny/README.md", "tiny/config.json", "tiny/model.safetensors"]
    assert files_below(project / "weights") == files_below(site / "minidistil/weights") == expected
    code = "import minidistil; print(minidistil.__file__); minidistil.from_pretrained('tiny')"
    assert str(site) in run(["-c", code], cwd=tmp_path, PYTHONPATH=str(site))


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# A real checkpoint


def test_a_real_checkpoint_is_loaded_bit_for_bit():
    stored = load_file(OURS / "model.safetensors")
    loaded = minidistil.from_pretrained(OURS, dtype="float16").state_dict()
    same_bits({name: loaded[name] for name in sorted(loaded)}, {name: stored[name] for name in sorted(stored)})


@pytest.mark.parametrize("layers", [2_000, 20_000])
def test_a_config_of_many_layers_is_refused_before_they_are_built(tmp_path, layers, monkeypatch):
    make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layers": layers}))
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda self: pytest.fail("a module was built"))
    with pytest.raises(CheckpointError, match=f"n_layers is {layers}: expected at most 48"):
        minidistil.from_pretrained(tmp_path)


def test_the_name_of_a_file_that_is_not_unicode_is_written(tmp_path):
    name = os.fsdecode(b"t\xff.jsonl")
    write_json(tmp_path / "run.json", {"data": name})
    assert json.loads((tmp_path / "run.json").read_text("utf-8")) == {"data": name}
