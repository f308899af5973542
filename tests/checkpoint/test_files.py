"""Checkpoints on the Hub: downloads, cache, revisions, errors of the network, and the command line."""

import importlib
import io
import json
import os
import struct
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from minidistil import CheckpointError, DistilBertConfig, DistilBertForSequenceClassification
from minidistil.checkpoint.architectures import class_for_task
from support import hub_server
from support.hub_server import (
    Client,
    Repository,
    checksum,
    command,
    command_on_a_terminal,
    load,
    load_all,
    load_in,
    load_interrupted,
    load_pinned,
    load_with,
    load_without_waiting,
    run_pipeline,
    tokenize,
    warnings_of_loading,
    zero_shot,
)

pytestmark = pytest.mark.full  # each test starts a server and a process

NAME = "typeform/distilbert-base-uncased-mnli"
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "team",
    "won",
    "this",
    "example",
    "is",
    ".",
    "a",
    "b",
]
IDS = [2, 5, 6, 7, 3]  # of "the team won"
TOKENIZER = ["special_tokens_map.json", "tokenizer_config.json", "vocab.txt"]
FILES = ["config.json", "model.safetensors", *TOKENIZER]
SENTENCES = {  # the additional files of sentence-transformers
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_cls_token": True},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
    "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.2.2"}},
}
OTHERS = [  # files for other programs
    *("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.onnx"),
    *("onnx/model.onnx", "openvino/openvino_model.bin", "coreml/float32_model.mlpackage/Manifest.json"),
    *("training_args.bin", "optimizer.pt", "trainer_state.json", "README.md", ".gitattributes"),
]
FORMS = ["safetensors", "safetensors in shards", "bin", "bin in shards"]  # in the order of preference
TEXT = {"inputs": "the team won"}
EXAMPLES = {
    "zero-shot-classification": {"sequences": "the team won", "candidate_labels": ["a", "b"]},
    "text-classification": TEXT,
    "fill-mask": {"inputs": "the [MASK] won"},
    "token-classification": TEXT,
    "question-answering": {"question": "is this a team", "context": "the team won"},
    "feature-extraction": TEXT,
    "sentence-embedding": TEXT,
}
CHUNK = 10 * 2**20  # bytes that huggingface_hub writes at a time; a broken chunk is downloaded again


def files_of(folder, mark=0.0, task="text-classification", **more):
    """Return the files of a tiny checkpoint, like NAME on the Hub. mark: the first bias of the classifier."""
    config = {
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 32,
        "dim": 16,
        "n_heads": 2,
        "n_layers": 1,
        "hidden_dim": 16,
    }
    if task != "question-answering":
        config["id2label"] = {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"}
    model = class_for_task(task)(DistilBertConfig(**{**config, **more}))
    if isinstance(model, DistilBertForSequenceClassification):
        with torch.no_grad():
            model.classifier.bias[0] = mark
    model.save_pretrained(folder)
    return {
        **{path.name: path.read_bytes() for path in folder.iterdir()},
        **{name: json.dumps(values).encode() for name, values in SENTENCES.items()},
        **dict.fromkeys(OTHERS, b"not to be downloaded"),
        "vocab.txt": "".join(f"{token}\n" for token in VOCABULARY).encode(),
        "tokenizer_config.json": b'{"do_lower_case": true, "model_max_length": 512}',
        "special_tokens_map.json": b'{"mask_token": "[MASK]"}',
    }


def tensors_of(files):
    return safetensors.torch.load(files["model.safetensors"])


def pickled(tensors):
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def in_shards(files, stem="model", ending="safetensors"):
    """Return the weights as three files: the index, a shard with the largest tensor, one with the others."""
    tensors = tensors_of(files)
    *small, large = sorted(tensors, key=lambda name: tensors[name].numel())
    write = safetensors.torch.save if ending == "safetensors" else pickled
    shards = {f"{stem}-{i:05}-of-00002.{ending}": names for i, names in ((1, small), (2, [large]))}
    index = {"metadata": {}, "weight_map": {name: shard for shard, names in shards.items() for name in names}}
    return {
        f"{stem}.{ending}.index.json": json.dumps(index).encode(),
        **{shard: write({name: tensors[name] for name in names}) for shard, names in shards.items()},
    }


def forms_of(files):
    """Return the files of each of FORMS."""
    safetensors_file = {"model.safetensors": files["model.safetensors"]}
    bin_file = {"pytorch_model.bin": pickled(tensors_of(files))}
    shards = in_shards(files), in_shards(files, "pytorch_model", "bin")
    return dict(zip(FORMS, (safetensors_file, shards[0], bin_file, shards[1]), strict=True))


BERT_PARTS = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}


