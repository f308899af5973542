"""What the labels of a data set mean is decided from all rows; ambiguous labels are refused."""

from __future__ import annotations

import json
import math
import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidistil.errors import InputError
from minidistil.training.label_rules import infer_schema
from minidistil.training.labels import MULTI, REGRESSION, SINGLE, as_text
from minidistil.training.records import Row
from support.places import ROOT


def rows(labels, file="train.csv"):
    return [Row("a text", None, label, f"{file}, line {i}") for i, label in enumerate(labels, 2)]


def read(labels, **options):
    """Return what was understood: the problem type, the names, and what each label became."""
    schema = infer_schema(rows(labels), **options)
    found = []
    for target in schema.read(rows(labels)).targets:
        if target is None:
            found.append(None)
        elif schema.problem_type == REGRESSION:
            found.append(list(target))
        else:
            found.append([name for name, value in zip(schema.names, target, strict=True) if value > 0.5])
    return schema.problem_type, list(schema.names), found


def refused(labels, *parts, eval_labels=(), **options):
    """Assert that labels are refused, with these parts in the message."""
    with pytest.raises(InputError) as caught:
        infer_schema(rows(labels), rows(eval_labels, "dev.csv"), **options)
    for part in parts:
        assert part in str(caught.value)


# One class per text: labels, names, and the name that each label became

ONE_CLASS = {
    "names": (["b", "c", "a", "b"], "a b c", "b c a b"),
    "names by code point": (["é", "b", "a", "10", "9"], "10 9 a b é", "é b a 10 9"),
    "names with different case and spaces": (["pos", " pos", "POS", "neg", "po\u00a0s "], None, None),
    "a name in two Unicode forms": (["\u00e9", "e\u0301", "o"], "o \u00e9", "\u00e9 \u00e9 o"),
    "ids": ([1, 0, 2, 0], "LABEL_0 LABEL_1 LABEL_2", "LABEL_1 LABEL_0 LABEL_2 LABEL_0"),
    "ids in a table": (["1", "0", " 1"], "LABEL_0 LABEL_1", "LABEL_1 LABEL_0 LABEL_1"),
    "ids as floats, as pandas writes them beside null": ([0.0, 1.0, None], "LABEL_0 LABEL_1", "LABEL_0 LABEL_1 -"),
    "ids as floats in a table": (["0.0", "1.0", ""], "LABEL_0 LABEL_1", "LABEL_0 LABEL_1 -"),
    "ids as NumPy writes them": (["0.000000000000000000e+00", "1.0e+00"], "LABEL_0 LABEL_1", "LABEL_0 LABEL_1"),
    "ids beside NaN": ([0.0, 1.0, math.nan], "LABEL_0 LABEL_1", "LABEL_0 LABEL_1 -"),
    "ids beside words for missing": (["0", "1", "nan", "NA"], "LABEL_0 LABEL_1", "LABEL_0 LABEL_1 - -"),
    "ids of mixed types": (["1", 1, 0, "0", 1.0, "1.0"], "LABEL_0 LABEL_1", None),
    "integers from 1": ([1, 2, 3, 1], "1 2 3", "1 2 3 1"),
    "integers from 1 as floats": ([1.0, 2.0, 3.0, 1.0], "1 2 3", "1 2 3 1"),
    "integers with a gap": ([2, 0, 0], "0 2", "2 0 0"),
    "integers by value": ([10, 9, 8, 10, 9], "8 9 10", "10 9 8 10 9"),
    "years": ([2019, 2020, 2019], "2019 2020", "2019 2020 2019"),
    "years in a table": (["2020", "2019", "2020"], "2019 2020", "2020 2019 2020"),
    "codes": ([987654, 123456, 987654], "123456 987654", "987654 123456 987654"),
    "codes with leading zeros": (["0101", "101", "0101"], "0101 101", "0101 101 0101"),
    "huge integers": ([4_000_000_000, 0, 0], "0 4000000000", "4000000000 0 0"),
    "more digits than an integer": (["9" * 5000, "8" * 5000], f"{'8' * 5000} {'9' * 5000}", None),
    "-1 and 1": ([-1, 1, 1], "-1 1", "-1 1 1"),
    "-1 and 1 in a table": (["-1", "+1", "1"], "-1 1", "-1 1 1"),
    "-1 and 1 as floats": ([-1.0, 1.0], "-1 1", "-1 1"),
    "a scale with several negative values": ([-2, -1, 0, 1, 2], "-2 -1 0 1 2", "-2 -1 0 1 2"),
    "signs": (["-", "+", "-"], "+ -", "- + -"),
    "signs and a zero": (["-", "0", "+"], "+ - 0", "- 0 +"),
    "booleans": ([True, False, True], "False True", "True False True"),
    "booleans in a table": (["TRUE", "false", "TRUE", "False", "True", "false"], "TRUE false", None),
    "yes and no": (["yes", "no"], "no yes", "yes no"),
    "names beside marks of missing labels": (["b", "-", None, -1, "-1", "a", ""], "a b", "b - - - - a -"),
    "booleans beside -1": ([True, False, -1], "False True", "True False -"),
    "names and integers": (["1", "2", "3+"], "1 2 3+", "1 2 3+"),
    "names and decimals": (["4.2", "five"], "4.2 five", "4.2 five"),
    "one row of a class": (["a"] * 5 + ["b"], "a b", None),
    "one-hot lists": ([[0, 1], [1, 0], [0, 1]], "LABEL_0 LABEL_1", "LABEL_1 LABEL_0 LABEL_1"),
    "one-hot lists of floats": ([[0.0, 1.0], [1.0, 0.0]], "LABEL_0 LABEL_1", "LABEL_1 LABEL_0"),
    "one-hot lists of booleans": ([[False, True], [True, False]], "LABEL_0 LABEL_1", "LABEL_1 LABEL_0"),
    "one-hot lists of strings": ([["0", "1"], ["1", "0"]], "LABEL_0 LABEL_1", "LABEL_1 LABEL_0"),
    "one-hot lists beside null": ([[0, 1], [1, 0], None, "-", -1], "LABEL_0 LABEL_1", "LABEL_1 LABEL_0 - - -"),
    "lists of probabilities": ([[0.3, 0.7], [0.6, 0.4]], "LABEL_0 LABEL_1", "LABEL_1 LABEL_0"),
    "probabilities": ([{"yes": 0.9, "no": 0.1}, "maybe"], "maybe no yes", "yes maybe"),
    "brackets and quotes in names": (["(x)", "[NSFW]", "'90s 'n'"], None, None),
    "names with a comma that share no part": (["a, b", "c, d", "e"], None, None),
    "names with a comma in two cases": (["a, b", "A, b", "c"], None, None),
    "entities of HTML": (["a&amp;b", "b", "c&#39;d", "d"], None, None),
    "invisible characters": (["a\u200b", "a", "\ufeffb", "b\u00ad", "\u200b"], "a b", "a a b b -"),
    "large floats": ([1e17, 2e17, 1e17], "100000000000000000 200000000000000000", None),
    "codes with an e": (["1e1", "1e2", "1e3"], "1e1 1e2 1e3", "1e1 1e2 1e3"),
    "codes with an e beside integers": (["1e1", "10", "2E3"], "10 1e1 2E3", "1e1 10 2E3"),
    "names beside dashes of any kind": (["b", "--", "a", "\u2013", "\u2014", "\u2212"], "a b", "b - a - - -"),
    "ids beside words for missing in any case": (
        ["0", "1", "NAN", "na", "N.A.", "(nil)"],
        "LABEL_0 LABEL_1",
        "LABEL_0 LABEL_1 - - - -",
    ),
    "probabilities by id": ([{"0": 0.9, "1": 0.1}, {"1": 1}], "LABEL_0 LABEL_1", "LABEL_0 LABEL_1"),
}


