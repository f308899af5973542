"""Rows become labeled examples."""

from __future__ import annotations

import pytest

from minidistil import DistilBertConfig
from minidistil.training.data import Labels
from minidistil.training.labels import MULTI, REGRESSION, SINGLE
from minidistil.training.records import Row

NAMES = {0: "entailment", 1: "neutral", 2: "contradiction"}
DEFAULT = {0: "LABEL_0"}


@pytest.mark.parametrize(
    ("config", "names", "problem_type"),
    [
        (DistilBertConfig(), ("LABEL_0", "LABEL_1"), SINGLE),
        (DistilBertConfig(id2label=NAMES), tuple(NAMES.values()), SINGLE),
        (DistilBertConfig(id2label=NAMES, problem_type=MULTI), tuple(NAMES.values()), MULTI),
        (DistilBertConfig(id2label=NAMES, problem_type=REGRESSION), tuple(NAMES.values()), REGRESSION),
        (DistilBertConfig(id2label=DEFAULT), ("LABEL_0",), REGRESSION),
        (DistilBertConfig(id2label=DEFAULT, problem_type=MULTI), ("LABEL_0",), MULTI),
    ],
)
def test_labels_are_those_of_the_model(config, names, problem_type):
    assert Labels.from_config(config) == Labels(names, problem_type)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_unlabeled_rows_are_skipped_and_counted(problem_type):
    labels = [-1, "neutral", "-", None, "NA", "contradiction"]
    rows = [Row("a", "b", label, f"line {i}") for i, label in enumerate(labels, 1)]
    examples, unlabeled = Labels(tuple(NAMES.values()), problem_type).read(rows)
    assert unlabeled == 4
    assert [(example.label, example.place) for example in examples] == [
        ((0, 1, 0), "line 2"),
        ((0, 0, 1), "line 6"),
    ]
    assert examples[0].text, examples[0].pair == ("a", "b")
    assert Labels(tuple(NAMES.values()), problem_type).read([]) == ([], 0)
