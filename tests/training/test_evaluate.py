"""Metrics are those of scikit-learn and SciPy, intervals those of the books, and models give what they answer."""

from __future__ import annotations

import copy
import json
import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minidistil import Tokenizer, pipeline
from minidistil.errors import InputError
from minidistil.pipelines import ZeroShotClassification
from minidistil.training import evaluate
from minidistil.training.data import Example
from support.twins import twins

pytestmark = pytest.mark.usefixtures("one_thread")

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] . a man sleeps the team won game election was held this is sports politics"
NAMES = ["sports", "politics", "a man"]
TEXTS = ["the team won the game .", "the election was held .", "a man sleeps .", "a game", "held", "the man won ."]
PAIRS = [None, "a man sleeps .", None, "the team won .", "a game is held .", None]

properties = settings(max_examples=60, deadline=None)


def few(labels):
    return st.lists(st.tuples(*[st.integers(0, labels - 1)] * 2), min_size=1, max_size=30)


@st.composite
def ids(draw):
    """Predicted and true class ids (n,), of C classes, of which some never come up."""
    labels = draw(st.integers(1, 6))
    predicted, true = np.array(draw(few(labels))).T
    return predicted, true, labels


@st.composite
def hots(draw):
    """Predicted and true rows (n, C) of 0 and 1."""
    n, labels = draw(st.integers(1, 20)), draw(st.integers(2, 5))
    bits = st.lists(st.booleans(), min_size=2 * n * labels, max_size=2 * n * labels)
    return np.array(draw(bits), np.int64).reshape(2, n, labels)


eighths = st.integers(-40, 40).map(lambda i: i / 8)
numbers = st.lists(st.tuples(eighths, eighths), min_size=2, max_size=30).map(lambda found: np.array(found).T)


def quiet(call, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **options)