@pytest.mark.parametrize(("labels", "names", "expected"), ONE_CLASS.values(), ids=ONE_CLASS.keys())
def test_labels_are_one_class_per_text(labels, names, expected):
    problem_type, found_names, found = read(labels)
    assert problem_type == SINGLE
    if names is not None:
        assert found_names == names.split()
    if expected is not None:
        assert found == [None if name == "-" and "-" not in found_names else [name] for name in expected.split()]
    assert all(target is None or len(target) == 1 for target in found)


def test_names_that_differ_in_case_and_spaces_are_one_class_in_its_most_common_spelling():
    assert read(["POS", " pos", "pos  ", "Pos", "neg"])[1:] == (["neg", "pos"], [["pos"]] * 4 + [["neg"]])
    assert read(["two  words", "two\twords", "x"])[1] == ["two words", "x"]
    assert read(["B", "b", "a"])[1] == ["B", "a"]  # a tie: the first by code point


def test_a_thousand_classes_are_read():
    labels = [f"class {i % 1000}" for i in range(2000)]
    problem_type, names, found = read(labels)
    assert (problem_type, len(names)) == (SINGLE, 1000)
    assert found == [[label] for label in labels]


ORDINARY = {  # classes of usual data sets
    "AG News": ["World", "Sports", "Business", "Sci/Tech"],
    "RTE": ["entailment", "not_entailment"],
    "sarcasm": ["sarcasm", "not sarcasm"],
    "FEVER": ["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"],
    "TREC": ["ABBR:abb", "ABBR:exp", "DESC:def"],
    "20 Newsgroups": ["comp.graphics", "misc.forsale", "sci.med"],
    "Yahoo Answers": ["Business & Finance", "Health", "Society & Culture"],
    "news": ["ARTS", "ARTS & CULTURE", "CULTURE & ARTS", "STYLE & BEAUTY", "STYLE"],
    "complaints": ["Credit card or prepaid card", "Mortgage", "Student loan"],
    "languages": ["en", "zh", "zh-CN", "de-CH"],
    "programming languages": ["C", "C++", "C#", "Objective-C", "c-sharp"],
    "intents": ["card", "card_arrival", "lost_or_stolen_card"],
    "part of an answer": ["yes", "no", "yes/no question"],
    "a scale": ["agree", "strongly agree", "neither agree nor disagree"],
    "ages": ["0-2", "3-5", "6+"],
    "marks": ["1/5", "2/5", "5/5"],
    "school marks": ["A", "A-", "A+", "B+", "B-"],
    "sections": ["1", "1.1.1", "1.2.1", "2"],
    "dates": ["2020-01-01", "2020-01-02"],
    "a hierarchy": ["Sports > Football", "Sports > Tennis", "News"],
    "an explanation": ["jaguar (car)", "jaguar (animal)", "car"],
    "tokens": ["O", "B-PER", "I-PER"],
    "punctuation": ["O", ",", ".", "?"],
    "emoji": ["\U0001f600", "\U0001f621", "neutral"],
    "an emoji and a mark": ["\U0001f600", "?"],
    "signs": ["+", "-", "\u00b1"],
    "unknown": ["neg", "pos", "unknown"],
    "stars": ["\u2605", "\u2605\u2605", "\u2605\u2605\u2605"],
    "prices": ["$", "$$", "$$$"],
    "operators": ["<", "=", "<=", "!=", "!"],
    "a word twice": ["bye", "bye bye"],
}


@pytest.mark.parametrize("names", ORDINARY.values(), ids=ORDINARY.keys())
def test_names_of_usual_data_sets_are_classes(names):
    assert read(names * 20) == (SINGLE, sorted(names), [[name] for name in names * 20])


