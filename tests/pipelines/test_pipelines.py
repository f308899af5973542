"""Texts go in and answers come out as from transformers' pipelines, and better where those are wrong."""

import functools
import gzip
import itertools
import json
import math
import random

import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minidistil
from minidistil.errors import CheckpointError, InputError
from minidistil.pipelines import base
from support.places import OURS, SHARED
from support.twins import assert_same

ZERO_SHOT, CLASSIFY = "zero-shot-classification", "text-classification"
NLI = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")
ROWS = {"entailment": 0, "neutral": 1, "contradiction": 2, "not_entailment": 2, "non-entailment": 2}
LABELS = ["sports", "politics", "business"]
TEXTS = [
    "The team won the game.",
    "A man sleeps",
    "it was not held!",
    "Is the election about politics, or business? A man is awake and it was the team that won.",
    "zzz",
]
UNKNOWN = ["\u65e5", "\u672c", "\u8a9e"]  # characters that the vocabulary lacks: every one is [UNK]
POSITIONS = 64
WORDS = "the team won game election was held sports politics business man sleeps is awake example this about not a"
LETTERS = "abcdefghijklmnopqrstuvwxyz"

TREC = SHARED / "data/classify/trec_test.jsonl.gz"
MNLI = SHARED / "data/nli/mnli_dev_matched.jsonl.gz"
needs_data = pytest.mark.skipif(
    not (TREC.exists() and MNLI.exists()), reason=f"the real sentences are not at {SHARED / 'data'}"
)