def as_bert(files):
    """Return the same encoder as a BERT: DistilBERT's position embeddings are its positions + first segment."""
    config = json.loads(files["config.json"])
    sizes = {
        "hidden_size": config["dim"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
        "intermediate_size": config["hidden_dim"],
    }
    same = {key: config[key] for key in ("vocab_size", "max_position_embeddings")}
    bert = {"model_type": "bert", "architectures": ["BertModel"], **sizes, **same, "type_vocab_size": 2}
    tensors = {}
    for name, tensor in tensors_of(files).items():
        name = name.replace("transformer.layer.", "encoder.layer.")
        for part, bert_part in BERT_PARTS.items():
            name = name.replace(f".{part}.", f".{bert_part}.")
        tensors[name] = tensor
    [position] = [name for name in tensors if name.endswith("position_embeddings.weight")]
    segments = torch.randn(2, config["dim"])
    tensors[position] = tensors[position] - segments[0]
    tensors[position.replace("position", "token_type")] = segments
    return {"config.json": json.dumps(bert).encode(), "model.safetensors": safetensors.torch.save(tensors)}


def without_weights(files):
    return {name: data for name, data in files.items() if name not in ("model.safetensors", "pytorch_model.bin")}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return the files of two checkpoints with different marks and weights."""
    return {mark: files_of(tmp_path_factory.mktemp("files"), mark) for mark in (1.0, 2.0)}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return the files of a checkpoint of 2.5 chunks, nearly all of them word embeddings."""
    return files_of(tmp_path_factory.mktemp("files"), vocab_size=51_200, dim=128)


@pytest.fixture
def hub(checkpoints):
    """Run a Hub with one repository, whose main branch has the mark 1."""
    with hub_server.running() as hub:
        hub.repositories[NAME] = Repository()
        hub.repositories[NAME].push(checkpoints[1.0])
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    return Client(hub.url, tmp_path / "home")


def error_of(client, function, *arguments, **environment):
    """Check that a call raises CheckpointError, and return the message."""
    with pytest.raises(CheckpointError) as caught:
        client(function, *arguments, **environment)
    return str(caught.value)


# Downloads


def test_a_model_downloads_two_files(hub, client):
    assert client(load, NAME) == 1.0
    assert hub.downloads() == ["config.json", "model.safetensors"]


def test_a_tokenizer_downloads_its_files_and_the_config(hub, client):
    assert client(tokenize, NAME, "the team won") == IDS
    assert sorted(hub.downloads()) == ["config.json", *TOKENIZER]


@pytest.mark.parametrize("task", EXAMPLES)
def test_a_pipeline_downloads_only_needed_files_and_a_second_only_checks_the_commit(hub, client, tmp_path, task):
    hub.repositories[NAME].push(files_of(tmp_path, task=task))
    answer = client(run_pipeline, task, NAME, EXAMPLES[task])
    assert sorted(hub.downloads()) == sorted([*FILES, *(SENTENCES if task == "sentence-embedding" else [])])
    assert client(run_pipeline, task, NAME, EXAMPLES[task]) == answer
    assert hub.requests in (["HEAD config.json"], ["HEAD modules.json"])


@pytest.mark.parametrize("form", FORMS)
def test_only_one_of_several_forms_of_weights_is_downloaded(hub, client, checkpoints, form):
    forms = forms_of(checkpoints[1.0])
    there = {name: data for later in FORMS[FORMS.index(form) :] for name, data in forms[later].items()}
    hub.repositories[NAME].push({**without_weights(checkpoints[1.0]), **there})
    assert client(load_all, NAME) == checksum(tensors_of(checkpoints[1.0]))
    assert hub.downloads() == ["config.json", *forms[form]]
    hub.stop()
    assert client(load, NAME) == 1.0


def test_a_bert_is_converted(hub, client, tmp_path):
    files = files_of(tmp_path, task="feature-extraction")
    hub.repositories[NAME].push({**files, **as_bert(files)})
    hub.repositories["converted/distilbert"] = Repository()
    hub.repositories["converted/distilbert"].push(files)
    answer = client(run_pipeline, "feature-extraction", NAME, TEXT)
    assert sorted(hub.downloads()) == FILES
    expected = client(run_pipeline, "feature-extraction", "converted/distilbert", TEXT)
    torch.testing.assert_close(torch.tensor(answer), torch.tensor(expected))


def test_tokenizer_json_is_preferred_to_the_vocabulary(hub, client, checkpoints, tmp_path):
    from minidistil import Tokenizer

    (tmp_path / "files").mkdir()
    for name in ("config.json", *TOKENIZER):
        (tmp_path / "files" / name).write_bytes(checkpoints[1.0][name])
    Tokenizer.from_pretrained(tmp_path / "files").save_pretrained(tmp_path / "files")
    written = (tmp_path / "files" / "tokenizer.json").read_bytes()
    hub.repositories[NAME].push({**checkpoints[1.0], "tokenizer.json": written})
    assert client(tokenize, NAME, "the team won") == IDS
    assert "vocab.txt" not in hub.downloads()


def test_another_cache_downloads_again(hub, client, tmp_path):
    client(load, NAME)
    hub.downloads()
    Client(hub.url, tmp_path / "elsewhere")(load, NAME)
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]


