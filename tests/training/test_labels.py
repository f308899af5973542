"""Labels in files become the targets of a model."""

from __future__ import annotations

import math

import pytest

from minidistil.errors import InputError
from minidistil.training.label_rules import infer_schema
from minidistil.training.labels import MULTI, REGRESSION, SINGLE, shown
from minidistil.training.records import Row

NLI = {"names": ("entailment", "neutral", "contradiction"), "problem_type": SINGLE}
TAGS = {"names": ("sports", "politics", "war"), "problem_type": MULTI}
NUMBER = {"names": ("LABEL_0",), "problem_type": REGRESSION}


def numbers(outputs, *given):
    """Return the targets of labels, for a model with these outputs."""
    rows = [Row("a", None, label, f"made.jsonl, line {i}") for i, label in enumerate(given, 1)]
    summary = infer_schema(rows, **outputs).read(rows)
    assert summary.skipped.total() == 0
    return summary.targets


def unreadable(outputs, label, *parts):
    rows = [Row("a", None, label, "made.jsonl, line 7")]
    with pytest.raises(InputError) as caught:
        infer_schema(rows, **outputs).read(rows)
    for part in ("made.jsonl, line 7", *parts):
        assert part in str(caught.value)


def single(*names):
    return {"names": names, "problem_type": SINGLE}


# One label


@pytest.mark.parametrize("label", ["neutral", "NEUTRAL", "Neutral", 1, "1", 1.0, {"neutral": 1}, {"1": 1.0}])
def test_a_label_is_found_by_its_name_in_any_case_or_by_its_id(label):
    assert numbers(NLI, label) == [(0, 1, 0)]


def test_case_matters_if_two_names_differ_only_in_case():
    labels = single("a", "A", "straße")
    assert numbers(labels, "a", "A", "STRASSE") == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    unreadable(single("no", "No", "x"), "NO", "expected one of no, No, x")


def test_duplicate_label_names_are_distinguished_by_id():
    labels = single("same", "same")
    assert numbers(labels, 0, "1") == [(1, 0), (0, 1)]
    unreadable(labels, "same")


def test_a_name_that_looks_like_a_number_wins_over_an_id():
    labels = single("2", "1", "5")
    assert numbers(labels, 2, "2", 2.0, 1, "5") == [*[(1, 0, 0)] * 3, (0, 1, 0), (0, 0, 1)]
    unreadable(labels, 0, "expected one of 2, 1, 5; pass")  # no id
    assert numbers(single("false", "true"), True, False) == [(0, 1), (1, 0)]


STRANGE = [
    "maybe",
    3,
    "3",
    -2,
    1.5,
    math.inf,
    1e300,
    True,
    "9" * 5000,
]


@pytest.mark.parametrize("label", STRANGE, ids=lambda label: repr(label)[:20])
def test_an_unknown_label_is_an_error_with_its_line_and_the_known_labels(label):
    unreadable(NLI, label, shown(label), "expected one of entailment, neutral, contradiction, or its id")


def test_a_list_for_one_class_is_refused_with_the_option_for_several():
    unreadable(NLI, ["neutral"], "['neutral']: expected one class; pass --problem-type multi_label_classification")


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
        ({"entailment": 0.5, "Entailment": 0.5}, "it names a class twice"),
        ({}, "add up to 0.000"),
        ({"entailment": 1.2, "neutral": -0.2}, "the label 'entailment' has 1.2: expected a probability"),
        ({"entailment": 1, "neutral": -0.1}, "'neutral' has -0.1"),
        ({"entailment": True}, "has True: expected a probability; pass --problem-type multi_label"),
        ({"entailment": "1"}, "has '1'"),
        ({"entailment": None}, "has null"),
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
        ([1, 0, 1], (1, 0, 1)),
        (["0", "0", "1"], (0, 0, 1)),
        ([0.25, 0.0, 1.0], (0.25, 0, 1)),
        ([], (0, 0, 0)),
        ("sports|war", (1, 0, 1)),
        (" WAR | 0|", (1, 0, 1)),
        ("politics", (0, 1, 0)),
        ("", (0, 0, 0)),
        (1, (0, 1, 0)),
        ({"sports": 1, "war": 0.25}, (1, 0, 0.25)),
        ({"sports": 1, "politics": 1, "war": 1}, (1, 1, 1)),
        ({"sports": True, "politics": False, "war": 0.5}, (1, 0, 0.5)),
        ({}, (0, 0, 0)),
    ],
)
def test_multiple_labels_are_a_list_a_cell_or_probabilities(label, expected):
    assert numbers(TAGS, label) == [expected]


@pytest.mark.parametrize("label", [["sports", "peace"], "sports|peace", [3], [-1], "sports,war", {"peace": 1}])
def test_one_unknown_label_of_several_is_refused(label):
    unreadable(TAGS, label, "expected one of sports, politics, war")


@pytest.mark.parametrize("share", [-0.5, 1.5, "0.5"])
def test_values_of_multiple_labels_are_probabilities(share):
    unreadable(TAGS, {"sports": share}, "the label 'sports' has", "expected a probability")


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ([2, 0, 2], "it names a class twice; lists with a value for each class have 3 numbers"),
        ([1, 0, 1, 0], "expected 3 numbers from 0 to 1"),
        ([0, 1], "expected 3 numbers from 0 to 1"),
        (["war", 2], "it names a class twice"),
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
    assert numbers({"names": ("x", "y"), "problem_type": REGRESSION}, [1, "-2.5"], [-1, 0.5]) == [
        (1, -2.5),
        (-1, 0.5),
    ]


@pytest.mark.parametrize(
    "label",
    ["inf", -math.inf, "1e999", 10**400, "five", True, [], [1, 2], [None], {"LABEL_0": 1}, [[1]]],
    ids=lambda label: repr(label)[:20],
)
def test_non_numeric_labels_are_refused(label):
    unreadable(NUMBER, label, shown(label), "expected a number for each of 1 outputs")


def test_multiple_outputs_require_as_many_numbers():
    for label in (1.0, "1", [1], [1, 2, 3], [1, math.nan], [1, "b"]):
        unreadable({"names": ("x", "y"), "problem_type": REGRESSION}, label, "each of 2 outputs")
