"""Labels in files are converted to targets."""

from __future__ import annotations

import math

import pytest

from minidistil import DistilBertConfig
from minidistil.errors import InputError
from minidistil.training.data import Labels
from minidistil.training.records import Row

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


NLI = Labels(("entailment", "neutral", "contradiction"), SINGLE)


TAGS = Labels(("sports", "politics", "war"), MULTI)


NUMBER = Labels(("LABEL_0",), REGRESSION)


def labeled(*labels):
    return [Row("a", None, label, f"made.jsonl, line {i}") for i, label in enumerate(labels, 1)]


def numbers(labels, *given):
    """Return the targets of labels."""
    examples, unlabeled = labels.read(labeled(*given))
    assert unlabeled == 0
    return [example.label for example in examples]


def unreadable(labels, label, *parts):
    with pytest.raises(InputError) as caught:
        labels.read([Row("a", None, label, "made.jsonl, line 7")])
    for part in ("made.jsonl, line 7", *parts):
        assert part in str(caught.value)


# One label


@pytest.mark.parametrize("label", ["neutral", "NEUTRAL", "Neutral", 1, "1", 1.0, {"neutral": 1}, {"1": 1.0}])
def test_a_label_is_found_by_its_name_in_any_case_or_by_its_id(label):
    assert numbers(NLI, label) == [(0, 1, 0)]


def test_case_matters_if_two_names_differ_only_in_case():
    labels = Labels(("a", "A", "straße"), SINGLE)
    assert numbers(labels, "a", "A", "STRASSE") == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    unreadable(Labels(("no", "No", "x"), SINGLE), "NO", "expected one of no, No, x")


def test_duplicate_label_names_are_distinguished_by_id():
    labels = Labels(("same", "same"), SINGLE)
    assert numbers(labels, 0, "1") == [(1, 0), (0, 1)]
    unreadable(labels, "same")


def test_a_name_that_looks_like_a_number_wins_over_an_id():
    labels = Labels(("2", "1", "5"), SINGLE)
    assert numbers(labels, 2, "2", 2.0, 1, "5", 0) == [*[(1, 0, 0)] * 3, (0, 1, 0), (0, 0, 1), (1, 0, 0)]
    assert numbers(Labels(("false", "true"), SINGLE), True, False) == [(0, 1), (1, 0)]


STRANGE = [
    "maybe",
    "",
    " neutral",
    3,
    "3",
    -2,
    1.5,
    "1.0",
    math.nan,
    math.inf,
    1e300,
    True,
    "9" * 5000,
    ["neutral"],
]


@pytest.mark.parametrize("label", STRANGE, ids=lambda label: repr(label)[:20])
def test_an_unknown_label_is_an_error_with_its_line_and_the_known_labels(label):
    unreadable(NLI, label, repr(label), "expected one of entailment, neutral, contradiction, or its id")


@pytest.mark.parametrize("labels", [NLI, TAGS], ids=[SINGLE, MULTI])
def test_unlabeled_examples_are_skipped_and_counted(labels):
    examples, unlabeled = labels.read(labeled(-1, 0, "-1", "-", None, 2, -1.0))
    assert unlabeled == 5
    assert [(example.label, example.place[-1]) for example in examples] == [((1, 0, 0), "2"), ((0, 0, 1), "6")]
    assert labels.read([]) == ([], 0)


def test_soft_labels_are_probabilities():
    assert numbers(NLI, {"entailment": 0.7, "contradiction": 0.3}, {"Neutral": 1}) == [(0.7, 0, 0.3), (0, 1, 0)]
    third = numbers(NLI, {"0": 0.333, "1": 0.333, "2": 0.333})[0]
    assert third == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert sum(third) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ({"entailment": 0.7}, "add up to 0.700, not to 1"),
        ({"entailment": 0.7, "neutral": 0.4}, "add up to 1.100"),
        ({"entailment": 0.5, "Entailment": 0.5}, "add up to 0.500"),
        ({}, "add up to 0.000"),
        ({"entailment": 1.2, "neutral": -0.2}, "the label entailment has 1.2: expected a probability"),
        ({"entailment": 1, "neutral": -0.1}, "neutral has -0.1"),
        ({"entailment": True}, "has True"),
        ({"entailment": "1"}, "has '1'"),
        ({"entailment": None}, "has None"),
        ({"entailment": math.nan}, "has nan"),
        ({"entailment": [1]}, r"has [1]"),
        ({"maybe": 1}, "'maybe': expected one of entailment"),
    ],
)
def test_invalid_soft_labels_are_refused(label, part):
    unreadable(NLI, label, part)