transformers.utils.logging.disable_progress_bar()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Make a tiny classifier's folder with transformers; each is made once."""

    @functools.cache
    def make(labels=NLI, scale=1.0, model_class=transformers.DistilBertForSequenceClassification, **options):
        folder = tmp_path_factory.mktemp("checkpoint")
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?-'{}", *LETTERS]
        vocab = dict.fromkeys([*vocab, *(f"##{letter}" for letter in LETTERS), *WORDS.split()])
        config = transformers.DistilBertConfig(
            vocab_size=len(vocab),
            max_position_embeddings=POSITIONS,
            n_layers=2,
            n_heads=2,
            dim=16,
            hidden_dim=32,
            initializer_range=0.5,  # far from flat: the order of labels means something
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            **options,
        )
        torch.manual_seed(0)
        model = model_class(config)
        if hasattr(model, "classifier"):  # a label's row goes with its name, so that permuted models are one model
            rows = [ROWS.get(label.lower(), i) for i, label in enumerate(labels)]
            torch.manual_seed(1)
            model.classifier.weight.data = torch.randn(8, config.dim)[rows] * scale
            model.classifier.bias.data = torch.randn(8)[rows] * scale
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
        settings = {"do_lower_case": True, "model_max_length": POSITIONS, "tokenizer_class": "DistilBertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    return make


def ours(task, model, **options):
    return minidistil.pipeline(task, model, device="cpu", **options)


@functools.cache
def theirs(task, folder, **options):
    return transformers.pipeline(task, model=str(folder), device="cpu", **options)


@pytest.fixture(scope="module")
def zero_shot(checkpoint):
    return ours(ZERO_SHOT, checkpoint())


@pytest.fixture(scope="module")
def their_zero_shot(checkpoint):
    return theirs(ZERO_SHOT, checkpoint())


@pytest.fixture(scope="module")
def classify(checkpoint):
    return ours(CLASSIFY, checkpoint())


@pytest.fixture(scope="module")
def their_classify(checkpoint):
    return theirs(CLASSIFY, checkpoint())


def by_label(answer):
    return dict(zip(answer["labels"], answer["scores"], strict=True))


def record_batches(monkeypatch, pipe):
    """Give a list that fills with the lengths of the sequences of each batch that the model is given."""
    seen = []
    forward = pipe.model.forward
    monkeypatch.setattr(pipe.model, "forward", lambda batch: seen.append(batch.layout.lengths) or forward(batch))
    return seen


# Zero-shot classification against transformers


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1], []], ids=["str", "list", "one in a list", "none"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_gives_the_answers_of_transformers(zero_shot, their_zero_shot, inputs, multi_label):
    expected = their_zero_shot(inputs, LABELS, multi_label=multi_label) if inputs else []
    assert_same(zero_shot(inputs, LABELS, multi_label=multi_label), expected)


def test_zero_shot_answers_a_generator_as_transformers_does(zero_shot, their_zero_shot):
    answers = zero_shot((text for text in TEXTS), LABELS)
    assert not isinstance(answers, list)
    assert_same(list(answers), list(their_zero_shot((text for text in TEXTS), LABELS)))


def test_a_tuple_of_texts_gives_a_list_of_answers(zero_shot):
    assert_same(zero_shot(tuple(TEXTS), LABELS), zero_shot(TEXTS, LABELS))


@pytest.mark.parametrize(
    "labels",
    [LABELS, ["sports"], "sports,politics", " sports , not politics,, ", "sports", ["x ", " y"], ["a, b", "{}"]],
)
def test_labels_are_read_as_transformers_reads_them(zero_shot, their_zero_shot, labels):
    assert_same(zero_shot(TEXTS, candidate_labels=labels), their_zero_shot(TEXTS, candidate_labels=labels))


@pytest.mark.parametrize(
    "template", ["{}", "This is not {}!", "{0}, {0}", "it {0:>8}.", "the {{team}} won {}", "{!s}"]
)
def test_templates_work_as_in_transformers(zero_shot, their_zero_shot, template):
    expected = their_zero_shot(TEXTS, LABELS, hypothesis_template=template)
    assert_same(zero_shot(TEXTS, LABELS, hypothesis_template=template), expected)


def test_a_pipelines_defaults_serve_every_call(checkpoint):
    defaults = {"candidate_labels": LABELS, "multi_label": True, "hypothesis_template": "it is {}"}
    pipe, oracle = ours(ZERO_SHOT, checkpoint(), **defaults), theirs(ZERO_SHOT, checkpoint())
    assert_same(pipe(TEXTS), oracle(TEXTS, **defaults))
    assert_same(pipe(TEXTS, multi_label=False), oracle(TEXTS, **{**defaults, "multi_label": False}))


def test_labels_given_by_position_replace_the_pipelines_own(checkpoint):
    pipe = ours(ZERO_SHOT, checkpoint(), candidate_labels=["team", "game"])
    assert pipe(TEXTS[0], LABELS) == ours(ZERO_SHOT, checkpoint())(TEXTS[0], LABELS)


def test_a_text_longer_than_the_model_loses_its_end_and_the_pipeline_warns_once(checkpoint, their_zero_shot):
    pipe = ours(ZERO_SHOT, checkpoint())
    text = "the team won " * 40
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens") as warned:
        answers = pipe([text, text], LABELS)
    assert len(warned) == 1
    assert_same(answers, their_zero_shot([text, text], LABELS))
    assert pipe(text, LABELS) == pipe(text, LABELS)  # a second warning would be an error here


def test_the_label_is_never_cut(checkpoint, their_zero_shot):
    words = POSITIONS - 4  # with three special tokens and one token of the text, exactly full
    labels = ["team " * (words - 1) + "won", "game " * (words - 1) + "won", "sports"]
    with pytest.warns(UserWarning, match="are cut"):
        answer = ours(ZERO_SHOT, checkpoint())("a man sleeps", labels, "{}")
    assert_same(answer, their_zero_shot("a man sleeps", labels, hypothesis_template="{}"))


def test_a_tokenizer_that_knows_no_limit_of_the_model_is_held_to_it(checkpoint, their_classify, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((checkpoint() / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    text = "the team won " * 40
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens"):
        answer = ours(CLASSIFY, checkpoint(), tokenizer=tmp_path)(text)
    assert_same(answer, their_classify(text, truncation=True))


FRAGMENTS = st.sampled_from(["The ", "team", " won", "[SEP]", "[sep]", "[MASK] ", "##a", "\0", "\u0301", "\u65e5"])
ANY_TEXT = st.lists(FRAGMENTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=6).map(
    "".join
)


def with_examples(test):
    for text in (
        "a\0b",
        "\0",
        "\u200b\ufeff",
        "e\u0301\u00e9\u0130",
        "\U0001f3c8\u2764\ufe0f",
        "\ufffd\u2028\x85",
    ):
        test = example(text=text)(test)
    return settings(max_examples=40, deadline=None, derandomize=True)(test)


@with_examples
@given(text=ANY_TEXT.filter(bool))
def test_any_unicode_text_gets_the_zero_shot_answer_of_transformers(zero_shot, their_zero_shot, text):
    answer, expected = zero_shot(text, LABELS[:2]), their_zero_shot(text, LABELS[:2])
    assert answer["sequence"] == text
    assert by_label(answer) == pytest.approx(by_label(expected), abs=1e-5)


@with_examples
@given(text=ANY_TEXT)
def test_any_unicode_text_is_classified_as_by_transformers(classify, their_classify, text):
    pair = {"text": text, "text_pair": text[::-1][:9] or "a"}  # transformers drops an empty second text
    for inputs in (text, pair):
        answer, expected = (pipe(inputs, top_k=None, truncation=True) for pipe in (classify, their_classify))
        scores, other = ({row["label"]: row["score"] for row in rows} for rows in (answer, expected))
        assert scores == pytest.approx(other, abs=1e-5)


# Zero-shot classification where transformers is wrong


@pytest.mark.usefixtures("two_threads")  # each may round its rows in its own way
@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_that_the_model_cannot_tell_apart_keep_their_order(zero_shot, multi_label):
    for words in range(1, 21):
        text = " ".join(itertools.islice(itertools.cycle(WORDS.split()), words))
        answer = zero_shot(text, UNKNOWN, multi_label=multi_label)
        assert len(set(answer["scores"])) == 1  # one pair of token ids, one score: exactly
        assert answer["labels"] == UNKNOWN


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
def test_a_model_of_two_labels_serves_zero_shot_too(checkpoint, labels, multi_label):
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
def test_logits_in_the_hundreds_give_finite_scores(checkpoint, multi_label):
    answers = ours(ZERO_SHOT, checkpoint(scale=300.0))(TEXTS, LABELS, multi_label=multi_label)
    scores = [score for answer in answers for score in answer["scores"]]
    assert all(0 <= score <= 1 for score in scores)
    assert multi_label or math.isclose(sum(scores), len(TEXTS), rel_tol=1e-5)


def test_the_test_of_large_logits_has_large_logits(checkpoint):
    rows = ours(CLASSIFY, checkpoint(scale=300.0))(TEXTS, function_to_apply="none")
    assert max(row["score"] for row in rows) > 200


@pytest.mark.parametrize("name", ["multi_class", "banana", "candidate_label"])
def test_an_argument_that_zero_shot_does_not_know_is_an_error(checkpoint, zero_shot, name):
    with pytest.raises(TypeError, match=name):
        zero_shot(TEXTS[0], LABELS, **{name: True})
    with pytest.raises(TypeError, match=name):
        ours(ZERO_SHOT, checkpoint(), **{name: True})


# Labels of its own for each text

SETS = [["sports", "politics"], ["business"], LABELS, ["a man", "the team"], LABELS[::-1]]


@pytest.mark.parametrize("stream", [False, True])
def test_each_text_may_have_labels_of_its_own(zero_shot, stream):
    expected = [zero_shot(text, labels) for text, labels in zip(TEXTS, SETS, strict=True)]
    answers = list(zero_shot(iter(TEXTS), iter(SETS))) if stream else zero_shot(TEXTS, SETS)
    assert_same(answers, expected)


def test_one_text_takes_one_set_of_labels(zero_shot):
    assert zero_shot(TEXTS[0], [LABELS]) == zero_shot(TEXTS[0], LABELS)


@pytest.mark.parametrize(("texts", "labels"), [(list, list), (list, iter), (iter, list), (iter, iter)])
def test_each_text_needs_a_set_of_labels(zero_shot, texts, labels):
    with pytest.raises(InputError, match=r"labels"):
        list(zero_shot(texts(TEXTS), labels(SETS[:4])))


def test_more_sets_of_labels_than_texts_are_an_error_where_both_can_be_counted(zero_shot):
    with pytest.raises(InputError, match=r"sets of labels"):
        zero_shot(TEXTS, [*SETS, LABELS])
    assert len(zero_shot(TEXTS, itertools.repeat(LABELS))) == len(TEXTS)


@pytest.mark.parametrize("labels", [["ab", "cd"], [5, 6]])
def test_a_label_in_place_of_a_set_is_not_taken_apart_into_characters(zero_shot, labels):
    with pytest.raises(InputError, match="labels"):
        zero_shot(TEXTS[:2], iter(labels))


@pytest.mark.parametrize("kind", [tuple, dict.fromkeys, lambda labels: dict.fromkeys(labels).keys()])
def test_any_collection_of_labels_is_as_good_as_a_list(zero_shot, kind):
    assert_same(zero_shot(TEXTS, kind(LABELS)), zero_shot(TEXTS, LABELS))


def test_a_set_of_labels_must_hold_some(zero_shot):
    with pytest.raises(InputError, match="empty"):
        zero_shot(TEXTS[:2], [LABELS, []])


# Errors of zero-shot classification


@pytest.mark.parametrize("labels", [[], "", " , ", (), None, 5, ["a", ""], ["a", " "], ["a", 5], [["a"], "b"]])
def test_labels_that_are_none_are_an_error(zero_shot, labels):
    with pytest.raises(InputError, match="candidate_labels"):
        zero_shot(TEXTS[0], labels)


def test_labels_must_be_given(zero_shot):
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
        None,
        5,
        b"{}",
    ],
)
def test_a_template_needs_one_place_for_the_label(zero_shot, template):
    with pytest.raises(InputError, match="hypothesis_template"):
        zero_shot(TEXTS[0], LABELS, hypothesis_template=template)


@pytest.mark.parametrize("texts", ["", [""], ["a", ""]])
def test_an_empty_text_has_no_zero_shot_answer(zero_shot, texts):
    with pytest.raises(InputError, match="empty"):
        zero_shot(texts, LABELS)


@pytest.mark.parametrize(
    "texts", [5, None, [5], [None], ["a", b"b"], [["a"]], [{"text": "a"}], b"ab", {"text": "a"}]
)
def test_zero_shot_takes_nothing_but_text(zero_shot, texts):
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


# Text classification against transformers

PAIR = {"text": "a man sleeps", "text_pair": "a man is awake"}
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
def test_classification_gives_the_answers_of_transformers(classify, their_classify, inputs, top_k):
    options = {} if top_k is ABSENT else {"top_k": top_k}
    assert_same(classify(inputs, **options), their_classify(inputs, **options))


@pytest.mark.parametrize("options", [{}, {"top_k": None}], ids=["no top_k", "None"])
def test_classification_answers_a_generator_as_transformers_does(classify, their_classify, options):
    inputs = [*TEXTS, PAIR]
    answers = classify((text for text in inputs), **options)
    assert not isinstance(answers, list)
    assert_same(list(answers), list(their_classify((text for text in inputs), **options)))


def test_no_texts_give_no_answers(classify):
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
def test_scores_are_what_the_kind_of_problem_asks_for(checkpoint, kind, function):
    pipe, oracle = (make(CLASSIFY, checkpoint(**kind)) for make in (ours, theirs))
    for options in ({}, {"top_k": None}):
        expected = oracle(TEXTS, function_to_apply=function, **options)
        assert_same(pipe(TEXTS, function_to_apply=function, **options), expected)


def test_the_function_may_be_the_pipelines_own(checkpoint):
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
def test_pairs_are_cut_by_the_strategies_of_transformers(checkpoint, their_classify, strategy):
    pair = {"text": "the team won the game about politics", "text_pair": "a man sleeps and was not held"}
    with pytest.warns(UserWarning, match="longer than 14 tokens"):
        answer = ours(CLASSIFY, checkpoint())(pair, truncation=strategy, max_length=14)
    assert_same(answer, their_classify(pair, truncation=strategy, max_length=14))


def test_a_second_text_that_alone_is_too_long_cannot_be_cut_to_fit_in_the_first(classify):
    with pytest.raises(InputError, match="cannot be cut to fit"):
        classify({"text": "a", "text_pair": "the team " * 20}, truncation="only_first", max_length=12)


def test_a_long_text_is_cut_where_transformers_would_need_to_be_told(checkpoint, their_classify):
    text = "the team won " * 40
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS}"):
        answer = ours(CLASSIFY, checkpoint())(text)
    assert_same(answer, their_classify(text, truncation=True))


def test_equal_scores_keep_the_order_of_the_labels(checkpoint):
    pipe = ours(CLASSIFY, checkpoint(scale=0.0))
    assert [row["label"] for row in pipe(TEXTS[0], top_k=None)] == list(NLI)
    assert pipe(TEXTS[0])[0]["label"] == NLI[0]


# Errors of text classification


def test_a_long_text_that_may_not_be_cut_is_an_error(classify):
    with pytest.raises(InputError, match=f"tokens, more than {POSITIONS}, and may not be cut"):
        classify("the team won " * 40, truncation=False)
    assert_same(classify(TEXTS, truncation=False), classify(TEXTS))


def test_the_error_of_a_long_text_says_which_input_it_is(classify):
    with pytest.raises(InputError, match=r"\[2\]"):
        classify(["a", PAIR, "the team won " * 40], truncation=False)
    with pytest.raises(InputError, match=r"\[1\]"):
        classify([PAIR, "the team won " * 40], truncation=False)


@pytest.mark.parametrize("texts", [5, None, [5], [None], ["a", b"b"], [["a", "b"]], [["a"]], b"ab"])
def test_classification_takes_nothing_but_text_and_pairs(classify, texts):
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
def test_a_function_that_is_not_one_of_three_is_an_error(classify, function):
    with pytest.raises(InputError, match="function_to_apply"):
        classify("a", function_to_apply=function)


@pytest.mark.parametrize("truncation", ["banana", "", None, 3])
def test_an_unknown_strategy_of_truncation_is_an_error(classify, truncation):
    with pytest.raises(InputError, match="truncation"):
        classify("a", truncation=truncation)


@pytest.mark.parametrize("max_length", [0, -1, 2])
def test_max_length_leaves_room_beside_the_special_tokens(classify, max_length):
    with pytest.raises(InputError, match="max_length"):
        classify("a", max_length=max_length)


@pytest.mark.filterwarnings("ignore:texts longer than")
def test_max_length_is_no_more_than_the_model_reads(checkpoint):
    pipe, long = ours(CLASSIFY, checkpoint()), "the team won the game " * 40
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens are cut"):
        assert_same(pipe(long, max_length=POSITIONS + 1), pipe(long))


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "8"])
def test_batch_size_is_a_whole_number_above_zero(classify, zero_shot, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        classify("a", batch_size=batch_size)
    with pytest.raises(InputError, match="batch_size"):
        zero_shot("a", LABELS, batch_size=batch_size)


@pytest.mark.parametrize("name", ["banana", "return_all_scores", "multi_label"])
def test_an_argument_that_classification_does_not_know_is_an_error(checkpoint, classify, name):
    with pytest.raises(TypeError, match=name):
        classify("a", **{name: True})
    with pytest.raises(TypeError, match=name):
        ours(CLASSIFY, checkpoint(), **{name: True})


# Batches and streams


@pytest.fixture(scope="module")
def many_texts():
    shuffled = random.Random(0)
    texts = [" ".join(shuffled.choices(WORDS.split(), k=shuffled.randint(1, 50))) for _ in range(40)]
    assert len(set(texts)) == len(texts)
    return texts


@pytest.fixture(scope="module")
def one_by_one(zero_shot, classify, many_texts):
    return [zero_shot(text, LABELS) for text in many_texts], [classify({"text": text}) for text in many_texts]


BATCHINGS = {
    "all at once": {},
    "windows of 3": {"WINDOW": 3},
    "windows of 1": {"WINDOW": 1},
    "70 tokens": {"TOKENS": 70},
    "1 token": {"TOKENS": 1},
    "windows of 7 and 100 tokens": {"WINDOW": 7, "TOKENS": 100},
}


@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize("limits", BATCHINGS.values(), ids=BATCHINGS.keys())
def test_how_texts_are_batched_changes_no_answer(
    zero_shot, classify, many_texts, one_by_one, monkeypatch, limits, batch_size
):
    for name, value in limits.items():
        monkeypatch.setattr(base, name, value)
    assert_same(zero_shot(many_texts, LABELS, batch_size=batch_size), one_by_one[0])
    assert_same(classify(many_texts, batch_size=batch_size), one_by_one[1])


def test_the_order_of_the_texts_changes_no_answer(zero_shot, classify, many_texts, one_by_one):
    order = random.Random(1).sample(range(len(many_texts)), len(many_texts))
    shuffled = [many_texts[i] for i in order]
    assert_same(zero_shot(shuffled, LABELS), [one_by_one[0][i] for i in order])
    assert_same(classify(shuffled), [one_by_one[1][i] for i in order])


def test_all_pairs_of_a_call_go_through_the_model_together(zero_shot, monkeypatch):
    batches = record_batches(monkeypatch, zero_shot)
    zero_shot(TEXTS[:4], LABELS)
    assert [len(batch) for batch in batches] == [12]


def test_texts_and_pairs_go_through_the_model_together(classify, monkeypatch):
    batches = record_batches(monkeypatch, classify)
    classify([*TEXTS, PAIR, ""])
    assert [len(batch) for batch in batches] == [7]


def test_a_batch_has_no_more_tokens_or_sequences_than_its_limits(classify, many_texts, monkeypatch):
    batches = record_batches(monkeypatch, classify)
    monkeypatch.setattr(base, "TOKENS", 100)
    classify(many_texts, batch_size=5)
    assert sum(map(len, batches)) == len(many_texts)
    assert all(len(batch) <= 5 and sum(batch) <= 100 for batch in batches)


def counted(texts, read):
    for text in texts:
        read.append(text)
        yield text


def test_an_endless_stream_is_read_a_window_at_a_time(zero_shot, classify, monkeypatch):
    monkeypatch.setattr(base, "WINDOW", 6)
    for pipe, options, texts_of_a_window in ((zero_shot, {"candidate_labels": LABELS}, 2), (classify, {}, 6)):
        read = []
        answers = pipe(counted(itertools.cycle(TEXTS), read), **options)
        assert read == []  # nothing is read before an answer is asked for
        assert_same([next(answers) for _ in range(4)], list(pipe(TEXTS[:4], **options)))
        assert len(read) == texts_of_a_window * -(-4 // texts_of_a_window)


def test_a_stream_can_be_given_up_half_way(zero_shot):
    answers = zero_shot(iter(TEXTS), LABELS)
    first = next(answers)
    answers.close()
    assert_same(zero_shot(TEXTS[0], LABELS), first)


@pytest.mark.parametrize("broken", [5, "", "\ud800"], ids=["number", "empty", "surrogate"])
def test_what_comes_before_a_broken_text_is_answered_first(zero_shot, broken):
    answers = zero_shot(iter([*TEXTS[:3], broken, TEXTS[3]]), LABELS)
    assert_same(list(itertools.islice(answers, 3)), zero_shot(TEXTS[:3], LABELS))
    with pytest.raises(InputError, match=r"sequences\[3\]"):
        next(answers)


def test_what_comes_before_a_broken_set_of_labels_is_answered_first(zero_shot):
    answers = zero_shot(iter(TEXTS), iter([LABELS, ["a", ""], LABELS]))
    assert_same(next(answers), zero_shot(TEXTS[0], LABELS))
    with pytest.raises(InputError, match=r"candidate_labels\[1\] is empty"):
        next(answers)


def test_what_comes_before_a_broken_pair_is_answered_first(classify):
    answers = classify(iter(["a", PAIR, {"text": 5}]))
    assert_same(list(itertools.islice(answers, 2)), classify(["a", PAIR]))
    with pytest.raises(InputError, match=r"inputs\[2\]"):
        next(answers)


# Making a pipeline


@pytest.mark.parametrize("task", ["banana", "", None, 5])
def test_an_unknown_task_is_an_error_that_names_the_known_ones(checkpoint, task):
    with pytest.raises(InputError, match=ZERO_SHOT):
        ours(task, checkpoint())


def test_a_model_must_be_named():
    with pytest.raises(InputError, match="model is missing"):
        minidistil.pipeline(CLASSIFY)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no folder"):
        ours(ZERO_SHOT, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no folder"):
        ours(ZERO_SHOT, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("as_object", [False, True])
def test_a_loaded_model_answers_as_its_folder_does(checkpoint, classify, as_object):
    tokenizer = minidistil.Tokenizer.from_pretrained(checkpoint()) if as_object else checkpoint()
    pipe = minidistil.pipeline(CLASSIFY, minidistil.from_pretrained(checkpoint()), tokenizer)
    assert pipe.device == torch.device("cpu")
    assert_same(pipe(TEXTS), classify(TEXTS))


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"revision": "main"}])
def test_a_loaded_model_comes_with_its_tokenizer_and_no_dtype_or_revision(checkpoint, options):
    tokenizer = checkpoint() if options else None
    with pytest.raises(InputError, match="tokenizer"):
        ours(CLASSIFY, minidistil.from_pretrained(checkpoint()), tokenizer=tokenizer, **options)


def test_the_tokenizer_may_lie_elsewhere(checkpoint, classify, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint() / name).read_bytes())
    assert_same(ours(CLASSIFY, tmp_path, tokenizer=checkpoint())(TEXTS), classify(TEXTS))