# Several classes per text

SEVERAL = {
    "names joined by |": (["b|a", " c ", "a"], "a b c", [["a", "b"], ["c"], ["a"]]),
    "an empty cell": (["b|a", "", "a"], "a b", [["a", "b"], [], ["a"]]),
    "a cell without a label": (["b|a", None, "-", "-1"], "a b", [["a", "b"], None, None, None]),
    "joined ids": (["0|2", "1"], "LABEL_0 LABEL_1 LABEL_2", [["LABEL_0", "LABEL_2"], ["LABEL_1"]]),
    "joined years": (["2019|2020", "2019"], "2019 2020", [["2019", "2020"], ["2019"]]),
    "joined names in brackets": (
        ["a|[b]", "(no genres listed)"],
        None,
        [["[b]", "a"], ["(no genres listed)"]],
    ),
    "ids, alone and joined": (
        ["0|1", "0", "1"],
        "LABEL_0 LABEL_1",
        [["LABEL_0", "LABEL_1"], ["LABEL_0"], ["LABEL_1"]],
    ),
    "objects of booleans": ([{"a": True, "b": True}, {"a": False}], "a b", [["a", "b"], []]),
    "lists of names": ([["b"], [], ["a", "c"], "a"], "a b c", [["b"], [], ["a", "c"], ["a"]]),
    "lists of ids": ([[1], [0, 2], []], "LABEL_0 LABEL_1 LABEL_2", [["LABEL_1"], ["LABEL_0", "LABEL_2"], []]),
    "lists of ids with a gap": ([[1], [0, 3]], "0 1 3", [["1"], ["0", "3"]]),
    "lists of the same length with larger ids": ([[0, 2], [1, 2]], "LABEL_0 LABEL_1 LABEL_2", None),
    "multi-hot lists": ([[0, 1, 1], [0, 0, 0]], "LABEL_0 LABEL_1 LABEL_2", [["LABEL_1", "LABEL_2"], []]),
    "multi-hot lists of floats": ([[1.0, 0.0, 1.0]], "LABEL_0 LABEL_1 LABEL_2", [["LABEL_0", "LABEL_2"]]),
    "values for each class": ([[0.9, 0.8], [0.1, 0.2]], "LABEL_0 LABEL_1", [["LABEL_0", "LABEL_1"], []]),
    "lists beside marks of missing labels": (
        [["a"], ["b"], None, -1, "NA"],
        "a b",
        [["a"], ["b"], None, None, None],
    ),
}


@pytest.mark.parametrize(("labels", "names", "expected"), SEVERAL.values(), ids=SEVERAL.keys())
def test_labels_are_several_classes_per_text(labels, names, expected):
    problem_type, found_names, found = read(labels)
    assert problem_type == MULTI
    if names is not None:
        assert found_names == names.split()
    if expected is not None:
        assert found == expected


# Numbers

NUMBERS = {
    "decimals": ([0.5, 3.7, -1.0], [[0.5], [3.7], [-1]]),
    "decimals and integers": ([0.5, 3, -1], [[0.5], [3], [-1]]),
    "decimals in a table": (["4.200", "-.5", "5.000", "-1"], [[4.2], [-0.5], [5], [-1]]),
    "small decimals": (["1e-05", "0.5"], [[1e-5], [0.5]]),
    "exponents without a sign": (["0.5", "1.0E7", "1e5"], [[0.5], [1e7], [1e5]]),
    "numbers larger than integers": ([0.5, 1e20, "1e20"], [[0.5], [1e20], [1e20]]),
    "decimals beside missing labels": (["4.2", "", "nan", "NA", "-", "1"], [[4.2], None, None, None, None, [1]]),
    "scores with three digits": (["5.000", "3.800", "0.250"] * 9, [[5], [3.8], [0.25]] * 9),
    "few scores, most with decimals": ([0.0, 1.2, 2.5, 3.8, 5.0] * 9, [[0], [1.2], [2.5], [3.8], [5]] * 9),
    "half stars": ([1, 1.5, 2, 2.5, 3, 3.5] * 9, [[1], [1.5], [2], [2.5], [3], [3.5]] * 9),
    "a negative number of digits that are numbers too": (["-0.5", "0", "5", "0.25"], [[-0.5], [0], [5], [0.25]]),
    "decimals beside null": ([0.5, None, math.nan], [[0.5], None, None]),
}


@pytest.mark.parametrize(("labels", "expected"), NUMBERS.values(), ids=NUMBERS.keys())
def test_labels_are_numbers_if_some_have_decimals(labels, expected):
    assert read(labels) == (REGRESSION, ["LABEL_0"], expected)


# Options

