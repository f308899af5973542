"""Question answering: recorded answers of transformers 4, all forms of input, and invalid inputs."""

from __future__ import annotations

import importlib.util
import itertools
import json
from typing import Any

import numpy as np
import pytest

import minidistil
from minidistil import InputError
from minidistil.pipelines import base
from support.places import ROOT

DATA = ROOT / "tests" / "data"
spec = importlib.util.spec_from_file_location("make_question_answers", DATA / "make_question_answers.py")
assert spec is not None
assert spec.loader is not None
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

CASES = made.cases()
EXPECTED = json.loads((DATA / "question_answers.json").read_text(encoding="utf-8"))
LONG = [i for i, case in enumerate(CASES) if len(case.context) > 1500]
IN_SUITE = [i for i in range(len(CASES)) if i not in LONG or i % 20 == 0]
WHERE, TEXT = "Where does Ann live?", "Ann lives in Rome. Bob lives in Oslo, near the harbour."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pretrained encoder with a random head."""
    place = tmp_path_factory.mktemp("question-answering")
    made.write_model(place)
    return place


@pytest.fixture(scope="module")
def ask(folder):
    return minidistil.pipeline("question-answering", folder)


def listed(answer):
    return answer if isinstance(answer, list) else [answer]


def compare(ask, i: int) -> None:
    """Assert equal answers, except those of score 0, with which transformers fills its list."""
    case, expected = CASES[i], EXPECTED["answered"][i]
    assert case.options == expected["options"]
    found = ask(question=case.question, context=case.context, **case.options)
    kept = [answer for answer in listed(found) if answer["score"] > 0]
    places = [[(a["start"], a["end"], a["answer"]) for a in answers] for answers in (kept, expected["answers"])]
    assert places[0] == places[1]
    for answer, other in zip(kept, expected["answers"], strict=True):
        assert answer.keys() == {"score", "start", "end", "answer"}
        assert answer["score"] == pytest.approx(other["score"], abs=1e-5)


def test_every_recorded_case_has_an_answer():
    assert made.digest(CASES) == EXPECTED["cases"]
    assert len(CASES) == len(EXPECTED["answered"]) > 150
    assert len(LONG) > 60


@pytest.mark.parametrize("i", IN_SUITE)
def test_answers_match_transformers_4(ask, i):
    compare(ask, i)


@pytest.mark.slow
def test_answers_match_transformers_4_in_all_long_contexts(ask):
    for i in LONG:
        compare(ask, i)


@pytest.mark.full
def test_a_context_longer_than_the_model_is_read_in_parts(ask):
    long = "Nothing happens here. " * 150 + TEXT
    assert len(ask.tokenizer(long, max_length=10**6).ids) > ask.limit()
    found = ask(question=WHERE, context=long, top_k=40)
    assert any(answer["end"] > len(long) - len(TEXT) for answer in found)
    assert all(long[answer["start"] : answer["end"]] == answer["answer"] for answer in found)


# Forms of input


def same(a: Any, b: Any) -> None:
    for x, y in zip(listed(a), listed(b), strict=True):
        assert x["score"] == pytest.approx(y["score"], rel=1e-4)
        assert {**x, "score": 0} == {**y, "score": 0}


def test_a_question_is_passed_by_keyword_or_as_a_dict(ask):
    answer = ask(question=WHERE, context=TEXT)
    assert isinstance(answer, dict)
    same(ask({"question": WHERE, "context": TEXT}), answer)
    same(ask([{"question": WHERE, "context": TEXT}]), answer)  # as transformers does
    same(ask(question=[WHERE], context=[TEXT]), answer)


def test_a_question_may_be_passed_by_position(ask):
    same(ask(WHERE, TEXT), ask(question=WHERE, context=TEXT))


def test_several_questions_are_answered_in_order(ask):
    questions, contexts = [WHERE, "Who?", "How far?"], [TEXT, "Bob and Ann.", "Ten miles."]
    one_by_one = [ask(question=q, context=c) for q, c in zip(questions, contexts, strict=True)]
    same(ask(question=questions, context=contexts), one_by_one)
    asked = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
    same(ask(asked, batch_size=1), one_by_one)
    same(list(ask(iter(asked))), one_by_one)


def test_one_context_may_be_shared_by_many_questions(ask):
    found = ask(question=[WHERE, "Who?"], context=TEXT)
    same(found, [ask(question=WHERE, context=TEXT), ask(question="Who?", context=TEXT)])


def test_a_stream_is_read_a_window_at_a_time(ask, monkeypatch):
    monkeypatch.setattr(base, "WINDOW", 3)
    read = []
    endless = ({"question": WHERE, "context": read.append(i) or TEXT} for i in itertools.count())
    answers = ask(endless)
    assert [next(answers)["answer"] for _ in range(4)]
    assert len(read) == 6


def test_questions_before_an_invalid_one_are_answered_first(ask):
    answers = ask(iter([{"question": WHERE, "context": TEXT}, {"question": WHERE}]))
    same(next(answers), ask(question=WHERE, context=TEXT))
    with pytest.raises(InputError, match=r"inputs\[1\]"):
        next(answers)


def test_no_questions_have_no_answers(ask):
    assert ask([]) == []


def test_the_pipelines_defaults_apply_to_every_call(folder, ask):
    pipe = minidistil.pipeline("question-answering", folder, top_k=2)
    same(pipe(question=WHERE, context=TEXT), ask(question=WHERE, context=TEXT, top_k=2))


# Options


def test_padding_has_no_effect(ask):
    same(ask(question=WHERE, context=TEXT, padding="max_length"), ask(question=WHERE, context=TEXT))


def test_a_question_is_truncated_on_request(ask):
    cut = ask(question=f"{WHERE} Or Bob, or anybody else at all?", context=TEXT, max_question_len=5)
    same(cut, ask(question=WHERE, context=TEXT, max_question_len=5))
    same(cut, ask(question=WHERE, context=TEXT))


def test_a_long_question_leaves_room_for_a_context_that_fits(ask):
    assert ask(question=WHERE * 4, context=TEXT, max_seq_len=40, doc_stride=20)["answer"]


def test_a_context_without_a_likely_span_has_the_empty_answer(ask, monkeypatch):
    """The most likely start is after the most likely end, and every valid span has probability 0."""

    def backwards(output, sequences, batch_size):
        logits = np.zeros((len(sequences[0]), 2), np.float32)
        logits[-2, 0], logits[-3, 1] = 500.0, 500.0
        return [logits]

    monkeypatch.setattr(ask.engine, "run", backwards)
    assert ask(question=WHERE, context=TEXT) == {"score": 0.0, "start": 0, "end": 0, "answer": ""}


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "question and context are NoneType and NoneType"),
        ({"question": WHERE}, "question and context are str and NoneType"),
        ({"question": WHERE, "context": [TEXT]}, "question and context are str and list"),
        ({"question": [WHERE], "context": [TEXT, TEXT]}, "there are 1 questions but 2 contexts"),
        ({"question": "", "context": TEXT}, r"inputs\[0\]\['question'\] is empty"),
        ({"question": WHERE, "context": ""}, r"inputs\[0\]\['context'\] is empty"),
        ({"question": [WHERE, 5], "context": TEXT}, r"inputs\[1\]\['question'\] is int"),
        ({"question": WHERE, "context": "\ud800"}, "surrogate"),
        ({"inputs": WHERE}, "inputs is str"),
        ({"inputs": 5}, "inputs is int"),
        ({"inputs": [WHERE]}, r"inputs\[0\] is 'Where"),
        ({"inputs": {"question": WHERE}}, r"inputs\[0\] is"),
        ({"inputs": [], "question": WHERE}, "inputs cannot be combined with question or context"),
        ({"question": WHERE, "context": TEXT, "top_k": 0}, "top_k is 0"),
        ({"question": WHERE, "context": TEXT, "max_answer_len": 0}, "max_answer_len is 0"),
        ({"question": WHERE, "context": TEXT, "max_question_len": 2.5}, "max_question_len is 2.5"),
        ({"question": WHERE, "context": TEXT, "batch_size": -1}, "batch_size is -1"),
        ({"question": WHERE, "context": TEXT, "max_seq_len": 513}, "max_seq_len is 513: the model takes 512"),
        ({"question": WHERE, "context": TEXT, "max_seq_len": 3}, "leave no room"),
        ({"question": WHERE, "context": TEXT, "doc_stride": -1}, "doc_stride is -1"),
        ({"question": WHERE, "context": TEXT, "max_seq_len": 64, "doc_stride": 64}, "stride is 64"),
        (
            {"question": WHERE * 40, "context": TEXT, "max_seq_len": 100},
            r"inputs\[0\] has a question of 200 tokens",
        ),
        ({"question": WHERE * 4, "context": TEXT * 9, "max_seq_len": 40, "doc_stride": 20}, "leaves 17 of 40"),
    ],
)
def test_invalid_inputs_are_an_error(ask, call, message):
    with pytest.raises(InputError, match=message):
        listed(ask(**call))


@pytest.mark.parametrize("name", ["topk", "banana", "data"])
def test_an_unknown_argument_is_an_error(ask, folder, name):
    with pytest.raises((TypeError, InputError), match=name):
        ask(question=WHERE, context=TEXT, **{name: 1})
    with pytest.raises((TypeError, InputError), match=name):
        minidistil.pipeline("question-answering", folder, **{name: 1})


def test_a_context_of_spaces_has_no_answer(ask):
    assert ask(question=WHERE, context="   ") == {"score": 0.0, "start": 0, "end": 0, "answer": ""}
