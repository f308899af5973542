"""Entities match transformers' pipeline in offsets and words, except where it is wrong."""

import functools
import itertools
import json
import random

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.pipelines.token_classification import AggregationStrategy

import minidistil
from minidistil.errors import InputError
from minidistil.pipelines import base, inference

NER = "token-classification"
STRATEGIES = ["none", "simple", "first", "average", "max"]
AGGREGATED = STRATEGIES[1:]
POSITIONS = 64
BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
LABELS = {
    "B and I": BIO,
    "plain": ("O", "BANK", "LOC"),
    "odd": ("A-B", "DAY-OF-WEEK", "E-PER", "B-PER", "B-", "-"),
}
IGNORED = [None, [], ["O", "PER"], ("B-PER", "LOC"), {"O", "B-LOC"}]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = "maria jose lives in new york paris the do don n t can not we re he said ##ia ##is ##ork ##mari ea ##ea"
OTHERS = [*".,;!?-'#@", "\u65e5", "\u672c", "\u00e9", "##\u00e9", "\u1112", "##\u1161", "##\u11ab"]
TEXTS = [
    "",
    " ",
    "Maria lives in Paris.",
    "New York, Paris; jose-maria! the jose? he said: not in york.",
    "Jos\u00e9 in S\u00e3o Paulo, the caf\u00e9 na\u00efve",
    "in Re\u0301mi e\u0301a Bjo\u0308rn Jose\u0301",  # letters with combining accents
    "Maria \u65e5\u672c\u8a9e in \u6771\u4eac",
    "\U0001f600 Maria \u2764\ufe0f the\U0001f3c8",
    "in qz% \u00df Paris\u2019s \u0130stanbul \ufb01 \u01c5",
    "we 're, do n't! can not , don't ; the 's .",
    "mariaparisyork newdonlives xyz",
    "x" * 120 + " in",
    "in\nNew\tYork\r\n  Paris ",
    "[UNK] [SEP] [MASK] [sep] ##ia",
    "a\0b Pa\u200bris\ufeff in",
    "\ud55c in \ud55c\uad6d",  # each syllable decomposes into three tokens
    "...!?--",
    "Maria jose lives in new york paris the not we he " * 5,
]