@pytest.mark.parametrize("task", [ZERO_SHOT, CLASSIFY])
def test_a_model_without_a_classifier_is_refused(checkpoint, task):
    folder = checkpoint(model_class=transformers.DistilBertModel)
    with pytest.raises(CheckpointError, match="does not hold this model's weights"):
        ours(task, folder)
    with pytest.raises(InputError, match="needs a DistilBertForSequenceClassification, found DistilBertModel"):
        ours(task, minidistil.from_pretrained(folder), tokenizer=folder)


@pytest.mark.parametrize("device", ["banana", "", "cuda:99", 99, "meta", "hpu"])
def test_a_device_that_is_not_there_is_an_error(checkpoint, device):
    with pytest.raises(InputError, match="device"):
        minidistil.pipeline(CLASSIFY, checkpoint(), device=device)


def test_the_device_minus_one_is_the_cpu(checkpoint):
    assert minidistil.pipeline(CLASSIFY, checkpoint(), device=-1).device == torch.device("cpu")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), (torch.float16, 0.02), ("bfloat16", 0.2)])
def test_any_dtype_answers(checkpoint, zero_shot, dtype, tolerance):
    pipe = ours(ZERO_SHOT, checkpoint(), dtype=dtype)
    for text in TEXTS:
        assert by_label(pipe(text, LABELS)) == pytest.approx(by_label(zero_shot(text, LABELS)), abs=tolerance)