def test_of_a_new_commit_only_changed_files_are_downloaded(hub, client, checkpoints):
    client(load, NAME)
    hub.downloads()
    hub.repositories[NAME].push(checkpoints[2.0])
    assert client(load, NAME) == 2.0
    assert hub.downloads() == ["model.safetensors"]


def test_all_files_are_of_one_commit_even_if_another_is_pushed(hub, client, checkpoints):
    def push_once_config_is_there(filename):
        if filename == "config.json":
            hub.repositories[NAME].push(checkpoints[2.0])

    hub.after_get = push_once_config_is_there
    assert client(load, NAME) == 1.0
    assert client(load, NAME) == 2.0


@pytest.mark.parametrize("without_symlinks", ["0", "1"])  # as on Windows
def test_all_shards_are_of_one_commit_even_if_another_is_pushed(hub, client, checkpoints, without_symlinks):
    old, new = ({**without_weights(files), **in_shards(files)} for files in checkpoints.values())
    commit = hub.repositories[NAME].push(old)

    def push_once_the_first_shard_is_there(filename):
        if filename == "model-00001-of-00002.safetensors":
            hub.repositories[NAME].push(new)

    hub.after_get = push_once_the_first_shard_is_there
    expected = [checksum(tensors_of(files)) for files in checkpoints.values()]
    assert client(load_all, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks) == expected[0]
    assert [folder.name for folder in client.home.glob("hub/*/snapshots/*")] == [commit]
    assert client(load_all, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks) == expected[1]


# Revisions


@pytest.mark.parametrize("branch", ["dev", "v1.0", "refs/pr/1"])
def test_a_branch_or_tag_is_loaded(hub, client, checkpoints, branch):
    hub.repositories[NAME].push(checkpoints[2.0], branch)
    assert client(load_pinned, NAME, branch) == 2.0
    assert client(load, NAME) == 1.0


def test_a_commit_is_loaded_after_the_branch_has_moved(hub, client, checkpoints):
    commit = hub.repositories[NAME].branches["main"]
    hub.repositories[NAME].push(checkpoints[2.0])
    assert client(load_pinned, NAME, commit) == 1.0
    assert client(load, NAME) == 2.0


def test_a_cached_commit_makes_no_request(hub, client):
    commit = hub.repositories[NAME].branches["main"]
    client(load_pinned, NAME, commit)
    hub.requests.clear()
    assert client(load_pinned, NAME, commit) == 1.0
    assert hub.requests == []


# Without the Hub


def test_offline_the_cache_is_enough(hub, client):
    first = client(zero_shot, NAME)
    hub.requests.clear()
    assert client(zero_shot, NAME, HF_HUB_OFFLINE="1") == first
    assert hub.requests == []


def test_offline_without_a_cache_the_error_names_the_variable(hub, client):
    message = error_of(client, load, NAME, HF_HUB_OFFLINE="1")
    assert NAME in message
    assert "config.json" in message
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []


def test_offline_with_a_partial_cache_the_error_names_the_missing_file(client):
    client(tokenize, NAME, "the team won")
    message = error_of(client, load, NAME, HF_HUB_OFFLINE="1")
    assert "model.safetensors" in message
    assert "HF_HUB_OFFLINE" in message


