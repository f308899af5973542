"""Records of text files: bounded lines, delimiters, large cells."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import threading

import pytest

from minidistil.errors import InputError
from minidistil.io import text_files
from minidistil.io.text_files import read_records, text_columns

CHILD = """
import json, resource, sys
from pathlib import Path
from minidistil.errors import InputError
from minidistil.io.text_files import read_records

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
messages = []
for name, format in json.loads(sys.argv[1]):
    try:
        for record in read_records(None if name is None else Path(name), format):
            pass
    except InputError as error:
        messages.append(str(error))
print(json.dumps([messages, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the module resource")
def test_a_line_of_600_mb_is_an_error_with_its_number_and_little_memory(tmp_path):
    million = b"a" * 2**20
    bombs = {  # name: lines before the long one, and the part that is repeated in it
        "a.txt.gz": (b"a\n", million),
        "a.jsonl.gz": (b'{"text": "a"}\n{"text": "', million),
        "a.csv.gz": (b"text\nb\n", million),
        "rows.csv.gz": (b'text\n"', b"a" * 999 + b"\n"),  # one cell of many lines
        "cells.csv.gz": (b"text\nb\n", b'"a\n",' * 1000),
        "a.tsv.gz": (b"text\n", b"a\t" * 2**19),
        "zeros.txt.gz": (b"a\n", bytes(2**20)),
    }
    for name, (start, part) in bombs.items():
        repeated = gzip.compress(part * (2**20 // len(part)))
        (tmp_path / name).write_bytes(gzip.compress(start) + repeated * 600)
    plain = tmp_path / "plain.txt"
    with plain.open("wb") as file:
        file.write(b"a\nb\n")
        file.truncate(600 * 2**20)  # a hole of zeros: no disk space
    files = [(str(tmp_path / name), text_files.file_format(name)) for name in bombs]
    arguments = json.dumps([*files, (str(plain), "txt"), (None, "jsonl")])
    with plain.open("rb") as stdin:
        stdin.seek(4)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, arguments], stdin=stdin, capture_output=True, text=True, check=True
        )
    messages, kib = json.loads(done.stdout)
    lines = [message.partition("line ")[2].partition(":")[0] for message in messages]
    assert lines == [
        *("2 is too long", "2 is too long", "3 is too long", "2", "3", "2 is too long", "2 is too long"),
        *("3 is too long", "1 is too long"),
    ]
    assert all("expected at most 16,777,216" in message for message in messages)
    assert kib * (1024 if sys.platform != "darwin" else 1) < 250 * 2**20


@pytest.mark.parametrize("size", [200_000, 2**24 - 100])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv"])
def test_texts_of_any_size_below_the_limit_are_read(tmp_path, kind, size):
    text = "word " * (size // 5)
    contents = {
        "txt": text + "\n",
        "jsonl": json.dumps({"text": text}) + "\n",
        "csv": f'text,id\n"{text}",1\n',
        "tsv": f"text\tid\n{text}\t1\n",
    }
    path = tmp_path / f"a.{kind}"
    path.write_text(contents[kind])
    [record] = read_records(path, kind)
    assert record.fields["text"] == text


def test_the_size_limit_of_cells_is_only_raised(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text\na\n")
    former = csv.field_size_limit(2**30)
    try:
        list(read_records(tmp_path / "a.csv", "csv"))
        assert csv.field_size_limit() == 2**30
        csv.field_size_limit(10)
        list(read_records(tmp_path / "a.csv", "csv"))
        assert csv.field_size_limit() == text_files.MAX_LINE
    finally:
        csv.field_size_limit(former)


def test_large_cells_are_read_in_several_threads_at_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\n" + ("a" * 200_000 + "\n") * 20)
    counts = []
    threads = [
        threading.Thread(target=lambda: counts.append(len(list(read_records(path, "csv"))))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [20] * 4


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text,label", ["text", "label"]),
        ("text;label", ["text", "label"]),
        ("text\tlabel", ["text", "label"]),
        ("text|label", ["text", "label"]),
        ("text", ["text"]),
        ('"a; b; c",label', ["a; b; c", "label"]),
        ('"a, b, c";label', ["a, b, c", "label"]),
        (" text , label ", ["text", "label"]),
        ("\ufefftext;label", ["text", "label"]),
    ],
)
def test_the_delimiter_of_csv_is_the_most_frequent_outside_quotes(tmp_path, header, columns):
    mark = next((mark for mark in (";", "\t", "|") if mark in header.replace('"a; b; c"', "")), ",")
    (tmp_path / "a.csv").write_text(f"{header}\n{mark.join('12'[: len(columns)])}\n", encoding="utf-8")
    [record] = read_records(tmp_path / "a.csv", "csv")
    assert record.fields == dict(zip(columns, "12", strict=False))


@pytest.mark.parametrize("columns", ["text,gold_label", "sentence,sentiment", "id,text,class"])
def test_a_repeated_header_is_refused(tmp_path, columns):
    row = ",".join("x" * len(columns.split(",")))
    for end in ("", f"\n{row}"):
        (tmp_path / "a.csv").write_text(f"{columns}\n{row}\n\ufeff{columns}{end}\n", encoding="utf-8")
        with pytest.raises(InputError, match="line 3 repeats the header: remove it"):
            list(read_records(tmp_path / "a.csv", "csv"))


def test_columns_without_a_name_may_be_empty(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label,,\na,b,,\nc,d, ,\n")
    records = [record.fields for record in read_records(path, "csv")]
    assert [(fields["text"], fields["label"]) for fields in records] == [("a", "b"), ("c", "d")]
    path.write_text("text,label,,\na,b,,\nc,d,e,\n")
    with pytest.raises(InputError, match="line 3 has a value in one of 2 columns without a name: name them"):
        list(read_records(path, "csv"))


@pytest.mark.parametrize("text", ["a", "ab", "abc\nd", "a\n", "ab\r\n"], ids=ascii)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_refused(tmp_path, text, encoding):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match="is UTF-16: convert it to UTF-8"):
        list(read_records(tmp_path / "a.txt", "txt"))


@pytest.mark.parametrize("text", ["a\0b", "a\0bc", "ab\0", "\0ab"], ids=ascii)
def test_a_text_with_a_zero_byte_is_not_utf_16(tmp_path, text):
    for end in ("", "\n", "\nc\n"):
        (tmp_path / "a.txt").write_bytes((text + end).encode())
        assert next(read_records(tmp_path / "a.txt", "txt")).fields == {"text": text}


def test_a_text_may_be_the_name_of_its_only_column(tmp_path):
    (tmp_path / "a.csv").write_text("text\ntext\n")
    assert [record.fields for record in read_records(tmp_path / "a.csv", "csv")] == [{"text": "text"}]


def test_a_header_of_millions_of_columns_is_read_in_seconds(tmp_path):
    (tmp_path / "a.csv").write_text("," * 2**23 + "\n1\n")
    with pytest.raises(InputError, match="line 2 has 1 cells: the header has 8388609"):
        list(read_records(tmp_path / "a.csv", "csv"))
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(10**6)) + "\n1\n")
    with pytest.raises(InputError, match="line 2 has 1 cells: the header has 1000000"):
        list(read_records(tmp_path / "a.csv", "csv"))


def test_a_json_document_of_several_lines_is_an_error_with_its_line(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}], indent=2))
    with pytest.raises(InputError, match="line 1 is not JSON: Expecting value at character"):
        list(read_records(tmp_path / "a.json", "jsonl"))
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}]))
    with pytest.raises(InputError, match="line 1: expected a JSON object, found list"):
        list(read_records(tmp_path / "a.json", "jsonl"))