def test_a_model_that_was_in_training_answers_without_dropout(checkpoint, classify):
    model = minidistil.from_pretrained(checkpoint()).train()
    assert_same(minidistil.pipeline(CLASSIFY, model, checkpoint())(TEXTS), classify(TEXTS))


def test_weights_that_give_nan_are_an_error(checkpoint):
    model = minidistil.from_pretrained(checkpoint())
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="the model gives nan or inf"):
        minidistil.pipeline(CLASSIFY, model, checkpoint())("a")


def test_a_stream_is_answered_before_much_of_it_is_read(classify):
    read = []
    answers = classify(read.append(i) or "a" * (i % 9) for i in range(10_000))
    next(answers)
    assert len(read) == base.FIRST_WINDOW
    for _ in itertools.islice(answers, 2000):
        pass
    assert len(read) <= 2001 + base.WINDOW


def test_a_single_text_takes_its_pair_beside_it(classify):
    both = {"text": "a man sleeps", "text_pair": "a man is awake"}
    assert classify(both["text"], text_pair=both["text_pair"]) == [classify(both)]
    with pytest.raises(InputError, match="a single text beside text_pair"):
        classify(["a"], text_pair="b")


# A real checkpoint, real sentences


def read(path, count):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, count)]


@pytest.fixture(scope="module")
def real_questions():
    texts = [row["text"] for row in read(TREC, 200)]
    options = {"candidate_labels": ["location", "person", "number"], "hypothesis_template": "It asks for a {}."}
    return texts, options, theirs(ZERO_SHOT, OURS)(texts, batch_size=32, **options)


