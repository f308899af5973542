"""Texts, results and comparisons for the tests of the command line."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest

import minidistil

LABELS = ["sports", "politics", "business"]
WORDS = "the team won game was held sports politics business man sleeps is awake example this about not a b"
POSITIONS = 64
LINES = ["The team won.", "a man sleeps", "zzz", "it was not held!"]


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def answers(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self):
        """The line on stderr of a run that failed."""
        assert self.code == 2
        assert self.err.startswith("minidistil: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        return self.err


def default_pipeline(task, folder):
    """Return a pipeline without prepacked weights: its answers equal those of a command's first batch exactly."""
    model, tokenizer = minidistil.from_pretrained(folder), minidistil.Tokenizer.from_pretrained(folder)
    return minidistil.pipeline(task, model, tokenizer=tokenizer)


def write_json(path, values):
    path.write_text(json.dumps(values))


def assert_close(answers, expected):
    """Compare answers; the last digits of scores depend on the other texts in the batch."""
    rows, others = ([json.dumps(without_scores(row)) for row in side] for side in (answers, expected))
    assert rows == others
    for row, other in zip(answers, expected, strict=True):
        assert scores(row) == pytest.approx(scores(other), abs=1e-5)


def without_scores(answer):
    return {key: value for key, value in answer.items() if not key.startswith("score")}


def scores(answer):
    return answer["scores"] if "scores" in answer else [answer["score"]]


HEADS = {
    "fill-mask": ("fill-mask", minidistil.DistilBertForMaskedLM),
    "tag": ("token-classification", minidistil.DistilBertForTokenClassification),
    "answer": ("question-answering", minidistil.DistilBertForQuestionAnswering),
    "embed": ("sentence-embedding", minidistil.DistilBertModel),
}
CONTEXT = "the man sleeps . the team won a game"


def table(path, *rows, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def rows_in(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


ODD = ["The team won.", 'two\nlines, and a "quote"', " ", "Ünïcode 日本 😀"]
