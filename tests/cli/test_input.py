"""Input from files: lines, JSON lines, tables, gzip; errors name the line."""

from __future__ import annotations

import gzip
import json

import pytest

from minidistil.pipelines import base
from minidistil.training.records import read_rows
from support.cli import (
    LABELS,
    LINES,
    ODD,
    WORDS,
    assert_close,
    rows_in,
    table,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_line_of_a_file_yields_a_line_of_json(command, zero_shot, classify, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(LINES) + "\n")
    result = command("zero-shot", "--input", path, "--labels", "sports,politics,business")
    assert result.code == 0
    assert_close(result.answers, zero_shot(LINES, LABELS))
    assert_close(command("classify", "--input", path).answers, classify(LINES))


def test_progress_goes_to_stderr_unless_quiet(command):
    result = command("classify", "--input", "-", stdin=b"a\nb\n")
    assert len(result.answers) == 2
    assert result.err.startswith("texts: 2/? [")
    result = command("classify", "--input", "-", "--quiet", stdin=b"a\nb\n")
    assert len(result.answers) == 2
    assert result.err == ""


def test_progress_counts_the_texts_of_a_file(command, tmp_path):
    (tmp_path / "texts.txt").write_text("a\nb\n")
    assert command("classify", "--input", tmp_path / "texts.txt").err.startswith("texts: 2/2 [")


def test_a_dash_reads_stdin_whose_last_line_may_lack_a_line_feed(command, classify):
    assert_close(command("classify", "--input", "-", stdin="\n".join(LINES).encode()).answers, classify(LINES))


def test_labels_in_jsonl_take_precedence(command, zero_shot, tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [
        {"text": "the team", "labels": ["sports"]},
        {"text": "a man", "labels": LABELS, "id": 7},
        {"text": "b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = command("zero-shot", "--input", path, "--labels", "game,not held", "--multi-label")
    expected = [zero_shot(row["text"], row.get("labels", ["game", "not held"]), multi_label=True) for row in rows]
    assert_close(result.answers, expected)


def test_jsonl_may_contain_pairs(command, classify, tmp_path):
    rows = [{"text": "the team", "text_pair": "a game"}, {"text": "a man"}, {"text": "b", "text_pair": None}]
    content = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "pairs.jsonl").write_text(content)
    assert_close(command("classify", "--input", tmp_path / "pairs.jsonl").answers, classify(rows))
    assert_close(command("classify", "--input", "-", "--jsonl", stdin=content.encode()).answers, classify(rows))


def test_windows_line_ends_and_byte_order_marks_are_ignored(command, classify, tmp_path):
    lines = "\ufeff" + "".join(f"{line}\r\n" for line in LINES)
    rows = "\ufeff" + "".join(json.dumps({"text": line}) + "\r\n" for line in LINES)
    (tmp_path / "texts.txt").write_bytes(lines.encode())
    (tmp_path / "texts.jsonl").write_bytes(rows.encode())
    for name in ("texts.txt", "texts.jsonl"):
        assert_close(command("classify", "--input", tmp_path / name).answers, classify(LINES))
    result = command("zero-shot", "--labels", "sports", "--input", tmp_path / "texts.txt")
    assert [answer["sequence"] for answer in result.answers] == LINES


def test_only_line_feeds_separate_lines_and_spaces_are_kept(command):
    text = " \ta\0b\x0bc\x0cd\x1ce\x85f\u2028g\rh \t"
    result = command("zero-shot", "--labels", "sports", "--input", "-", stdin=f"{text}\nthe team\n".encode())
    assert [json.loads(line)["sequence"] for line in result.out.split("\n")[:-1]] == [text, "the team"]


@pytest.mark.full
def test_answers_to_a_long_input_are_in_order(command, zero_shot, monkeypatch):
    monkeypatch.setattr(base, "WINDOW", 7)
    lines = [" ".join(WORDS.split()[: 1 + i % 19]) for i in range(50)]
    result = command("zero-shot", "--labels", "sports,not", "--input", "-", stdin="\n".join(lines).encode())
    assert_close(result.answers, [zero_shot(line, ["sports", "not"]) for line in lines])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\xff\n", "line 2 is not UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (b"a\n\xed\xa0\x80\n", "line 2 is not UTF-8: 'utf-8' codec can't decode"),
    ],
)
def test_a_bad_line_is_named_with_its_file(command, tmp_path, content, message):
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    result = command("zero-shot", "--labels", "sports", "--input", path)
    assert f"{path}, {message}" in result.error
    assert [answer["sequence"] for answer in result.answers] == ["a"]  # the lines before it are answered


BAD_ROWS = {
    "not JSON": (b"{", "line 2 is not JSON: "),
    "not UTF-8": (b'{"text": "\xff"}', "line 2 is not UTF-8: 'utf-8' codec can't decode"),
    "a list": (b'["a"]', "line 2: expected a JSON object, found list"),
    "deep": (b"[" * 100_000, "line 2 is not JSON: "),
    "no text": (b'{"texts": "a"}', "line 2 has the columns texts, but no column for a text: name it with --text-"),
    "a number": (b'{"text": 5}', "line 2: text is int: expected a string"),
    "a lone surrogate": (b'{"text": "\\ud800"}', "line 2"),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
@pytest.mark.parametrize(
    "verb", [["zero-shot", "--labels", "sports"], ["classify"]], ids=["zero-shot", "classify"]
)
def test_a_bad_line_of_jsonl_is_named_with_its_file(command, tmp_path, verb, row, message):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + row + b'\n{"text": "b"}\n')
    result = command(*verb, "--input", path)
    assert f"{path}, {message}" in result.error
    assert len(result.answers) == 1


@pytest.mark.parametrize(
    "row", ['"labels": "a,b"', '"labels": []', '"labels": null', '"labels": [5]', '"labels": [""]']
)
def test_bad_labels_of_a_line_are_named_with_the_line(command, row):
    result = command("zero-shot", "--jsonl", "--input", "-", stdin=f'{{"text": "a", {row}}}\n'.encode())
    assert "stdin, line 1" in result.error


def test_a_line_without_labels_needs_those_of_the_command(command):
    result = command("zero-shot", "--jsonl", "--input", "-", stdin=b'{"text": "a"}\n')
    assert "stdin, line 1: labels is None" in result.error


def test_a_bad_second_text_is_named_with_its_line(command):
    result = command("classify", "--jsonl", "--input", "-", stdin=b'{"text": "a", "text_pair": 5}\n')
    assert "stdin, line 1: text_pair is int: expected a string" in result.error


def test_an_input_that_is_a_folder_is_named(command, tmp_path):
    assert f"cannot read {tmp_path}" in command("classify", "--input", tmp_path).error


def test_a_missing_input_is_named_even_if_the_output_exists(command, tmp_path):
    (tmp_path / "answers").write_text("old\n")
    missing = tmp_path / "missing.txt"
    result = command("classify", "--input", missing, "--output", tmp_path / "answers")
    assert f"cannot read {missing}" in result.error


@pytest.mark.parametrize("name", ["texts.JSONL", "texts.ndjson", "texts.json"])
def test_jsonl_is_recognized_by_several_extensions(command, classify, tmp_path, name):
    (tmp_path / name).write_text('{"text": "a man"}\n')
    assert_close(command("classify", "--input", tmp_path / name).answers, [classify("a man")[0]])


@pytest.mark.parametrize(
    ("stdin", "options", "message"),
    [
        (b'{"text": "a man"}\n', [], "stdin, line 1 is JSON: pass --jsonl"),
        (b"{'text': 1}\n", ["--jsonl"], "stdin, line 1 is not JSON"),
        (b'{"txt": "a"}\n', ["--jsonl"], "stdin, line 1 has the columns txt, but no column for a text"),
        ("a".encode("utf-16"), [], "stdin is UTF-16: convert it to UTF-8"),
        ("a".encode("utf-16-le"), [], "stdin is UTF-16: convert it to UTF-8"),
        ("a".encode("utf-16-be"), ["--jsonl"], "stdin is UTF-16: convert it to UTF-8"),
    ],
)
def test_input_in_the_wrong_format_is_an_error(command, stdin, options, message):
    result = command("classify", "--input", "-", *options, stdin=stdin)
    assert message in result.err.splitlines()[-1]
    assert result.code == 2


def test_a_table_is_answered_with_a_table(command, classify, tmp_path):
    source = table(tmp_path / "texts.csv", ["id", "text"], *([i, text] for i, text in enumerate(ODD)))
    assert command("classify", "--input", source, "--output", tmp_path / "a.csv").code == 0
    rows = rows_in(tmp_path / "a.csv")
    assert [row["row"] for row in rows] == ["1", "2", "3", "4"]
    assert_close([{"label": row["label"], "score": float(row["score"])} for row in rows], classify(ODD))


def test_a_cell_may_list_labels_and_each_label_has_a_row(command, zero_shot, tmp_path):
    source = table(tmp_path / "texts.csv", ["text", "labels"], ["The team won.", "sports, politics"], ["a", "x"])
    assert command("zero-shot", "--input", source, "--output", tmp_path / "a.csv").code == 0
    rows = rows_in(tmp_path / "a.csv")
    assert [(row["row"], row["sequence"]) for row in rows] == [("1", "The team won.")] * 2 + [("2", "a")]
    expected = zero_shot("The team won.", ["sports", "politics"])
    assert [row["label"] for row in rows[:2]] == expected["labels"]
    assert [float(row["score"]) for row in rows[:2]] == pytest.approx(expected["scores"], abs=1e-6)


@pytest.mark.parametrize(("name", "delimiter"), [("texts.csv", ","), ("texts.tsv", "\t")])
def test_text_column_names_the_column_of_the_text(command, classify, tmp_path, name, delimiter):
    source = table(tmp_path / name, ["review", "text_pair"], ["a man", "b"], ["c", ""], delimiter=delimiter)
    result = command("classify", "--input", source, "--text-column", "review")
    pair = {"text": "a man", "text_pair": "b"}
    assert_close(result.answers, [classify(pair), classify("c")[0]])
    result = command("classify", "--input", source)
    assert f"{source}, line 2 has the columns review, text_pair, but no column for a text" in result.error


def test_gzipped_input_is_read(command, classify, tmp_path):
    for name, content in (
        ("t.txt.gz", "a man\n"),
        ("t.jsonl.gz", '{"text": "a man"}\n'),
        ("t.csv.gz", "text\na man\n"),
    ):
        (tmp_path / name).write_bytes(gzip.compress(content.encode()))
        assert_close(command("classify", "--input", tmp_path / name).answers, [classify("a man")[0]])


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_of_a_csv_file_is_found_in_its_header(command, classify, tmp_path, delimiter):
    source = table(tmp_path / "a.csv", ["id", "text, or not", "text"], ["1", "a,b", "a man"], delimiter=delimiter)
    assert_close(command("classify", "--input", source).answers, [classify("a man")[0]])


def test_a_delimiter_that_the_file_does_not_use_is_named(command, tmp_path):
    (tmp_path / "data.tsv").write_text("id;label\na;b\n")
    error = command("classify", "--input", tmp_path / "data.tsv").error
    assert "name it with --text-column; the columns seem to be separated by ';'" in error
    (tmp_path / "data.csv").write_text("id,text\na;b\n")
    error = command("classify", "--input", tmp_path / "data.csv").error
    assert "line 2 has 1 cells: the header has 2; the columns seem to be separated by ';'" in error


USUAL = ["sentence", "premise,hypothesis", "question,sentence", "text,text_pair"]


@pytest.mark.parametrize("header", USUAL)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_classify_finds_the_columns_that_train_finds(command, classify, tmp_path, header, kind):
    row = dict(zip(header.split(","), ["a man", "is awake"], strict=False))
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        table(path, ["id", *row], ["1", *row.values()])
    else:
        path.write_text(json.dumps({"id": 1, **row}) + "\n")
    text = dict(zip(["text", "text_pair"], row.values(), strict=False))
    assert_close(command("classify", "--input", path).answers, [classify(text)])
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    labeled = path.read_text().replace("id", "label", 1 if kind == "csv" else -1)
    path.write_text(labeled)
    train = [tuple(row[:2]) for row in read_rows(path)]
    assert train == [(text["text"], text.get("text_pair"))] * 2


def test_the_columns_of_a_pair_can_be_named(command, classify, tmp_path):
    source = table(tmp_path / "a.csv", ["claim", "reason", "text_pair"], ["a man", "is awake", "b"])
    pair = {"text": "a man", "text_pair": "is awake"}
    result = command("classify", "--input", source, "--text-column", "claim", "--pair-column", "reason")
    assert_close(result.answers, [classify(pair)])
    error = command("classify", "--input", source, "--text-column", "claim", "--pair-column", "x").error
    assert "no column for x: name it with --pair-column" in error
    error = command("classify", "--input", "-", "--pair-column", "x", stdin=b"a\n").error
    assert "--pair-column requires an --input in .jsonl, .csv or .tsv" in error


BLANK = {  # with blank lines between records and at the end: the texts
    "txt": ("a\n\nb\n\n\n", ["a", "", "b"]),
    "jsonl": ('{"text": "a"}\n\n  \n{"text": ""}\r\n\r\n', ["a", ""]),
    "csv": ("\nid,text\n1,a\n\n2,\r\n  \n\n", ["a", ""]),
    "tsv": ("text\tid\na\t1\n\n\t2\n\n", ["a", ""]),
    "one.csv": ('text\na\n\nb\n""\n\n', ["a", "", "b", ""]),
    "one.tsv": ("text\na\n\nb\n\n", ["a", "", "b"]),
}


@pytest.mark.parametrize(("content", "texts"), BLANK.values(), ids=BLANK)
@pytest.mark.parametrize("verb", ["zero-shot", "classify", "tag"])
def test_blank_lines_are_skipped_unless_they_are_texts(request, command, heads, tmp_path, content, texts, verb):
    name = request.node.callspec.id.rpartition("-")[2]
    (tmp_path / f"a.{name}").write_bytes(content.encode())
    options = {"zero-shot": ["--labels", "sports"], "classify": [], "tag": ["--model", heads["tag"]]}[verb]
    result = command(verb, "--input", tmp_path / f"a.{name}", *options)
    assert result.code == 0
    assert len(result.answers) == len(texts)
    assert f"texts: {len(texts)}/{len(texts)} [" in result.err
    if verb == "zero-shot":
        assert [answer["sequence"] for answer in result.answers] == texts


def test_errors_after_blank_lines_and_quoted_line_breaks_name_the_line(command, tmp_path):
    for name, content, line in (
        ("a.txt", b"a\n\n\n\xff\n", 4),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": 5}\n', 3),
        ("a.csv", b'text,id\n"a\n\nb",1\n\nc\n', 6),
        ("b.csv", b'text\n"a\n\nb"\n\nc,d\n', 6),
    ):
        (tmp_path / name).write_bytes(content)
        result = command("classify", "--input", tmp_path / name)
        assert f"{tmp_path / name}, line {line}" in result.err
        assert result.code == 2


def test_an_error_of_json_names_one_line(command):
    error = command("classify", "--jsonl", "--input", "-", stdin=b'{"text": "a"}\n{"text": a}\n').err
    assert "stdin, line 2 is not JSON: Expecting value at character 10" in error
    assert error.count("line") == 1