CHOSEN = {
    "integers as numbers": (["1", 2, None], {"problem_type": REGRESSION}, ["LABEL_0"], [[1], [2], None]),
    "-1 as a number": ([-1, 0, 1], {"problem_type": REGRESSION}, ["LABEL_0"], [[-1], [0], [1]]),
    "lists of numbers": ([[1, 2.5]], {"problem_type": REGRESSION}, ["LABEL_0", "LABEL_1"], [[1, 2.5]]),
    "decimals as names": ([0.5, 1.5], {"problem_type": SINGLE}, ["0.5", "1.5"], [["0.5"], ["1.5"]]),
    "names with |": (["a|b", "c"], {"problem_type": SINGLE}, ["a|b", "c"], [["a|b"], ["c"]]),
    "names with commas": (["a, b", "c; d"], {"problem_type": SINGLE}, ["a, b", "c; d"], [["a, b"], ["c; d"]]),
    "names in brackets": (["[a]", "[b]"], {"problem_type": SINGLE}, ["[a]", "[b]"], [["[a]"], ["[b]"]]),
    "one-hot lists as several": ([[0, 1], [1, 0]], {"problem_type": MULTI}, ["LABEL_0", "LABEL_1"], None),
    "single names as several": (["a", "b", ""], {"problem_type": MULTI}, ["a", "b"], [["a"], ["b"], []]),
    "probabilities as several": ([{"a": 0.9, "b": 0.8}], {"problem_type": MULTI}, ["a", "b"], [["a", "b"]]),
    "a comma between classes": (["b, a", "c"], {"separator": ","}, ["a", "b", "c"], [["a", "b"], ["c"]]),
    "a semicolon between classes": (["b;a|c"], {"separator": ";"}, ["a|c", "b"], [["a|c", "b"]]),
    "a space between classes": (["b a", "c"], {"separator": " "}, ["a", "b", "c"], [["a", "b"], ["c"]]),
    "-1 without a label": ([-1, 0, 1], {"unlabeled": "-1"}, ["LABEL_0", "LABEL_1"], None),
    "-1 as an integer": ([-1, 0, 1], {"unlabeled": -1}, ["LABEL_0", "LABEL_1"], None),
    "-1 as a class": ([-1, 0, 1], {"unlabeled": "null"}, ["-1", "0", "1"], [["-1"], ["0"], ["1"]]),
    "-1 as a class by its name": ([-1, 0, 1], {"names": ["-1", "0", "1"]}, ["-1", "0", "1"], None),
    "another mark": (["a", "b", "?", "99"], {"unlabeled": ["?", "99"]}, ["a", "b"], [["a"], ["b"], None, None]),
    "marks in one string": (["a", "b", "?", "99"], {"unlabeled": "?,99"}, ["a", "b"], [["a"], ["b"], None, None]),
    "a mark among decimals": (["0.0", "0.25", "?"], {"unlabeled": "?"}, ["LABEL_0"], [[0], [0.25], None]),
    "a mark with |": (["a", "b", "N|A"], {"unlabeled": "n|a"}, ["a", "b"], [["a"], ["b"], None]),
    "a mark with a comma": (["0.5", "2.5", "4,5"], {"unlabeled": ["4", "5"]}, ["LABEL_0"], [[0.5], [2.5], None]),
    "null as a class": (["a", "b", "null"], {"unlabeled": ""}, ["a", "b", "null"], [["a"], ["b"], ["null"]]),
    "null and NaN": (
        ["a", "b", None, math.nan],
        {"unlabeled": "null,nan"},
        ["a", "b"],
        [["a"], ["b"], None, None],
    ),
    "- as a class": (["a", "b", "-"], {"unlabeled": "null"}, ["-", "a", "b"], [["a"], ["b"], ["-"]]),
    "parts in quotes": (['"a"|b', "c"], {"separator": "|"}, ['"a"', "b", "c"], [['"a"', "b"], ["c"]]),
    "NA without a label": (["a", "b", "NA", None], {"unlabeled": "na"}, ["a", "b"], [["a"], ["b"], None, None]),
    "NA as a class": (
        ["a", "b", "NA", None],
        {"unlabeled": "null"},
        ["NA", "a", "b"],
        [["a"], ["b"], ["NA"], None],
    ),
    "a comma without a label": (["a", "b", ","], {"unlabeled": ","}, ["a", "b"], [["a"], ["b"], None]),
    "versions as classes": (["1.1", "1.10"], {"problem_type": SINGLE}, ["1.1", "1.10"], [["1.1"], ["1.10"]]),
    "few decimals as numbers": (["0", "1"] * 9 + ["0.5"], {"problem_type": REGRESSION}, ["LABEL_0"], None),
    "codes as numbers": (["1e1", "1e2"], {"problem_type": REGRESSION}, ["LABEL_0"], [[10], [100]]),
    "joined classes as one": (["a", "b", "a/b"], {"problem_type": SINGLE}, ["a", "a/b", "b"], None),
    "joined classes as several": (["a", "b", "a/b"], {"separator": "/"}, ["a", "b"], [["a"], ["b"], ["a", "b"]]),
    "names by id": ([1, 0, "1"], {"names": ["neg", "pos"]}, ["neg", "pos"], [["pos"], ["neg"], ["pos"]]),
    "names in any case": (["POS", "pos "], {"names": ["neg", "pos"]}, ["neg", "pos"], [["pos"], ["pos"]]),
    "names that differ in case": (["a", "A"], {"names": ["A", "a"]}, ["A", "a"], [["a"], ["A"]]),
    "all labels are classes": ([*"abcdefgh"], {"problem_type": SINGLE}, [*"abcdefgh"], None),
}


@pytest.mark.parametrize(("labels", "options", "names", "expected"), CHOSEN.values(), ids=CHOSEN.keys())
def test_an_option_decides(labels, options, names, expected):
    _, found_names, found = read(labels, **options)
    assert found_names == names
    if expected is not None:
        assert found == expected


# Refused

