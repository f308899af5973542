"""Rows are read from every file format, and from data sets on the Hub."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidistil.errors import InputError, MissingDependency
from minidistil.io.text_files import TEXT_COLUMNS
from minidistil.training.data import Labels
from minidistil.training.records import LABEL_COLUMNS, Columns, Row, read_rows

SINGLE = "single_label_classification"
NLI = Labels(("entailment", "neutral", "contradiction"), SINGLE)


KINDS = ["jsonl", "csv", "tsv"]


HEADER = ("premise", "hypothesis", "label")


ROWS = [
    ("A man sleeps.", "Nobody's awake, “here”.", "neutral"),
    ("Über die Straße 🐈\u200d⬛ 否", "e\u0301 = é\u2028one line\x85\x0b\x0c", "entailment"),
    (' a "quoted" word, and one "', "", "contradiction"),
    ('"all quoted"', "\\t is no tab, \\ no escape", "neutral"),
]


properties = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def content(kind, rows, header=HEADER):
    """Return the rows as the text of a file, written by hand."""
    if kind == "tsv":
        return "".join("\t".join(cells) + "\n" for cells in [header, *rows])
    if kind == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([header, *rows])
        return out.getvalue()
    return "".join(json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def refused(path, *parts, columns=None):
    """Assert that reading raises an error with the file name and these parts."""
    with pytest.raises(InputError) as caught:
        read_rows(path, columns)
    for part in (str(path), *parts):
        assert part in str(caught.value)


# Files


@pytest.mark.parametrize("ending", ["", ".gz", ".GZ"])
@pytest.mark.parametrize("kind", [*KINDS, "ndjson", "json", "TSV"])
def test_every_file_format_has_the_same_rows(tmp_path, kind, ending):
    path = tmp_path / f"train.v1.{kind}{ending}"
    data = content(kind.lower(), ROWS).encode()
    path.write_bytes(gzip.compress(data) if ending else data)
    first = 1 if "json" in kind else 2
    expected = [Row(*row, f"{path}, line {i}") for i, row in enumerate(ROWS, first)]
    assert read_rows(path) == read_rows(str(path)) == expected


@pytest.mark.full
@properties
@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 3)))
def test_any_text_is_read_back_from_every_format(tmp_path, rows):
    for kind in KINDS:
        if kind == "tsv":  # which cannot represent them
            rows = [tuple(cell.translate(dict.fromkeys(b"\t\r\n", " ")) for cell in row) for row in rows]
        path = write(tmp_path / f"any.{kind}", content(kind, rows))
        if rows:
            assert [row[:3] for row in read_rows(path)] == rows
        else:
            refused(path, "has no examples")


@pytest.mark.parametrize("kind", KINDS)
def test_byte_order_marks_and_line_ends_do_not_change_the_rows(tmp_path, kind):
    text = content(kind, ROWS)
    plain = read_rows(write(tmp_path / f"a.{kind}", text))
    for other in ("\ufeff" + text, text.replace("\n", "\r\n"), text.removesuffix("\n")):
        assert read_rows(write(tmp_path / f"a.{kind}", other)) == plain
    inside = read_rows(write(tmp_path / f"a.{kind}", content(kind, [("a", "b", "c"), ("\ufeffa", "b", "c")])))
    assert inside[1].text == "\ufeffa"


def test_csv_is_unquoted_and_the_place_is_the_line_where_a_row_starts(tmp_path):
    text = 'text,label\n"one, two",a\nplain,b\n"he said ""no""\nand\n\nleft",a\n"",b\nlast,"a"\n'
    path = write(tmp_path / "a.csv", text)
    assert [(row.text, row.label, row.place.removeprefix(f"{path}, line ")) for row in read_rows(path)] == [
        ("one, two", "a", "2"),
        ("plain", "b", "3"),
        ('he said "no"\nand\n\nleft', "a", "4"),
        ("", "b", "8"),
        ("last", "a", "9"),
    ]


def test_a_quote_in_tsv_is_text(tmp_path):
    cells = ['"', '"a', 'b"', '""', 'a "b" c', "'", "a,b"]
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"{cell}\t{cell}\n" for cell in cells))
    assert [(row.text, row.label) for row in read_rows(path)] == [(cell, cell) for cell in cells]


def test_values_in_jsonl_keep_their_type(tmp_path):
    labels = [1, -1, 0.5, 1.0, None, True, "1", ["a", 2], {"a": 0.5}, []]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": "a", "label": x}) + "\n" for x in labels))
    assert [(row.label, type(row.label)) for row in read_rows(path)] == [(x, type(x)) for x in labels]


BROKEN = {
    "an empty file": ("jsonl", "", ["has no examples"]),
    "an empty table": ("csv", "", ["has no examples"]),
    "a header alone": ("tsv", "text\tlabel\n", ["has no examples"]),
    "an unknown ending": ("parquet", "a", [".jsonl, .csv or .tsv"]),
    "no ending but gzip's": ("gz", "a", [".jsonl, .csv or .tsv"]),
    "not UTF-8": ("jsonl", b'{"text": "a", "label": 0}\n{"text": "\xff", "label": 0}\n', ["line 2 is not UTF-8"]),
    "not UTF-8 at once": ("tsv", "text\tlabel\na\tb\n".encode("utf-16"), ["is UTF-16: convert it to UTF-8"]),
    "not UTF-8 in a cell": ("csv", b'text,label\n"a\nb\xe9",1\n', ["line 3 is not UTF-8"]),
    "not JSON": ("jsonl", '{"text": "a", "label": 0}\n{"text": "a", label: 0}\n', ["line 2 is not JSON"]),
    "two objects": ("jsonl", '{"text": "a", "label": 0} {}\n', ["line 1 is not JSON"]),
    "too deep": ("jsonl", "[" * 100_000, ["line 1 is not JSON"]),
    "too many digits": ("jsonl", f'{{"text": "a", "label": {"9" * 5000}}}', ["line 1 is not JSON"]),
    "no object": (
        "jsonl",
        '{"text": "a", "label": 0}\n["a", 0]\n',
        ["line 2: expected a JSON object, found list"],
    ),
    "null": ("jsonl", "null\n", ["line 1: expected a JSON object, found NoneType"]),
    "too few cells": ("csv", 'text,label\n"a\nb",0\nc\n', ["line 4 has 1 cells: the header has 2"]),
    "too many cells": ("tsv", "text\tlabel\na\t0\n\nb\t0\t1\n", ["line 4 has 3 cells: the header has 2"]),
    "a quote that stays open": ("csv", 'text,label\na,0\n"b,0\nc,0\n', ["line 3 is not a row of a table"]),
    "text after a quote": ("csv", 'text,label\n"a" b,0\n', ["line 2 is not a row of a table"]),
    "two kinds of line ends": ("tsv", "text\tlabel\na\t0\rb\t1\n", ["line 2 is not a row of a table"]),
    "a key less": (
        "jsonl",
        '{"text": "a", "label": 0}\n{"text": "a"}\n',
        ["line 2 has the columns text, but no column for a label"],
    ),
    "no keys": (
        "jsonl",
        '{"text": "a", "label": 0}\n{}\n',
        ["line 2 has the columns (none), but no column for a text"],
    ),
    "no string": ("jsonl", '{"text": 1, "label": 0}\n', ["line 1: text is int: expected a string"]),
    "no text": ("jsonl", '{"text": null, "label": 0}\n', ["line 1: text is NoneType"]),
    "half of a character": (
        "jsonl",
        '{"text": "a\\ud800", "label": 0}\n',
        ["line 1: text", "character 1", "lone"],
    ),
    "half a character in a pair": (
        "jsonl",
        '{"premise": "a", "hypothesis": "\\udc00", "label": 0}\n',
        ["line 1: hypothesis", "character 0"],
    ),
    "a pair that is null": (
        "jsonl",
        '{"text": "a", "text_pair": null, "label": 0}\n',
        ["line 1: text_pair is None"],
    ),
}


@pytest.mark.parametrize(("kind", "text", "parts"), BROKEN.values(), ids=BROKEN.keys())
def test_invalid_rows_are_an_error_with_file_and_line(tmp_path, kind, text, parts):
    refused(write(tmp_path / f"a.{kind}", text), *parts)
    if kind not in ("gz", "parquet"):
        refused(write(tmp_path / f"a.{kind}.gz", text), *parts)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz"])
def test_the_error_for_a_missing_file_or_a_folder_names_it(tmp_path, name):
    refused(tmp_path / name, "cannot read", "No such file")
    (tmp_path / name).mkdir()
    refused(tmp_path / name, "cannot read")
    refused(tmp_path, "expected a file name that ends in .jsonl")


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_or_invalid_gzip_file_is_refused(tmp_path, kind):
    rng = random.Random(0)
    rows = [("".join(rng.choices("abcdefgh ", k=200)), "b", "c") for _ in range(2000)]
    path = write(tmp_path / f"a.{kind}.gz", content(kind, rows))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "cannot read", "after line ")
    path.write_bytes(whole[:-8])  # all lines, but not their checksum
    refused(path, "cannot read", f"after line {len(rows) + (kind != 'jsonl')}:")
    path.write_bytes(whole[:10] + b"\xff" * 50 + whole[60:])
    refused(path, "cannot read", "after line 0")
    path.write_text(content(kind, rows))
    refused(path, "cannot read", "after line 0")


# Columns


@pytest.mark.parametrize("label", LABEL_COLUMNS)
@pytest.mark.parametrize(("text", "pair"), TEXT_COLUMNS)
def test_the_usual_columns_are_found_in_any_order(tmp_path, text, pair, label):
    header = ["id", label, *([pair] if pair else []), "genre", text]
    row = {"id": "7", label: "yes", pair: "of the pair", "genre": "x", text: "of the text"}
    path = write(tmp_path / "a.tsv", content("tsv", [[row[name] for name in header]], header))
    assert read_rows(path) == [Row("of the text", "of the pair" if pair else None, "yes", f"{path}, line 2")]


def test_text_columns_are_tried_in_order():
    def find(names):
        return Columns().find(names.split(), "a file")

    assert find("sentence1 sentence2 premise hypothesis label") == ("premise", "hypothesis", "label")
    assert find("sentence text label") == ("sentence", None, "label")
    assert find("question sentence text text_pair label") == ("question", "sentence", "label")
    assert find("premise sentence2 text score gold_label") == ("text", None, "gold_label")


def test_usual_columns_are_found_in_any_case():
    def find(names, **columns):
        return Columns(**columns).find(names.split(), "a file")

    assert find("Text Label") == ("Text", None, "Label")
    assert find("ID Sentence1 SENTENCE2 Class") == ("Sentence1", "SENTENCE2", "Class")
    assert find("TEXT Text text LABEL label") == ("text", None, "label")
    assert find("Claim Text_Pair label", text="Claim") == ("Claim", "Text_Pair", "label")
    assert find("Text Sentence class", pair="Sentence") == ("Text", "Sentence", "class")


def test_a_file_of_mnli_is_read(tmp_path):
    header = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse"
    header += " sentence2_parse sentence1 sentence2 label1 label2 label3 label4 label5 gold_label"
    names = header.split()
    cells = {name: f"( {name} )" for name in names} | {"gold_label": "neutral", "label1": "entailment"}
    cells |= {"sentence1": "\"Yes,' he said", "sentence2": "He didn't."}
    other = cells | {"gold_label": "-"}
    path = write(tmp_path / "dev_matched.tsv", content("tsv", [cells.values(), other.values()], names))
    rows = read_rows(path)
    assert rows[0] == Row("\"Yes,' he said", "He didn't.", "neutral", f"{path}, line 2")
    examples, unlabeled = NLI.read(rows)
    assert ([example.label for example in examples], unlabeled) == ([(0, 1, 0)], 1)
    assert (examples[0].text, examples[0].pair, examples[0].place) == (*rows[0][:2], rows[0].place)


@pytest.mark.parametrize("kind", KINDS)
def test_named_columns_are_used(tmp_path, kind):
    header = ("premise", "hypothesis", "label", "claim", "reason", "verdict")
    path = write(tmp_path / f"a.{kind}", content(kind, [list("phlcrv")], header))

    def read(**names):
        return read_rows(path, Columns(**names))[0][:3]

    assert read() == ("p", "h", "l")
    assert read(text="claim", pair="reason", label="verdict") == ("c", "r", "v")
    assert read(text="claim") == ("c", None, "l")
    assert read(text="premise") == ("p", None, "l")
    assert read(pair="reason") == ("p", "r", "l")
    assert read(label="verdict") == ("p", "h", "v")
    for names in ({"text": "x"}, {"pair": "x"}, {"label": "x"}, {"text": "claim", "pair": "x"}):
        refused(
            path, ", ".join(header), "no column for x", "--text-column, --pair-column", columns=Columns(**names)
        )
    refused(path, "no column for x, y, z", columns=Columns("x", "y", "z"))


@pytest.mark.parametrize(
    ("header", "missing"),
    [("id label", "a text"), ("text id", "a label"), ("premise label", "a text"), ("Texts Label", "a text")],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_the_columns_is_an_error_that_lists_those_it_has(tmp_path, kind, header, missing):
    names = header.split()
    path = write(tmp_path / f"a.{kind}", content(kind, [["x"] * len(names)], names))
    refused(path, ", ".join(names), f"no column for {missing}: ")


def test_an_empty_object_has_no_columns(tmp_path):
    refused(write(tmp_path / "a.jsonl", "{}\n"), "has the columns (none)")


def test_duplicate_columns_are_refused(tmp_path):
    refused(write(tmp_path / "a.csv", "text,label,label\na,b,c\n"), "two columns label")


def test_each_row_of_jsonl_has_its_own_columns(tmp_path):
    rows = ({"text": "a", "label": 0}, {"text": "b", "text_pair": "c", "label": 1}, {"sentence": "d", "score": 2})
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [row[:3] for row in read_rows(path)] == [("a", None, 0), ("b", "c", 1), ("d", None, 2)]


def test_blank_lines_are_no_rows(tmp_path):
    for kind in KINDS:
        lines = content(kind, ROWS).split("\n")
        text = "\n\n".join(lines) + "\n\r\n" if kind != "csv" else content(kind, ROWS) + "\n\n"
        assert [row[:3] for row in read_rows(write(tmp_path / f"a.{kind}", text))] == ROWS


def test_a_named_pair_is_not_the_text(tmp_path):
    path = write(tmp_path / "a.csv", "sentence,text,label\na,b,c\n")
    assert read_rows(path, Columns(pair="sentence"))[0][:2] == ("b", "a")


# The Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The package `datasets` with an empty cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


@pytest.mark.full
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_data_set_is_read_through_datasets(tmp_path, hub, kind):
    folder = tmp_path / "local"
    folder.mkdir()
    rows = [row for row in ROWS if row[1] or kind != "csv"]  # `datasets` reads an empty cell as null
    write(folder / f"train.{kind}", content(kind, rows))
    write(folder / f"test.{kind}", content(kind, rows[:1]))
    source = f"hub:{folder}:train"
    assert read_rows(source) == [Row(*row, f"{source}, row {i}") for i, row in enumerate(rows, 1)]
    assert len(read_rows(f"hub:{folder}:test")) == 1
    assert len(read_rows(f"hub:{folder}:default:train")) == len(rows)
    assert read_rows(source, Columns(text="hypothesis"))[0][:3] == (rows[0][1], None, "neutral")
    refused(source, "premise, hypothesis, label", "no column for x", columns=Columns(text="x"))
    refused(f"hub:{folder}:validation", "cannot read", "validation")
    refused(f"hub:{folder}:other:train", "cannot read", "other")


def test_label_ids_are_replaced_by_the_names_of_the_data_set(hub, monkeypatch):
    names = ["entailment", "neutral", "contradiction"]
    features = {"text": hub.Value("string"), "label": hub.ClassLabel(names=names), "id": hub.Value("int64")}
    table = {"text": list("abcd"), "label": [2, 0, -1, 1], "id": [0, 1, 2, 0]}
    made = hub.Dataset.from_dict(table, features=hub.Features(features))
    asked = []

    def load(*arguments, **options):
        asked.append((arguments, options))
        return made

    monkeypatch.setattr(hub, "load_dataset", load)
    rows = read_rows("hub:user/name:config:train+test")
    assert asked == [(("user/name", "config"), {"split": "train+test"})]
    assert [row.label for row in rows] == ["contradiction", "entailment", None, "neutral"]
    reordered = Labels(("contradiction", "neutral", "entailment"), SINGLE)
    examples, unlabeled = reordered.read(rows)
    assert ([example.label for example in examples], unlabeled) == ([(1, 0, 0), (0, 0, 1), (0, 1, 0)], 1)
    assert [row.label for row in read_rows("hub:name:train", Columns(label="id"))] == [0, 1, 2, 0]
    assert asked[-1] == (("name",), {"split": "train"})
    made = made.select([])
    refused("hub:name:train", "has no examples")


@pytest.mark.parametrize("source", ["hub:", "hub:name", "hub:name:", "hub::train", "hub:a::train", "hub:a:b:c:d"])
def test_a_source_on_the_hub_has_a_name_and_a_split(source):
    refused(source, "expected hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT")


def test_the_error_for_a_missing_data_set_is_one_line(hub, tmp_path):
    for source in ("hub:nobody/nothing-of-the-kind:train", f"hub:{tmp_path / 'missing'}:train"):
        with pytest.raises(InputError, match="cannot read") as caught:
            read_rows(source)
        assert source in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_datasets_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match=r"datasets is not installed: run pip install .*\[datasets\]"):
        read_rows("hub:name:train")


def test_lists_from_the_hub_get_their_names_too(hub, monkeypatch):
    features = {"text": hub.Value("string"), "labels": hub.List(hub.ClassLabel(names=["joy", "fear"]))}
    found = hub.Dataset.from_dict({"text": ["a", "b"], "labels": [[1, 0], []]}, features=hub.Features(features))
    monkeypatch.setattr(hub, "load_dataset", lambda *names, split: found)
    assert [row.label for row in read_rows("hub:emotions:train")] == [["fear", "joy"], []]


def test_a_split_from_the_hub_may_be_a_part(hub, monkeypatch):
    asked = []

    def load(*names, split):
        asked.append((*names, split))
        return hub.Dataset.from_dict({"text": ["a"], "label": ["b"]})

    monkeypatch.setattr(hub, "load_dataset", load)
    read_rows("hub:glue:mnli:train[10:20%]")
    assert asked == [("glue", "mnli", "train[10:20%]")]
