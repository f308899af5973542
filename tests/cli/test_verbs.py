"""The verbs fill-mask, tag, answer and embed print the answers of their pipelines."""

from __future__ import annotations

import json

import pytest

from support.cli import (
    CONTEXT,
    assert_close,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_fill_mask_shows_the_words_for_each_mask(verb, pipe):
    text = "the [MASK] won a [MASK]"
    expected = pipe("fill-mask")(text, top_k=2)
    lines = verb("fill-mask", text, "--top-k", 2).out.splitlines()
    assert lines[0] == f"{text} (mask 1 of 2)"
    assert lines[3] == f"{text} (mask 2 of 2)"
    assert [line.split()[0] for line in (*lines[1:3], *lines[4:])] == [
        row["token_str"] for rows in expected for row in rows
    ]
    assert verb("fill-mask", "the [MASK] won").out.startswith("the [MASK] won\n  ")


def test_fill_mask_chooses_among_targets(verb, pipe):
    result = verb("fill-mask", "the [MASK] won", "--targets", "man, team", "--json")
    assert_close(json.loads(result.out), pipe("fill-mask")("the [MASK] won", targets=["man", "team"]))


def test_tag_shows_each_word_with_its_label(verb, pipe):
    arguments = ("--aggregation-strategy", "simple")
    entities = pipe("tag")(CONTEXT, aggregation_strategy="simple")
    assert entities
    lines = verb("tag", CONTEXT, *arguments).out.splitlines()
    assert lines[0] == CONTEXT
    assert [line.split("  ")[1] for line in lines[1:]] == [entity["word"] for entity in entities]
    assert all(" MAN  " in line for line in lines[1:])
    assert_close(json.loads(verb("tag", CONTEXT, *arguments, "--json").out), entities)
    assert [row["entity"] for row in json.loads(verb("tag", CONTEXT, "--json").out)]


def test_tag_prints_that_a_text_has_no_entities(verb):
    assert verb("tag", "").out == "\n  (nothing found)\n"
    assert verb("tag", "", "--json").out == "[]\n"


def test_answer_shows_the_answers_in_their_context(verb, pipe):
    expected = pipe("answer")(question="who won", context=CONTEXT, top_k=3)
    lines = verb("answer", "who won", "--context", CONTEXT, "--top-k", 3).out.splitlines()
    assert lines[0] == "who won"
    assert [line.strip().rsplit("  ", 2)[0].strip() for line in lines[1:]]
    assert all(line.strip().startswith(answer["answer"]) for line, answer in zip(lines[1:], expected, strict=True))
    assert_close(json.loads(verb("answer", "who won", "--context", CONTEXT, "--top-k", 3, "--json").out), expected)


def test_an_impossible_answer_is_printed_as_no_answer(verb):
    result = verb("answer", "who", "--context", "a", "--handle-impossible-answer", "--top-k", 5)
    assert "  (no answer)  " in result.out


def test_questions_share_a_context_or_have_their_own(verb, pipe):
    expected = pipe("answer")(question=["who won", "who sleeps"], context=CONTEXT)
    result = verb("answer", "--input", "-", "--context", CONTEXT, stdin=b"who won\nwho sleeps\n")
    assert_close(result.answers, expected)
    rows = [{"question": "who won", "context": CONTEXT}, {"question": "who sleeps"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    result = verb("answer", "--input", "-", "--jsonl", "--context", CONTEXT, stdin=lines)
    assert_close(result.answers, expected)


def test_embed_prints_the_start_of_a_vector_and_json_has_all_of_it(verb, pipe):
    vector = pipe("embed")("the team won", pooling="mean", normalize=True)
    shown = verb("embed", "the team won", "--pooling", "mean", "--normalize").out
    assert shown.startswith(f"the team won\n  16 dimensions, norm 1.000: {vector[0]:.4f} ")
    result = verb("embed", "the team won", "--pooling", "mean", "--normalize", "--json")
    assert json.loads(result.out) == pytest.approx(vector.tolist(), abs=1e-6)
    result = verb("embed", "--input", "-", "--pooling", "cls", stdin=b"a man\nthe team\n")
    for row, text in zip(result.answers, ["a man", "the team"], strict=True):
        assert row == pytest.approx(pipe("embed")(text, pooling="cls").tolist(), abs=1e-5)


@pytest.mark.parametrize(("name", "line"), [("fill-mask", "the [MASK] won"), ("tag", CONTEXT)])
def test_a_stream_has_the_answers_of_single_texts(verb, pipe, name, line):
    result = verb(name, "--input", "-", stdin=f"{line}\n{line} a\n".encode())
    for row, text in zip(result.answers, [line, f"{line} a"], strict=True):
        assert_close(row, pipe(name)(text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill-mask", "the team won"], "the text has no [MASK]"),
        (["fill-mask", "a [MASK]", "--top-k", "0"], "--top-k is 0"),
        (["tag", "a", "--aggregation-strategy", "best"], "--aggregation-strategy is 'best'"),
        (["answer", "who won"], "--context is missing"),
        (["answer", "who won", "--context", ""], "the context is empty"),
        (["embed", "a"], "pooling is None, and the checkpoint does not set it"),
    ],
)
def test_a_bad_argument_of_another_verb_is_a_one_line_error(verb, arguments, message):
    assert message in verb(*arguments).error


def test_a_line_without_a_context_is_named(verb):
    result = verb("answer", "--input", "-", "--jsonl", stdin=b'{"question": "who won"}\n')
    assert (
        "stdin, line 1 has the columns question, but no column for context: add it, or pass --context"
        in result.error
    )


@pytest.mark.parametrize(
    ("name", "stdin", "message"),
    [
        ("fill-mask", b"a [MASK]\n\na [MASK]", "stdin, line 2: the text has no [MASK]"),
        ("answer", b"who\n\nwho\n", "stdin, line 2: the question is empty"),
    ],
)
def test_a_pipelines_error_names_the_line_of_the_input(verb, name, stdin, message):
    more = ["--context", CONTEXT] if name == "answer" else []
    result = verb(name, "--input", "-", *more, stdin=stdin)
    assert message in result.err.splitlines()[-1]
    assert result.code == 2