# Multiple labels


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (["sports", "war"], (1, 0, 1)),
        (["Sports", 2], (1, 0, 1)),
        ([0, 2], (1, 0, 1)),
        (["0", 2.0], (1, 0, 1)),
        ([1.0, 0.0, 1.0], (1, 0, 1)),
        ([0.25, 0.0, 1.0], (0.25, 0, 1)),
        ([], (0, 0, 0)),
        ("sports|war", (1, 0, 1)),
        (" WAR | 0|", (1, 0, 1)),
        ("politics", (0, 1, 0)),
        ("", (0, 0, 0)),
        (1, (0, 1, 0)),
        ({"sports": 1, "war": 0.25}, (1, 0, 0.25)),
        ({"sports": 1, "politics": 1, "war": 1}, (1, 1, 1)),
        ({}, (0, 0, 0)),
    ],
)
def test_multiple_labels_are_a_list_a_cell_or_probabilities(label, expected):
    assert numbers(TAGS, label) == [expected]


@pytest.mark.parametrize(
    "label", [["sports", "peace"], "sports|peace", [3], [["sports"]], [None], [-1], "sports,war", {"peace": 1}]
)
def test_one_unknown_label_of_several_is_refused(label):
    unreadable(TAGS, label, "expected one of sports, politics, war")


@pytest.mark.parametrize("share", [True, -0.5, 1.5, "0.5"])
def test_values_of_multiple_labels_are_probabilities(share):
    unreadable(TAGS, {"sports": share}, "the label sports has", "expected a probability")


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ([1, 0, 1], "it names a label twice"),
        (["war", 2], "it names a label twice"),
        ([1.0, 0.0], "expected 3 numbers from 0 to 1"),
        ([1.0, 0.0, 2.0], "expected 3 numbers from 0 to 1"),
        ([math.nan, 0.0, 1.0], "expected 3 numbers from 0 to 1"),
    ],
)
def test_a_list_is_either_ids_or_a_number_for_each_label(label, part):
    unreadable(TAGS, label, part)


# Numbers


def test_regression_accepts_numbers_and_numeric_strings():
    assert numbers(NUMBER, 4.5, "3.25", 2, " 1e-3 ", [7], -1, "-1") == [
        (4.5,),
        (3.25,),
        (2,),
        (0.001,),
        (7,),
        (-1,),
        (-1,),
    ]
    assert numbers(Labels(("x", "y"), REGRESSION), [1, "-2.5"], [-1, 0.5]) == [(1, -2.5), (-1, 0.5)]


def test_regression_skips_rows_without_a_number():
    examples, unlabeled = NUMBER.read(labeled(None, -1, "-", "-1"))
    assert ([example.label for example in examples], unlabeled) == ([(-1,), (-1,)], 2)


@pytest.mark.parametrize(
    "label",
    ["nan", math.nan, "inf", -math.inf, "1e999", 10**400, "five", "", [], [1, 2], [None], {"LABEL_0": 1}, [[1]]],
    ids=lambda label: repr(label)[:20],
)
def test_non_numeric_labels_are_refused(label):
    unreadable(NUMBER, label, repr(label), "expected a number for each of 1 outputs")


def test_multiple_outputs_require_as_many_numbers():
    for label in (1.0, "1", [1], [1, 2, 3], [1, math.nan], [1, "b"]):
        unreadable(Labels(("x", "y"), REGRESSION), label, "each of 2 outputs")


# The labels of a model, and of data