BETWEEN = [  # two classes
    *"/+&;:_-.~ \n\t\\\uff0c\u3001\uff1b\uff5c\u060c\u00b7\u2011",
    *(", ", " & ", "->", " \u2022 ", " and ", " or ", " und ", " vs ", "&amp;"),
    *(" and/or ", " plus ", " e ", " och ", " en ", "<br>", "<br/>", "\\n"),
]
REFUSED = {
    "-1 beside ids": ([-1, 0, 1], ["the label is -1, as in 1 of 3 rows", "--unlabeled=-1", "--unlabeled=null"]),
    "-1 beside many ids": ([-1, *[0, 1, 2] * 100], ["as in 1 of 301 rows"]),
    "-1 and null beside ids": ([-1, None, 0, 1], ["as in 1 of 4 rows"]),
    "-1 beside stars": ([-1, 1, 2, 3], ["--unlabeled=-1"]),
    "-1 beside ids as floats in a table": (["-1.0", "0.0", "1.0"], ["the label is '-1.0'", "--unlabeled=-1"]),
    "another negative mark": ([-100, 0, 1], ["--unlabeled=-100"]),
    "words for missing beside names": (["a", "b", "nan", "NA"], ["as in 2 of 4 rows", "--unlabeled=NA,nan "]),
    "a word for missing beside joined names": (["a|b", "a", "None"], ["--unlabeled=None "]),
    "a class called null": (["a", "b", "null"], ["--unlabeled=null to skip these", "--unlabeled='' to skip only"]),
    "names with a semicolon": (["a;b", "a"], ["'a;b'", "--label-separator ';'", f"--problem-type {SINGLE}"]),
    "names with a comma": (["c", "b, c"], ["'b, c'", "--label-separator ','", f"--problem-type {SINGLE}"]),
    "several combinations": (["a, b", "a, c"], ["--label-separator ','"]),
    "a comma beside lists": ([["a"], "a, b"], ["--label-separator ','", "--label-separator '|'"]),
    "numbers with thousands separators": (["1,234", "987"], ["'1,234'", "write the number as 1234.5"]),
    "numbers with a space between thousands": (["1 234", "987"], ["write the number as 1234.5"]),
    "numbers with spaces between": (["0 1", "1 0"], ["--label-separator ' '"]),
    "numbers with a decimal comma": (["0,5", "1,5"], ["write the number as 1234.5"]),
    "lists that pandas wrote": (["['a', 'b']", "['a']"], ["the brackets or quotes are part of it", "write a|b"]),
    "lists in JSON": (['["a"]', '["b"]'], ["the brackets or quotes are part of it"]),
    "lists that NumPy wrote": (["[0 1]", "[1 0]"], ["the brackets or quotes are part of it"]),
    "objects in a string": (["{'a': 1}", "b"], ["the brackets or quotes are part of it"]),
    "tuples in a string": (["('a', 'b')", "c"], ["brackets or quotes"]),
    "lists of numbers in a string": (["[0, 1]", "[1.5e-05]"], ["brackets or quotes"]),
    "an empty list in a string": (["[]", "a"], ["brackets or quotes"]),
    "tuples of numbers in a string": (["(0, 1)", "a"], ["brackets or quotes"]),
    "joined names in quotes": (["'a'|b", "c"], ["brackets or quotes", "--label-separator '|'"]),
    "names with and without quotes": (['"a"', "a", "b"], ["brackets or quotes", f"--problem-type {SINGLE}"]),
    "names and ids": (["pos", "neg", 0, 1], ["the label is 0, but others are names", f"--problem-type {SINGLE}"]),
    "a mark among decimals": (
        ["0.5", "1.0", "0.0", "?"],
        ["train.csv, line 5: the label is '?', but most", "--unlabeled='?'", f"--problem-type {SINGLE}"],
    ),
    "an error of a spreadsheet": (["0.5", "1.5", "#DIV/0!"], ["is '#DIV/0!'", "--unlabeled='#DIV/0!'"]),
    "a decimal comma among decimals": (
        ["0.5", "1.5", "4,5"],
        ["is '4,5'", "write a number such as 1234.5", "--unlabeled=4,5"],
    ),
    "numbers with commas and spaces between": (["0, 1", "1, 2"], ["--label-separator ','"]),
    "a joined mark among decimals": (["0.5", "1.5", "2.5", "N|A"], ["the label is 'N|A'", "--unlabeled='N|A' to"]),
    "a mark among ids": (["0", "1", "?"], ["line 4: the label is '?'", "--unlabeled='?'", "--labels"]),
    **{
        f"{mark} beside stars in a table": ([*"12345", mark], [f"the label is {mark!r}", "--unlabeled=", SINGLE])
        for mark in ("?", "#DIV/0!", "unknown", "x")
    },
    "a mark beside stars and a name with a digit": ([*"1234", "5+", "?"], ["the label is '?'", "--unlabeled='?'"]),
    "names and ids in a table": (["pos", "neg", "0", "1"], ["the label is '0', but others are names"]),
    "lists of one number": ([[0.0], [1.0]], ["only the class LABEL_0;", REGRESSION]),
    "booleans and integers": ([True, False, 1, 0], ["the label is 0, but others are true or false"]),
    "booleans and integers in a table": (["true", "0"], ["the label is '0', but others are true or false"]),
    "as many classes as rows": (
        [f"text {i}" for i in range(8)],
        ["8 rows are 8 classes", "--label-column", SINGLE],
    ),
    "row numbers": ([*range(50)], ["50 rows are 50 classes, such as 0, 1, 2", REGRESSION]),
    "few rows for each class": ([i // 3 * 2 for i in range(9)] + [*range(10, 20)], ["classes"]),
    "as many tags as rows": (
        [f"a{i}|b{i}" for i in range(8)],
        ["8 rows are 16 classes", f"--problem-type {MULTI}"],
    ),
    "one class": (
        ["a", "A", None],
        ["only the class A (written A, a), and rows without a label: null; expected 2"],
    ),
    "one id": ([0, 0], ["only the class 0;", "pass --labels", f"--problem-type {REGRESSION} for numbers"]),
    "one class in lists": ([["a"], []], ["only the class a;"]),
    "lists of different lengths": (
        [[1.5, 0.0], [2.5, 1.0], [1.0]],
        ["line 4: the label is [1.0]: expected 2 numbers"],
    ),
    "no labels": (
        [None, -1, "-1", "-", ""],
        ["none of 5 rows of the training data has a label: all are '', '-', '-1', -1, null"],
    ),
    "all -1": ([-1, -1], ["none of 2 rows of the training data has a label: all are -1"]),
    "nothing": ([], ["has no class"]),
    "one decimal among ids": (
        ["0"] * 60 + ["1"] * 60 + ["0.5"],
        [
            "line 122: the label is '0.5': a number, or a class? 1 of 121 labels have decimals",
            f"--problem-type {REGRESSION}",
            f"--problem-type {SINGLE}",
        ],
    ),
    "one decimal among ids in JSON": ([*[0, 1] * 60, 0.5], ["the label is 0.5: a number, or a class?"]),
    "different decimals among ids": ([*[0, 1] * 60, 0.5, 0.3, 0.7], ["3 of 123 labels have decimals"]),
    "one decimal among many integers": ([*[*range(11)] * 20, 7.5], ["1 of 221 labels"]),
    "versions": (["1.0", "1.1", "2.0"] * 20, ["the label is '1.1': a number, or a class?"]),
    "versions that are the same number": (["1.10", "1.1"], ["a number, or a class?"]),
    "versions with two digits": (["3.8", "3.9", "3.10"], ["the label is '3.10': a number, or a class?"]),
    **{
        f"classes joined by {mark!r}": (["a", "b", f"a{mark}b"], ["several classes, or one?", SINGLE])
        for mark in BETWEEN
    },
    **{
        f"classes with marks of their own: {text}": (
            [*text.split(), f"{text.split()[0]}{mark}{text.split()[1]}"],
            parts,
        )
        for text, mark, parts in [
            ("__label__a __label__b", " ", ["--label-separator ' '"]),
            ("#a #b", " ", ["--label-separator ' '"]),
            ("a? b?", ", ", ["--label-separator ','"]),
            ("A- B+", "/", ["--label-separator '/'"]),
            ("C C++", " ", ["--label-separator ' '"]),
            ("C++ C", " ", ["--label-separator ' '"]),
            ("(a) (b)", "", ["Write | between"]),
            ("\U0001f600 \U0001f621", "", ["Write | between"]),
            ("\U0001f600 \U0001f621", " ", ["--label-separator ' '"]),
        ]
    },
    "words that are classes": (["joy", "anger", "joy anger", "very happy"], ["--label-separator ' '"]),
    "classes joined in another order and case": (["a", "b", "B/A"], ["'B/A'", "--label-separator '/'"]),
    "classes in brackets": (["a", "b", "a (b)"], ["'a (b)'", "Write | between several"]),
    "three classes with different marks": (["a", "b", "c", "a, b & c"], ["Write | between several"]),
    "classes joined by different marks": (["a", "b", "c", "a/b", "b+c"], ["Write | between several"]),
    "classes joined by another mark than |": (["a|b", "a/b"], ["'a/b'", "--label-separator '|' for one"]),
    "a part joined by an ideographic comma": (["a", "a\u3001b"], ["--label-separator '\u3001'"]),
    "ids with a space between": (["0", "1", "0 1"], ["'0 1'", "--label-separator ' '"]),
    **{
        f"the word {word}": (["a", "b", word], [f"the label is {word!r}, as in 1 of 3 rows", "--unlabeled=null"])
        for word in [
            *("NAN", "NONE", "na", "N.A.", "n/a", "N / A", "nil", "(none)", "<NA>", "[NULL]", "#N/A", "undefined"),
            *("no label", "no_label", "Not labeled", "pd.NA", "np.nan"),
            *("label", "missing", "?", "???", "...", "\u2026", "*", ",", "#REF!"),
        ]
    },
    "Null": (["a", "b", "Null"], ["--unlabeled='' to skip only"]),
    "a mark beside booleans": (["true", "false", "?"], ["the label is '?', as in 1 of 3 rows"]),
    "a mark beside lists": ([["a"], ["b"], "?"], ["the label is '?', as in 1 of 3 rows"]),
    "a mark among ids with dashes": (["0", "1", "--", "?"], ["the label is '?'", "--unlabeled='--,?'"]),
    "a control character": (
        ["a\x1b[31m", "b"],
        ["train.csv, line 2: the label is 'a\\x1b[31m'", "cannot be printed"],
    ),
    "a mark of direction": (["a\u202eb", "b"], ["cannot be printed; remove them"]),
    "a lone surrogate": ([["a\ud800"], ["b"]], ["'a\\ud800'", "cannot be printed"]),
    "a lone surrogate in a key": ([{"a\ud800": 1.0}, "b"], ["cannot be printed"]),
    "a list in a list": ([["a", ["b"]], ["c"]], ["the label is ['a', ['b']]: expected a list of names or ids"]),
    "null in a list": ([["a", None], ["c"]], ["expected a list of names or ids"]),
    "an empty name in a list": ([["a", ""], ["c"]], ["expected a list of names or ids"]),
}


@pytest.mark.parametrize(("labels", "parts"), REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_labels_are_refused_with_the_option_that_settles_them(labels, parts):
    refused(labels, *parts)


def test_long_labels_are_searched_for_classes_in_linear_time():
    marks = "-" * 300_000
    refused(["a", "b", f"a{marks}c", "a " * 20_000 + "c", "a b " * 10_000], "several classes, or one?")


@pytest.mark.parametrize("labels", [["a", "A"], ["a", "a", None], [f"text {i}" for i in range(8)], [["a"], []]])
def test_names_are_not_offered_as_numbers(labels):
    with pytest.raises(InputError) as caught:
        infer_schema(rows(labels))
    assert REGRESSION not in str(caught.value)


def test_lists_of_different_lengths_are_not_offered_as_numbers():
    with pytest.raises(InputError) as caught:
        infer_schema(rows([[1.5, 0.0], [1.0]]))
    assert REGRESSION not in str(caught.value)


@pytest.mark.parametrize("names", [["neg", "pos"], ["neg"], ["neg", "pos", "other"]])
@pytest.mark.parametrize("ids", [[0, 1], ["0", "1"], ["0.0", "1.0", "2.0"]])
def test_ids_in_one_file_and_names_in_the_other_name_the_option_labels(ids, names):
    refused(ids, "pass --labels", eval_labels=names)
    refused(names, "pass --labels", eval_labels=ids)


@pytest.mark.parametrize("unlabeled", ["-1", -1, "?,null", ["a", "N/A"]])
def test_a_mark_that_no_row_has_is_refused(unlabeled):
    absent = {"?,null": "?"}.get(str(unlabeled), "N/A" if isinstance(unlabeled, list) else "-1")
    refused(["a", "b", None], f"unlabeled has {absent}: no row has this label", unlabeled=unlabeled)


def test_a_remedy_keeps_the_marks_that_were_passed():
    labels = ["0.5", "1.5", "0.0", "nan", "?"]
    refused(labels, "the label is '?'", "--unlabeled='?,nan' to skip", unlabeled="nan")
    assert read(labels, unlabeled="?,nan")[0] == REGRESSION


def test_emoji_and_words_of_joined_characters_are_names():
    names = ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]
    assert read(names)[1] == sorted(names)


INVALID = {
    "numbers as classes": (
        [[1.5, 2.0], [0.5, 1.0]],
        {},
        "expected 2 numbers from 0 to 1; pass --problem-type regression",
    ),
    "probabilities that exceed 1": (
        [{"a": 0.9, "b": 0.8}],
        {},
        f"add up to 1.700, not to 1; pass --problem-type {MULTI}",
    ),
    "an infinite number": ([math.inf, 0.5], {}, "the label is inf: expected a number"),
    "-1 and 1 for other names": (
        [-1, 1],
        {"names": ["neg", "pos"], "problem_type": SINGLE},
        "expected one of neg, pos",
    ),
    "an id beside names that are integers": (
        [0, 1, 2],
        {"names": ["1", "2", "3"]},
        "the label is 0: expected one of 1, 2, 3;",
    ),
    "an id that is too large": (
        [0, 2],
        {"names": ["neg", "pos"]},
        "the label is 2: expected one of neg, pos, or its id",
    ),
}


@pytest.mark.parametrize(("labels", "options", "message"), INVALID.values(), ids=INVALID.keys())
def test_labels_that_do_not_fit_are_refused(labels, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read(labels, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"problem_type": "multi_label"},
            "problem_type is 'multi_label': expected one of single_label_classification",
        ),
        ({"separator": ""}, "label_separator is '': expected a character"),
        ({"separator": ",", "problem_type": SINGLE}, "the problem type multi_label_classification"),
    ],
)
def test_options_are_checked(options, message):
    refused(["a", "b"], message, **options)


