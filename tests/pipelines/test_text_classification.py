"""Text classification matches transformers."""

from __future__ import annotations

import pytest
from hypothesis import given

from minidistil.errors import InputError
from support.pipelines import (
    ANY_TEXT,
    CLASSIFY,
    NLI,
    PAIR,
    POSITIONS,
    TEXTS,
    ours,
    theirs,
    with_examples,
)
from support.twins import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_models_limit_applies_if_the_tokenizer_has_none(checkpoint, their_classify, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((checkpoint() / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    text = "the team won " * 40
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens"):
        answer = ours(CLASSIFY, checkpoint(), tokenizer=tmp_path)(text)
    assert_same(answer, their_classify(text, truncation=True))


@pytest.mark.full
@with_examples
@given(text=ANY_TEXT)
def test_any_unicode_text_is_classified_as_by_transformers(classify, their_classify, text):
    pair = {"text": text, "text_pair": text[::-1][:9] or "a"}  # transformers drops an empty second text
    for inputs in (text, pair):
        answer, expected = (pipe(inputs, top_k=None, truncation=True) for pipe in (classify, their_classify))
        scores, other = ({row["label"]: row["score"] for row in rows} for rows in (answer, expected))
        assert scores == pytest.approx(other, abs=1e-5)


SHAPES = {
    "str": "the team won",
    "empty": "",
    "list": TEXTS,
    "one in a list": TEXTS[:1],
    "pair": PAIR,
    "dict of one text": {"text": "a man"},
    "list of pairs": [PAIR, {"text": "a", "text_pair": "the team"}],
    "texts and pairs": ["a man", PAIR, {"text": "zzz"}, "", PAIR],
}
ABSENT = object()


@pytest.mark.parametrize("inputs", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("top_k", [ABSENT, 1, 2, 99, None], ids=["no top_k", "1", "2", "99", "None"])
def test_answers_match_transformers(classify, their_classify, inputs, top_k):
    options = {} if top_k is ABSENT else {"top_k": top_k}
    assert_same(classify(inputs, **options), their_classify(inputs, **options))


@pytest.mark.parametrize("options", [{}, {"top_k": None}], ids=["no top_k", "None"])
def test_classification_answers_a_generator_as_transformers_does(classify, their_classify, options):
    inputs = [*TEXTS, PAIR]
    answers = classify((text for text in inputs), **options)
    assert not isinstance(answers, list)
    assert_same(list(answers), list(their_classify((text for text in inputs), **options)))


def test_an_empty_list_has_no_answers(classify):
    assert classify([]) == []
    assert list(classify(iter([]))) == []


def test_sentiment_analysis_is_text_classification(checkpoint):
    pipe = ours("sentiment-analysis", checkpoint())
    assert_same(pipe(TEXTS), theirs("sentiment-analysis", checkpoint())(TEXTS))


@pytest.mark.parametrize("top_k", [1, 2, None])
@pytest.mark.parametrize("inputs", [SHAPES["str"], TEXTS, PAIR], ids=["str", "list", "pair"])
def test_a_pipelines_own_top_k_gives_the_shapes_of_transformers(checkpoint, top_k, inputs):
    pipe, oracle = (make(CLASSIFY, checkpoint(), top_k=top_k) for make in (ours, theirs))
    assert_same(pipe(inputs), oracle(inputs))


KINDS = {
    "one label": {"labels": ("TOXIC",)},
    "single": {"labels": ("A", "B", "C"), "problem_type": "single_label_classification"},
    "several": {"labels": ("A", "B", "C"), "problem_type": "multi_label_classification"},
    "regression": {"labels": ("SCORE",), "problem_type": "regression"},
    "regression of three": {"labels": ("X", "Y", "Z"), "problem_type": "regression"},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none", "SIGMOID"])
def test_the_problem_type_selects_the_function(checkpoint, kind, function):
    pipe, oracle = (make(CLASSIFY, checkpoint(**kind)) for make in (ours, theirs))
    for options in ({}, {"top_k": None}):
        expected = oracle(TEXTS, function_to_apply=function, **options)
        assert_same(pipe(TEXTS, function_to_apply=function, **options), expected)


def test_the_function_may_be_a_default_argument(checkpoint):
    pipe, oracle = (make(CLASSIFY, checkpoint(), function_to_apply="sigmoid") for make in (ours, theirs))
    assert_same(pipe(TEXTS), oracle(TEXTS))


def test_a_pair_without_its_second_text_is_one_text(classify):
    assert classify([{"text": "a man", "text_pair": None}]) == classify(["a man"])


@pytest.mark.parametrize(
    "options", [{"max_length": 8}, {"max_length": 8, "padding": "max_length"}, {"padding": True}]
)
def test_truncation_and_padding_are_transformers_arguments(checkpoint, their_classify, options):
    pipe = ours(CLASSIFY, checkpoint())
    texts = ["the team won the game and it was the man", PAIR]
    expected = their_classify(texts, truncation=True, **options)
    if "max_length" in options:
        with pytest.warns(UserWarning, match="longer than 8 tokens"):
            answers = pipe(texts, truncation=True, **options)
    else:
        answers = pipe(texts, truncation=True, **options)
    assert_same(answers, expected)


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_pairs_are_truncated_by_the_strategies_of_transformers(checkpoint, their_classify, strategy):
    pair = {"text": "the team won the game about politics", "text_pair": "a man sleeps and was not held"}
    with pytest.warns(UserWarning, match="longer than 14 tokens"):
        answer = ours(CLASSIFY, checkpoint())(pair, truncation=strategy, max_length=14)
    assert_same(answer, their_classify(pair, truncation=strategy, max_length=14))


def test_only_first_cannot_truncate_a_pair_whose_second_text_is_too_long(classify):
    with pytest.raises(InputError, match="cannot be truncated to fit"):
        classify({"text": "a", "text_pair": "the team " * 20}, truncation="only_first", max_length=12)


def test_a_long_text_is_truncated_by_default(checkpoint, their_classify):
    text = "the team won " * 40
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS}"):
        answer = ours(CLASSIFY, checkpoint())(text)
    assert_same(answer, their_classify(text, truncation=True))


def test_equal_scores_keep_the_order_of_the_labels(checkpoint):
    pipe = ours(CLASSIFY, checkpoint(scale=0.0))
    assert [row["label"] for row in pipe(TEXTS[0], top_k=None)] == list(NLI)
    assert pipe(TEXTS[0])[0]["label"] == NLI[0]


def test_a_long_text_without_truncation_is_an_error(classify):
    with pytest.raises(InputError, match=f"more than {POSITIONS}.*truncate it"):
        classify("the team won " * 40, truncation=False)
    assert_same(classify(TEXTS, truncation=False), classify(TEXTS))


def test_the_error_for_a_long_text_names_the_input(classify):
    with pytest.raises(InputError, match=r"\[2\]"):
        classify(["a", PAIR, "the team won " * 40], truncation=False)
    with pytest.raises(InputError, match=r"\[1\]"):
        classify([PAIR, "the team won " * 40], truncation=False)


@pytest.mark.parametrize("texts", [5, None, [5], [None], ["a", b"b"], [["a", "b"]], [["a"]], b"ab"])
def test_inputs_that_are_neither_text_nor_pairs_are_an_error(classify, texts):
    with pytest.raises(InputError, match="inputs"):
        list(classify(texts))


@pytest.mark.parametrize(
    "pair",
    [
        {},
        {"text_pair": "a"},
        {"text": "a", "pair": "b"},
        {"text": 5},
        {"text": None},
        {"text": "a", "text_pair": 5},
    ],
)
def test_a_pair_has_the_keys_text_and_text_pair(classify, pair):
    with pytest.raises(InputError, match=r"inputs\[0\]"):
        classify(pair)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "1", "", [1]])
def test_top_k_is_a_number_of_labels(classify, top_k):
    with pytest.raises(InputError, match="top_k"):
        classify("a", top_k=top_k)


@pytest.mark.parametrize("function", ["banana", "", "default", 3, True])
def test_an_unknown_function_is_an_error(classify, function):
    with pytest.raises(InputError, match="function_to_apply"):
        classify("a", function_to_apply=function)


@pytest.mark.parametrize("truncation", ["banana", "", 3])
def test_an_unknown_truncation_strategy_is_an_error(classify, truncation):
    with pytest.raises(InputError, match="truncation"):
        classify("a", truncation=truncation)


@pytest.mark.parametrize("max_length", [0, -1, 2])
def test_max_length_must_exceed_the_special_tokens(classify, max_length):
    with pytest.raises(InputError, match="max_length"):
        classify("a", max_length=max_length)


@pytest.mark.filterwarnings("ignore:texts longer than")
def test_max_length_is_capped_at_the_models_maximum(checkpoint):
    pipe, long = ours(CLASSIFY, checkpoint()), "the team won the game " * 40
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens are truncated"):
        assert_same(pipe(long, max_length=POSITIONS + 1), pipe(long))


@pytest.mark.parametrize("name", ["banana", "return_all_scores", "multi_label"])
def test_an_unknown_argument_is_an_error(checkpoint, classify, name):
    with pytest.raises((TypeError, InputError), match=name):
        classify("a", **{name: True})
    with pytest.raises((TypeError, InputError), match=name):
        ours(CLASSIFY, checkpoint(), **{name: True})


def test_a_single_text_takes_text_pair(classify):
    both = {"text": "a man sleeps", "text_pair": "a man is awake"}
    assert classify(both["text"], text_pair=both["text_pair"]) == [classify(both)]
    with pytest.raises(InputError, match="a single text with text_pair"):
        classify(["a"], text_pair="b")
