"""Metrics of models, and of their logits."""

from __future__ import annotations

import copy
import json
import math

import pytest
import scipy.stats
import torch

from minidistil import Tokenizer, pipeline
from minidistil.errors import InputError
from minidistil.pipelines.classification import ZeroShotClassification
from minidistil.training import evaluation, metrics
from minidistil.training.data import Example
from support.twins import twins

pytestmark = pytest.mark.usefixtures("one_thread")

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] . a man sleeps the team won game election was held this is sports politics"


NAMES = ["sports", "politics", "a man"]


TEXTS = ["the team won the game .", "the election was held .", "a man sleeps .", "a game", "held", "the man won ."]


PAIRS = [None, "a man sleeps .", None, "the team won .", "a game is held .", None]


def one_hot(label, labels=3):
    return tuple(float(i == label) for i in range(labels))


def made(labels, texts=TEXTS, pairs=PAIRS):
    pairs = [None] * len(texts) if pairs is None else pairs
    rows = zip(texts, pairs, labels, strict=True)
    return [Example(text, pair, label, f"made.jsonl, line {i}") for i, (text, pair, label) in enumerate(rows, 1)]


def known(labels):
    """Return examples with these labels and arbitrary texts."""
    return made(labels, ["a"] * len(labels), None)


# Measuring logits


def plain(result):
    """Return a result without its intervals, after a round trip through JSON."""
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    return {name: value["value"] if isinstance(value, dict) else value for name, value in result.items()}


def test_a_single_label_is_measured_by_its_most_probable_class():
    logits = torch.tensor([[2.0, 0, 0], [0, 0, 1], [0, 3, 0], [1, 0, 0]])
    labels = [one_hot(0), (0.2, 0.5, 0.3), one_hot(1), one_hot(0)]
    result = evaluation.measure(logits, known(labels), SINGLE, NAMES)
    found = plain(result)
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item())
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["f1_weighted"] == pytest.approx((2 * 1 + 2 * 2 / 3) / 4)
    for name in ("loss", "f1_macro", "f1_weighted"):
        found.pop(name)
    assert found == {
        "examples": 4,
        "accuracy": 0.75,
        "confusion": [[2, 0, 0], [0, 1, 1], [0, 0, 0]],
        "labels": NAMES,
    }
    low, high = metrics.wilson(0.75, 4)
    assert result["accuracy"] == {"value": 0.75, "low": low, "high": high}
    assert list(result)[:6] == ["examples", "loss", "accuracy", "f1_macro", "f1_weighted", "confusion"]


def test_several_labels_are_measured_each_alone():
    logits = torch.tensor([[2.0, -1, 0], [-1, 0.1, 1], [-3, 3, -1]])
    labels = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0)]
    found = plain(evaluation.measure(logits, known(labels), MULTI, NAMES))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(labels))
    assert found.pop("loss") == pytest.approx(loss.item())
    macro = (2 / 3 + 1 + 0) / 3
    expected = {"examples": 3, "accuracy": 1 / 3, "f1_micro": 0.75, "f1_macro": macro, "f1_weighted": 5 / 6}
    assert found == pytest.approx(expected)


def test_regression_is_measured_by_correlation():
    logits, labels = torch.tensor([[1.0], [2], [3], [5], [4]]), [(1.0,), (2.0,), (2.0,), (4.0,), (3.5,)]
    result = evaluation.measure(logits, known(labels), REGRESSION, ["stars"])
    theirs = scipy.stats.pearsonr([1, 2, 3, 5, 4], [1, 2, 2, 4, 3.5])
    low, high = theirs.confidence_interval()
    assert result.pop("pearson") == pytest.approx({"value": theirs.statistic, "low": low, "high": high})
    spearman = scipy.stats.spearmanr([1, 2, 3, 5, 4], [1, 2, 2, 4, 3.5]).statistic
    assert plain(result) == {"examples": 5, "loss": 0.45, "spearman": pytest.approx(spearman)}