def test_the_pair_of_a_named_text_is_text_pair_unless_it_is_named():
    names = ["review", "text_pair", "reason"]
    assert text_columns(names, "review") == ("review", "text_pair")
    assert text_columns(names, "review", "reason") == ("review", "reason")
    assert text_columns(names, "text_pair") == ("text_pair", None)
    assert text_columns(names) == (None, None)


def test_stdin_is_read_like_a_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbftext\na\n")))
    [record] = read_records(None, "csv")
    assert record == ({"text": "a"}, "stdin, line 2", 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n" + "b" * 50, "line 2 is too long: expected at most 40 bytes"),
        ('a\nb\n"' + "c\n" * 50, "line 3: the row is too long: expected at most 40 characters"),
    ],
    ids=["line", "row"],
)
def test_a_line_or_row_beyond_the_limit_is_refused_with_its_number(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(text_files, "MAX_LINE", 40)
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=rf"a\.csv, {message}"):
        list(read_records(tmp_path / "a.csv", "csv"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
@pytest.mark.parametrize(("kind", "head"), [("txt", ""), ("csv", "text\n"), ("tsv", "text\n"), ("jsonl", "")])
@pytest.mark.parametrize("size", [40, 20])
def test_line_ends_of_every_system_are_read(tmp_path, monkeypatch, end, kind, head, size):
    monkeypatch.setattr(text_files, "MAX_LINE", size)
    texts = ["a", "bc", "d ef", "gh"]
    rows = [json.dumps({"text": text}) for text in texts] if kind == "jsonl" else texts
    path = tmp_path / f"a.{kind}"
    path.write_bytes("".join(line + end for line in (*head.split(), *rows)).encode())
    start = 1 if head else 0
    records = list(read_records(path, kind))
    assert [record.fields for record in records] == [{"text": text} for text in texts]
    assert [record.place for record in records] == [f"{path}, line {i + start}" for i in range(1, 5)]
    path.write_bytes(path.read_bytes().removesuffix(end.encode()))  # the last line may lack its end
    assert [record[:2] for record in read_records(path, kind)] == [record[:2] for record in records]


def test_a_long_line_of_a_file_with_carriage_returns_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_LINE", 40)
    (tmp_path / "a.txt").write_bytes(b"a\r" * 50 + b"b" * 41)
    with pytest.raises(InputError, match=r"line 51 is too long"):
        list(read_records(tmp_path / "a.txt", "txt"))


def test_a_carriage_return_in_a_line_is_part_of_a_text_but_not_of_a_table(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\rb\nc\n")
    assert [record.fields["text"] for record in read_records(tmp_path / "a.txt", "txt")] == ["a\rb", "c"]
    (tmp_path / "a.csv").write_bytes(b'text,n\n"a\rb",1\nc\rd,2\n')
    records = read_records(tmp_path / "a.csv", "csv")
    assert next(records).fields["text"] == "a\rb"
    with pytest.raises(
        InputError, match="line 3 is not a row of a table: it has a carriage return outside quotes"
    ):
        next(records)


def test_a_row_of_a_million_lines_is_refused_before_they_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n\n"' + "x\n" * 1_100_000)
    with pytest.raises(InputError, match=r"line 2: the row is too long: .* 1,000,000 lines; a quote may be"):
        list(read_records(path, "csv"))


@pytest.mark.parametrize(
    ("name", "start"), [("a.txt.gz", ""), ("a.csv.gz", ""), ("a.jsonl.gz", ""), ("a.csv.gz", 'text,n\n"')]
)
def test_a_file_of_blank_lines_is_refused(tmp_path, name, start):
    path = tmp_path / name
    path.write_bytes(gzip.compress(start.encode() + b"\n" * 200_000))
    with pytest.raises(InputError, match=r"line 10\d{4}: expected at most 100,000 blank lines in a row"):
        list(read_records(path, text_files.file_format(name)))
