"""The engine in NumPy compared with the engine in torch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import minidistil
from minidistil import CheckpointError, InputError
from minidistil.checkpoint.architectures import MODELS
from minidistil.checkpoint.files import find_files
from minidistil.checkpoint.tasks import TASKS
from minidistil.pipelines import numpy_engine
from minidistil.pipelines.numpy_engine import NumpyEngine, load_engine
from minidistil.pipelines.pooling import WEIGHTS

pytestmark = pytest.mark.usefixtures("one_thread")
MASK = 4
CONFIG = minidistil.DistilBertConfig(
    60, max_position_embeddings=40, dim=16, hidden_dim=32, n_heads=2, n_layers=2, initializer_range=0.4
)
SEQUENCES = [(1, 5, MASK, 6, 2), (1, MASK, 7, MASK, 8, 9, 2), (2, MASK), (1, 5, MASK, 6, 2), (*range(40),)]
POOLINGS = [(mode,) for mode in (*WEIGHTS, "max")] + [("cls", "max", "mean")]
OUTPUTS = [
    ("text-classification", "sequence_logits", {}),
    ("token-classification", "token_logits", {}),
    ("feature-extraction", "token_logits", {}),
    ("question-answering", "span_logits", {}),
    ("fill-mask", "masked_logits", {"mask_id": MASK}),
    *(
        ("sentence-embedding", "pooled", {"modes": modes, "skip": skip})
        for modes in POOLINGS
        for skip in (0, 1, 6)
    ),
]


def save(folder, task, change=torch.Tensor.float, **options):
    """Save a model with random weights, and return its files."""
    torch.manual_seed(0)
    model = MODELS[TASKS[task].model_class](dataclasses.replace(CONFIG, **options))
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = {name: change(part) for name, part in load_file(path).items()}
    path.unlink()
    save_file(tensors, path)
    return find_files(folder)


def engines(files, task):
    mine = load_engine(files, task)
    assert isinstance(mine, NumpyEngine)
    return mine, numpy_engine._in_torch(files, task)


@pytest.mark.parametrize(("task", "output", "options"), OUTPUTS)
def test_every_output_is_that_of_torch(task, output, options, tmp_path):
    mine, other = engines(save(tmp_path, task), task)
    for rows, expected in zip(*(e.run(output, SEQUENCES, **options) for e in (mine, other)), strict=True):
        assert rows.dtype == expected.dtype
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5)
    assert "successor" not in vars(mine)


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"tie_word_embeddings": False}, {"n_heads": 1}])
@pytest.mark.parametrize("change", [torch.Tensor.half, torch.Tensor.double])
def test_configs_and_dtypes_of_files_are_those_of_torch(options, change, tmp_path):
    mine, other = engines(save(tmp_path, "fill-mask", change, **options), "fill-mask")
    for rows, expected in zip(
        *(e.run("masked_logits", SEQUENCES, mask_id=MASK) for e in (mine, other)), strict=True
    ):
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused_as_by_torch(value, tmp_path):
    task = "text-classification"
    for engine in engines(save(tmp_path, task, lambda part: part.fill_(value)), task):
        with pytest.raises(
            CheckpointError, match=r"nan or inf: check its weights, or use a wider dtype than torch\."
        ):
            engine.run("sequence_logits", SEQUENCES)


@pytest.mark.parametrize("ids", [(1, 60), (1,) * 41])
def test_ids_that_the_model_lacks_are_refused_as_by_torch(ids, tmp_path):
    task, errors = "text-classification", []
    for engine in engines(save(tmp_path, task), task):
        with pytest.raises(InputError) as caught:
            engine.run("sequence_logits", [(1, 2), ids])
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    "sequences", [[tuple(range(i, i + 40)) for i in range(20)], [(1, 2), ()]], ids=["many tokens", "no token"]
)
def test_torch_takes_over(sequences, tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_engine, "MAX_TOKENS", 799)
    task = "text-classification"
    mine, other = engines(save(tmp_path, task), task)
    rows, expected = (engine.run("sequence_logits", sequences) for engine in (mine, other))
    assert "successor" in vars(mine)
    assert np.array_equal(np.concatenate(rows), np.concatenate(expected))
    assert mine.dtype == torch.float32
    assert mine.device == other.device
    assert isinstance(mine.hand_over(), minidistil.DistilBertForSequenceClassification)


def test_equal_sequences_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_engine, "MAX_TOKENS", 10)
    mine, _ = engines(save(tmp_path, "text-classification"), "text-classification")
    rows = mine.run("sequence_logits", [(1, 2, 3)] * 50)
    assert len(rows) == 50
    assert "successor" not in vars(mine)


def test_files_that_only_torch_reads_are_loaded_into_torch(tmp_path):
    engine = load_engine(save(tmp_path, "fill-mask", torch.Tensor.bfloat16), "fill-mask")
    assert engine.dtype == torch.float32
    assert not isinstance(engine, NumpyEngine)