def test_multiple_values_are_measured_together_without_an_interval():
    logits, labels = torch.tensor([[1.0, 2], [3, 5]]), [(1.0, 2.0), (2.0, 4.0)]
    result = evaluation.measure(logits, known(labels), REGRESSION, ["stars", "age"])
    expected = scipy.stats.pearsonr([1, 2, 3, 5], [1, 2, 2, 4]).statistic
    assert result["pearson"] == {"value": pytest.approx(expected), "low": None, "high": None}


def test_undefined_metrics_are_none():
    result = evaluation.measure(torch.ones(5, 1), known([(float(i),) for i in range(5)]), REGRESSION, ["stars"])
    assert plain(result) == {"examples": 5, "loss": 3.0, "pearson": None, "spearman": None}
    assert evaluation.score(result, "pearson") == -math.inf
    assert evaluation.table(result).splitlines()[2] == "pearson   nan"


@pytest.mark.parametrize(
    ("logits", "labels", "problem_type", "message"),
    [
        (torch.ones(0, 3), [], SINGLE, "there are no examples"),
        (torch.ones(1, 3), [one_hot(0)], "ranking", "problem_type is 'ranking': expected one of single_label"),
        (torch.ones(2, 3), [one_hot(0)], SINGLE, r"logits have shape \(2, 3\): expected \(1, 3\)"),
        (torch.ones(1, 3), [(1.0,)], SINGLE, "made.jsonl, line 1 has a label of 1 values: expected 3"),
    ],
)
def test_mismatched_logits_and_labels_are_refused(logits, labels, problem_type, message):
    with pytest.raises(InputError, match=message):
        evaluation.measure(logits, known(labels), problem_type, NAMES)


# Models


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    twins()[0].save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB.split()), encoding="utf-8")
    return Tokenizer.from_pretrained(folder)


def their_logits(tokenizer, max_length=None):
    rows = []
    for text, pair in zip(TEXTS, PAIRS, strict=True):
        input_ids, mask = tokenizer([text], None if pair is None else [pair], max_length=max_length).padded()
        with torch.no_grad():
            rows.append(twins()[1](input_ids=input_ids, attention_mask=mask).logits[0])
    return torch.stack(rows)


def test_logits_match_transformers(tokenizer):
    logits = evaluation.predict(twins()[0], tokenizer, made([one_hot(0)] * 6))
    assert (logits.shape, logits.dtype) == ((6, 3), torch.float32)
    torch.testing.assert_close(logits, their_logits(tokenizer), atol=1e-5, rtol=0)
    assert evaluation.predict(twins()[0], tokenizer, []).shape == (0, 3)


def test_metrics_match_the_predictions_of_transformers(tokenizer):
    answers = their_logits(tokenizer).argmax(1).tolist()
    wrong = (answers[0] + 1) % 3
    result = evaluation.evaluate(twins()[0], tokenizer, made([one_hot(label) for label in [wrong, *answers[1:]]]))
    assert result["labels"] == ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]
    assert result["accuracy"]["value"] == 5 / 6
    assert result["confusion"][wrong][answers[0]] == 1
    assert len(set(answers)) > 1


def test_texts_are_truncated_to_max_length(tokenizer):
    with pytest.warns(UserWarning, match="texts longer than 6 tokens are truncated"):
        logits = evaluation.predict(twins()[0], tokenizer, made([one_hot(0)] * 6), max_length=6)
    torch.testing.assert_close(logits, their_logits(tokenizer, 6), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="max_length is 0"):
        evaluation.predict(twins()[0], tokenizer, made([one_hot(0)] * 6), max_length=0)


@pytest.mark.parametrize("broken", [False, True])
def test_a_model_in_training_is_measured_without_dropout_and_trains_on(tokenizer, broken):
    model = copy.deepcopy(twins()[0]).train()
    model.distilbert.embeddings.eval()  # as in frozen embeddings
    before = [module.training for module in model.modules()]
    if broken:
        with pytest.raises(InputError, match="surrogate"):
            evaluation.predict(model, tokenizer, known([one_hot(0)]) + made([one_hot(0)], ["\ud800"], [None]))
    else:
        logits = evaluation.predict(model, tokenizer, made([one_hot(0)] * 6))
        torch.testing.assert_close(logits, their_logits(tokenizer), atol=1e-5, rtol=0)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("template", [None, "this is {} ."])