@pytest.fixture(scope="module")
def real_pairs():
    pairs = [{"text": row["premise"], "text_pair": row["hypothesis"]} for row in read(MNLI, 200)]
    return pairs, theirs(CLASSIFY, OURS)(pairs, batch_size=32, truncation=True, top_k=None)


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.txt"])
def real_folder(request, tmp_path_factory):
    """The checkpoint as it is, and with its vocabulary as older repositories have it."""
    if request.param == "tokenizer.json":
        return OURS
    folder = tmp_path_factory.mktemp("older")
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(OURS / name)
    words = json.loads((OURS / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n", encoding="utf-8")
    return folder


@needs_data
def test_two_hundred_real_questions_get_the_zero_shot_answers_of_transformers(real_folder, real_questions):
    texts, options, expected = real_questions
    assert_same(ours(ZERO_SHOT, real_folder)(texts, **options), expected)


@needs_data
def test_two_hundred_real_pairs_are_classified_as_by_transformers(real_folder, real_pairs):
    pairs, expected = real_pairs
    assert_same(ours(CLASSIFY, real_folder)(pairs, top_k=None), expected)


@needs_data
def test_transformers_reads_the_folder_that_the_tokenizer_saved(real_folder, real_questions):
    texts, options, expected = real_questions
    assert_same(theirs(ZERO_SHOT, real_folder)(texts[:3], **options), expected[:3])


# What is wrong is said before a long download


def test_an_unknown_argument_is_an_error_before_anything_is_read():
    for task in (ZERO_SHOT, CLASSIFY, "ner", "fill-mask", "question-answering", "sentence-embedding"):
        with pytest.raises(TypeError, match="banana"):
            minidistil.pipeline(task, "no/such/folder", banana=1)


def test_an_iterator_as_an_argument_of_the_pipeline_serves_every_call(checkpoint):
    pipe = minidistil.pipeline(ZERO_SHOT, checkpoint(), candidate_labels=iter(["team", "game"]))
    assert_same(pipe("the team won"), pipe("the team won"))


@pytest.mark.parametrize("device", ["cpu", "cpu:0", -1, torch.device("cpu")])
def test_the_device_that_a_model_is_on_is_no_move(checkpoint, device):
    folder = checkpoint()
    model = minidistil.from_pretrained(folder)
    prepared = model.ops.linear._replace(live=False)
    view = model.with_ops(linear=prepared)
    minidistil.pipeline(CLASSIFY, view, minidistil.Tokenizer.from_pretrained(folder), device=device)