# Rows without a label


@pytest.mark.parametrize("missing", [None, math.nan, "", " ", "-", -1, "-1"], ids=repr)
def test_only_a_few_rows_without_a_label_are_skipped_unless_told(missing):
    few, many = ["a", "b"] * 5 + [missing] * 5, ["a", "b"] * 5 + [missing] * 6
    summary = infer_schema(rows(few)).read(rows(few))
    assert (summary.labeled, summary.skipped.total()) == (10, 5)
    with pytest.raises(InputError, match=r"line 12: .* 6 of 16 rows have no label; pass --unlabeled=") as caught:
        infer_schema(rows(many)).read(rows(many))
    marker = re.search("--unlabeled=(.*) to skip", str(caught.value))[1]
    assert infer_schema(rows(many), unlabeled=marker).read(rows(many)).labeled == 10
    if as_text(missing) in ("-", "-1"):
        assert f", or --unlabeled=null if {missing} is a class" in str(caught.value)
        assert infer_schema(rows(many), unlabeled="null").read(rows(many)).labeled == 16


def test_two_percent_of_many_rows_may_lack_a_label():
    for count, fits in ((20, True), (21, False)):
        labels = ["a", "b"] * 490 + [None] * count
        labels += ["a"] * (1000 - len(labels))
        schema = infer_schema(rows(labels))
        if fits:
            assert schema.read(rows(labels)).labeled == 980
        else:
            with pytest.raises(InputError, match="21 of 1,001 rows have no label"):
                schema.read(rows([*labels, None][:1001]))