def drawn(n, labels, right=0.7, seed=0):
    """Predicted and true class ids (n,), of which about that share is right."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, labels, n)
    return np.where(rng.random(n) < right, true, rng.integers(0, labels, n)), true


def one_hot(label, labels=3):
    return tuple(float(i == label) for i in range(labels))


def made(labels, texts=TEXTS, pairs=PAIRS):
    pairs = [None] * len(texts) if pairs is None else pairs
    rows = zip(texts, pairs, labels, strict=True)
    return [Example(text, pair, label, f"made.jsonl, line {i}") for i, (text, pair, label) in enumerate(rows, 1)]


def known(labels):
    """Examples with these labels, whose texts do not matter."""
    return made(labels, ["a"] * len(labels), None)


# Metrics


@properties
@given(ids())
def test_metrics_of_class_ids_are_those_of_scikit_learn(case):
    predicted, true, labels = case
    assert evaluate.accuracy(predicted, true) == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    counts = quiet(sklearn.metrics.confusion_matrix, true, predicted, labels=range(labels))
    assert (evaluate.confusion(predicted, true, labels) == counts).all()
    for average in evaluate.AVERAGES:
        expected = sklearn.metrics.f1_score(
            true, predicted, labels=range(labels), average=average, zero_division=0
        )
        assert evaluate.f1(predicted, true, average, labels) == pytest.approx(expected)


@properties
@given(hots())
def test_metrics_of_rows_are_those_of_scikit_learn(case):
    predicted, true = case
    assert evaluate.accuracy(predicted, true) == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    for average in evaluate.AVERAGES:
        expected = sklearn.metrics.f1_score(true, predicted, average=average, zero_division=0)
        assert evaluate.f1(predicted, true, average) == pytest.approx(expected)


@properties
@given(numbers)
def test_correlations_are_those_of_scipy(case):
    x, y = case
    for mine, theirs in ((evaluate.pearson, scipy.stats.pearsonr), (evaluate.spearman, scipy.stats.spearmanr)):
        assert mine(x, y) == pytest.approx(quiet(theirs, x, y).statistic, abs=1e-12, nan_ok=True)


def test_a_correlation_with_a_constant_or_of_one_pair_is_nan():
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0.1, 0.1, 0.1]), ([1], [2])):
        assert math.isnan(evaluate.pearson(x, y))
        assert math.isnan(evaluate.spearman(x, y))


def test_correlations_of_tiny_and_of_huge_values_neither_vanish_nor_overflow():
    x = np.array([1.0, 2.0, 4.0])
    expected = evaluate.pearson(x, [1, 3, 2])
    assert evaluate.pearson(x * 1e-200, [1, 3, 2]) == pytest.approx(expected)
    assert evaluate.pearson(x * 1e200, [1, 3, 2]) == pytest.approx(expected)


def test_f1_says_what_it_lacks():
    with pytest.raises(InputError, match=r"average is 'mean': expected one of micro, macro, weighted"):
        evaluate.f1([0], [0], "mean", 1)
    with pytest.raises(InputError, match="labels is missing"):
        evaluate.f1([0], [0], "macro")


# Intervals


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),  # of Newcombe 1998, table I
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(right, n, low, high):
    assert evaluate.wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)
    assert evaluate.wilson(1 - right / n, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_no_impossible_one(case):
    right, n = case
    low, high = evaluate.wilson(right / n, n)
    assert 0 <= low <= right / n <= high <= 1


@properties
@given(numbers)
def test_fisher_gives_the_interval_of_scipy(case):
    x, y = case
    found = quiet(scipy.stats.pearsonr, x, y)
    if len(x) > 3 and not 1 - 1e-9 < abs(found.statistic) < 1:  # there atanh is all rounding
        ends = quiet(found.confidence_interval, 0.95)
        assert evaluate.fisher(found.statistic, len(x)) == pytest.approx(tuple(ends), nan_ok=True)


def test_fisher_of_few_pairs_and_of_a_perfect_correlation():
    assert evaluate.fisher(0.5, 3) == (-1, 1)
    assert evaluate.fisher(-1.0, 10) == (-1, -1)
    assert all(map(math.isnan, evaluate.fisher(math.nan, 10)))


@pytest.mark.parametrize(("n", "labels"), [(40, 3), (500, 5), (10_000, 77)])
def test_the_bootstrap_contains_the_value_and_is_as_wide_as_the_normal_law_says(n, labels):
    predicted, true = drawn(n, labels)
    found = evaluate.bootstrap(predicted, true, labels)
    assert found == evaluate.bootstrap(predicted, true, labels)
    assert found != evaluate.bootstrap(predicted, true, labels, seed=1)
    for average, (low, high) in found.items():
        assert low < evaluate.f1(predicted, true, average, labels) < high
    share = evaluate.accuracy(predicted, true)  # which micro F1 is
    low, high = found["micro"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / n), rel=0.12)


def test_the_bootstrap_of_rows_is_that_of_the_ids_that_they_stand_for():
    predicted, true = drawn(400, 4)
    found = evaluate.bootstrap(np.eye(4)[predicted], np.eye(4)[true])
    for average, ends in evaluate.bootstrap(predicted, true, 4).items():
        assert found[average] == pytest.approx(ends, abs=0.01)  # the same law, other draws


def test_the_bootstrap_does_not_mind_classes_that_a_resample_or_all_examples_lack():
    rare = np.arange(20)  # most resamples lack a third of them
    assert evaluate.bootstrap(rare, rare, 20)["macro"] == pytest.approx((1, 1))
    assert evaluate.bootstrap(rare, rare, 40)["macro"] == pytest.approx((0.5, 0.5))
    assert evaluate.bootstrap([0], [1], 2)["weighted"] == (0, 0)


def test_the_bootstrap_of_nothing_but_zeros_is_zero():
    zeros = np.zeros((5, 3))
    assert set(evaluate.bootstrap(zeros, zeros).values()) == {(0, 0)}


# Measuring logits


def plain(result):
    """A result without its intervals; it must survive JSON."""
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    return {name: value["value"] if isinstance(value, dict) else value for name, value in result.items()}


def test_a_single_label_is_measured_by_its_most_probable_class():
    logits = torch.tensor([[2.0, 0, 0], [0, 0, 1], [0, 3, 0], [1, 0, 0]])
    labels = [one_hot(0), (0.2, 0.5, 0.3), one_hot(1), one_hot(0)]
    result = evaluate.measure(logits, known(labels), SINGLE, NAMES)
    found = plain(result)
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item())
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["f1_weighted"] == pytest.approx((2 * 1 + 2 * 2 / 3) / 4)
    for name in ("loss", "f1_macro", "f1_weighted"):
        found.pop(name)
    assert found == {
        "examples": 4,
        "accuracy": 0.75,
        "f1_micro": 0.75,
        "confusion": [[2, 0, 0], [0, 1, 1], [0, 0, 0]],
        "labels": NAMES,
    }
    low, high = evaluate.wilson(0.75, 4)
    assert result["accuracy"] == {"value": 0.75, "low": low, "high": high}
    assert list(result)[:6] == ["examples", "loss", "accuracy", "f1_micro", "f1_macro", "f1_weighted"]


def test_several_labels_are_measured_each_alone():
    logits = torch.tensor([[2.0, -1, 0], [-1, 0.1, 1], [-3, 3, -1]])
    labels = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0)]
    found = plain(evaluate.measure(logits, known(labels), MULTI, NAMES))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(labels))
    assert found.pop("loss") == pytest.approx(loss.item())
    macro = (2 / 3 + 1 + 0) / 3
    expected = {"examples": 3, "accuracy": 1 / 3, "f1_micro": 0.75, "f1_macro": macro, "f1_weighted": 5 / 6}
    assert found == pytest.approx(expected)


def test_a_value_is_measured_by_its_correlation():
    logits, labels = torch.tensor([[1.0], [2], [3], [5], [4]]), [(1.0,), (2.0,), (2.0,), (4.0,), (3.5,)]
    result = evaluate.measure(logits, known(labels), REGRESSION, ["stars"])
    theirs = scipy.stats.pearsonr([1, 2, 3, 5, 4], [1, 2, 2, 4, 3.5])
    low, high = theirs.confidence_interval()
    assert result.pop("pearson") == pytest.approx({"value": theirs.statistic, "low": low, "high": high})
    spearman = scipy.stats.spearmanr([1, 2, 3, 5, 4], [1, 2, 2, 4, 3.5]).statistic
    assert plain(result) == {"examples": 5, "loss": 0.45, "spearman": pytest.approx(spearman)}


def test_several_values_are_measured_together_without_an_interval():
    logits, labels = torch.tensor([[1.0, 2], [3, 5]]), [(1.0, 2.0), (2.0, 4.0)]
    result = evaluate.measure(logits, known(labels), REGRESSION, ["stars", "age"])
    expected = scipy.stats.pearsonr([1, 2, 3, 5], [1, 2, 2, 4]).statistic
    assert result["pearson"] == {"value": pytest.approx(expected), "low": None, "high": None}


def test_what_cannot_be_told_is_none():
    result = evaluate.measure(torch.ones(5, 1), known([(float(i),) for i in range(5)]), REGRESSION, ["stars"])
    assert plain(result) == {"examples": 5, "loss": 3.0, "pearson": None, "spearman": None}
    assert evaluate.score(result, "pearson") == -math.inf
    assert evaluate.table(result).splitlines()[2] == "pearson   nan"


@pytest.mark.parametrize(
    ("logits", "labels", "problem_type", "message"),
    [
        (torch.ones(0, 3), [], SINGLE, "there are no examples"),
        (torch.ones(1, 3), [one_hot(0)], "ranking", "problem_type is 'ranking': expected one of single_label"),
        (torch.ones(2, 3), [one_hot(0)], SINGLE, r"logits are of shape \(2, 3\): the examples need \(1, 3\)"),
        (torch.ones(1, 3), [(1.0,)], SINGLE, "made.jsonl, line 1 has a label of 1 values: expected 3"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, problem_type, message):
    with pytest.raises(InputError, match=message):
        evaluate.measure(logits, known(labels), problem_type, NAMES)


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


def test_the_logits_are_those_of_transformers(tokenizer):
    logits = evaluate.predict(twins()[0], tokenizer, made([one_hot(0)] * 6))
    assert (logits.shape, logits.dtype) == ((6, 3), torch.float32)
    torch.testing.assert_close(logits, their_logits(tokenizer), atol=1e-5, rtol=0)
    assert evaluate.predict(twins()[0], tokenizer, []).shape == (0, 3)


def test_a_classifier_is_measured_by_what_transformers_would_answer(tokenizer):
    answers = their_logits(tokenizer).argmax(1).tolist()
    wrong = (answers[0] + 1) % 3
    result = evaluate.evaluate(twins()[0], tokenizer, made([one_hot(label) for label in [wrong, *answers[1:]]]))
    assert result["labels"] == ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]
    assert result["accuracy"]["value"] == 5 / 6
    assert result["confusion"][wrong][answers[0]] == 1
    assert len(set(answers)) > 1


def test_texts_are_cut_to_a_length(tokenizer):
    with pytest.warns(UserWarning, match="texts longer than 6 tokens are cut"):
        logits = evaluate.predict(twins()[0], tokenizer, made([one_hot(0)] * 6), max_length=6)
    torch.testing.assert_close(logits, their_logits(tokenizer, 6), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="max_length is 0"):
        evaluate.predict(twins()[0], tokenizer, made([one_hot(0)] * 6), max_length=0)


@pytest.mark.parametrize("broken", [False, True])
def test_a_model_in_training_is_measured_without_dropout_and_trains_on(tokenizer, broken):
    model = copy.deepcopy(twins()[0]).train()
    model.distilbert.embeddings.eval()  # as one that is frozen
    before = [module.training for module in model.modules()]
    if broken:
        with pytest.raises(InputError, match="surrogate"):
            evaluate.predict(model, tokenizer, known([one_hot(0)]) + made([one_hot(0)], ["\ud800"], [None]))
    else:
        logits = evaluate.predict(model, tokenizer, made([one_hot(0)] * 6))
        torch.testing.assert_close(logits, their_logits(tokenizer), atol=1e-5, rtol=0)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("template", [None, "this is {} ."])
def test_zero_shot_is_measured_as_the_pipeline_answers(tokenizer, template):
    pipe = pipeline("zero-shot-classification", model=twins()[0], tokenizer=tokenizer)
    assert isinstance(pipe, ZeroShotClassification)
    options = {} if template is None else {"hypothesis_template": template}
    best = [answer["labels"][0] for answer in pipe(TEXTS, NAMES, **options)]
    true = [0, 1, 2, 0, 1, 2]
    result = evaluate.evaluate_zero_shot(pipe, made(map(one_hot, true), pairs=None), NAMES, template)
    assert ("template" in result, result.get("template")) == (template is not None, template)
    assert "loss" not in result
    right = [NAMES[label] == name for label, name in zip(true, best, strict=True)]
    assert result["accuracy"]["value"] == sum(right) / 6
    assert [sum(column) for column in zip(*result["confusion"], strict=True)] == [best.count(n) for n in NAMES]
    assert result["labels"] == NAMES
    plain(result)


def test_zero_shot_refuses_pairs_empty_texts_and_nothing(tokenizer):
    pipe = pipeline("zero-shot-classification", model=twins()[0], tokenizer=tokenizer)
    with pytest.raises(InputError, match="line 2 is a pair: zero-shot classification takes a text alone"):
        evaluate.evaluate_zero_shot(pipe, made([one_hot(0)] * 6), NAMES)
    with pytest.raises(InputError, match=r"made.jsonl, line 1: the text is empty"):
        evaluate.evaluate_zero_shot(pipe, made([one_hot(0)], [""], None), NAMES)
    with pytest.raises(InputError, match="there are no examples"):
        evaluate.evaluate_zero_shot(pipe, [], NAMES)


# Results


RESULT = {
    "examples": 15,
    "loss": 0.61234,
    "accuracy": {"value": 0.74129, "low": 0.7325, "high": 0.74994},
    "f1_weighted": {"value": 1.0, "low": None, "high": None},
    "confusion": [[12, 1], [0, 2]],
    "labels": ["no", "perhaps"],
}


def test_a_table_is_for_people():
    assert evaluate.table(RESULT) == "\n".join(
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


def test_a_table_leaves_out_a_large_confusion_matrix():
    for labels, shown in ((10, True), (11, False)):
        large = {"loss": 1.0, "confusion": [[0] * labels] * labels, "labels": ["x"] * labels}
        assert ("predicted" in evaluate.table(large)) == shown


def test_a_higher_score_is_better():
    assert evaluate.score(RESULT, "accuracy") == 0.74129
    assert evaluate.score(RESULT, "loss") == -0.61234
    with pytest.raises(InputError, match=r"metric is 'speed': expected one of loss, accuracy, f1_weighted$"):
        evaluate.score(RESULT, "speed")


@pytest.mark.parametrize("problem_type", evaluate.METRICS)
def test_the_metric_of_each_problem_is_measured(problem_type):
    labels = ["stars"] if problem_type == REGRESSION else NAMES
    examples = known([(float(i),) if labels == ["stars"] else one_hot(i % 3) for i in range(6)])
    logits = torch.arange(6.0 * len(labels)).view(6, -1).sin()
    result = evaluate.measure(logits, examples, problem_type, labels)
    for metric in evaluate.METRICS[problem_type]:
        value = result[metric] if metric == "loss" else result[metric]["value"]
        assert evaluate.score(result, metric) == (-value if metric == "loss" else value)