def test_labels_are_those_of_the_model():
    names = {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert Labels.from_config(DistilBertConfig(id2label=names)) == NLI
    assert Labels.from_config(DistilBertConfig(id2label=names, problem_type=MULTI)) == Labels(NLI.names, MULTI)
    assert Labels.from_config(DistilBertConfig(id2label=names, problem_type=REGRESSION)) == Labels(
        NLI.names, REGRESSION
    )
    assert Labels.from_config(DistilBertConfig(id2label={0: "LABEL_0"})) == NUMBER
    assert Labels.from_config(DistilBertConfig(id2label={0: "LABEL_0"}, problem_type=MULTI)) == Labels(
        ("LABEL_0",), MULTI
    )
    assert Labels.from_config(DistilBertConfig()) == Labels(("LABEL_0", "LABEL_1"), SINGLE)


FOUND = {
    "names": (["b", "c", "a", "b"], None, Labels(("a", "b", "c"), SINGLE)),
    "names by code point": (["é", "b", "B", "10", "9"], None, Labels(("10", "9", "B", "b", "é"), SINGLE)),
    "ids": ([2, 0, 0], None, Labels(("LABEL_0", "LABEL_1", "LABEL_2"), SINGLE)),
    "ids in a table": (["1", "0"], None, Labels(("LABEL_0", "LABEL_1"), SINGLE)),
    "ids of both kinds": (["1", 0, 1], None, Labels(("LABEL_0", "LABEL_1"), SINGLE)),
    "names and an id": (["a", 1], None, Labels(("1", "a"), SINGLE)),
    "booleans": ([True, False], None, Labels(("False", "True"), SINGLE)),
    "some without": (["b", "-", None, -1, "-1", "a"], None, Labels(("a", "b"), SINGLE)),
    "soft": ([{"yes": 0.5, "no": 0.5}, "maybe"], None, Labels(("maybe", "no", "yes"), SINGLE)),
    "lists": ([["b"], [], ["a", "c"], "d"], None, Labels(("a", "b", "c", "d"), MULTI)),
    "lists of ids": ([[1], [0, 3]], None, Labels(tuple(f"LABEL_{i}" for i in range(4)), MULTI)),
    "cells": (["b|a", " c", "", "-"], MULTI, Labels(("a", "b", "c"), MULTI)),
    "cells, unless told": (["b|a", "c"], None, Labels(("b|a", "c"), SINGLE)),
    "floats": ([0.5, 2.0, -1.0], None, NUMBER),
    "decimals in a table": (["4.200", "-.5", "-"], None, NUMBER),
    "decimals and names": (["4.2", "five"], None, Labels(("4.2", "five"), SINGLE)),
    "floats and none": ([0.5, None], None, NUMBER),
    "floats that are ids": ([1.0, 2.0], SINGLE, Labels(("LABEL_0", "LABEL_1", "LABEL_2"), SINGLE)),
    "a float among ids": ([1.0, 0, 2], None, Labels(("LABEL_0", "LABEL_1", "LABEL_2"), SINGLE)),
    "floats that are names": ([0.5, 1.5], SINGLE, Labels(("0.5", "1.5"), SINGLE)),
    "numbers when told": (["1", 2, None], REGRESSION, NUMBER),
    "anything when told": ([], REGRESSION, NUMBER),
    "too long for ids": (["9" * 5000, "8" * 5000], None, Labels(("8" * 5000, "9" * 5000), SINGLE)),
    "too large for ids": ([4_000_000_000, 0], None, Labels(("0", "4000000000"), SINGLE)),
}


@pytest.mark.parametrize(("labels", "problem_type", "expected"), FOUND.values(), ids=FOUND.keys())
def test_a_new_head_has_the_labels_of_the_data(labels, problem_type, expected):
    found = Labels.from_rows(labeled(*labels), problem_type)
    assert found == expected
    examples, unlabeled = found.read(labeled(*labels))
    assert len(examples) + unlabeled == len(labels)


@pytest.mark.parametrize(
    ("labels", "number"),
    [
        ([], 0),
        (["a", "a"], 1),
        ([0, 0], 1),
        ([None, -1, "-1", "-"], 0),
        ([[]], 0),
        ([["a"], []], 1),
        (["a", None], 1),
    ],
)
def test_a_new_head_needs_two_labels(labels, number):
    with pytest.raises(
        InputError, match=f"the examples have {number} labels: expected at least 2, or problem_type 'regression'"
    ):
        Labels.from_rows(labeled(*labels))


def test_inferred_labels_parse_the_data_that_they_come_from():
    rows = labeled("b", "a", "-", "c")
    found = Labels.from_rows(rows)
    assert [example.label for example in found.read(rows)[0]] == [(0, 1, 0), (1, 0, 0), (0, 0, 1)]
    rows = labeled(1.0, 2.0)
    assert numbers(Labels.from_rows(rows, SINGLE), 1.0, 2.0) == [(0, 1, 0), (0, 0, 1)]


def test_a_nested_list_is_an_unknown_label():
    found = Labels.from_rows(labeled([["a"]], ["b", "c"]))
    assert found.problem_type == MULTI
    assert {"b", "c"} < set(found.names)


def test_an_empty_label_is_refused_for_a_new_head():
    with pytest.raises(InputError, match=r"made.jsonl, line 2: the label is empty"):
        Labels.from_rows(labeled("a", " "))


def test_vectors_of_numbers_set_the_number_of_outputs():
    assert Labels.from_rows(labeled([1.0, 0.0, 1.0])) == Labels(("LABEL_0", "LABEL_1", "LABEL_2"), MULTI)
    assert Labels.from_rows(labeled([1, 2.5]), REGRESSION) == Labels(("LABEL_0", "LABEL_1"), REGRESSION)