def test_offline_without_a_cached_tokenizer_the_error_names_the_variable(client):
    client(load, NAME)
    assert "HF_HUB_OFFLINE" in error_of(client, tokenize, NAME, "the team won", HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    "lacks", [(), ("special_tokens_map.json",), ("special_tokens_map.json", "tokenizer_config.json")]
)
def test_when_the_hub_is_unreachable_the_cache_is_enough(hub, client, checkpoints, lacks):
    # missing files of a commit must be cached too
    hub.repositories[NAME].push({name: data for name, data in checkpoints[1.0].items() if name not in lacks})
    first = client(zero_shot, NAME)
    hub.stop()
    assert client(zero_shot, NAME) == first


def test_when_the_hub_is_unreachable_without_a_cache_the_error_names_it(hub, client):
    hub.stop()
    message = error_of(client, load, NAME)
    assert "cannot reach the Hub" in message
    assert NAME in message
    assert client(load_without_waiting, NAME) == 0


def test_when_the_hub_is_unreachable_the_error_names_folders_with_a_similar_name(hub, client, tmp_path):
    (tmp_path / "runs" / "model").mkdir(parents=True)
    hub.stop()
    assert "similar folders: runs/model" in error_of(client, load_in, str(tmp_path), "runs/modle")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_when_the_hub_fails_the_cache_is_enough(hub, client, status):
    client(load, NAME)
    hub.status = status
    assert client(load, NAME) == 1.0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_when_the_hub_fails_without_a_cache_the_error_has_the_status(hub, client, status):
    hub.status = status
    message = error_of(client, load, NAME)
    assert NAME in message
    assert str(status) in message


@pytest.mark.parametrize(
    ("failing", "status"), [("HEAD config.json", 429), ("HEAD model.safetensors", 503), ("GET vocab.txt", 429)]
)
def test_requests_are_retried_until_the_hub_recovers(hub, client, failing, status):
    hub.errors[failing] = [status] * 3
    assert client(zero_shot, NAME)["sequence"] == "the team won"
    assert hub.errors == {failing: []}


def test_an_error_of_the_storage_names_the_file_and_is_not_cached(hub, client):
    hub.errors["GET model.safetensors"] = [503]
    message = error_of(client, load, NAME)
    assert "model.safetensors" in message
    assert "503" in message
    assert client(load, NAME) == 1.0


# Broken downloads


broken = pytest.mark.parametrize(
    ("form", "filename"),
    [("safetensors", "model.safetensors"), ("bin in shards", "pytorch_model-00002-of-00002.bin")],
)


@broken
def test_a_broken_download_is_resumed(hub, client, large, form, filename):
    files = {**without_weights(large), **forms_of(large)[form]}
    hub.repositories[NAME].push(files)
    hub.cuts[filename] = 1
    assert client(load_all, NAME) == checksum(tensors_of(large))
    assert hub.downloads() == ["config.json", *forms_of(large)[form], filename]
    size = len(files[filename])
    assert size < hub.sent[filename] < size + CHUNK  # once in total; a restart would send half of it again


@broken
def test_a_download_that_stays_broken_is_an_error_and_leaves_no_broken_file(
    hub, client, checkpoints, form, filename
):
    hub.repositories[NAME].push({**without_weights(checkpoints[1.0]), **forms_of(checkpoints[1.0])[form]})
    hub.cuts[filename] = 1000
    message = error_of(client, load, NAME)
    assert filename in message
    assert NAME in message
    hub.cuts.clear()
    hub.downloads()
    assert client(load_all, NAME) == checksum(tensors_of(checkpoints[1.0]))
    assert hub.downloads() == [filename]


@pytest.mark.parametrize("without_symlinks", ["0", "1"])  # as on Windows
@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
def test_wrong_bytes_of_the_right_size_are_refused_and_deleted(hub, client, filename, without_symlinks):
    hub.wrong.add(filename)
    message = error_of(client, load, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks)
    assert f"{filename} of {NAME}" in message
    assert "it differs from its ETag" in message
    hub.wrong.clear()
    assert client(load, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks) == 1.0


@pytest.mark.parametrize("without_symlinks", ["0", "1"])
def test_a_file_of_another_commit_is_refused_and_deleted(hub, client, without_symlinks):
    hub.moved["model.safetensors"] = "f" * 40
    message = error_of(client, load, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks)
    assert f"model.safetensors of {NAME}" in message
    assert f"it is of commit {'f' * 40}: expected {hub.repositories[NAME].branches['main']}" in message
    hub.moved.clear()
    assert client(load, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks) == 1.0