# Training and evaluation data


def test_both_files_decide_what_labels_mean():
    schema = infer_schema(rows([0.0, 1.0]), rows([0.5], "dev.csv"))
    assert schema.problem_type == REGRESSION
    schema = infer_schema(rows(["a", "b"]), rows(["a|b"], "dev.csv"))
    assert schema.problem_type == MULTI
    refused([0, 1], "dev.csv, line 2: the label is -1", eval_labels=[-1, 1])


def test_a_test_split_without_labels_is_not_a_class():
    refused([0, 1], "dev.csv, line 2: none of 3 rows has a label: all are -1", eval_labels=[-1, -1, -1])


@pytest.mark.parametrize(("labels", "other"), [(["a", "b"], "c"), (["a", "b"], "7"), ([0, 1], 2), ([0, 2], 1)])
def test_a_label_that_the_training_data_lacks_is_refused(labels, other):
    schema = infer_schema(rows(labels), rows([other], "dev.csv"))
    with pytest.raises(
        InputError, match=f"dev.csv, line 2: the label is {other!r}: expected one of .*; pass --labels"
    ):
        schema.read(rows([other], "dev.csv"))


def test_ids_in_one_file_and_names_in_the_other_need_the_names_in_their_order():
    labels, others = rows(["pos", "neg"]), rows([0, 1], "dev.csv")
    refused(
        ["pos", "neg"], "dev.csv, line 2: the label is 0, but others are names: pass --labels", eval_labels=[0, 1]
    )
    schema = infer_schema(labels, others, names=["pos", "neg"])
    assert (schema.read(labels).targets, schema.read(others).targets) == ([(1, 0), (0, 1)], [(1, 0), (0, 1)])