def test_zero_shot_is_measured_as_the_pipeline_answers(tokenizer, template):
    pipe = pipeline("zero-shot-classification", model=twins()[0], tokenizer=tokenizer)
    assert isinstance(pipe, ZeroShotClassification)
    options = {} if template is None else {"hypothesis_template": template}
    best = [answer["labels"][0] for answer in pipe(TEXTS, NAMES, **options)]
    true = [0, 1, 2, 0, 1, 2]
    result = evaluation.evaluate_zero_shot(pipe, made(map(one_hot, true), pairs=None), NAMES, template)
    assert ("template" in result, result.get("template")) == (template is not None, template)
    assert "loss" not in result
    right = [NAMES[label] == name for label, name in zip(true, best, strict=True)]
    assert result["accuracy"]["value"] == sum(right) / 6
    assert [sum(column) for column in zip(*result["confusion"], strict=True)] == [best.count(n) for n in NAMES]
    assert result["labels"] == NAMES
    plain(result)


def test_zero_shot_refuses_pairs_empty_texts_and_no_examples(tokenizer):
    pipe = pipeline("zero-shot-classification", model=twins()[0], tokenizer=tokenizer)
    with pytest.raises(InputError, match="line 2 is a pair: zero-shot classification takes single texts"):
        evaluation.evaluate_zero_shot(pipe, made([one_hot(0)] * 6), NAMES)
    with pytest.raises(InputError, match=r"made.jsonl, line 1: the text is empty"):
        evaluation.evaluate_zero_shot(pipe, made([one_hot(0)], [""], None), NAMES)
    with pytest.raises(InputError, match="there are no examples"):
        evaluation.evaluate_zero_shot(pipe, [], NAMES)


# Results


RESULT = {
    "examples": 15,
    "loss": 0.61234,
    "accuracy": {"value": 0.74129, "low": 0.7325, "high": 0.74994},
    "f1_weighted": {"value": 1.0, "low": None, "high": None},
    "confusion": [[12, 1], [0, 2]],
    "labels": ["no", "perhaps"],
}


def test_the_table_has_a_line_per_metric_and_the_confusion_matrix():
    assert evaluation.table(RESULT) == "\n".join(
        [
            "examples     15",
            "loss         0.6123",
            "accuracy     0.7413  [0.7325, 0.7499]",
            "f1_weighted  1.0000",
            "",
            "true \\ predicted  no  perhaps",
            "no                12        1",
            "perhaps            0        2",
        ]
    )


def test_the_table_omits_a_large_confusion_matrix():
    for labels, shown in ((10, True), (11, False)):
        large = {"loss": 1.0, "confusion": [[0] * labels] * labels, "labels": ["x"] * labels}
        assert ("predicted" in evaluation.table(large)) == shown


def test_a_higher_score_is_better():
    assert evaluation.score(RESULT, "accuracy") == 0.74129
    assert evaluation.score(RESULT, "loss") == -0.61234
    with pytest.raises(InputError, match=r"metric is 'speed': expected one of loss, accuracy, f1_weighted$"):
        evaluation.score(RESULT, "speed")


@pytest.mark.parametrize("problem_type", evaluation.METRICS)
def test_the_metric_of_each_problem_is_measured(problem_type):
    labels = ["stars"] if problem_type == REGRESSION else NAMES
    examples = known([(float(i),) if labels == ["stars"] else one_hot(i % 3) for i in range(6)])
    logits = torch.arange(6.0 * len(labels)).view(6, -1).sin()
    result = evaluation.measure(logits, examples, problem_type, labels)
    for metric in evaluation.METRICS[problem_type]:
        value = result[metric] if metric == "loss" else result[metric]["value"]
        assert evaluation.score(result, metric) == (-value if metric == "loss" else value)