@pytest.mark.parametrize("without_symlinks", ["0", "1"])
def test_a_check_that_was_interrupted_is_repeated(hub, client, without_symlinks):
    hub.wrong.add("model.safetensors")
    assert client(load_interrupted, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks)
    hub.wrong.clear()
    assert "it differs from its ETag" in error_of(client, load, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks)
    assert client(load, NAME, HF_HUB_DISABLE_SYMLINKS=without_symlinks) == 1.0
    assert not [*client.home.rglob("unchecked--*")]


def test_hashes_in_capitals_are_verified(hub, client):
    hub.etags = str.upper
    hub.wrong.add("model.safetensors")
    assert "it differs from its ETag" in error_of(client, load, NAME)
    hub.wrong.clear()
    assert client(warnings_of_loading, NAME) == []


def test_downloads_whose_etags_are_no_hashes_are_warned_about_once(hub, client):
    hub.etags = lambda etag: etag[:32]  # as MD5
    [message] = client(warnings_of_loading, NAME)
    assert f"downloads of {NAME} are not verified: the server sent the ETag" in message
    assert client(warnings_of_loading, NAME) == []


def test_a_broken_link_in_the_cache_is_an_error_without_a_network(hub, client):
    assert client(tokenize, NAME, "the team won") == IDS
    [link] = client.home.glob("hub/*/snapshots/*/tokenizer_config.json")
    link.resolve().unlink()
    message = error_of(client, tokenize, NAME, "the team won", HF_HUB_OFFLINE="1")
    assert "tokenizer_config.json is a broken link" in message
    assert client(tokenize, NAME, "the team won") == IDS


def test_a_cached_file_is_not_verified_again(hub, client):
    assert client(load, NAME) == 1.0
    [blob] = [path for path in client.home.glob("hub/*/blobs/*") if len(path.name) == 64]
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-4] + bytes(4))  # the last bytes are weights
    client(load, NAME)  # loads what is there


# Access


def test_a_token_may_be_an_argument(hub, client):
    hub.repositories[NAME].token = "hf_secret"
    assert NAME in error_of(client, load_with, NAME, {"token": "hf_wrong"})
    assert client(load_with, NAME, {"token": "hf_secret"}) == 1.0
    hub.requests.clear()
    assert client(load_with, NAME, {"local_files_only": True}) == 1.0
    assert hub.requests == []


def test_a_private_repository_needs_a_token(hub, client):
    hub.repositories[NAME].token = "hf_secret"
    message = error_of(client, load, NAME)
    assert NAME in message
    assert "hf auth login" in message
    assert NAME in error_of(client, load, NAME, HF_TOKEN="hf_wrong")
    assert client(load, NAME, HF_TOKEN="hf_secret") == 1.0


def test_a_stored_token_is_used(hub, client):
    hub.repositories[NAME].token = "hf_secret"
    client.home.mkdir()
    (client.home / "token").write_text("hf_secret")
    assert client(load, NAME) == 1.0


def test_an_expired_token_is_an_error_with_the_login_command(hub, client):
    hub.expired = "hf_old"
    message = error_of(client, load, NAME, HF_TOKEN="hf_old")
    assert "hf auth login" in message
    assert client(load, NAME) == 1.0


def test_a_gated_repository_is_an_error(hub, client):
    hub.repositories[NAME].gated = True
    assert "gated" in error_of(client, load, NAME, HF_TOKEN="hf_secret")


# Missing files


def test_a_missing_repository_is_named(client):
    message = error_of(client, load, "nobody/nothing")
    assert "nobody/nothing" in message
    assert "no Hub repository" in message
    assert "nobody/nothing" in error_of(client, load, "nobody/nothing", HF_TOKEN="hf_any")


@pytest.mark.parametrize("name", ["distilbert-base-uncased-mnli", "huggingface/distilbert-mnli"])
def test_a_renamed_repository_is_found_by_its_old_name(hub, client, name):
    hub.repositories[name] = Repository(moved_to=NAME)
    first = client(zero_shot, name)
    assert sorted(hub.downloads()) == FILES
    assert client(zero_shot, name) == first
    assert hub.downloads() == []


def test_a_missing_revision_is_named(client):
    message = error_of(client, load_pinned, NAME, "gone")
    assert NAME in message
    assert "no revision gone" in message
    assert "no revision" in error_of(client, load_pinned, NAME, "0" * 40)


@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(hub, client, checkpoints, filename):
    excluded = (filename, "pytorch_model.bin")
    hub.repositories[NAME].push({name: data for name, data in checkpoints[1.0].items() if name not in excluded})
    message = error_of(client, load, NAME)
    assert NAME in message
    assert f"no {filename}" in message