transformers.utils.logging.disable_progress_bar()

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Save a tiny token-classification model with transformers, once for each set of options."""

    @functools.cache
    def make(labels=BIO, lower=True, limit=POSITIONS, model_class=transformers.DistilBertForTokenClassification):
        folder = tmp_path_factory.mktemp("checkpoint")
        letters = [*LETTERS, *LETTERS.upper()]
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *OTHERS, *letters, *(f"##{one}" for one in letters)]
        vocab = list(dict.fromkeys([*vocab, *WORDS.split(), *WORDS.title().split()]))
        config = transformers.DistilBertConfig(
            vocab_size=len(vocab),
            max_position_embeddings=POSITIONS,
            n_layers=2,
            n_heads=2,
            dim=16,
            hidden_dim=32,
            initializer_range=0.5,
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
        torch.manual_seed(7)
        model_class(config).save_pretrained(folder)
        vocab = {token: i for i, token in enumerate(vocab)}
        tokenizer = transformers.DistilBertTokenizer(vocab=vocab, do_lower_case=lower, model_max_length=limit)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def twins(checkpoint):
    """Return both pipelines of a checkpoint."""

    @functools.cache
    def make(labels=BIO, lower=True, limit=POSITIONS):
        folder = checkpoint(labels, lower, limit)
        return ours(folder), transformers.pipeline(NER, model=str(folder), device="cpu")

    return make


def ours(model, task=NER, **options):
    return minidistil.pipeline(task, model, device="cpu", **options)


@pytest.fixture(scope="module")
def tag(twins):
    return twins()[0]


@pytest.fixture(scope="module")
def their_tag(twins):
    return twins()[1]


def assert_same(answer, expected):
    """Assert scores within 1e-5; everything else is equal, including types and the order of keys."""
    assert type(answer) is type(expected)
    assert len(answer) == len(expected)
    if isinstance(expected, list):
        for one, other in zip(answer, expected, strict=True):
            assert_same(one, other)
        return
    assert list(answer) == list(expected)
    assert type(answer["score"]) is float
    assert abs(answer["score"] - float(expected["score"])) <= 1e-5
    for key in answer.keys() - {"score"}:
        assert (type(answer[key]), answer[key]) == (type(expected[key]), expected[key])


# Answers of transformers


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_entities_match_transformers(twins, labels, lower, strategy):
    pipe, oracle = twins(labels, lower)
    for ignored in IGNORED:
        options = {"aggregation_strategy": strategy, "ignore_labels": ignored}
        assert_same(pipe(TEXTS, **options), oracle(TEXTS, batch_size=16, **options))


@pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_the_compared_answers_are_not_trivial(twins, labels, lower):
    pipe, _ = twins(labels, lower)
    tokens, *groups = (pipe(TEXTS, aggregation_strategy=name, ignore_labels=[]) for name in STRATEGIES)
    assert {entity["entity"] for row in tokens for entity in row} == set(labels)
    assert any(" " in entity["word"] for row in groups[0] for entity in row)  # some are joined
    places = [[[(e["start"], e["end"], e["entity_group"]) for e in row] for row in group] for group in groups]
    assert all(one != other for one, other in itertools.combinations(places, 2))  # and no two strategies agree


def test_the_label_o_is_ignored_by_default(tag, their_tag):
    assert_same(tag(TEXTS), their_tag(TEXTS))
    assert not [entity for row in tag(TEXTS) for entity in row if entity["entity"] == "O"]
    assert [entity for row in tag(TEXTS, ignore_labels=[]) for entity in row if entity["entity"] == "O"]


SHAPES = {"text": TEXTS[2], "list": TEXTS, "one in a list": TEXTS[2:3], "empty": "", "an empty one": [""]}


@pytest.mark.parametrize("inputs", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_answers_have_the_shapes_of_transformers(tag, their_tag, inputs, strategy):
    options = {"aggregation_strategy": strategy, "ignore_labels": []}
    assert_same(tag(inputs, **options), their_tag(inputs, **options))


def test_a_generator_is_answered_as_by_transformers(tag, their_tag):
    answers, expected = (pipe((text for text in TEXTS), ignore_labels=[]) for pipe in (tag, their_tag))
    assert not isinstance(answers, list)
    assert_same(list(answers), list(expected))


@pytest.mark.full
def test_a_strategy_may_be_in_capitals_or_a_transformers_enum(tag, their_tag):
    for strategy in ("AVERAGE", "Average", AggregationStrategy.AVERAGE):
        expected = their_tag(TEXTS, aggregation_strategy=strategy)
        assert_same(tag(TEXTS, aggregation_strategy=strategy), expected)


@pytest.mark.full
@pytest.mark.parametrize("task", ["ner", NER])
def test_the_pipelines_defaults_apply_to_every_call(checkpoint, their_tag, task):
    options = {"aggregation_strategy": "first", "ignore_labels": ["LOC"]}
    pipe = ours(checkpoint(), task, **options)
    assert_same(pipe(TEXTS), their_tag(TEXTS, **options))
    options["aggregation_strategy"] = "max"
    assert_same(pipe(TEXTS, aggregation_strategy="max"), their_tag(TEXTS, **options))


FRAGMENTS = [
    *" .,'\n",
    "Maria",
    "paris",
    "New York",
    "york",
    "in ",
    "don't",
    "do n't",
    "qz",
    "[SEP]",
    "[UNK]",
    "##ia",
]
FRAGMENTS += ["\u00e9", "e\u0301a", "\u0301", "\u65e5", "\U0001f600", "\0", "\u200b", "\ufffd", "x" * 101]
ANY_TEXT = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=9
).map("".join)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:texts longer than")
@settings(max_examples=120, derandomize=True)
@example(text="in Jo\u0301se", strategy="first", lower=True)
@example(text="\0", strategy="none", lower=True)
@example(text="Paris\u0130\u0130", strategy="max", lower=False)
@given(text=ANY_TEXT, strategy=st.sampled_from(STRATEGIES), lower=st.booleans())
def test_entities_of_any_text_are_ordered_with_correct_offsets_and_match_transformers(
    twins, text, strategy, lower
):
    pipe, oracle = twins(lower=lower)
    answer = pipe(text, aggregation_strategy=strategy, ignore_labels=[])
    assert_same(answer, oracle(text, aggregation_strategy=strategy, ignore_labels=[]))
    ends = [0, *(entity["end"] for entity in answer)]
    for entity, end_before in zip(answer, ends, strict=False):
        assert end_before <= entity["start"] < entity["end"] <= len(text)
        if strategy == "none":
            found = text[entity["start"] : entity["end"]]
            written = pipe.tokenizer.backend.normalizer.normalize_str(found).strip()
            assert entity["word"].removeprefix("##") in (written, found)


# Hand-made scores


def say(monkeypatch, pipe, labels, scores=None):
    """Set the label and the score that the model returns for each token, by two dicts."""

    def run(output, sequences, batch_size):
        for sequence in sequences:
            rows = []
            for token in map(pipe.tokenizer.backend.id_to_token, sequence):
                score = (scores or {}).get(token, 0.6)
                row = np.full(len(BIO), (1 - score) / (len(BIO) - 1), np.float32)
                row[BIO.index(labels.get(token, "O"))] = score
                rows.append(np.log(row))
            yield np.stack(rows)

    monkeypatch.setattr(pipe.engine, "run", run)


def found(pipe, text, strategy, **options):
    answer = pipe(text, aggregation_strategy=strategy, **options)
    return [(entity["entity_group"], entity["word"], round(entity["score"], 6)) for entity in answer]


def test_adjacent_tokens_of_one_label_are_grouped_until_a_new_b_tag(tag, monkeypatch):
    labels = {"maria": "B-PER", "jose": "I-PER", "paris": "B-LOC", "new": "I-LOC", "york": "I-PER"}
    say(monkeypatch, tag, labels, {"jose": 0.8})
    assert found(tag, "Maria Jose in Paris, New Maria maria jose york", "simple") == [
        ("PER", "maria jose", 0.7),
        ("LOC", "paris", 0.6),
        ("LOC", "new", 0.6),
        ("PER", "maria", 0.6),
        ("PER", "maria jose york", round((0.6 + 0.8 + 0.6) / 3, 6)),
    ]


def test_tokens_have_an_index_and_offsets(tag, monkeypatch):
    say(monkeypatch, tag, {"maria": "B-PER", "##r": "I-LOC"})
    answer = tag(" \u00c9 MARI\u0301A\u0301 new\tpark")
    score = pytest.approx(0.6)
    assert answer == [
        {"entity": "B-PER", "score": score, "index": 2, "word": "maria", "start": 3, "end": 9},
        {"entity": "I-LOC", "score": score, "index": 6, "word": "##r", "start": 17, "end": 18},
    ]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("simple", [("LOC", "##a", 0.6), ("LOC", "##r", 0.6), ("PER", "##is", 0.9)]),
        ("first", []),
        ("average", [("LOC", "xaris", 0.33125)]),  # (0.1 + 0.6 + 0.6 + 0.025) / 4, of O, B-LOC, B-LOC, I-PER
        ("max", [("PER", "xaris", 0.9)]),
    ],
)
def test_the_strategy_selects_the_label_of_a_word(tag, monkeypatch, strategy, expected):
    say(monkeypatch, tag, {"##a": "B-LOC", "##r": "B-LOC", "##is": "I-PER"}, {"##is": 0.9})
    assert found(tag, "xaris", strategy) == expected


def test_an_unknown_word_is_returned_as_written_and_is_one_word(tag, monkeypatch):
    say(monkeypatch, tag, {"[UNK]": "I-LOC", "new": "I-LOC"})
    assert [word for _, word, _ in found(tag, "New %\u00df Stra\u00dfe", "first")] == ["new % \u00df Stra\u00dfe"]
    assert [entity["word"] for entity in tag("New %\u00df Stra\u00dfe")] == ["new", "%", "\u00df", "Stra\u00dfe"]


# Words


WORD_LISTS = [
    ["Maria", "lives", "in", "Paris", "."],
    ["New York", "don't", "jose-maria"],
    ["", "Jos\u00e9", "", "e\u0301a", "\u65e5\u672c", "\U0001f600", "qz%", "[SEP]", " ", "x" * 120],
    [],
    [""],
]


@pytest.mark.parametrize("delimiter", [" ", "", "_", " \u2014 "])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_of_split_words_match_transformers(twins, strategy, delimiter):
    options = {"is_split_into_words": True, "delimiter": delimiter, "ignore_labels": []}
    for lower in (True, False):
        pipe, oracle = twins(lower=lower)
        answers = pipe(WORD_LISTS, aggregation_strategy=strategy, **options)
        assert_same(answers, oracle(WORD_LISTS, aggregation_strategy=strategy, batch_size=8, **options))


def test_offsets_refer_to_the_joined_text(tag, monkeypatch):
    say(monkeypatch, tag, {"paris": "B-LOC", "##is": "I-LOC"})
    words = ["Maria", "", "PARIS", "in", "xis"]
    (answer,) = tag(words, is_split_into_words=True, delimiter="--")
    text = "--".join(words)
    assert [text[entity["start"] : entity["end"]] for entity in answer] == ["PARIS", "is"]


def test_one_list_of_words_is_answered_in_a_list_as_by_transformers(tag, their_tag):
    words = WORD_LISTS[0]
    answers = [pipe(words, is_split_into_words=True, ignore_labels=[]) for pipe in (tag, their_tag)]
    assert_same(*answers)
    assert answers[0] == tag([words], is_split_into_words=True, ignore_labels=[])
    assert tag(tuple(words), is_split_into_words=True, ignore_labels=[]) == answers[0]


def test_no_words_and_no_texts_have_no_entities(tag):
    assert tag([]) == []
    assert list(tag(iter([]))) == []
    assert tag([], is_split_into_words=True) == []
    assert tag([[], ()], is_split_into_words=True) == [[], []]


# Long texts

LONG = ["Maria jose lives in new york, the paris " * 9, *TEXTS[2:11], "Mariaparisyorklives " * 7, "\u65e5" * 70]


@pytest.mark.full
@pytest.mark.parametrize("limit", [8, 20, POSITIONS])
@pytest.mark.parametrize("strategy", AGGREGATED)
def test_a_long_text_is_read_in_parts_as_by_transformers(twins, strategy, limit):
    pipe, oracle = twins(limit=limit)
    for stride in (0, limit // 3, limit - 4):
        options = {"stride": stride, "aggregation_strategy": strategy, "ignore_labels": ["LOC"]}
        assert_same(pipe(LONG, **options), oracle(LONG, batch_size=16, **options))


@pytest.mark.parametrize("stride", [1, 5])
def test_a_part_may_start_one_token_after_the_previous_one(twins, stride):
    pipe, oracle = twins(limit=8)
    options = {"stride": stride, "aggregation_strategy": "first", "ignore_labels": []}
    assert_same(pipe(TEXTS[:6], **options), oracle(TEXTS[:6], batch_size=16, **options))


@pytest.mark.full
def test_words_of_a_long_text_are_read_in_parts_too(twins):
    pipe, oracle = twins(limit=12)
    words = [text.split() for text in LONG]
    options = {"stride": 3, "aggregation_strategy": "max", "is_split_into_words": True, "delimiter": "__"}
    assert_same(pipe(words, **options), oracle(words, **options))


@pytest.mark.parametrize("stride", [0, 5])
def test_every_token_of_a_long_text_is_labeled_once(twins, stride):
    pipe, _ = twins(limit=20)
    answer = pipe(LONG[0], stride=stride, aggregation_strategy="simple", ignore_labels=[])
    assert answer[0]["start"] == 0
    assert answer[-1]["end"] == len(LONG[0].rstrip())
    for one, other in itertools.pairwise(answer):
        assert one["end"] <= other["start"]


@pytest.mark.parametrize(
    ("rows", "scores", "expected"),
    [  # of O, B-PER, I-PER and B-LOC, in the four tokens that a part has
        (([1, 2, 2, 2], [2, 2, 2, 3]), (0.5, 0.9), [("the new york jose", 0.5), ("lives", 0.9)]),
        (([0, 1, 1, 2], [1, 2, 2, 0]), (0.9, 0.5), [("new york jose", 0.5)]),
        (([0, 1, 2, 2], [1, 2, 2, 3]), (0.9, 0.5), [("new york jose", 0.9), ("lives", 0.5)]),
        (([0, 1, 2, 2], [1, 2, 2, 3]), (0.5, 0.9), [("new york jose", 0.9), ("lives", 0.9)]),
        (
            ([1, 0, 0, 0], [0, 0, 0, 0]),
            (0.9, 0.9),
            [("the", 0.9)],
        ),  # a part without entities does not remove those of another
    ],
)
def test_of_overlapping_entities_the_longest_or_highest_scoring_is_kept(
    twins, monkeypatch, rows, scores, expected
):
    pipe, _ = twins(limit=6)
    logits = []
    for row, score in zip(rows, scores, strict=True):
        probabilities = np.full((6, len(BIO)), (1 - score) / (len(BIO) - 1), np.float32)
        probabilities[range(6), [0, *row, 0]] = score
        logits.append(np.log(probabilities))
    monkeypatch.setattr(pipe.engine, "run", lambda output, sequences, batch_size: logits)
    answer = pipe("the new york jose lives", stride=3, aggregation_strategy="simple")
    assert [(entity["word"], round(entity["score"], 6)) for entity in answer] == expected


def test_a_long_text_is_truncated_with_one_warning(checkpoint, their_tag):
    pipe = ours(checkpoint())
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens") as warned:
        answers = pipe(LONG)
    assert len(warned) == 1
    assert_same(answers, their_tag(LONG))
    assert pipe(LONG[0]) == answers[0]  # a second warning would be an error here


def test_the_models_limit_applies_if_the_tokenizer_has_none(checkpoint, tag, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint() / name).read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 512}))
    pipe = ours(checkpoint(), tokenizer=tmp_path)
    options = {"stride": 4, "aggregation_strategy": "simple"}
    assert_same(pipe(LONG, **options), tag(LONG, **options))  # transformers fails in the model
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens"):
        pipe(LONG)


# Tokenizers that do not mark the pieces of words


def bpe():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return backend, tokenizers.trainers.BpeTrainer


def words():
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return backend, tokenizers.trainers.WordLevelTrainer


def bytes_of_characters():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend, tokenizers.trainers.BpeTrainer


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")  # transformers, for each token
@pytest.mark.parametrize("make", [bpe, words, bytes_of_characters])
@pytest.mark.parametrize("unknown", ["[UNK]", None])
def test_words_of_another_tokenizer_end_at_spaces(checkpoint, tmp_path, make, unknown):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint() / name).read_bytes())
    backend, trainer = make()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    texts = [*TEXTS[:9], "\u65e5\u672c in", "\u00e9"]
    backend.train_from_iterator(texts, trainer(vocab_size=90, special_tokens=special, show_progress=False))
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": unknown, "model_max_length": POSITIONS}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    pipe, oracle = ours(tmp_path), transformers.pipeline(NER, model=str(tmp_path), device="cpu")
    for strategy in STRATEGIES:
        options = {"aggregation_strategy": strategy, "ignore_labels": []}
        assert_same(pipe(texts, **options), oracle(texts, **options))


# Where transformers is wrong


def test_answers_can_be_written_as_json(tag, their_tag):
    assert json.loads(json.dumps(tag(TEXTS))) == tag(TEXTS)
    with pytest.raises(TypeError, match="float32"):
        json.dumps(their_tag(TEXTS))


def test_a_stream_of_words_is_answered(tag, their_tag):
    words = [text.split() for text in TEXTS]
    answers = list(tag(iter(words), is_split_into_words=True))
    assert_same(answers, their_tag(words, is_split_into_words=True))
    assert list(their_tag((row for row in words), is_split_into_words=True)) == []


def test_a_call_with_words_does_not_affect_later_calls(checkpoint, their_tag):
    pipe = ours(checkpoint(), stride=4, aggregation_strategy="simple")
    assert_same(pipe([["Maria"]], is_split_into_words=True), their_tag(["Maria"], aggregation_strategy="simple"))
    assert_same(pipe(LONG[0]), their_tag(LONG[0], stride=4, aggregation_strategy="simple"))


def test_is_split_into_words_may_be_a_default_argument(checkpoint, tag):
    pipe = ours(checkpoint(), is_split_into_words=True, delimiter="")
    assert pipe(WORD_LISTS) == tag(WORD_LISTS, is_split_into_words=True, delimiter="")


def test_a_tuple_of_texts_returns_a_list_of_answers(tag):
    assert tag(tuple(TEXTS)) == tag(TEXTS)


# Batches and streams


@pytest.fixture(scope="module")
def many():
    shuffled = random.Random(0)
    return [" ".join(shuffled.choices(WORDS.split()[:18], k=shuffled.randint(0, 100))) for _ in range(40)]


@pytest.mark.full
@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize("limits", [{}, {"WINDOW": 3}, {"TOKENS": 70}, {"WINDOW": 7, "TOKENS": 1}], ids=str)
def test_batching_does_not_change_the_answers(tag, many, monkeypatch, limits, batch_size):
    options = {"aggregation_strategy": "average", "stride": 6}
    expected = [tag(text, **options) for text in many]
    for name, value in limits.items():
        monkeypatch.setattr(inference if name == "TOKENS" else base, name, value)
    assert_same(tag(many, batch_size=batch_size, **options), expected)
    order = random.Random(1).sample(range(len(many)), len(many))
    assert_same(tag([many[i] for i in order], **options), [expected[i] for i in order])


@pytest.mark.parametrize("batch_size", [None, 4])
def test_parts_of_all_texts_share_a_batch(tag, monkeypatch, batch_size):
    batches = []
    forward = tag.model.forward
    monkeypatch.setattr(tag.model, "forward", lambda batch: batches.append(batch.layout.lengths) or forward(batch))
    tag([LONG[0], *TEXTS[2:6]], stride=4, aggregation_strategy="simple", batch_size=batch_size)
    assert [len(lengths) for lengths in batches] == ([6] if batch_size is None else [4, 2])
    assert max(map(max, batches)) == POSITIONS


def test_an_endless_stream_is_answered_a_window_at_a_time(tag, monkeypatch):
    monkeypatch.setattr(base, "WINDOW", 6)
    read = []
    answers = tag(read.append(text) or text for text in itertools.cycle(TEXTS))
    assert read == []
    assert_same(list(itertools.islice(answers, 8)), tag(TEXTS[:8]))
    assert len(read) == 12


def test_texts_before_an_invalid_one_are_answered_first(tag):
    answers = tag(iter([*TEXTS[:3], 5, TEXTS[3]]))
    assert_same(list(itertools.islice(answers, 3)), tag(TEXTS[:3]))
    with pytest.raises(InputError, match=r"inputs\[3\]"):
        next(answers)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("bfloat16", 0.2)])
def test_every_dtype_works(checkpoint, tag, dtype, tolerance):
    answers, expected = (pipe(TEXTS[2], ignore_labels=[]) for pipe in (ours(checkpoint(), dtype=dtype), tag))
    for one, other in zip(answers, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=tolerance)
        assert one["word"] == other["word"]


# Errors


@pytest.mark.parametrize("strategy", ["banana", "", None, 5, ["simple"], True])
def test_an_unknown_strategy_is_an_error(tag, strategy):
    with pytest.raises(InputError, match=r"aggregation_strategy is .*: expected one of none, simple, first"):
        tag(TEXTS[2], aggregation_strategy=strategy)


@pytest.mark.parametrize("stride", [POSITIONS - 2, POSITIONS, 10**9, -1, 1.5, "2", True])
@pytest.mark.parametrize("inputs", [TEXTS[2], [], LONG], ids=["short", "none", "long"])
def test_stride_must_be_less_than_the_tokens_of_a_part(tag, inputs, stride):
    with pytest.raises(InputError, match="stride is"):
        tag(inputs, stride=stride, aggregation_strategy="simple")


def test_stride_requires_an_aggregation_strategy(tag, checkpoint):
    with pytest.raises(InputError, match="stride requires aggregation_strategy other than 'none'"):
        tag(TEXTS[2], stride=2)
    with pytest.raises(InputError, match="stride requires aggregation_strategy other than 'none'"):
        ours(checkpoint(), stride=2, aggregation_strategy="simple")(TEXTS[2], aggregation_strategy="none")


@pytest.mark.parametrize("labels", ["O", 5, [5], [None], [["O"]], b"O"])
def test_ignored_labels_are_a_list_of_labels(tag, labels):
    with pytest.raises(InputError, match="ignore_labels"):
        tag(TEXTS[2], ignore_labels=labels)


@pytest.mark.parametrize(
    "inputs", [5, None, [5], [None], ["a", b"b"], [["a"]], [("a", "b")], b"ab", {"text": "a"}, ["\ud800"]]
)
def test_inputs_that_are_not_text_are_an_error(tag, inputs):
    with pytest.raises(InputError, match="inputs"):
        tag(inputs)


@pytest.mark.parametrize(
    "inputs", ["ab", 5, [5], [["a"], "b"], [["a", 5]], [["a", ["b"]]], [["a\ud800"]], {"a": 1}]
)
def test_words_are_lists_of_text(tag, inputs):
    with pytest.raises(InputError, match="inputs"):
        tag(inputs, is_split_into_words=True)


@pytest.mark.parametrize("delimiter", [None, 5, b" ", "\udcff"])
def test_a_delimiter_is_text(tag, delimiter):
    with pytest.raises(InputError, match="delimiter"):
        tag([["a"]], is_split_into_words=True, delimiter=delimiter)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "8"])
def test_batch_size_is_a_positive_integer(tag, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        tag("a", batch_size=batch_size)


@pytest.mark.parametrize("name", ["banana", "grouped_entities", "ignore_subwords", "offset_mapping"])
def test_an_unknown_argument_is_an_error(checkpoint, tag, name):
    with pytest.raises((TypeError, InputError), match=name):
        tag("a", **{name: True})
    with pytest.raises((TypeError, InputError), match=name):
        ours(checkpoint(), **{name: True})


def test_another_model_class_is_refused(checkpoint):
    folder = checkpoint(model_class=transformers.DistilBertModel)
    with pytest.raises(InputError, match="requires a DistilBertForTokenClassification, found DistilBertModel"):
        ours(minidistil.from_pretrained(folder), tokenizer=folder)