def test_labels_of_the_evaluation_data_are_found_in_any_case_and_as_floats():
    names = infer_schema(rows(["a", "b"]), rows([" A"], "dev.csv"))
    assert names.read(rows([" A"])).targets == [(1, 0)]
    ids = infer_schema(rows([0, 1]), rows(["1.0", 0.0], "dev.csv"))
    assert ids.read(rows(["1.0", 0.0])).targets == [(0, 1), (1, 0)]


# Properties

NAMES = ["a", "A", " a", "b", "", "-", "+", "NA", "nan", "true", "a|b", "a;b", "[1]"]
VALUES = [
    "0",
    "1",
    "1.0",
    "0.5",
    "-1",
    "01",
    "2019",
    "1,5",
    "\u200b",
    0,
    1,
    2,
    -1,
    0.5,
    1.0,
    True,
    False,
    None,
    math.nan,
]
SCALARS = st.sampled_from([*NAMES, *VALUES])
LISTS = st.lists(st.sampled_from([0, 1, 1.0, 0.5, "a", "b", True]), max_size=3)
DICTS = st.dictionaries(st.sampled_from("abc"), st.sampled_from([0, 0.5, 1]), max_size=2)
COLUMNS = st.one_of(
    *(
        st.lists(st.sampled_from(values), min_size=1, max_size=12)
        for values in ([0, 1], ["a", "b", None], [-1, 1])
    ),
    st.lists(SCALARS, min_size=1, max_size=12),
    st.lists(LISTS | st.none(), min_size=1, max_size=8),
    st.lists(DICTS | SCALARS, min_size=1, max_size=8),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "names": st.sampled_from([["a", "b"], ["0", "1"], ["-1", "b", "a"]]),
        "problem_type": st.sampled_from([SINGLE, MULTI, REGRESSION]),
        "unlabeled": st.sampled_from(["-1", "null", "NA,a"]),
    },
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(COLUMNS, OPTIONS, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing_and_every_row_is_counted(labels, options, chance):
    def understood(order):
        given_rows = rows([labels[i] for i in order])
        try:
            schema = infer_schema(given_rows, **options)
            summary = schema.read(given_rows)
        except InputError:
            return None
        assert len(summary.targets) == len(labels)
        assert summary.labeled + summary.skipped.total() == len(labels)
        assert sum(target is not None for target in summary.targets) == summary.labeled
        if schema.problem_type == SINGLE:
            assert summary.classes.total() == summary.labeled
        if schema.problem_type == MULTI:
            assert sum(any(value > 0.5 for value in target) for target in summary.targets if target) == (
                summary.labeled - summary.without_class
            )
        return schema, dict(zip(order, summary.targets, strict=True)), summary.skipped, summary.classes

    order = list(range(len(labels)))
    first = understood(order)
    chance.shuffle(order)
    assert understood(order) == first


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abcde"), min_size=2, max_size=12).filter(lambda labels: len(set(labels)) > 1))
def test_other_names_in_the_same_order_have_the_same_targets(labels):
    renamed = {name: f"class {name} of five" for name in "abcde"}
    first = infer_schema(rows(labels)).read(rows(labels))
    second = infer_schema(rows(map(renamed.get, labels))).read(rows(map(renamed.get, labels)))
    assert first.targets == second.targets


def test_labels_of_the_data_are_read_as_the_classes_that_they_name():
    chance = random.Random(0)
    for _ in range(50):
        names = chance.sample(["red", "2019", "0101", "New York", "é", "-2", "3.5", "true", "n/a!", "x|y"[0]], 4)
        labels = [chance.choice(names) for _ in range(20)] + names
        assert read(labels, problem_type=SINGLE)[2] == [[name] for name in labels]


# The page


def rows_of_table(heading):
    """Yield the cells of a table of docs/training.md."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    _, _, table = text.partition(f"| labels | {heading} |")
    for line in table.split("\n\n")[0].splitlines()[2:]:
        yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def labels_of(cell):
    """Return the labels in a cell: JSON, or the strings of a table."""
    for text in re.findall("`([^`]+)`", cell):
        yield json.loads(text) if text[0] in '[{"' or "(JSON)" in cell else text


@pytest.mark.parametrize("cells", rows_of_table("meaning"), ids=lambda cells: cells[0])
def test_the_page_describes_what_labels_mean(cells):
    labels = list(labels_of(cells[0]))
    if " or " in cells[0]:
        labels = labels[3:]
    problem_type, names, _ = read(labels)
    several, numbers = (
        "several classes per text" in cells[1] and "if every" not in cells[1],
        "regression" in cells[1],
    )
    assert problem_type == (REGRESSION if numbers else MULTI if several else SINGLE)
    if "LABEL_0" in cells[1]:
        assert names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    if "names" in cells[1] and not several:
        assert len(names) == 2


@pytest.mark.parametrize("cells", rows_of_table("question | option"), ids=lambda cells: cells[0])
def test_the_page_lists_the_options_that_settle_ambiguous_labels(cells):
    labels = list(labels_of(cells[0]))
    if " or " in cells[0]:
        labels = labels[:2]
    elif not labels:
        labels = ["a", "b", *[None] * 10] if "without a label" in cells[0] else [*"abcdefgh"]
    with pytest.raises(InputError) as caught:
        infer_schema(rows(labels)).read(rows(labels))
    flag = re.search("`(--[a-z-]+)", cells[2])[1]
    assert flag in str(caught.value)
