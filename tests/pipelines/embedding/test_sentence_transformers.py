"""The files of a sentence-transformers repository set the pipeline; unsupported settings are refused."""

import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from minidistil.errors import CheckpointError
from minidistil.pipelines.sentence_transformers import ACTIVATIONS, POOLINGS
from support.embedding import (
    EMBED,
    LONG,
    MODULES,
    NORMALIZE,
    POOLING,
    POSITIONS,
    READING,
    SETTINGS,
    TEXTS,
    assert_same,
    edit,
    ours,
)

OLD = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.full
def test_the_default_prompt_of_a_repository_is_used(copied, their_encode):
    prompts = {"prompts": {"query": "the team: ", "document": ""}, "default_prompt_name": "query"}
    edit(copied / "config_sentence_transformers.json", lambda values: {**values, **prompts})
    pipe = ours(EMBED, copied)
    assert_same(pipe(TEXTS), their_encode(copied)(TEXTS))
    assert not np.allclose(pipe(TEXTS), pipe(TEXTS, prompt=""))


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


CONCATENATED = [["mean", "max"], ["weightedmean", "cls", "lasttoken", "mean_sqrt_len_tokens"], ["mean", "mean"]]


@pytest.mark.parametrize("pooling", [*POOLINGS.values(), *map(tuple, CONCATENATED)], ids=str)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_every_pooling_matches_sentence_transformers(repository, their_encode, pooling, include_prompt):
    folder = repository(pooling, include_prompt=include_prompt)
    pipe, encode = ours(EMBED, folder), their_encode(folder)
    assert_same(pipe(TEXTS), encode(TEXTS))
    assert_same(pipe(TEXTS, prompt="the team: "), encode(TEXTS, prompt="the team: "))
    assert_same(pipe(TEXTS[0], prompt="a [SEP]"), encode(TEXTS[0], prompt="a [SEP]"))


@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_prompt_longer_than_the_model_leaves_the_last_token(repository, their_encode, include_prompt):
    folder = repository(("max", "mean", "cls", "weightedmean"), include_prompt=include_prompt)
    with pytest.warns(UserWarning, match="truncated"):
        answer = ours(EMBED, folder)(TEXTS, prompt=LONG)
    assert_same(answer, their_encode(folder)(TEXTS, prompt=LONG))


def test_old_flags_are_concatenated_in_the_order_of_sentence_transformers(copied, their_encode):
    edit(copied / POOLING, lambda _: {"word_embedding_dimension": 16, **dict.fromkeys(reversed(POOLINGS), True)})
    answer = ours(EMBED, copied)(TEXTS)
    assert answer.shape == (len(TEXTS), 6 * 16)
    assert_same(answer, their_encode(copied)(TEXTS))


@pytest.mark.parametrize(
    ("dense", "options"),
    [
        *(((name,), {}) for name in ACTIVATIONS),
        (("Tanh",), {"bias": False}),
        (("Identity",), {"out_features": 32}),
        (("Tanh",), {"use_residual": True}),
        (("ReLU",), {"use_residual": True, "out_features": 16}),
        (("Tanh", "Identity"), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("normalize", [False, True])
def test_dense_modules_match_sentence_transformers(repository, their_encode, dense, options, normalize):
    folder = repository(normalize=normalize, dense=dense, **options)
    pipe = ours(EMBED, folder)
    answer = pipe(TEXTS)
    assert_same(answer, their_encode(folder)(TEXTS))
    assert_same(next(pipe(iter(TEXTS))), answer[0])
    assert pipe([]).shape == (0, answer.shape[1])


def test_a_dense_module_after_a_concatenation_matches_sentence_transformers(repository, their_encode):
    folder = repository(("cls", "mean"), dense=("Tanh",))
    pipe = ours(EMBED, folder)
    assert_same(pipe(TEXTS), their_encode(folder)(TEXTS))
    with pytest.raises(CheckpointError, match="a Dense module takes vectors of 32 elements: found 16 before it"):
        pipe(TEXTS, pooling="max")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"activation_function": "os.system"},
            "activation_function is 'os.system': minidistil supports torch.nn.I",
        ),
        ({"activation_function": "torch.nn.modules.activation.Softplus"}, "activation_function is .*Softplus'"),
        ({"activation_function": None}, "activation_function is None"),
        ({"in_features": "16"}, "in_features is '16': expected an integer"),
        ({"in_features": 8}, r"model.safetensors has the tensors .*: expected {'linear.weight': \[8, 8\]"),
        ({"bias": False}, "has the tensors .*: expected {'linear.weight'"),
        ({"bias": "true"}, "bias is 'true': expected true or false"),
        ({"use_residual": True}, "expected .*'residual.weight'"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
        ({"scale": 2}, "scale is 2, which minidistil does not support"),
    ],
    ids=str,
)
def test_an_unsupported_dense_module_is_refused(repository, tmp_path, change, message):
    folder = shutil.copytree(repository(dense=("Tanh",)), tmp_path / "copied")
    edit(folder / "2_Dense/config.json", lambda values: {**values, **change})
    with pytest.raises(CheckpointError, match=message) as error:
        ours(EMBED, folder)
    assert str(folder / "2_Dense") in str(error.value)


