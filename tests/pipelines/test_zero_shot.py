"""Zero-shot classification matches transformers, except where it is wrong."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given

from minidistil.errors import CheckpointError, InputError
from support.pipelines import (
    ANY_TEXT,
    CLASSIFY,
    LABELS,
    NLI,
    POSITIONS,
    TEXTS,
    WORDS,
    ZERO_SHOT,
    by_label,
    ours,
    theirs,
    with_examples,
)
from support.twins import assert_same

UNKNOWN = ["\u65e5", "\u672c", "\u8a9e"]  # not in the vocabulary: each becomes [UNK]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1], []], ids=["str", "list", "one in a list", "none"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_answers_match_transformers(zero_shot, their_zero_shot, inputs, multi_label):
    expected = their_zero_shot(inputs, LABELS, multi_label=multi_label) if inputs else []
    assert_same(zero_shot(inputs, LABELS, multi_label=multi_label), expected)


def test_zero_shot_answers_a_generator_as_transformers_does(zero_shot, their_zero_shot):
    answers = zero_shot((text for text in TEXTS), LABELS)
    assert not isinstance(answers, list)
    assert_same(list(answers), list(their_zero_shot((text for text in TEXTS), LABELS)))


def test_a_tuple_of_texts_returns_a_list_of_answers(zero_shot):
    assert_same(zero_shot(tuple(TEXTS), LABELS), zero_shot(TEXTS, LABELS))


@pytest.mark.parametrize(
    "labels",
    [LABELS, ["sports"], "sports,politics", " sports , not politics,, ", "sports", ["x ", " y"], ["a, b", "{}"]],
)
def test_labels_are_read_as_transformers_reads_them(zero_shot, their_zero_shot, labels):
    assert_same(zero_shot(TEXTS, candidate_labels=labels), their_zero_shot(TEXTS, candidate_labels=labels))


@pytest.mark.parametrize(
    "template", ["{}", "This is not {}!", "{} won", "the {{team}} won {}", "{{{}}}", "}}{}{{"]
)
def test_templates_work_as_in_transformers(zero_shot, their_zero_shot, template):
    expected = their_zero_shot(TEXTS, LABELS, hypothesis_template=template)
    assert_same(zero_shot(TEXTS, LABELS, hypothesis_template=template), expected)


def test_the_pipelines_defaults_apply_to_every_call(checkpoint):
    defaults = {"candidate_labels": LABELS, "multi_label": True, "hypothesis_template": "it is {}"}
    pipe, oracle = ours(ZERO_SHOT, checkpoint(), **defaults), theirs(ZERO_SHOT, checkpoint())
    assert_same(pipe(TEXTS), oracle(TEXTS, **defaults))
    assert_same(pipe(TEXTS, multi_label=False), oracle(TEXTS, **{**defaults, "multi_label": False}))


def test_positional_labels_override_the_default(checkpoint):
    pipe = ours(ZERO_SHOT, checkpoint(), candidate_labels=["team", "game"])
    assert pipe(TEXTS[0], LABELS) == ours(ZERO_SHOT, checkpoint())(TEXTS[0], LABELS)


def test_a_long_text_is_truncated_with_one_warning(checkpoint, their_zero_shot):
    pipe = ours(ZERO_SHOT, checkpoint())
    text = "the team won " * 40
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens") as warned:
        answers = pipe([text, text], LABELS)
    assert len(warned) == 1
    assert_same(answers, their_zero_shot([text, text], LABELS))
    assert pipe(text, LABELS) == pipe(text, LABELS)  # a second warning would be an error here


def test_the_label_is_never_truncated(checkpoint, their_zero_shot):
    words = POSITIONS - 4  # with three special tokens and one token of text, the limit
    labels = ["team " * (words - 1) + "won", "game " * (words - 1) + "won", "sports"]
    with pytest.warns(UserWarning, match="are truncated"):
        answer = ours(ZERO_SHOT, checkpoint())("a man sleeps", labels, "{}")
    assert_same(answer, their_zero_shot("a man sleeps", labels, hypothesis_template="{}"))


@pytest.mark.full
@with_examples
@given(text=ANY_TEXT.filter(bool))
def test_answers_for_any_unicode_text_match_transformers(zero_shot, their_zero_shot, text):
    answer, expected = zero_shot(text, LABELS[:2]), their_zero_shot(text, LABELS[:2])
    assert answer["sequence"] == text
    assert by_label(answer) == pytest.approx(by_label(expected), abs=1e-5)


@pytest.mark.full
@pytest.mark.usefixtures("two_threads")  # threads may round rows differently
@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_with_equal_scores_keep_their_order(zero_shot, multi_label):
    for words in range(1, 21):
        text = " ".join(itertools.islice(itertools.cycle(WORDS.split()), words))
        with pytest.warns(UserWarning, match="same tokens"):
            answer = zero_shot(text, UNKNOWN, multi_label=multi_label)
        assert len(set(answer["scores"])) == 1  # equal token ids have exactly equal scores
        assert answer["labels"] == UNKNOWN


@pytest.mark.parametrize("labels", [["\U0001f600", "\U0001f622"], ["Team", "team"], ["caf\u00e9", "cafe"]])
def test_labels_that_tokenize_identically_are_a_warning(zero_shot, labels):
    with pytest.warns(UserWarning, match=f"labels '{labels[0]}' and '{labels[1]}' have the same tokens") as warned:
        zero_shot(TEXTS, ["sports", *labels])
    assert len(warned) == 1


def test_a_label_that_is_passed_twice_is_no_reason_for_a_warning(zero_shot):
    first, second = zero_shot(TEXTS[0], ["team", "team"])["scores"]
    assert first == second


@pytest.mark.parametrize("order", list(itertools.permutations(NLI)), ids=" ".join)
@pytest.mark.parametrize("multi_label", [False, True])
def test_entailment_and_contradiction_are_found_by_name(checkpoint, zero_shot, order, multi_label):
    answers = ours(ZERO_SHOT, checkpoint(order))(TEXTS, LABELS, multi_label=multi_label)
    assert_same(answers, zero_shot(TEXTS, LABELS, multi_label=multi_label))


@pytest.mark.parametrize("order", [NLI[::-1], ("CONTRADICTION", "ENTAILMENT", "NEUTRAL")])
def test_permuted_labels_agree_with_transformers_where_it_finds_them(checkpoint, order):
    pipe, oracle = ours(ZERO_SHOT, checkpoint(order)), theirs(ZERO_SHOT, checkpoint(order))
    assert_same(pipe(TEXTS, LABELS, multi_label=True), oracle(TEXTS, LABELS, multi_label=True))


@pytest.mark.parametrize(
    "labels",
    [("entailment", "not_entailment"), ("not_entailment", "entailment"), ("non-entailment", "Entailment")],
)
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_model_with_two_labels_works(checkpoint, labels, multi_label):
    pipe, oracle = ours(ZERO_SHOT, checkpoint(labels)), theirs(ZERO_SHOT, checkpoint(labels))
    assert_same(pipe(TEXTS, LABELS, multi_label=multi_label), oracle(TEXTS, LABELS, multi_label=multi_label))


@pytest.mark.parametrize(
    ("labels", "missing"),
    [
        (("LABEL_0", "LABEL_1", "LABEL_2"), "entailment"),
        (("NEGATIVE", "POSITIVE"), "entailment"),
        (("entailment", "neutral"), "contradiction"),
        (("not_entailment", "contradiction"), "entailment"),
        (("entailment", "entails", "contradiction"), "entailment"),
    ],
)
def test_a_model_without_the_two_labels_is_refused_at_once(checkpoint, labels, missing):
    with pytest.raises(CheckpointError, match=f"id2label.*one label for {missing}"):
        ours(ZERO_SHOT, checkpoint(labels))


@pytest.mark.parametrize("multi_label", [False, True])
def test_large_logits_have_finite_scores(checkpoint, multi_label):
    answers = ours(ZERO_SHOT, checkpoint(scale=300.0))(TEXTS, LABELS, multi_label=multi_label)
    scores = [score for answer in answers for score in answer["scores"]]
    assert all(0 <= score <= 1 for score in scores)
    assert multi_label or math.isclose(sum(scores), len(TEXTS), rel_tol=1e-5)


def test_the_test_of_large_logits_has_large_logits(checkpoint):
    rows = ours(CLASSIFY, checkpoint(scale=300.0))(TEXTS, function_to_apply="none")
    assert max(row["score"] for row in rows) > 200


@pytest.mark.parametrize("name", ["banana", "candidate_label"])
def test_an_unknown_argument_is_an_error(checkpoint, zero_shot, name):
    with pytest.raises(TypeError, match=name):
        zero_shot(TEXTS[0], LABELS, **{name: True})
    with pytest.raises(TypeError, match=name):
        ours(ZERO_SHOT, checkpoint(), **{name: True})


SETS = [["sports", "politics"], ["business"], LABELS, ["a man", "the team"], LABELS[::-1]]


@pytest.mark.parametrize("stream", [False, True])
def test_each_text_may_have_its_own_labels(zero_shot, stream):
    expected = [zero_shot(text, labels) for text, labels in zip(TEXTS, SETS, strict=True)]
    answers = list(zero_shot(iter(TEXTS), iter(SETS))) if stream else zero_shot(TEXTS, SETS)
    assert_same(answers, expected)


def test_one_text_takes_one_set_of_labels(zero_shot):
    assert zero_shot(TEXTS[0], [LABELS]) == zero_shot(TEXTS[0], LABELS)


@pytest.mark.parametrize(("texts", "labels"), [(list, list), (list, iter), (iter, list), (iter, iter)])
def test_each_text_needs_a_set_of_labels(zero_shot, texts, labels):
    with pytest.raises(InputError, match=r"labels"):
        list(zero_shot(texts(TEXTS), labels(SETS[:4])))


def test_more_lists_of_labels_than_texts_are_an_error(zero_shot):
    with pytest.raises(InputError, match=r"lists of labels"):
        zero_shot(TEXTS, [*SETS, LABELS])
    assert len(zero_shot(TEXTS, itertools.repeat(LABELS))) == len(TEXTS)


@pytest.mark.parametrize("labels", [["ab", "cd"], [5, 6]])
def test_a_label_instead_of_a_list_is_not_split_into_characters(zero_shot, labels):
    with pytest.raises(InputError, match="labels"):
        zero_shot(TEXTS[:2], iter(labels))


@pytest.mark.parametrize("kind", [tuple, dict.fromkeys, lambda labels: dict.fromkeys(labels).keys()])
def test_labels_may_be_any_iterable(zero_shot, kind):
    assert_same(zero_shot(TEXTS, kind(LABELS)), zero_shot(TEXTS, LABELS))


def test_a_list_of_labels_must_not_be_empty(zero_shot):
    with pytest.raises(InputError, match="empty"):
        zero_shot(TEXTS[:2], [LABELS, []])


@pytest.mark.parametrize("labels", [[], "", " , ", (), None, 5, ["a", ""], ["a", " "], ["a", 5], [["a"], "b"]])
def test_invalid_labels_are_an_error(zero_shot, labels):
    with pytest.raises(InputError, match="candidate_labels"):
        zero_shot(TEXTS[0], labels)


def test_candidate_labels_is_required(zero_shot):
    with pytest.raises(TypeError, match="candidate_labels"):
        zero_shot(TEXTS[0])


@pytest.mark.parametrize(
    "template",
    [
        "",
        "no place",
        "{0} {1}",
        "{} {}",
        "{name}",
        "{",
        "}",
        "{0.x}",
        "{!z}",
        "{:d}",
        "{{}}",
        "{[x]}",
        "{0}",
        "{0}, {0}",
        "{0:{0}>3}",
        "{:{}}",
        "{:>2000000000}",
        "{0:>8}",
        "{:}{}",
        "{.format}",
        "{0.__class__}",
        "{!s}",
        "{!r:>9}",
        "{ }",
        None,
        5,
        b"{}",
    ],
)
def test_a_template_has_one_empty_field_and_no_other(zero_shot, template):
    with pytest.raises(InputError, match="hypothesis_template"):
        zero_shot(TEXTS[0], LABELS, hypothesis_template=template)


def test_an_empty_text_is_answered_like_any_other(zero_shot):
    empty, other = zero_shot(["", "a"], LABELS)
    assert empty["sequence"] == ""
    assert sum(empty["scores"]) == pytest.approx(1, abs=1e-5)
    assert zero_shot("", LABELS)["labels"] == empty["labels"]
    assert sorted(empty["labels"]) == sorted(other["labels"])


@pytest.mark.parametrize(
    "texts", [5, None, [5], [None], ["a", b"b"], [["a"]], [{"text": "a"}], b"ab", {"text": "a"}]
)
def test_inputs_that_are_not_text_are_an_error(zero_shot, texts):
    with pytest.raises(InputError, match="sequences"):
        list(zero_shot(texts, LABELS))


def test_a_lone_surrogate_is_not_text(zero_shot, classify):
    with pytest.raises(InputError, match=r"sequences\[1\].*surrogate"):
        zero_shot(["a", "b\ud800"], LABELS)
    with pytest.raises(InputError, match=r"candidate_labels\[0\].*surrogate"):
        zero_shot("a", ["\udcff"])
    with pytest.raises(InputError, match="surrogate"):
        zero_shot("a", LABELS, hypothesis_template="\udcff {}")
    with pytest.raises(InputError, match=r"inputs\[0\].*surrogate"):
        classify("\udcff")


def test_a_label_that_leaves_no_room_for_the_text_is_an_error(zero_shot):
    label = "team " * (POSITIONS - 3)
    with pytest.raises(InputError, match=r"'team team.*no room"):
        zero_shot("a", ["sports", label], "{}")


@pytest.mark.parametrize(("label", "template"), [("a " * 300_000, "{}"), ("a", "{}" + " a" * 300_000)])
def test_a_label_and_a_template_that_leave_no_room_for_text_are_refused(zero_shot, label, template):
    with pytest.raises(InputError, match="no room for text"):
        zero_shot("a", candidate_labels=[label, "b"], hypothesis_template=template)
