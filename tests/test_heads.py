"""Every head compared with transformers, padded and packed, and the features of single heads."""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import minidistil
from minidistil import Batch, CheckpointError, DistilBertConfig, DistilBertForMaskedLM, InputError, SpanLogits
from support.twins import CONFIGS, FORMS, LENGTHS, TOKEN_FORMS, inputs, ours, theirs

pytestmark = pytest.mark.usefixtures("one_thread")
TOKEN_HEADS = {
    "DistilBertModel": "last_hidden_state",
    "DistilBertForTokenClassification": "logits",
    "DistilBertForMaskedLM": "logits",
    "DistilBertForQuestionAnswering": "start_logits end_logits",
}
CHOICE = "DistilBertForMultipleChoice"


@functools.cache
def twins(head: str, name: str = "plain", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    two = {"id2label": {0: "start", 1: "end"}} if head == "DistilBertForQuestionAnswering" else {}
    model = theirs({**CONFIGS[name], **two}, head).to(dtype)
    return ours(model), model


def stacked(output: Tensor | SpanLogits) -> Tensor:
    return torch.stack(output, -1) if isinstance(output, SpanLogits) else output


def expected(head: str, other: Any, ids: Tensor, mask: Tensor) -> Tensor:
    output = other(input_ids=ids, attention_mask=mask)
    parts = [getattr(output, name) for name in TOKEN_HEADS.get(head, "logits").split()]
    return torch.stack(parts, -1) if len(parts) > 1 else parts[0]


def choices(form: str, length: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Return two questions, with a choice for each row of `inputs`: (2, n, length)."""
    ids, mask = inputs(form, length, vocab_size)
    return torch.stack([ids, ids.flip(-1)]), torch.stack([mask, mask])


@pytest.mark.parametrize(
    ("head", "name"),
    [("DistilBertModel", "plain"), *itertools.product([*TOKEN_HEADS][1:], CONFIGS)],  # heads cover the rest
)
def test_per_token_results_are_within_1e_5_of_transformers_and_0_at_padding(head, name):
    mine, other = twins(head, name)
    for form in TOKEN_FORMS:
        for length in LENGTHS:
            ids, mask = inputs(form, length, mine.config.vocab_size)
            with torch.inference_mode():
                reference = expected(head, other, ids, mask)[mask.bool()]
                padded = stacked(mine(ids, mask))
                packed = stacked(mine(Batch.from_padded(ids, mask)))
            worst = ((padded[mask.bool()] - reference).abs().max() / reference.abs().max()).item()
            assert worst < 1e-5, (form, length)
            assert (padded[~mask.bool()] == 0).all()
            assert torch.equal(packed, padded[mask.bool()])


@pytest.mark.full
@pytest.mark.parametrize("name", CONFIGS)
def test_multiple_choice_is_within_1e_5_of_transformers(name):
    mine, other = twins(CHOICE, name)
    for form in FORMS:
        for length in LENGTHS:
            ids, mask = choices(form, length, mine.config.vocab_size)
            with torch.inference_mode():
                reference = expected(CHOICE, other, ids, mask)
                scores = mine(ids, mask)
                packed = mine(Batch.from_padded(ids.flatten(0, 1), mask.flatten(0, 1)))
            assert ((scores - reference).abs().max() / reference.abs().max()).item() < 1e-5, (form, length)
            assert torch.equal(packed, scores.flatten())


@pytest.mark.full
@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x != "plain")) for x in CONFIGS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head", [*TOKEN_HEADS, CHOICE])
def test_the_float64_error_is_at_most_1_5_times_that_of_transformers(head, dtype, name):
    mine, other = twins(head, name, dtype)
    other64 = copy.deepcopy(other).double()
    my_errors, their_errors = [], []
    for form in FORMS if head == CHOICE else TOKEN_FORMS:
        for length in LENGTHS:
            ids, mask = (choices if head == CHOICE else inputs)(form, length, mine.config.vocab_size)
            real = slice(None) if head == CHOICE else mask.bool()
            with torch.inference_mode():
                reference = expected(head, other64, ids, mask)[real]
                my_errors.append((stacked(mine(ids, mask))[real].double() - reference).flatten())
                their_errors.append((expected(head, other, ids, mask)[real].double() - reference).flatten())
    my_error, their_error = torch.cat(my_errors), torch.cat(their_errors)
    assert my_error.square().mean().sqrt() <= 1.5 * their_error.square().mean().sqrt()
    assert my_error.abs().max() <= 3 * their_error.abs().max()


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x != "plain")) for x in CONFIGS])
@pytest.mark.parametrize("head", [*TOKEN_HEADS, CHOICE])
def test_float64_results_match_transformers_to_1e_12(head, name):
    mine, other = twins(head, name, torch.float64)
    for form, length in itertools.product(FORMS, LENGTHS if name != "plain" else [17]):
        ids, mask = (choices if head == CHOICE else inputs)(form, length, mine.config.vocab_size)
        real = slice(None) if head == CHOICE else mask.bool()
        with torch.inference_mode():
            reference = expected(head, other, ids, mask)[real]
            assert (stacked(mine(ids, mask))[real] - reference).abs().max() / reference.abs().max() < 1e-12


@pytest.mark.parametrize("head", [*TOKEN_HEADS, CHOICE])
def test_parameter_names_match_the_hub(head):
    mine, other = twins(head)
    assert list(mine.state_dict()) == list(other.state_dict())


@pytest.mark.parametrize("head", [*TOKEN_HEADS, CHOICE])
def test_gradients_match_transformers(head):
    off = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "qa_dropout": 0.0}
    two = {"id2label": {0: "start", 1: "end"}}
    other = theirs({**off, **two}, head).double().train()
    mine = ours(other).train()
    ids, mask = (choices if head == CHOICE else inputs)("ragged", 17, 1000)
    real = slice(None) if head == CHOICE else mask.bool()
    torch.manual_seed(0)
    weights = torch.randn_like(expected(head, other, ids, mask)[real])
    (stacked(mine(ids, mask))[real] * weights).sum().backward()
    (expected(head, other, ids, mask)[real] * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in other.named_parameters()}
    for name, parameter in mine.named_parameters():
        if name.endswith("word_embeddings.weight"):  # transformers does not train the row of the padding token
            torch.testing.assert_close(parameter.grad[1:], gradients[name][1:], atol=1e-11, rtol=1e-9)
        else:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-11, rtol=1e-9, msg=name)


DROPOUTS = {
    "DistilBertForTokenClassification": "dropout",
    "DistilBertForQuestionAnswering": "qa_dropout",
    CHOICE: "seq_classif_dropout",
}


@pytest.mark.parametrize("head", DROPOUTS)
def test_each_head_has_its_dropout_in_training_only(head):
    off = dict.fromkeys(["dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"], 0.0)
    two = {"id2label": {0: "start", 1: "end"}}
    mine = ours(theirs({**off, **two, DROPOUTS[head]: 0.5}, head))
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    assert torch.equal(stacked(mine(batch)), stacked(mine(batch)))
    mine.train()
    assert not torch.equal(stacked(mine(batch)), stacked(mine(batch)))


# Question answering


def test_question_answering_returns_start_and_end_by_name():
    mine, _ = twins("DistilBertForQuestionAnswering")
    ids, mask = inputs("ragged", 17, 1000)
    output = mine(ids, mask)
    start, end = output
    assert torch.equal(output.start, start)
    assert torch.equal(output.end, end)
    assert start.shape == end.shape == ids.shape


def test_question_answering_needs_two_labels():
    with pytest.raises(CheckpointError, match="num_labels is 3: question answering has 2"):
        minidistil.DistilBertForQuestionAnswering(DistilBertConfig(id2label={0: "a", 1: "b", 2: "c"}))


# Multiple choice


def test_multiple_choice_takes_three_dimensions():
    mine, _ = twins(CHOICE)
    ids, mask = choices("ragged", 17, 1000)
    with pytest.raises(InputError, match=r"input_ids is .* expected the shape \(questions, choices, length\)"):
        mine(ids[0], mask[0])
    with pytest.raises(InputError, match="attention_mask is"):
        mine(ids, mask[:1])
    with pytest.raises(InputError, match="attention_mask is int"):
        mine(ids, 1)


def test_multiple_choice_is_not_a_sequence_classifier():
    assert not isinstance(twins(CHOICE)[0], minidistil.DistilBertForSequenceClassification)


# Masked LM


def tied(model: DistilBertForMaskedLM) -> bool:
    return model.vocab_projector.weight is model.distilbert.embeddings.word_embeddings.weight


def test_the_projector_stays_tied_to_the_word_embeddings():
    config = DistilBertConfig(dim=32, hidden_dim=32, n_layers=1, n_heads=2, vocab_size=50)
    model = DistilBertForMaskedLM(config)
    assert tied(model)
    assert tied(model.to(torch.float64))
    assert tied(copy.deepcopy(model))
    assert tied(pickle.loads(pickle.dumps(model)))
    assert tied(model.with_ops(add_norm=model.ops.add_norm))
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    assert tied(model)
    assert len(list(model.parameters())) == len(model.state_dict()) - 1


def test_an_untied_projector_is_a_separate_parameter():
    config = DistilBertConfig(
        dim=32, hidden_dim=32, n_layers=1, n_heads=2, vocab_size=50, tie_word_embeddings=False
    )
    model = DistilBertForMaskedLM(config)
    assert not tied(model)
    assert not torch.equal(model.vocab_projector.weight, model.distilbert.embeddings.word_embeddings.weight)


def test_a_subset_of_tokens_can_be_scored():
    mine, _ = twins("DistilBertForMaskedLM")
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    with torch.inference_mode():
        hidden = mine.distilbert.encode(batch)
        torch.testing.assert_close(mine.project(hidden[[3, 5]]), mine(batch)[[3, 5]], atol=1e-5, rtol=1e-5)
        scores = mine(batch, tokens=batch.layout.subset(torch.tensor([3, 5])))
        torch.testing.assert_close(scores, mine(batch)[[3, 5]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", [*TOKEN_HEADS, CHOICE, "DistilBertForSequenceClassification"])
def test_arguments_of_transformers_are_refused_with_what_to_do(head):
    """A task type of peft passes these."""
    two = {"id2label": {0: "start", 1: "end"}}
    model = getattr(minidistil, head)(DistilBertConfig(9, n_layers=1, n_heads=1, dim=8, hidden_dim=8, **two))
    ids = torch.ones(1, 2, 3, dtype=torch.int64) if head == CHOICE else torch.ones(2, 3, dtype=torch.int64)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    with pytest.raises(TypeError, match=r"arguments: labels, return_dict\. .* without task_type"):
        model(input_ids=ids, labels=None, return_dict=True)


@pytest.mark.parametrize("head", ["DistilBertModel", "DistilBertForMaskedLM"])
def test_the_word_embeddings_are_found_as_in_transformers(head):
    mine, other = twins(head)
    assert torch.equal(mine.get_input_embeddings().weight, other.get_input_embeddings().weight)
