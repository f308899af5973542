"""Creating a pipeline: tasks, models, tokenizers, devices, dtypes and invalid arguments."""

from __future__ import annotations

import pytest
import torch
import transformers

import minidistil
from minidistil.errors import CheckpointError, InputError
from support.pipelines import (
    CLASSIFY,
    LABELS,
    TEXTS,
    ZERO_SHOT,
    by_label,
    ours,
)
from support.twins import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("task", ["banana", "", 5])
def test_an_unknown_task_is_an_error_that_names_the_known_ones(checkpoint, task):
    with pytest.raises(InputError, match=ZERO_SHOT):
        ours(task, checkpoint())


def test_a_model_must_be_named():
    with pytest.raises(InputError, match="model is missing"):
        minidistil.pipeline(CLASSIFY)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no folder"):
        ours(ZERO_SHOT, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no folder"):
        ours(ZERO_SHOT, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("as_object", [False, True])
def test_a_loaded_model_answers_as_its_folder_does(checkpoint, classify, as_object):
    tokenizer = minidistil.Tokenizer.from_pretrained(checkpoint()) if as_object else checkpoint()
    pipe = minidistil.pipeline(CLASSIFY, minidistil.from_pretrained(checkpoint()), tokenizer)
    assert pipe.device == torch.device("cpu")
    assert_same(pipe(TEXTS), classify(TEXTS))


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"revision": "main"}])
def test_a_loaded_model_requires_a_tokenizer_and_takes_no_dtype_or_revision(checkpoint, options):
    tokenizer = checkpoint() if options else None
    with pytest.raises(InputError, match="tokenizer"):
        ours(CLASSIFY, minidistil.from_pretrained(checkpoint()), tokenizer=tokenizer, **options)


def test_the_tokenizer_may_come_from_another_folder(checkpoint, classify, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint() / name).read_bytes())
    assert_same(ours(CLASSIFY, tmp_path, tokenizer=checkpoint())(TEXTS), classify(TEXTS))


@pytest.mark.parametrize("task", [ZERO_SHOT, CLASSIFY])
def test_a_model_without_a_classifier_is_refused(checkpoint, task):
    folder = checkpoint(model_class=transformers.DistilBertModel)
    with pytest.raises(CheckpointError, match="does not hold this model's weights"):
        ours(task, folder)
    with pytest.raises(InputError, match="requires a DistilBertForSequenceClassification, found DistilBertModel"):
        ours(task, minidistil.from_pretrained(folder), tokenizer=folder)


@pytest.mark.parametrize("device", ["banana", "", "cuda:99", 99, "meta", "hpu"])
def test_an_unknown_or_missing_device_is_an_error(checkpoint, device):
    with pytest.raises(InputError, match="device"):
        minidistil.pipeline(CLASSIFY, checkpoint(), device=device)


def test_the_device_minus_one_is_the_cpu(checkpoint):
    assert minidistil.pipeline(CLASSIFY, checkpoint(), device=-1).device == torch.device("cpu")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), (torch.float16, 0.02), ("bfloat16", 0.2)])
def test_every_dtype_works(checkpoint, zero_shot, dtype, tolerance):
    pipe = ours(ZERO_SHOT, checkpoint(), dtype=dtype)
    for text in TEXTS:
        assert by_label(pipe(text, LABELS)) == pytest.approx(by_label(zero_shot(text, LABELS)), abs=tolerance)


def test_a_model_that_was_in_training_answers_without_dropout(checkpoint, classify):
    model = minidistil.from_pretrained(checkpoint()).train()
    assert_same(minidistil.pipeline(CLASSIFY, model, checkpoint())(TEXTS), classify(TEXTS))


def test_nan_in_the_outputs_is_an_error(checkpoint):
    model = minidistil.from_pretrained(checkpoint())
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="the model returns nan or inf"):
        minidistil.pipeline(CLASSIFY, model, checkpoint())("a")


def test_an_unknown_argument_is_an_error_before_anything_is_read():
    for task in (ZERO_SHOT, CLASSIFY, "ner", "fill-mask", "question-answering", "sentence-embedding"):
        with pytest.raises(TypeError, match="banana"):
            minidistil.pipeline(task, "no/such/folder", banana=1)


def test_an_iterator_as_a_default_argument_works_in_every_call(checkpoint):
    pipe = minidistil.pipeline(ZERO_SHOT, checkpoint(), candidate_labels=iter(["team", "game"]))
    assert_same(pipe("the team won"), pipe("the team won"))


@pytest.mark.parametrize("device", ["cpu", "cpu:0", -1, torch.device("cpu")])
def test_a_model_on_the_requested_device_is_not_moved(checkpoint, monkeypatch, device):
    folder = checkpoint()
    model = minidistil.from_pretrained(folder)
    monkeypatch.setattr(model, "to", None)
    pipe = minidistil.pipeline(CLASSIFY, model, minidistil.Tokenizer.from_pretrained(folder), device=device)
    assert pipe.model is model
