"""The verbs zero-shot and classify print the answers of their pipelines."""

from __future__ import annotations

import json
import unicodedata

import pytest

import minidistil
from minidistil.cli import answer as answering
from support.cli import (
    LABELS,
    assert_close,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_single_text_prints_its_labels_best_first(command, zero_shot):
    result = command("zero-shot", "The team won.", "--labels", "sports,politics,business")
    expected = zero_shot("The team won.", LABELS)
    title, *rows = result.out.splitlines()
    assert (result.code, result.err, title) == (0, "", "The team won.")
    assert [row.split()[0] for row in rows] == expected["labels"]
    assert [row.split()[1] for row in rows] == [f"{score:.3f}" for score in expected["scores"]]


def test_classify_prints_every_label(command, classify):
    title, *rows = command("classify", "a man sleeps").out.splitlines()
    assert title == "a man sleeps"
    assert [row.split()[0] for row in rows] == [row["label"] for row in classify("a man sleeps", top_k=None)]


def test_a_pair_is_shown_with_both_texts(command, classify):
    title, *rows = command("classify", "a man sleeps", "--pair", "a man is awake").out.splitlines()
    best = classify({"text": "a man sleeps", "text_pair": "a man is awake"})
    assert title == "a man sleeps / a man is awake"
    assert rows[0].split()[:2] == [best["label"], f"{best['score']:.3f}"]


def shown(command, monkeypatch, scores):
    """Return the lines printed for an answer with these labels and scores."""
    answer = {"sequence": "text", "labels": list(scores), "scores": list(scores.values())}
    monkeypatch.setattr(answering, "load_pipeline", lambda *_: lambda *_, **__: answer)
    return command("zero-shot", "text", "--labels", "x").out.splitlines()[1:]


def test_bars_are_proportional_to_scores_and_aligned(command, monkeypatch):
    assert shown(command, monkeypatch, {"sport": 0.75, "politics": 0.25, "x": 0.0}) == [
        "  sport     0.750  " + "█" * 18,
        "  politics  0.250  " + "█" * 6,
        "  x         0.000",
    ]


@pytest.mark.parametrize(
    "label",
    ["日本", "\uff46\uff55", "e\u0301te\u0301", "한국", "🏈", "\u0916\u0947\u0932", "\u0e01\u0e35\u0e2c\u0e32"],
    ids=["Chinese", "full-width", "combining", "Korean", "emoji", "Hindi", "Thai"],
)
def test_bars_are_aligned_after_wide_and_combining_characters(command, monkeypatch, label):
    first, second = shown(command, monkeypatch, {label: 0.5, "business": 0.5})
    columns = 0
    for character in first[: first.index("0.500")]:
        mark = unicodedata.category(character) in ("Mn", "Me")
        columns += 0 if mark else 2 if unicodedata.east_asian_width(character) in "WF" else 1
    assert columns == second.index("0.500")


def test_json_is_the_answer_of_the_pipeline(command, zero_shot, classify):
    text, pair = "the team won", {"text": "the team won", "text_pair": "a game"}
    assert command("zero-shot", text, "--labels", "sports, politics", "--json").answers == [
        zero_shot(text, ["sports", "politics"])
    ]
    assert command("classify", text, "--json").answers == classify(text)
    assert command("classify", text, "--pair", "a game", "--json").answers == [classify(pair)]


def test_json_is_one_line_of_readable_characters(command):
    result = command("zero-shot", "日本\nthe team", "--labels", "é", "--json")
    assert result.out.count("\n") == 1
    assert '"日本\\nthe team"' in result.out
    assert '["é"]' in result.out


def test_template_and_multi_label_reach_the_pipeline(command, zero_shot):
    call = ("zero-shot", "the team won", "--labels", "sports,politics", "--json")
    plain, template = zero_shot("the team won", LABELS[:2]), "this is not {}!"
    options = {"hypothesis_template": template, "multi_label": True}
    expected = zero_shot("the team won", LABELS[:2], **options)
    assert command(*call, "--template", template, "--multi-label").answers == [expected]
    assert expected["scores"] != plain["scores"]


def test_dtype_reaches_the_pipeline(command, folder):
    pipe = minidistil.pipeline("text-classification", folder, dtype="bfloat16", device="cpu")
    assert command("classify", "the team won", "--dtype", "bfloat16", "--json").answers == pipe("the team won")


def test_classify_answers_an_empty_text(command, classify):
    assert command("classify", "", "--json").answers == classify("")


def test_a_text_that_begins_with_a_dash_follows_two_dashes(command, folder, classify):
    result = command("classify", "--json", "--model", folder, "--device", "cpu", "--", "-b")
    assert result.answers == classify("-b")


def test_classify_prints_top_k_labels(command, classify):
    expected = classify("a man", top_k=2)
    assert_close(json.loads(command("classify", "a man", "--top-k", 2, "--json").out), expected)
    assert len(command("classify", "a man", "--top-k", 2).out.splitlines()) == 3
    [answer] = command("classify", "--top-k", 2, "--input", "-", stdin=b"a man\n").answers
    assert_close(answer, expected)
