"""Metrics match scikit-learn and SciPy; intervals match the literature."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from minidistil.errors import InputError
from minidistil.training import metrics

properties = settings(max_examples=60, deadline=None)


def few(labels):
    return st.lists(st.tuples(*[st.integers(0, labels - 1)] * 2), min_size=1, max_size=30)


@st.composite
def ids(draw):
    """Predicted and true class ids (n,) of C classes, some of which never occur."""
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
    """Return predicted and true class ids (n,), about that fraction of them correct."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, labels, n)
    return np.where(rng.random(n) < right, true, rng.integers(0, labels, n)), true


@pytest.mark.full
@properties
@given(ids())
def test_metrics_of_class_ids_match_scikit_learn(case):
    predicted, true, labels = case
    assert metrics.accuracy(predicted, true) == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    counts = quiet(sklearn.metrics.confusion_matrix, true, predicted, labels=range(labels))
    assert (metrics.confusion(predicted, true, labels) == counts).all()
    for average in metrics.AVERAGES:
        expected = sklearn.metrics.f1_score(
            true, predicted, labels=range(labels), average=average, zero_division=0
        )
        assert metrics.f1(predicted, true, average, labels) == pytest.approx(expected)


@pytest.mark.full
@properties
@given(hots())
def test_metrics_of_multi_label_rows_match_scikit_learn(case):
    predicted, true = case
    assert metrics.accuracy(predicted, true) == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    for average in metrics.AVERAGES:
        expected = sklearn.metrics.f1_score(true, predicted, average=average, zero_division=0)
        assert metrics.f1(predicted, true, average) == pytest.approx(expected)


@pytest.mark.full
@properties
@given(numbers)
def test_correlations_match_scipy(case):
    x, y = case
    for mine, theirs in ((metrics.pearson, scipy.stats.pearsonr), (metrics.spearman, scipy.stats.spearmanr)):
        assert mine(x, y) == pytest.approx(quiet(theirs, x, y).statistic, abs=1e-12, nan_ok=True)


def test_a_correlation_with_a_constant_or_of_one_pair_is_nan():
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0.1, 0.1, 0.1]), ([1], [2])):
        assert math.isnan(metrics.pearson(x, y))
        assert math.isnan(metrics.spearman(x, y))


def test_correlations_of_tiny_and_huge_values_do_not_underflow_or_overflow():
    x = np.array([1.0, 2.0, 4.0])
    expected = metrics.pearson(x, [1, 3, 2])
    assert metrics.pearson(x * 1e-200, [1, 3, 2]) == pytest.approx(expected)
    assert metrics.pearson(x * 1e200, [1, 3, 2]) == pytest.approx(expected)


def test_f1_raises_for_a_missing_argument():
    with pytest.raises(InputError, match=r"average is 'mean': expected one of micro, macro, weighted"):
        metrics.f1([0], [0], "mean", 1)
    with pytest.raises(InputError, match="classes is missing"):
        metrics.f1([0], [0], "macro")


# Intervals


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),  # from Newcombe 1998, table I
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_published_intervals(right, n, low, high):
    assert metrics.wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)
    assert metrics.wilson(1 - right / n, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_fraction_and_stays_within_0_and_1(case):
    right, n = case
    low, high = metrics.wilson(right / n, n)
    assert 0 <= low <= right / n <= high <= 1


@pytest.mark.full
@properties
@given(numbers)
def test_fisher_matches_scipy(case):
    x, y = case
    found = quiet(scipy.stats.pearsonr, x, y)
    if len(x) > 3 and not 1 - 1e-9 < abs(found.statistic) < 1:  # near 1, atanh is dominated by rounding
        ends = quiet(found.confidence_interval, 0.95)
        assert metrics.fisher(found.statistic, len(x)) == pytest.approx(tuple(ends), nan_ok=True)


def test_fisher_of_few_pairs_and_of_a_perfect_correlation():
    assert metrics.fisher(0.5, 3) == (-1, 1)
    assert metrics.fisher(-1.0, 10) == (-1, -1)
    assert all(map(math.isnan, metrics.fisher(math.nan, 10)))


@pytest.mark.parametrize(("n", "labels"), [(40, 3), (500, 5), (10_000, 77)])
def test_the_bootstrap_interval_contains_the_value_and_has_the_normal_width(n, labels):
    predicted, true = drawn(n, labels)
    found = metrics.bootstrap(predicted, true, labels)
    assert found == metrics.bootstrap(predicted, true, labels)
    assert found != metrics.bootstrap(predicted, true, labels, seed=1)
    for average, (low, high) in found.items():
        assert low < metrics.f1(predicted, true, average, labels) < high
    fraction = metrics.accuracy(predicted, true)  # equal to micro F1
    low, high = found["micro"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(fraction * (1 - fraction) / n), rel=0.12)


def test_the_bootstrap_of_one_hot_rows_matches_that_of_class_ids():
    predicted, true = drawn(400, 4)
    found = metrics.bootstrap(np.eye(4)[predicted], np.eye(4)[true])
    for average, ends in metrics.bootstrap(predicted, true, 4).items():
        assert found[average] == pytest.approx(ends, abs=0.01)  # the same distribution, other samples


def test_the_bootstrap_handles_missing_classes():
    rare = np.arange(20)  # most resamples lack a third of them
    assert metrics.bootstrap(rare, rare, 20)["macro"] == pytest.approx((1, 1))
    assert metrics.bootstrap(rare, rare, 40)["macro"] == pytest.approx((0.5, 0.5))
    assert metrics.bootstrap([0], [1], 2)["weighted"] == (0, 0)


def test_the_bootstrap_of_nothing_but_zeros_is_zero():
    zeros = np.zeros((5, 3))
    assert set(metrics.bootstrap(zeros, zeros).values()) == {(0, 0)}
