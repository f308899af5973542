"""Pipelines are copied, pickled and used in scikit-learn; their model may be changed at any time."""

from __future__ import annotations

import copy
import io
import pickle

import joblib
import numpy as np
import pytest
import sklearn
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import minidistil
from minidistil.errors import InputError
from support.pipelines import CLASSIFY, LABELS, NLI, TEXTS, ZERO_SHOT
from support.twins import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")


def by_torch(pipe):
    file = io.BytesIO()
    torch.save(pipe, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_joblib(pipe):
    file = io.BytesIO()
    joblib.dump(pipe, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {
    "pickle": lambda pipe: pickle.loads(pickle.dumps(pipe)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "torch": by_torch,
    "joblib": by_joblib,
    "clone": lambda pipe: sklearn.base.clone(FunctionTransformer(pipe)).func,
}
TASKS = {
    ZERO_SHOT: ({"candidate_labels": LABELS}, "DistilBertForSequenceClassification"),
    CLASSIFY: ({"top_k": 2}, "DistilBertForSequenceClassification"),
    "ner": ({"aggregation_strategy": "simple"}, "DistilBertForTokenClassification"),
    "question-answering": ({}, "DistilBertForQuestionAnswering"),
    "fill-mask": ({}, "DistilBertForMaskedLM"),
    "feature-extraction": ({}, "DistilBertModel"),
    "sentence-embedding": ({"pooling": "mean"}, "DistilBertModel"),
}
INPUTS = {
    "question-answering": [{"question": "the team?", "context": text} for text in TEXTS],
    "fill-mask": [f"{text} [MASK]" for text in TEXTS],
}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("batches", [0, 3])
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_a_copy_of_a_pipeline_answers_as_it_does(checkpoint, duplicate, batches, dtype):
    pipe = minidistil.pipeline(CLASSIFY, checkpoint(), dtype=dtype, device="cpu")
    for _ in range(batches):  # prepared weights are made in the first two
        pipe(TEXTS)
    twin = duplicate(pipe)
    for _ in range(3):
        assert_same(twin(TEXTS), pipe(TEXTS))


@pytest.mark.parametrize("task", TASKS)
def test_a_pipeline_of_every_task_can_be_pickled(checkpoint, task):
    options, model_class = TASKS[task]
    labels = NLI[:2] if task == "question-answering" else NLI
    folder = checkpoint(labels, model_class=getattr(transformers, model_class))
    pipe = minidistil.pipeline(task, folder, device="cpu", **options)
    inputs = INPUTS.get(task, TEXTS)
    for _ in range(2):
        pipe(inputs)
    answers, expected = pickle.loads(pickle.dumps(pipe))(inputs), pipe(inputs)
    if isinstance(expected, np.ndarray):
        np.testing.assert_allclose(answers, expected, atol=1e-6)
    else:
        assert_same(answers, expected)


def test_prepared_weights_do_not_make_a_pickle_larger(checkpoint):
    pipe = minidistil.pipeline(CLASSIFY, checkpoint(), device="cpu")
    before = len(pickle.dumps(pipe))
    for _ in range(3):
        pipe(TEXTS)
    assert len(pickle.dumps(pipe)) == before


@pytest.fixture(scope="module")
def embed(checkpoint):
    folder = checkpoint(model_class=transformers.DistilBertModel)
    return minidistil.pipeline("sentence-embedding", folder, device="cpu", pooling="mean")


@pytest.mark.parametrize("kind", [list, np.array])
def test_a_pipeline_is_a_step_of_scikit_learn(embed, kind):
    texts, labels = [f"the team won {i}" for i in range(12)] + ["politics"] * 12, [0] * 12 + [1] * 12
    steps = make_pipeline(FunctionTransformer(embed), LogisticRegression())
    scores = cross_val_score(sklearn.base.clone(steps), kind(texts), labels, cv=3, error_score="raise")
    assert scores.tolist() == [1, 1, 1]
    assert "FunctionTransformer" in repr(steps)


def linear(model):
    return model.distilbert.transformer.layer[1].ffn.lin2


def write_by_data(model):
    linear(model).weight.data.mul_(2)


def write_by_numpy(model):
    linear(model).weight.detach().numpy()[:] = 0.5


def write_by_init(model):
    torch.manual_seed(0)
    torch.nn.init.normal_(linear(model).weight)


def replace_parameter(model):
    linear(model).weight = torch.nn.Parameter(torch.ones_like(linear(model).weight))


def load(model):
    model.load_state_dict({name: 0.9 * value for name, value in model.state_dict().items()})


def hook(model):
    linear(model).register_forward_hook(lambda lin, args, output: 2 * output)


def prune(model):
    from torch.nn.utils import prune as pruning

    pruning.l1_unstructured(linear(model), "weight", amount=0.5)


def parametrize(model):
    torch.nn.utils.parametrizations.weight_norm(linear(model))
    with torch.no_grad():
        linear(model).parametrizations.weight.original0.mul_(2)


CHANGES = [
    *(write_by_data, write_by_numpy, write_by_init, replace_parameter, load, hook, prune, parametrize),
    *(torch.nn.Module.half, torch.nn.Module.double, torch.nn.Module.bfloat16, torch.nn.Module.train),
    lambda model: model.to(torch.float16),
    lambda model: model.distilbert.transformer.train(),
    lambda model: model.requires_grad_(False),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_has_the_same_effect_at_any_time(checkpoint, change):
    used, new = (minidistil.pipeline(CLASSIFY, checkpoint(), device="cpu", top_k=None) for _ in range(2))
    for _ in range(3):
        used(TEXTS)
    model = used.model
    used(TEXTS)  # whoever has the model may change it at any time
    change(model)
    change(new.model)
    for _ in range(3):
        torch.manual_seed(0)  # of dropout
        answers = used(TEXTS)
        torch.manual_seed(0)
        assert_same(answers, new(TEXTS))


@pytest.mark.parametrize("batches", [0, 3])
def test_an_int8_pipeline_refuses_a_conversion_at_any_time(checkpoint, batches):
    pipe = minidistil.pipeline(CLASSIFY, checkpoint(), device="cpu", dtype="int8")
    for _ in range(batches):
        pipe(TEXTS)
    with pytest.raises(InputError, match="load the checkpoint with dtype='float16'"):
        pipe.model.half()
    assert len(pipe(TEXTS)) == len(TEXTS)


def test_a_trace_for_one_length_is_refused(checkpoint):
    model = minidistil.from_pretrained(checkpoint())
    ids = torch.tensor([[2, 5, 6, 3]])
    arguments = (ids, torch.ones_like(ids))
    message = r"torch\.jit\.trace and torch\.export would be wrong for other lengths: use torch\.compile"
    with pytest.raises(InputError, match=message):
        torch.jit.trace(model, arguments)
    with pytest.raises(InputError, match=message):
        torch.export.export(model, arguments, strict=False)