def test_a_missing_tokenizer_is_named(hub, client, checkpoints):
    hub.repositories[NAME].push({name: checkpoints[1.0][name] for name in ("config.json", "model.safetensors")})
    assert "tokenizer.json or vocab.txt" in error_of(client, tokenize, NAME, "the team won")


@pytest.mark.parametrize("form", ["safetensors in shards", "bin in shards"])
def test_a_missing_shard_is_named(hub, client, checkpoints, form):
    *there, missing = forms_of(checkpoints[1.0])[form].items()
    hub.repositories[NAME].push({**without_weights(checkpoints[1.0]), **dict(there)})
    message = error_of(client, load, NAME)
    assert NAME in message
    assert f"no {missing[0]} on the Hub" in message


def test_a_missing_tokenizer_is_noticed_before_the_weights_are_downloaded(hub, client, checkpoints):
    hub.repositories[NAME].push({name: checkpoints[1.0][name] for name in ("config.json", "model.safetensors")})
    assert "tokenizer.json or vocab.txt" in error_of(client, zero_shot, NAME)
    assert hub.downloads() == ["config.json"]


def test_broken_weights_are_an_error_that_names_the_file(hub, client, checkpoints):
    hub.repositories[NAME].push({**checkpoints[1.0], "model.safetensors": b"broken"})
    assert "model.safetensors" in error_of(client, load, NAME)


# The command line


QUESTION = ["zero-shot", "the team won", "--labels", "a,b", "--device", "cpu", "--json", "--model"]


def test_the_command_line_shows_the_progress_of_downloads_on_a_terminal(hub, client):
    termios = pytest.importorskip("termios")
    terminal, stderr = os.openpty()
    importlib.import_module("fcntl").ioctl(stderr, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    arguments = [sys.executable, "-m", "minidistil", *QUESTION, NAME]
    environment = client.environment()
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8")
    os.close(stderr)
    shown = os.read(terminal, 2**16).decode()
    os.close(terminal)
    assert done.returncode == 0, shown
    answer = json.loads(done.stdout)
    assert sorted(answer["labels"]) == ["a", "b"]
    assert sum(answer["scores"]) == pytest.approx(1)
    assert sorted(hub.downloads()) == FILES
    assert [name for name in FILES if f"{name}: 100%" not in shown] == []
    hub.stop()
    assert client(command_on_a_terminal, *QUESTION, NAME, HF_HUB_OFFLINE="1") == (0, done.stdout, "")


@pytest.mark.parametrize("verb", [QUESTION, ["classify", "the team won", "--device", "cpu", "--model"]])
def test_progress_is_shown_for_the_first_download_only(client, verb):
    status, out, err = client(command_on_a_terminal, *verb, NAME)
    assert status == 0
    assert [name for name in FILES if f"{name}: 100%" not in err] == []
    assert client(command_on_a_terminal, *verb, NAME) == (0, out, "")


@pytest.mark.parametrize(
    ("run", "environment"), [(command, {}), (command_on_a_terminal, {"HF_HUB_DISABLE_PROGRESS_BARS": "1"})]
)
def test_progress_bars_need_a_terminal_and_can_be_disabled(client, run, environment):
    status, out, err = client(run, *QUESTION, NAME, **environment)
    assert (status, err) == (0, "")
    assert json.loads(out)["sequence"] == "the team won"


@pytest.mark.parametrize("run", [command, command_on_a_terminal])
def test_a_resumed_download_prints_nothing_to_stdout(hub, client, run):
    hub.errors["HEAD config.json"] = [503]
    hub.cuts["model.safetensors"] = 1
    status, out, _ = client(run, *QUESTION, NAME)
    assert status == 0
    assert json.loads(out)["sequence"] == "the team won"


def test_the_command_line_takes_a_revision(hub, client, checkpoints):
    hub.repositories[NAME].push(checkpoints[2.0], "dev")
    hub.repositories[NAME].push({})
    status, out, _ = client(command, *QUESTION, NAME, "--revision", "dev")
    assert status == 0
    assert json.loads(out)["sequence"] == "the team won"


def test_the_command_line_names_a_missing_repository_in_one_line(client):
    status, out, err = client(command, *QUESTION, "nobody/nothing")
    assert (status, out) == (2, "")
    assert "nobody/nothing" in err
    assert len(err.splitlines()) == 1
