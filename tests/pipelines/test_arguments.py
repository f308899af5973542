"""Arguments, attributes and methods of transformers that scripts use."""

from __future__ import annotations

import pytest
import torch
import transformers

import minidistil
from minidistil.errors import CheckpointError, InputError
from support.pipelines import CLASSIFY, LABELS, TEXTS, ZERO_SHOT, ours
from support.twins import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")
SAME = {
    "framework": "pt",
    "use_fast": True,
    "trust_remote_code": True,
    "device_map": "auto",
    "num_workers": 0,
    "token": None,
    "local_files_only": True,
}


@pytest.mark.parametrize("name", SAME)
def test_an_argument_of_transformers_that_holds_anyway_is_accepted(checkpoint, classify, name):
    pipe = ours(CLASSIFY, checkpoint(), **{name: SAME[name]})
    assert_same(pipe(TEXTS), classify(TEXTS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"framework": "tf"}, "framework is 'tf'.*PyTorch"),
        ({"use_fast": False}, "use_fast is False"),
        ({"device_map": {"": 0}}, "device_map is .*device="),
        ({"num_workers": 4}, "num_workers is 4"),
        ({"cache_dir": "x"}, "HF_HUB_CACHE"),
        ({"load_in_8bit": True}, 'dtype="int8"'),
        ({"return_all_scores": True}, "top_k=None"),
        ({"grouped_entities": True}, 'aggregation_strategy="simple"'),
        ({"multi_class": True}, "multi_label="),
        ({"offset_mapping": [(0, 1)]}, "offsets of every token"),
        ({"model_kwargs": {"cache_dir": "x"}}, "HF_HUB_CACHE"),
        ({"model_kwargs": 5}, "model_kwargs is int"),
        ({"dtype": "float32", "torch_dtype": "float64"}, "dtype is passed twice"),
        ({"revision": "a", "model_kwargs": {"revision": "b"}}, "revision is passed twice"),
    ],
)
def test_an_argument_without_meaning_is_an_error_that_names_what_replaces_it(checkpoint, arguments, message):
    with pytest.raises(InputError, match=message):
        ours(CLASSIFY, checkpoint(), **arguments)


@pytest.mark.parametrize("name", ["return_all_scores", "grouped_entities", "multi_class", "num_workers"])
def test_a_call_names_the_replacement_too(classify, name):
    with pytest.raises(InputError, match=f"{name} is True, which has no meaning here"):
        classify(TEXTS, **{name: True})
    assert_same(classify(TEXTS, **{name: None}), classify(TEXTS))


@pytest.mark.parametrize("dtype", ["float64", torch.float64])
def test_torch_dtype_is_dtype(checkpoint, dtype):
    for options in ({"torch_dtype": dtype}, {"dtype": dtype}, {"model_kwargs": {"torch_dtype": dtype}}):
        pipe = ours(CLASSIFY, checkpoint(), **options)
        assert pipe.dtype == pipe.model.dtype == torch.float64
    pipe.model.float()
    assert pipe.dtype == torch.float32


@pytest.mark.parametrize(
    ("model_class", "labels", "task"),
    [
        ("DistilBertForSequenceClassification", LABELS, "text-classification"),
        ("DistilBertForTokenClassification", LABELS, "token-classification"),
        ("DistilBertForQuestionAnswering", LABELS[:2], "question-answering"),
        ("DistilBertForMaskedLM", LABELS, "fill-mask"),
        ("DistilBertModel", LABELS, "feature-extraction"),
    ],
)
def test_the_task_is_inferred_from_the_model(checkpoint, model_class, labels, task):
    folder = checkpoint(tuple(labels), model_class=getattr(transformers, model_class))
    assert minidistil.pipeline(model=folder, device="cpu").task == task
    model = minidistil.from_pretrained(folder)
    assert minidistil.pipeline(model=model, tokenizer=folder).task == task


def test_a_model_without_a_pipeline_is_an_error(checkpoint):
    folder = checkpoint(model_class=transformers.DistilBertForMultipleChoice)
    with pytest.raises(InputError, match="there is no pipeline for a DistilBertForMultipleChoice"):
        minidistil.pipeline(model=folder)
    with pytest.raises(InputError, match="model is missing"):
        minidistil.pipeline()


def test_a_saved_pipeline_answers_the_same(checkpoint, classify, tmp_path):
    ours(CLASSIFY, checkpoint()).save_pretrained(tmp_path)
    assert_same(ours(CLASSIFY, tmp_path)(TEXTS), classify(TEXTS))
    oracle = transformers.pipeline(CLASSIFY, str(tmp_path), device="cpu")
    assert_same(classify(TEXTS), oracle(TEXTS))


def test_predict_and_transform_are_calls(classify, their_classify):
    assert_same(classify.predict(TEXTS), their_classify.predict(TEXTS))
    assert_same(classify.transform(TEXTS), their_classify.transform(TEXTS))


def test_reprs_name_the_model_and_the_tokenizer(checkpoint):
    text = repr(ours(CLASSIFY, checkpoint()))
    for part in (
        "TextClassification",
        CLASSIFY,
        "DistilBertForSequenceClassification",
        "float32",
        "cpu",
        "WordPiece",
    ):
        assert part in text


def test_contr_is_contradiction(checkpoint, zero_shot):
    pipe = ours(ZERO_SHOT, checkpoint(("ENTAIL", "NEUTRAL", "CONTR")))
    assert (pipe.entailment_id, pipe.contradiction_id) == (0, 2)


def test_with_local_files_only_a_repository_that_is_not_cached_is_an_error():
    with pytest.raises(CheckpointError, match="in the cache, and local_files_only is True"):
        minidistil.pipeline(CLASSIFY, "nobody/nothing", local_files_only=True)