def test_dense_weights_must_be_finite_and_fit(repository, tmp_path):
    folder = shutil.copytree(repository(dense=("Tanh", "Tanh")), tmp_path / "copied")
    edit(folder / MODULES, lambda modules: [*modules[:2], *reversed(modules[2:])])
    with pytest.raises(CheckpointError, match="a Dense module takes vectors of 8 elements: found 16 before it"):
        ours(EMBED, folder)
    weights = {"linear.weight": torch.full((8, 8), torch.nan), "linear.bias": torch.zeros(8)}
    safetensors.torch.save_file(weights, folder / "3_Dense/model.safetensors")
    with pytest.raises(CheckpointError, match=r"3_Dense.*has weights that are nan or inf"):
        ours(EMBED, folder)


def test_the_old_layout_with_the_transformer_in_a_folder_loads(copied, their_encode):
    (copied / "0_Transformer").mkdir()
    for path in [path for path in copied.iterdir() if path.is_file() and path.name not in (MODULES, SETTINGS)]:
        path.rename(copied / "0_Transformer" / path.name)
    (copied / "0_Transformer" / READING).write_text('{"max_seq_length": 9, "do_lower_case": false}')
    edit(copied / MODULES, change_module(0, path="0_Transformer", type="sentence_transformers.models.Transformer"))
    with pytest.warns(UserWarning, match="longer than 9 tokens"):
        answer = ours(EMBED, copied)(TEXTS)
    assert_same(answer, their_encode(copied)(TEXTS))


def change_module(i, **values):
    return lambda modules: [{**module, **values} if i == j else module for j, module in enumerate(modules)]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (MODULES, lambda m: [*m[:2], DENSE], "has no 2_Dense/config.json"),
        (
            MODULES,
            lambda m: [*m, {**DENSE, "type": "sentence_transformers.models.LSTM"}],
            "the modules are .*, LSTM: minidistil supports",
        ),
        (MODULES, lambda m: [*m[:2], m[0]], "the modules are Transformer, Pooling, Transformer"),
        (MODULES, lambda m: m[:1], "the modules are Transformer:"),
        (MODULES, lambda m: [], "the modules are : minidistil supports"),
        (
            MODULES,
            change_module(1, type="custom.Pooling"),
            "the modules are Transformer, custom.Pooling, Normalize",
        ),
        (MODULES, change_module(1, kwargs=["task"]), r"kwargs is \['task'\], which minidistil does not support"),
        *[
            (MODULES, change_module(i, path=path), rf"{kind} is in .*: expected a folder of the checkpoint")
            for i, kind in enumerate(("Transformer", "Pooling", "Normalize"))
            for path in (
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
        (MODULES, change_module(1, path=""), "Pooling is in '': expected a folder of the checkpoint"),
        (MODULES, lambda m: m + m[2:] * 50, "modules.json: expected a list of modules, at most 16"),
        (
            MODULES,
            lambda m: m + m[2:],
            "two modules are in the same folder: , 1_Pooling, 2_Normalize, 2_Normalize",
        ),
        (MODULES, lambda m: [[]] * 200_000, "modules.json is not readable JSON: it has more than"),
        (POOLING, lambda p: {**p, "pooling_mode": ["mean"] * 30_000}, "pooling_mode is .*, at most 6 together"),
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
                "pooling_mode is .* supports cls, max, mean",
            )
            for mode in ("median", "mean_sqrt_len", ["mean", "first"], [], [[]], None, 3)
        ],
        (POOLING, lambda p: {**OLD, "pooling_mode_of_tomorrow": True}, "pooling_mode_of_tomorrow is True, which"),
        (POOLING, lambda p: {**OLD, "pooling_mode_cls_token": 1}, "pooling_mode_cls_token is 1: expected true or"),
        (POOLING, lambda p: {**p, "include_prompt": "no"}, "include_prompt is 'no': expected true or false"),
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
            "default_prompt_name is 'a': expected one of prompts, {}",
        ),
        (SETTINGS, lambda s: {**s, "default_prompt_name": ["a"]}, "default_prompt_name is"),
        (SETTINGS, lambda s: {"prompts": {"a": 3}}, "prompts is {'a': 3}: expected a text for each name"),
        (SETTINGS, lambda s: {"prompts": ["a"]}, "prompts is .*: expected a text for each name"),
        (SETTINGS, lambda s: {**s, "truncate_dim": 0}, "truncate_dim is 0: expected an integer of at least 1"),
        (SETTINGS, lambda s: {**s, "query_prefix": "a"}, "query_prefix is 'a', which minidistil does not support"),
        (SETTINGS, lambda s: {**s, "model_type": "SparseEncoder"}, "model_type is 'SparseEncoder'"),
        (SETTINGS, lambda s: "text", "expected a JSON object"),
    ],
)
def test_an_unsupported_setting_in_a_repository_is_refused(copied, name, change, message):
    edit(copied / name, change)
    with pytest.raises(CheckpointError, match=message) as error:
        ours(EMBED, copied)
    assert str(copied / name) in str(error.value) or "has no 2_Dense" in message


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
        (SETTINGS, lambda s: {**s, "truncate_dim": 7, "prompts": {"query": None}, "default_prompt_name": "query"}),
        (SETTINGS, lambda s: {**s, "requirements": {"sentence_transformers": ">=5"}, "truncate_dim": 100}),
        (SETTINGS, lambda s: {**s, "similarity_fn_name": "dot", "prompts": {"query": "the "}}),
    ],
)
def test_equivalent_settings_are_accepted(copied, their_encode, name, change):
    edit(copied / name, change)
    assert_same(ours(EMBED, copied)(TEXTS), their_encode(copied)(TEXTS))
