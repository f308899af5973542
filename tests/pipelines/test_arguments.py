"""Arguments, attributes and methods of transformers that scripts use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import minidistil
from minidistil.checkpoint import arguments
from minidistil.errors import CheckpointError, InputError
from support.pipelines import CLASSIFY, LABELS, TEXTS, ZERO_SHOT, ours
from support.twins import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")
SAME = {
    "framework": "pt",
    "use_fast": True,
    "trust_remote_code": True,
    "num_workers": 1,
    "return_all_scores": False,
    "feature_extractor": None,
    "image_processor": None,
    "processor": None,
    "binary_output": False,
    "use_safetensors": True,
    "output_attentions": False,
    "force_download": False,
    "proxies": None,
    "return_token_type_ids": False,
    "truncation": None,
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
        ({"device_map": {"encoder": "cpu", "classifier": "cpu"}}, "device_map is .*pass device="),
        ({"device_map": "cpu", "device": "cpu"}, "device is passed twice"),
        ({"model_kwargs": {"device_map": {"": 99}}}, "device is 'cuda:99'"),
        ({"model_kwargs": {"num_labels": 2}}, "num_labels is 2.*from_pretrained"),
        ({"model_kwargs": {"task": "ner"}}, "task is passed twice"),
        ({"model_kwargs": {"id2label": {0: "a"}}}, "id2label is .*dataclasses.replace"),
        ({"model_kwargs": {"subfolder": "x"}}, "subfolder is 'x'.*path of that folder"),
        ({"model_kwargs": {"load_in_4bit": True}}, 'dtype="int8"'),
        ({"model_kwargs": {"return_dict": True}}, "a model returns a tensor"),
        ({"output_hidden_states": True}, "trace"),
        ({"tokenizer_kwargs": {"truncation": True}}, "pass truncation="),
        ({"add_special_tokens": False}, "the model needs"),
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
        minidistil.pipeline(CLASSIFY, checkpoint(), **arguments)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto", None, torch.device("cpu")], ids=str)
def test_a_device_map_of_one_device_is_device(checkpoint, classify, device_map, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options in ({"device_map": device_map}, {"model_kwargs": {"device_map": device_map}}):
        pipe = minidistil.pipeline(CLASSIFY, checkpoint(), **options)
        assert pipe.device == torch.device("cpu")
        assert_same(pipe(TEXTS), classify(TEXTS))


@pytest.mark.parametrize(
    "number", [np.int64, np.int32, np.uint8, np.array, torch.tensor], ids=lambda f: f.__name__
)
def test_integers_of_numpy_and_torch_are_integers(checkpoint, classify, number):
    options = {"top_k": 2, "batch_size": 2, "max_length": 40}
    converted = {name: number(value) for name, value in options.items()}
    assert_same(classify(TEXTS, **converted), classify(TEXTS, **options))
    assert_same(ours(CLASSIFY, checkpoint(), **converted)(TEXTS), classify(TEXTS, **options))
    if number is not np.uint8:
        pipe = minidistil.pipeline(CLASSIFY, checkpoint(), device=number(-1))
        assert pipe.device == torch.device("cpu")


@pytest.mark.parametrize(
    "value", [np.bool_(True), True, 2.0, np.float64(2), np.array([2]), "2", torch.tensor(2.0)]
)
def test_numbers_that_are_not_integers_are_refused(classify, value):
    with pytest.raises(InputError, match=r"top_k is .*: expected an integer"):
        classify(TEXTS, top_k=value)


@pytest.mark.parametrize("name", [*arguments.PIPELINE_ATTRIBUTES])
def test_an_attribute_of_transformers_names_its_replacement(classify, name):
    with pytest.raises(AttributeError, match=f"no attribute {name!r}: ") as caught:
        getattr(classify, name)
    assert caught.value.name == name


@pytest.mark.parametrize(
    "other", [transformers.DistilBertModel, transformers.DistilBertTokenizer], ids=["model", "tokenizer"]
)
def test_an_object_of_transformers_is_refused_with_the_way_to_pass_it(checkpoint, other):
    found = other.from_pretrained(checkpoint())
    with pytest.raises(InputError, match=r"of transformers: .*save_pretrained.*and pass the folder"):
        minidistil.pipeline(CLASSIFY, model=found)
    with pytest.raises(InputError, match=r"of transformers: .*save_pretrained.*and pass the folder"):
        minidistil.pipeline(CLASSIFY, checkpoint(), tokenizer=found)


@pytest.mark.parametrize(
    ("task", "options"),
    [(ZERO_SHOT, {"padding": True}), ("ner", {"padding": True})],
)
def test_padding_is_accepted_and_max_length_names_its_replacement(checkpoint, task, options):
    classes = {"ner": transformers.DistilBertForTokenClassification}
    pipe = ours(task, checkpoint(**({"model_class": classes[task]} if task in classes else {})))
    arguments = (LABELS,) if task == ZERO_SHOT else ()
    assert_same(pipe(TEXTS, *arguments, **options), pipe(TEXTS, *arguments))
    with pytest.raises(InputError, match=r"max_length is 5.*pipe\.tokenizer\.max_length"):
        pipe(TEXTS, *arguments, max_length=5)
    with pytest.raises(TypeError, match="banana"):
        pipe(TEXTS, *arguments, banana=5)


@pytest.mark.parametrize("name", ["return_all_scores", "grouped_entities", "multi_class", "num_workers"])
def test_a_call_names_the_replacement_too(classify, name):
    with pytest.raises(InputError, match=rf"{name} is \[3\], which has no meaning here"):
        classify(TEXTS, **{name: [3]})
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


def test_without_a_network_a_mistyped_folder_is_an_error_that_names_similar_folders(tmp_path, monkeypatch):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("my-modle", "./my-modle"):
        with pytest.raises(CheckpointError, match=r"similar folders: my-model"):
            minidistil.pipeline(CLASSIFY, name, local_files_only=True)
