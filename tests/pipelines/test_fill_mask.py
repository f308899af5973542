"""Filled masks match transformers' pipeline, except where it is wrong."""

import functools
import itertools
import json
import random
import warnings

import numpy as np
import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minidistil
from minidistil.errors import CheckpointError, InputError
from minidistil.pipelines import base, inference
from minidistil.pipelines.scores import top
from support.places import OURS
from support.twins import assert_same

TASK = "fill-mask"
POSITIONS = 64
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (
    "the team won game a man sleeps is awake not it was held The Team Paris capital of France do caf\u00e9 play"
)
PIECES = "##ing ##s ##ed ##er ##.  ##' un ##able n't 's 'm 've 're"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?-':;()\"[]", *LETTERS, *LETTERS.upper()]
VOCAB = list(dict.fromkeys([*VOCAB, *(f"##{x}" for x in LETTERS), *WORDS.split(), *PIECES.split(), "\u65e5"]))
TEXTS = [
    "The team [MASK] the game.",
    "[MASK]",
    "it was ([MASK]), not held!",
    "Paris is the capital of [MASK]",
    "[MASK]. \u65e5\u672c caf\u00e9 Caf\u00c9 zzz",
]
SEVERAL = [
    "The [MASK] won the [MASK].",
    "[MASK][MASK]",
    "a [MASK], [MASK]'s [MASK]!",
    "[MASK] [PAD] is [SEP] [MASK]",
]

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Save a tiny model with transformers, once for each set of options."""

    @functools.cache
    def make(saved=False, vocab=tuple(VOCAB), extra=0, model_class="DistilBertForMaskedLM", scale=1.0, **options):
        folder = tmp_path_factory.mktemp("checkpoint")
        config = transformers.DistilBertConfig(
            vocab_size=len(vocab) + extra,
            max_position_embeddings=POSITIONS,
            n_layers=2,
            n_heads=2,
            dim=16,
            hidden_dim=32,
            initializer_range=0.4,  # large, so that the scores of words differ
        )
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn(parameter.shape) * 0.2)
                parameter.mul_(scale)
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
        fields = {"do_lower_case": True, "model_max_length": POSITIONS, "tokenizer_class": "DistilBertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(fields | options))
        if saved:
            transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
            assert (folder / "tokenizer.json").exists()
        return folder

    return make


def ours(folder, **options):
    return minidistil.pipeline(TASK, folder, device="cpu", **options)


@functools.cache
def theirs(folder, **options):
    return transformers.pipeline(TASK, model=str(folder), device="cpu", **options)


TOKENIZERS = {
    "uncased": {},
    "cased": {"do_lower_case": False},
    "cleaned up": {"clean_up_tokenization_spaces": True},
    "tokenizer.json": {"saved": True, "clean_up_tokenization_spaces": True},
}


@pytest.fixture(scope="module", params=TOKENIZERS.values(), ids=TOKENIZERS.keys())
def each(request, checkpoint):
    """Return the pipelines of minidistil and transformers, for each tokenizer."""
    folder = checkpoint(**request.param)
    return ours(folder), theirs(folder)


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return ours(checkpoint())


@pytest.fixture(scope="module")
def oracle(checkpoint):
    return theirs(checkpoint())


def tokens(answer):
    return [row["token"] for row in answer]


# Against transformers


@pytest.mark.parametrize("text", [*TEXTS, *SEVERAL])
def test_a_text_is_filled_as_by_transformers(each, text):
    mine, other = each
    assert_same(mine(text), other(text))
    assert_same(mine(text, top_k=len(VOCAB)), other(text, top_k=len(VOCAB)))


LISTS = {
    "texts": TEXTS,
    "several masks": SEVERAL,
    "both": [*TEXTS[:2], *SEVERAL],
    "one in a list": TEXTS[:1],
    "one of several masks in a list": SEVERAL[:1],
    "equal": [TEXTS[0]] * 3,
}


@pytest.mark.parametrize("texts", LISTS.values(), ids=LISTS.keys())
def test_a_list_gives_the_shapes_of_transformers(each, texts):
    mine, other = each
    assert_same(mine(texts), other(texts))
    assert_same(mine(tuple(texts)), other(texts))


def test_a_generator_is_answered_as_by_transformers(each):
    mine, other = each
    for texts in ([*TEXTS, *SEVERAL], TEXTS[:1]):
        answers = mine(text for text in texts)
        assert not isinstance(answers, list)
        assert_same(list(answers), list(other(text for text in texts)))


def test_an_empty_list_has_no_answers(pipe):
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []


def test_scores_are_distinct_and_sum_to_one(pipe):
    rows = pipe(TEXTS[0], top_k=len(VOCAB))
    assert sum(row["score"] for row in rows) == pytest.approx(1, abs=1e-5)
    assert rows[0]["score"] > 5 * rows[len(VOCAB) // 2]["score"]


@pytest.mark.parametrize("top_k", [1, 2, 7, None])
@pytest.mark.parametrize("text", [TEXTS[0], SEVERAL[0]])
def test_top_k_sets_the_number_of_words(pipe, oracle, text, top_k):
    assert_same(pipe(text, top_k=top_k), oracle(text, top_k=top_k))
    assert len(pipe(TEXTS[0], top_k=top_k)) == (top_k or 5)


@pytest.mark.parametrize(
    "options", [{"top_k": 2}, {"targets": ("won", "game", "man"), "top_k": 2}, {"targets": "a"}]
)
def test_the_pipelines_defaults_apply_to_every_call(checkpoint, options):
    mine, other = (make(checkpoint(), **options) for make in (ours, theirs))
    assert_same(mine(TEXTS), other(TEXTS))
    assert_same(mine(TEXTS, top_k=1), other(TEXTS, top_k=1))


ASCII = st.sampled_from(
    ["[MASK]", "[MASK] ", " [MASK]", "The ", "team", " won", "[SEP]", "[sep]", "[mask]", "##ing"]
)
FRAGMENTS = ASCII | st.sampled_from(
    [". ", "'", " ' ", "n't", "[PAD]", "[UNK] ", "\0", "\u0301", "\u65e5", "\u0130"]
)
ANY_TEXT = st.lists(FRAGMENTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=5)


@pytest.mark.full
@pytest.mark.parametrize("name", ["uncased", "cased", "cleaned up"])
def test_any_unicode_text_is_filled_as_by_transformers(checkpoint, name):
    mine, other = (make(checkpoint(**TOKENIZERS[name])) for make in (ours, theirs))

    @settings(max_examples=25, deadline=None, derandomize=True)
    @example("a\0", "\u200b\ufeff")
    @example("e\u0301\u00e9\u0130", "\U0001f3c8\u2764\ufe0f")
    @example("\ufffd\u2028\x85", "\u3000")
    @example("don't ", " 's '")
    @given(ANY_TEXT.map("".join), ANY_TEXT.map("".join))
    def check(before, after):
        text = f"{before}[MASK]{after}"
        answer, expected = (pipe(text, top_k=len(VOCAB)) for pipe in (mine, other))
        if isinstance(expected[0], dict):
            answer, expected = [answer], [expected]
        assert len(answer) == len(expected)
        for rows, others in zip(answer, expected, strict=True):  # by token: equal scores may come in any order
            by_token, other_by_token = ({row["token"]: row for row in some} for some in (rows, others))
            assert_same([by_token[i] for i in range(len(VOCAB))], [other_by_token[i] for i in range(len(VOCAB))])

    check()


@given(ids=st.lists(st.integers(0, len(VOCAB) + 1), max_size=12), skip=st.booleans())
@example([VOCAB.index(piece) for piece in ("a", "'", "'", "##s")], False)  # the order of the cleanup rules matters
@example([VOCAB.index(piece) for piece in ("a", "'", "n", "##'", "##t", "##.")], True)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_tokens_become_text_as_in_transformers(each, ids, skip):
    mine, other = each
    assert mine.tokenizer.decode(ids, skip) == other.tokenizer.decode(ids, skip_special_tokens=skip)


def test_cleanup_removes_spaces_before_punctuation(checkpoint):
    plain, cleaned = (ours(checkpoint(**TOKENIZERS[name])) for name in ("uncased", "cleaned up"))
    text = "the man ' s [MASK] game"
    assert plain(text, targets="won")[0]["sequence"] == "the man ' s won game"
    assert cleaned(text, targets="won")[0]["sequence"] == "the man's won game"


@pytest.mark.full
def test_the_model_may_have_a_larger_vocabulary_than_its_tokenizer(checkpoint):
    mine, other = (make(checkpoint(extra=3)) for make in (ours, theirs))
    for text in (TEXTS[0], SEVERAL[0]):
        assert_same(mine(text, top_k=len(VOCAB) + 3), other(text, top_k=len(VOCAB) + 3))
    assert max(tokens(mine(TEXTS[0], top_k=len(VOCAB) + 3))) == len(VOCAB) + 2


@pytest.mark.full
def test_a_real_vocabulary_is_read_as_by_transformers(checkpoint):
    words = json.loads((OURS / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    vocab = tuple(sorted(words, key=words.get))
    mine, other = (make(checkpoint(vocab=vocab)) for make in (ours, theirs))
    texts = ["The capital of France is [MASK].", "I don't [MASK] it's na\u00efve \u2013 [MASK]!", *TEXTS]
    assert_same(mine(texts, top_k=50), other(texts, top_k=50))
    targets = ["paris", "London", "berlin", "antidisestablishmentarianism"]
    with pytest.warns(UserWarning, match="not in the vocabulary"):
        answer = mine(texts[0], targets=targets)
    assert_same(answer, other(texts[0], targets=targets))


# Targets


@pytest.mark.parametrize(
    "targets", ["won", ["won"], ["won", "game", "The", "##ing"], ["[UNK]", ".", "[MASK]", "[PAD]"]]
)
@pytest.mark.parametrize("text", [TEXTS[0], SEVERAL[2]])
def test_only_the_targets_are_scored_as_by_transformers(each, text, targets):
    mine, other = each
    assert_same(mine(text, targets=targets), other(text, targets=targets))
    assert_same(mine([text, text], targets=targets, top_k=2), other([text, text], targets=targets, top_k=2))


UNKNOWN = {
    "pieces": ("playing", "play"),
    "letters": ("zz", "z"),
    "a space before": (" won", "won"),
    "words": ("the team", "the"),
    "nothing known": ("\u672c", "[UNK]"),
    "special": ("[SEP]x", "[SEP]"),
    "a mask": ("[MASK] a", "[MASK]"),
    "brackets": ("[x]", "["),
}


@pytest.mark.parametrize(("target", "piece"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_the_first_token_of_an_unknown_target_is_scored(pipe, oracle, target, piece):
    with pytest.warns(UserWarning, match=r"targets\[1\].*not in the vocabulary") as warned:
        answer = pipe(TEXTS[0], targets=["held", target])
    assert len(warned) == 1
    assert str(warned[0].message).endswith(f": {piece} is scored instead")
    assert_same(answer, oracle(TEXTS[0], targets=["held", target]))
    assert_same(answer, pipe(TEXTS[0], targets=["held", piece]))


@pytest.mark.parametrize("nothing", ["", " ", "\0", "\u200b"])
def test_a_target_without_tokens_is_skipped(pipe, oracle, nothing):
    with pytest.warns(UserWarning, match=r"targets\[0\].*skipped"):
        answer = pipe(TEXTS[0], targets=[nothing, "won"])
    assert_same(answer, oracle(TEXTS[0], targets=[nothing, "won"]))
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(InputError, match="at least one word"):
        pipe(TEXTS[0], targets=nothing)
    with pytest.raises(ValueError, match="At least one target"):
        oracle(TEXTS[0], targets=nothing)


def test_a_known_target_does_not_warn(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(TEXTS[0], targets=["won", "[UNK]", "##ing"])


def test_a_repeated_target_is_scored_once(pipe, oracle):
    targets = ["won", "game", "won", "won", "a"]
    assert_same(pipe(TEXTS[0], targets=targets), oracle(TEXTS[0], targets=targets))
    assert len(pipe(TEXTS[0], targets=targets)) == 3


def test_top_k_is_no_more_than_the_targets_or_the_words(pipe, oracle):
    assert_same(pipe(TEXTS[0], targets=["won", "a"], top_k=99), oracle(TEXTS[0], targets=["won", "a"], top_k=99))
    assert_same(pipe(TEXTS[0], top_k=10**6), oracle(TEXTS[0], top_k=len(VOCAB)))  # transformers crashes


@pytest.mark.parametrize("kind", [tuple, iter])
def test_targets_may_be_any_iterable(pipe, kind):
    targets = ["won", "game", "a"]
    assert_same(pipe(TEXTS, targets=kind(targets)), pipe(TEXTS, targets=targets))


def test_equal_scores_keep_the_order_of_targets_and_of_the_vocabulary(checkpoint):
    flat = ours(checkpoint(scale=0.0))
    targets = ["won", "a", "the", "game", "Z"]
    assert [row["token_str"] for row in flat(TEXTS[0], targets=targets)] == targets
    assert [row["token_str"] for row in flat(TEXTS[0], targets=targets[::-1], top_k=2)] == ["Z", "game"]
    assert tokens(flat(TEXTS[0], top_k=7)) == list(range(7))


def test_the_best_come_first_and_equal_ones_in_order():
    scores = np.array([0.1, 0.3, 0.2, 0.3, 0.1, 0.1], np.float32)
    assert top(scores, 9) == [1, 3, 2, 0, 4, 5]
    assert [top(scores, count) for count in (1, 2, 4)] == [[1], [1, 3], [1, 3, 2, 0]]


@pytest.mark.parametrize("targets", [[], (), iter([])])
def test_empty_targets_are_an_error(pipe, targets):
    with pytest.raises(InputError, match="targets"):
        pipe(TEXTS[0], targets=targets)


@pytest.mark.parametrize("targets", [5, b"won", [5], ["won", None], [["won"]], "\ud800"])
def test_targets_are_text(pipe, targets):
    with pytest.raises(InputError, match="targets"):
        pipe(TEXTS[0], targets=targets)


def test_a_target_outside_the_models_vocabulary_is_an_error(checkpoint, tmp_path):
    fields = {"extra_special_tokens": ["<new>"], "model_max_length": POSITIONS}
    (tmp_path / "vocab.txt").write_bytes((checkpoint() / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    mine = ours(checkpoint(), tokenizer=tmp_path)
    with pytest.raises(InputError, match=f"targets has token {len(VOCAB)}, but vocab_size is {len(VOCAB)}"):
        mine(TEXTS[0], targets=["won", "<new>"])
    with pytest.raises(InputError, match=f"a token id is {len(VOCAB)}, but vocab_size is {len(VOCAB)}"):
        mine("<new> [MASK]")


# Length

LONG = "[MASK] " + "the team won " * 40
LATE = "the team won " * 40 + "[MASK]"


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": True},
        {"truncation": "longest_first"},
        {"truncation": "only_first"},
        {"truncation": True, "max_length": 10},
        {"max_length": 10},
        {"truncation": True, "max_length": 10, "padding": "max_length"},
        {"truncation": True, "padding": True},
    ],
)
def test_a_long_text_is_truncated_on_request(pipe, oracle, options):
    for texts in (LONG, [TEXTS[0], SEVERAL[0], LONG]):
        assert_same(pipe(texts, tokenizer_kwargs=options), oracle(texts, tokenizer_kwargs=options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"truncation": False},
        {"truncation": None},
        {"truncation": "do_not_truncate"},
        {"truncation": False, "max_length": 5},
        {"padding": True},
        {"padding": "max_length", "max_length": 5},
    ],
)
def test_a_text_is_not_truncated_otherwise(pipe, oracle, options):
    text = "The team won the [MASK] game."
    assert_same(pipe(text, tokenizer_kwargs=options), oracle(text, tokenizer_kwargs=options))
    with pytest.raises(
        InputError, match=rf"inputs\[0\] has 123 tokens, .*takes {POSITIONS}.*truncation.*{POSITIONS}"
    ):
        pipe(LONG, tokenizer_kwargs=options)


def test_max_length_is_capped_at_the_models_maximum(pipe):
    longer = {"truncation": True, "max_length": 100}
    assert_same(pipe(LONG, tokenizer_kwargs=longer), pipe(LONG, tokenizer_kwargs={"truncation": True}))


def test_a_text_that_fills_the_model_is_read(pipe, oracle):
    text = "a " * (POSITIONS - 3) + "[MASK]"
    assert_same(pipe(text), oracle(text))
    with pytest.raises(InputError, match=f"has {POSITIONS + 1} tokens"):
        pipe("a " + text)


def test_the_tokenizers_limit_truncates_only_on_request(checkpoint):
    mine, other = (make(checkpoint(model_max_length=8)) for make in (ours, theirs))
    text = "[MASK] team won the game and it was not held"
    assert_same(mine(text), other(text))
    cut = {"tokenizer_kwargs": {"truncation": True}}
    assert_same(mine(text, **cut), other(text, **cut))
    assert mine(text, **cut)[0]["sequence"] != mine(text)[0]["sequence"]


def test_a_mask_that_is_truncated_away_is_an_error(pipe, oracle):
    options = {"tokenizer_kwargs": {"truncation": True, "max_length": 9}}
    with pytest.raises(InputError, match=r"inputs\[1\] has no \[MASK\] in the 9 tokens to which it is truncated"):
        pipe([TEXTS[0], LATE], **options)
    with pytest.raises(transformers.pipelines.PipelineException, match="No mask_token"):
        oracle(LATE, **options)


@pytest.mark.parametrize("name", ["add_special_tokens", "return_tensors", "stride"])
def test_another_argument_of_the_tokenizer_is_refused(pipe, name):
    message = f"tokenizer_kwargs.*{name}.*truncation, max_length, padding|{name} is 1, which has no meaning here"
    with pytest.raises(InputError, match=message):
        pipe(TEXTS[0], tokenizer_kwargs={"truncation": True, name: 1})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("truncation", "tokenizer_kwargs"),
        ([], "tokenizer_kwargs"),
        ({"truncation": "banana"}, "truncation"),
        ({"truncation": 3}, "truncation"),
        ({"truncation": "only_second"}, "truncation"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": "8"}, "max_length"),
        ({"max_length": 2}, "max_length"),
    ],
)
def test_invalid_tokenizer_kwargs_are_an_error(pipe, options, match):
    with pytest.raises(InputError, match=match):
        pipe(TEXTS[0], tokenizer_kwargs=options)


# Errors


@pytest.mark.parametrize("text", ["", "the team", "[mask]", "[ MASK ]", "MASK"])
def test_a_text_without_a_mask_is_an_error_that_names_text_and_mask(pipe, oracle, text):
    with pytest.raises(InputError, match=r"inputs\[0\] has no \[MASK\]: expected one"):
        pipe(text)
    with pytest.raises(InputError, match=r"inputs\[2\] has no \[MASK\]"):
        pipe([*TEXTS[:2], text])
    with pytest.raises(transformers.pipelines.PipelineException, match="No mask_token"):
        oracle(text)


def test_the_mask_token_is_the_tokenizers(checkpoint):
    mine, other = (make(checkpoint(mask_token="team")) for make in (ours, theirs))
    assert_same(mine("the team won"), other("the team won"))
    with pytest.raises(InputError, match="has no team: expected"):
        mine("the [MASK] won")


def test_a_tokenizer_without_a_mask_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match="mask_token"):
        ours(checkpoint(mask_token=None))


@pytest.mark.parametrize(
    "texts", [5, None, [5], [None], ["[MASK]", b"[MASK]"], [["[MASK]"]], b"[MASK]", {"a": "b"}]
)
def test_inputs_that_are_not_text_are_an_error(pipe, texts):
    with pytest.raises(InputError, match="inputs"):
        pipe(texts)


def test_a_lone_surrogate_is_not_text(pipe):
    with pytest.raises(InputError, match=r"inputs\[1\].*surrogate"):
        pipe(["[MASK]", "[MASK]\ud800"])


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, [1]])
@pytest.mark.parametrize("name", ["top_k", "batch_size"])
def test_counts_are_positive_integers(pipe, name, value):
    with pytest.raises(InputError, match=name):
        pipe(TEXTS[0], **{name: value})


@pytest.mark.parametrize(
    ("name", "error"), [("banana", TypeError), ("truncation", InputError), ("candidate_labels", TypeError)]
)
def test_an_unknown_argument_is_an_error(checkpoint, pipe, name, error):
    with pytest.raises(error, match=name):
        pipe(TEXTS[0], **{name: True})
    with pytest.raises(error, match=name):
        ours(checkpoint(), **{name: True})


def test_another_model_is_refused(checkpoint):
    folder = checkpoint(model_class="DistilBertModel")
    with pytest.raises(CheckpointError, match="does not hold this model's weights"):
        ours(folder)
    with pytest.raises(InputError, match="fill-mask requires a DistilBertForMaskedLM, found DistilBertModel"):
        minidistil.pipeline(TASK, minidistil.from_pretrained(folder), tokenizer=folder)


def test_nan_in_the_outputs_is_an_error(checkpoint):
    model = minidistil.from_pretrained(checkpoint())
    with torch.no_grad():
        model.vocab_projector.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="the model returns nan or inf"):
        minidistil.pipeline(TASK, model, checkpoint())(TEXTS[0])


# Batches and streams


@pytest.fixture(scope="module")
def many_texts():
    shuffled = random.Random(0)
    words = [*WORDS.lower().split(), "[MASK]"]
    return [" ".join([*shuffled.choices(words, k=shuffled.randint(0, 25)), "[MASK]"]) for _ in range(30)]


@pytest.fixture(scope="module")
def one_by_one(pipe, many_texts):
    return [pipe(text, top_k=3) for text in many_texts]


@pytest.mark.full
def test_long_lists_are_filled_as_by_transformers(oracle, many_texts, one_by_one):
    assert_same(one_by_one, oracle(many_texts, top_k=3))


BATCHINGS = {
    "all at once": {},
    "windows of 3": {"WINDOW": 3},
    "70 tokens": {"TOKENS": 70},
    "windows of 7 and 1 token": {"WINDOW": 7, "TOKENS": 1},
}


@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize("limits", BATCHINGS.values(), ids=BATCHINGS.keys())
def test_batching_does_not_change_the_answers(pipe, many_texts, one_by_one, monkeypatch, limits, batch_size):
    for name, value in limits.items():
        monkeypatch.setattr(inference if name == "TOKENS" else base, name, value)
    assert_same(pipe(many_texts, top_k=3, batch_size=batch_size), one_by_one)


def test_only_masked_tokens_go_through_the_head(pipe, monkeypatch):
    seen = []
    project = pipe.model.project
    monkeypatch.setattr(pipe.model, "project", lambda x: seen.append(len(x)) or project(x))
    pipe([*TEXTS, *SEVERAL])
    assert seen == [sum(text.count("[MASK]") for text in [*TEXTS, *SEVERAL])]


def counted(texts, read):
    for text in texts:
        read.append(text)
        yield text


def test_an_endless_stream_is_read_a_window_at_a_time(pipe, monkeypatch):
    monkeypatch.setattr(base, "WINDOW", 6)
    read = []
    answers = pipe(counted(itertools.cycle(TEXTS), read))
    assert read == []  # nothing is read before the first next()
    assert_same([next(answers) for _ in range(4)], pipe(TEXTS[:4]))
    assert len(read) == 6


def test_a_stream_is_never_read_far_ahead(pipe):
    read = []
    answers = pipe(counted(itertools.cycle(TEXTS), read))
    next(answers)
    assert len(read) == base.FIRST_WINDOW
    for count in range(2, 300):
        next(answers)
        assert len(read) < count + 64


BROKEN = {"number": 5, "without a mask": "the team", "too long": LONG, "surrogate": "\ud800"}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_texts_before_an_invalid_one_are_answered_first(pipe, broken):
    answers = pipe(iter([*TEXTS[:3], broken, TEXTS[3]]))
    assert_same(list(itertools.islice(answers, 3)), pipe(TEXTS[:3]))
    with pytest.raises(InputError, match=r"inputs\[3\]"):
        next(answers)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("float16", 0.02), ("bfloat16", 0.1)])
def test_every_dtype_works(checkpoint, pipe, dtype, tolerance):
    mine = ours(checkpoint(), dtype=dtype)
    for text in TEXTS:
        scores, others = (
            {row["token"]: row["score"] for row in some(text, top_k=len(VOCAB))} for some in (mine, pipe)
        )
        assert scores == pytest.approx(others, abs=tolerance)


def test_a_loaded_model_answers_as_its_folder_does(checkpoint, pipe):
    model = minidistil.from_pretrained(checkpoint()).train()
    assert_same(minidistil.pipeline(TASK, model, checkpoint())(TEXTS), pipe(TEXTS))
