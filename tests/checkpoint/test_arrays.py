"""Weights in NumPy are those in torch, with the same refusals."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import minidistil
from minidistil.checkpoint.architectures import MODELS
from minidistil.checkpoint.arrays import read_arrays
from minidistil.checkpoint.files import find_files
from minidistil.checkpoint.matching import parameter_shapes
from minidistil.checkpoint.tasks import TASKS
from support.corpus.loaded import LOADED
from support.corpus.refused import REFUSED

CLASSES = {task.model_class: name for name, task in TASKS.items()}  # model class -> a task
CONFIG = minidistil.DistilBertConfig(50, max_position_embeddings=20, dim=16, hidden_dim=24, n_heads=2, n_layers=3)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("labels", [2, 7])
def test_shapes_are_those_of_the_model_in_its_order(name, labels):
    labels = 2 if "QuestionAnswering" in name else labels
    config = dataclasses.replace(CONFIG, id2label={i: f"label {i}" for i in range(labels)})
    model = MODELS[name](config, device="meta")
    shapes = {name: list(part.shape) for name, part in model.named_parameters(remove_duplicate=False)}
    assert list(parameter_shapes(name, config).items()) == list(shapes.items())


def in_torch(folder: Any, model_class: str) -> Any:
    """Return the weights in float32, or the error."""
    try:
        model = minidistil.from_pretrained(folder, task=CLASSES[model_class])
    except minidistil.Error as error:
        return type(error), str(error)
    return {name: part.detach().numpy() for name, part in model.named_parameters(remove_duplicate=False)}


def in_numpy(folder: Any, model_class: str) -> Any:
    """Return the same, or None if only torch can read the files."""
    try:
        loaded = read_arrays(find_files(folder), model_class)
    except minidistil.Error as error:
        return type(error), str(error)
    return None if loaded is None else {n: part.astype(np.float32) for n, part in loaded[1].items()}


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in [*LOADED, *REFUSED]])
def test_the_weights_or_the_error_are_those_of_torch(case, tmp_path):
    folder = tmp_path / "checkpoint"
    case.write(folder)
    own = f"Distil{case.model.removeprefix('Distil')}"
    for model_class in {"DistilBertForSequenceClassification", own} & CLASSES.keys():
        mine = in_numpy(folder, model_class)
        if mine is None:
            continue
        expected = in_torch(folder, model_class)
        assert type(mine) is type(expected)
        if isinstance(expected, tuple):
            assert mine == expected
            continue
        assert mine.keys() == expected.keys()
        for name, part in expected.items():
            np.testing.assert_allclose(mine[name], part, rtol=1e-6, atol=0, err_msg=name)


@pytest.fixture
def folder(tmp_path):
    minidistil.DistilBertForSequenceClassification(CONFIG).save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = {name: change(part) for name, part in load_file(path).items()}
    path.unlink()
    return tensors, path


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floating_point_files_are_read_without_torch(folder, dtype):
    save_file(*change_weights(folder, lambda part: part.to(dtype)))
    code = "import sys; from minidistil.checkpoint.arrays import read_arrays\n"
    code += "from minidistil.checkpoint.files import find_files\n"
    code += f"config, arrays = read_arrays(find_files({str(folder)!r}), 'DistilBertForSequenceClassification')\n"
    code += "assert 'torch' not in sys.modules\n"
    code += "assert {str(array.dtype) for array in list(arrays.values())[1:]} == {'float32'}\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bfloat16_pickled_and_8_bit_files_are_left_to_torch(folder):
    classifier = "DistilBertForSequenceClassification"
    save_file(*change_weights(folder, torch.Tensor.bfloat16))
    assert in_numpy(folder, classifier) is None
    tensors, _ = change_weights(folder, torch.Tensor.float)
    torch.save(tensors, folder / "pytorch_model.bin")
    assert in_numpy(folder, classifier) is None
    (folder / "pytorch_model.bin").unlink()
    minidistil.DistilBertForSequenceClassification(CONFIG).save_pretrained(folder)
    minidistil.from_pretrained(folder, task=CLASSES[classifier], dtype="int8").save_pretrained(folder / "int8")
    assert in_numpy(folder / "int8", classifier) is None


def test_numbers_beyond_float32_are_infinite_as_in_torch(folder):
    tensors, path = change_weights(folder, torch.Tensor.double)
    tensors["classifier.bias"][0] = 1e300
    save_file(tensors, path)
    assert in_numpy(folder, "DistilBertForSequenceClassification")["classifier.bias"][0] == np.inf
