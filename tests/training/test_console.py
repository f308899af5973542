"""What a run reports on stderr before it trains."""

from __future__ import annotations

from minidistil.training.console import label_report
from minidistil.training.label_rules import infer_schema
from minidistil.training.labels import REGRESSION
from minidistil.training.records import Row


def report(labels, **options):
    rows = [Row("a text", None, label, f"train.csv, line {i}") for i, label in enumerate(labels, 2)]
    schema = infer_schema(rows, **options)
    return label_report(schema, schema.read(rows)).splitlines()


def test_the_largest_classes_are_listed_and_the_others_are_counted():
    labels = [f"class {i:02}" for i in range(25) for _ in range(i + 1)]
    lines = report(labels)
    assert lines[0] == "labels: one class per text (single_label_classification), 25 classes"
    assert [line.split() for line in lines[2:5]] == [
        ["class", "05", "6"],
        ["class", "06", "7"],
        ["class", "07", "8"],
    ]
    assert lines[-1].split() == ["5", "more", "15"]
    assert len(lines) == 2 + 20 + 1
    counts = [int(line.split()[-1]) for line in lines[2:]]
    assert sum(counts) == len(labels)


def test_the_spellings_of_a_class_are_listed_if_they_differ_from_its_name():
    spellings = ["pos ", *(f"{name}s" for name in ("po", "pO", "Po", "PO"))]
    assert report([*spellings, "pos", "neg"])[2:] == [
        "  neg     1",
        "  pos     6  written 'pos ', POs, Pos, pOs, pos",
    ]


def test_spellings_that_look_like_the_name_are_escaped():
    assert report(["\u00e9", "e\u0301", "o\u200b"])[2:] == [
        "  o     1  written 'o\\u200b'",
        "  \u00e9     2  written 'e\\u0301', \u00e9",
    ]


def test_names_with_joiners_are_printed_unchanged():
    family = "\U0001f468\u200d\U0001f469"
    assert report([family, "a"])[3] == f"  {family}     1"


def test_a_class_without_rows_has_a_count_of_zero():
    assert report(["a"], names=["a", "b"])[2:] == ["  a     1", "  b     0"]


def test_rows_without_a_number_are_counted_even_if_all_are():
    assert report([None, "-"], problem_type=REGRESSION) == [
        "labels: numbers (regression), 1 per text",
        "           rows",
        "  labeled     0",
        "  lowest",
        "  highest",
        "  skipped     2  no label: '-', null",
    ]


def test_names_of_a_model_cannot_move_the_cursor():
    lines = report(["a", "b"], names=["a", "b", "\x1b[2Jc" * 20])
    assert lines[-1].split() == [("\\x1b[2Jc" * 20)[:50], "0"]
