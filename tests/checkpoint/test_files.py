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
    ask,
    checksum,
    command,
    command_on_a_terminal,
    load,
    load_all,
    load_pinned,
    tokenize,
    zero_shot,
)

pytestmark = pytest.mark.full  # a Hub and a process for each

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
SENTENCES = {  # what sentence-transformers adds
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_cls_token": True},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
    "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.2.2"}},
}
OTHERS = [  # what other programs read
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
CHUNK = 10 * 2**20  # bytes that huggingface_hub writes at a time: what came of one before a break comes twice


def files_of(folder, mark=0.0, task="text-classification", **more):
    """The files of a tiny checkpoint, laid out as those of NAME on the Hub. mark: the classifier's first bias."""
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
    """The weights of a checkpoint as three files: the index, all but the largest tensor, and that."""
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
    """The files of each of FORMS."""
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
    """The same encoder as a BERT, whose first segment is part of what DistilBERT adds to each position."""
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
        for part, its in BERT_PARTS.items():
            name = name.replace(f".{part}.", f".{its}.")
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
    """The files of two checkpoints, which differ in their mark and in all else."""
    return {mark: files_of(tmp_path_factory.mktemp("files"), mark) for mark in (1.0, 2.0)}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The files of a checkpoint of two chunks and a half, nearly all of them the word table's."""
    return files_of(tmp_path_factory.mktemp("files"), vocab_size=51_200, dim=128)


@pytest.fixture
def hub(checkpoints):
    """A Hub with one repository, whose main branch has the mark 1."""
    with hub_server.running() as hub:
        hub.repositories[NAME] = Repository()
        hub.repositories[NAME].push(checkpoints[1.0])
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    return Client(hub.url, tmp_path / "home")


def complain(client, function, *arguments, **environment):
    """The message of the CheckpointError that a call must end in."""
    with pytest.raises(CheckpointError) as caught:
        client(function, *arguments, **environment)
    return str(caught.value)


# What is downloaded


def test_a_model_is_two_files(hub, client):
    assert client(load, NAME) == 1.0
    assert hub.downloads() == ["config.json", "model.safetensors"]


def test_a_tokenizer_is_its_own_files_and_the_config(hub, client):
    assert client(tokenize, NAME, "the team won") == IDS
    assert sorted(hub.downloads()) == ["config.json", *TOKENIZER]


@pytest.mark.parametrize("task", EXAMPLES)
def test_a_pipeline_downloads_what_its_task_needs_and_a_second_asks_for_the_commit_alone(
    hub, client, tmp_path, task
):
    hub.repositories[NAME].push(files_of(tmp_path, task=task))
    answer = client(ask, task, NAME, EXAMPLES[task])
    assert sorted(hub.downloads()) == sorted([*FILES, *(SENTENCES if task == "sentence-embedding" else [])])
    assert client(ask, task, NAME, EXAMPLES[task]) == answer
    assert hub.requests == ["HEAD config.json"]


@pytest.mark.parametrize("form", FORMS)
def test_of_several_forms_of_the_weights_one_is_downloaded(hub, client, checkpoints, form):
    forms = forms_of(checkpoints[1.0])
    there = {name: data for later in FORMS[FORMS.index(form) :] for name, data in forms[later].items()}
    hub.repositories[NAME].push({**without_weights(checkpoints[1.0]), **there})
    assert client(load_all, NAME) == checksum(tensors_of(checkpoints[1.0]))
    assert hub.downloads() == ["config.json", *forms[form]]
    hub.stop()
    assert client(load, NAME) == 1.0


def test_a_bert_is_folded(hub, client, tmp_path):
    files = files_of(tmp_path, task="feature-extraction")
    hub.repositories[NAME].push({**files, **as_bert(files)})
    hub.repositories["its/distilbert"] = Repository()
    hub.repositories["its/distilbert"].push(files)
    answer = client(ask, "feature-extraction", NAME, TEXT)
    assert sorted(hub.downloads()) == FILES
    expected = client(ask, "feature-extraction", "its/distilbert", TEXT)
    torch.testing.assert_close(torch.tensor(answer), torch.tensor(expected))


def test_tokenizer_json_takes_the_place_of_the_vocabulary(hub, client, checkpoints, tmp_path):
    from minidistil import Tokenizer

    (tmp_path / "files").mkdir()
    for name in ("config.json", *TOKENIZER):
        (tmp_path / "files" / name).write_bytes(checkpoints[1.0][name])
    Tokenizer.from_pretrained(tmp_path / "files").save_pretrained(tmp_path / "files")
    written = (tmp_path / "files" / "tokenizer.json").read_bytes()
    hub.repositories[NAME].push({**checkpoints[1.0], "tokenizer.json": written})
    assert client(tokenize, NAME, "the team won") == IDS
    assert "vocab.txt" not in hub.downloads()


def test_another_user_s_cache_is_another(hub, client, tmp_path):
    client(load, NAME)
    hub.downloads()
    Client(hub.url, tmp_path / "elsewhere")(load, NAME)
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]


def test_a_new_commit_is_noticed_and_only_what_changed_downloaded(hub, client, checkpoints):
    client(load, NAME)
    hub.downloads()
    hub.repositories[NAME].push(checkpoints[2.0])
    assert client(load, NAME) == 2.0
    assert hub.downloads() == ["model.safetensors"]


def test_all_files_are_of_one_commit_whatever_is_pushed_in_between(hub, client, checkpoints):
    def push_once_config_is_there(filename):
        if filename == "config.json":
            hub.repositories[NAME].push(checkpoints[2.0])

    hub.after_get = push_once_config_is_there
    assert client(load, NAME) == 1.0
    assert client(load, NAME) == 2.0


@pytest.mark.parametrize("without_symlinks", ["0", "1"])  # as on Windows
def test_all_shards_are_of_one_commit_whatever_is_pushed_in_between(hub, client, checkpoints, without_symlinks):
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


def test_a_commit_is_loaded_after_the_branch_has_moved_on(hub, client, checkpoints):
    commit = hub.repositories[NAME].branches["main"]
    hub.repositories[NAME].push(checkpoints[2.0])
    assert client(load_pinned, NAME, commit) == 1.0
    assert client(load, NAME) == 2.0


def test_a_commit_that_is_cached_needs_no_hub(hub, client):
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


def test_offline_without_a_cache_the_error_says_so(hub, client):
    message = complain(client, load, NAME, HF_HUB_OFFLINE="1")
    assert NAME in message
    assert "config.json" in message
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []


def test_offline_with_half_a_cache_the_error_names_the_other_half(client):
    client(tokenize, NAME, "the team won")
    message = complain(client, load, NAME, HF_HUB_OFFLINE="1")
    assert "model.safetensors" in message
    assert "HF_HUB_OFFLINE" in message


def test_offline_a_tokenizer_that_is_not_cached_is_not_called_missing(client):
    client(load, NAME)
    assert "HF_HUB_OFFLINE" in complain(client, tokenize, NAME, "the team won", HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    "lacks", [(), ("special_tokens_map.json",), ("special_tokens_map.json", "tokenizer_config.json")]
)
def test_when_the_hub_is_gone_the_cache_is_enough(hub, client, checkpoints, lacks):
    # which files a commit does not have is to be remembered too
    hub.repositories[NAME].push({name: data for name, data in checkpoints[1.0].items() if name not in lacks})
    first = client(zero_shot, NAME)
    hub.stop()
    assert client(zero_shot, NAME) == first


def test_when_the_hub_is_gone_and_nothing_is_cached_the_error_says_so(hub, client):
    hub.stop()
    message = complain(client, load, NAME)
    assert "cannot reach the Hub" in message
    assert NAME in message


@pytest.mark.parametrize("status", [429, 500, 503])
def test_when_the_hub_fails_the_cache_is_enough(hub, client, status):
    client(load, NAME)
    hub.status = status
    assert client(load, NAME) == 1.0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_when_the_hub_fails_and_nothing_is_cached_the_error_says_so(hub, client, status):
    hub.status = status
    message = complain(client, load, NAME)
    assert NAME in message
    assert str(status) in message


@pytest.mark.parametrize(
    ("asked", "status"), [("HEAD config.json", 429), ("HEAD model.safetensors", 503), ("GET vocab.txt", 429)]
)
def test_when_the_hub_recovers_the_load_goes_on(hub, client, asked, status):
    hub.errors[asked] = [status] * 3
    assert client(zero_shot, NAME)["sequence"] == "the team won"
    assert hub.errors == {asked: []}


def test_an_error_of_the_storage_names_the_file_and_is_not_for_ever(hub, client):
    hub.errors["GET model.safetensors"] = [503]
    message = complain(client, load, NAME)
    assert "model.safetensors" in message
    assert "503" in message
    assert client(load, NAME) == 1.0


# A download that breaks off


broken = pytest.mark.parametrize(
    ("form", "filename"),
    [("safetensors", "model.safetensors"), ("bin in shards", "pytorch_model-00002-of-00002.bin")],
)


@broken
def test_it_is_taken_up_where_it_broke_off(hub, client, large, form, filename):
    files = {**without_weights(large), **forms_of(large)[form]}
    hub.repositories[NAME].push(files)
    hub.cuts[filename] = 1
    assert client(load_all, NAME) == checksum(tensors_of(large))
    assert hub.downloads() == ["config.json", *forms_of(large)[form], filename]
    size = len(files[filename])
    assert size < hub.sent[filename] < size + CHUNK  # about once: from the start it would be a half more


@broken
def test_when_it_stays_broken_that_is_an_error_and_leaves_no_broken_file_behind(
    hub, client, checkpoints, form, filename
):
    hub.repositories[NAME].push({**without_weights(checkpoints[1.0]), **forms_of(checkpoints[1.0])[form]})
    hub.cuts[filename] = 1000
    message = complain(client, load, NAME)
    assert filename in message
    assert NAME in message
    hub.cuts.clear()
    hub.downloads()
    assert client(load_all, NAME) == checksum(tensors_of(checkpoints[1.0]))
    assert hub.downloads() == [filename]


# Who may read


def test_a_private_repository_needs_a_token(hub, client):
    hub.repositories[NAME].token = "hf_secret"
    message = complain(client, load, NAME)
    assert NAME in message
    assert "hf auth login" in message
    assert NAME in complain(client, load, NAME, HF_TOKEN="hf_wrong")
    assert client(load, NAME, HF_TOKEN="hf_secret") == 1.0


def test_a_token_that_was_logged_in_is_used(hub, client):
    hub.repositories[NAME].token = "hf_secret"
    client.home.mkdir()
    (client.home / "token").write_text("hf_secret")
    assert client(load, NAME) == 1.0


def test_a_token_that_has_expired_is_said_to_be_so(hub, client):
    hub.expired = "hf_old"
    message = complain(client, load, NAME, HF_TOKEN="hf_old")
    assert "hf auth login" in message
    assert client(load, NAME) == 1.0


def test_a_gated_repository_says_that_access_must_be_asked_for(hub, client):
    hub.repositories[NAME].gated = True
    assert "gated" in complain(client, load, NAME, HF_TOKEN="hf_secret")


# What is not there


def test_a_missing_repository_is_named(client):
    message = complain(client, load, "nobody/nothing")
    assert "nobody/nothing" in message
    assert "no Hub repository" in message
    assert "nobody/nothing" in complain(client, load, "nobody/nothing", HF_TOKEN="hf_any")


@pytest.mark.parametrize("name", ["distilbert-base-uncased-mnli", "huggingface/distilbert-mnli"])
def test_a_renamed_repository_is_found_by_its_old_name(hub, client, name):
    hub.repositories[name] = Repository(moved_to=NAME)
    first = client(zero_shot, name)
    assert sorted(hub.downloads()) == FILES
    assert client(zero_shot, name) == first
    assert hub.downloads() == []


def test_a_missing_revision_is_named(client):
    message = complain(client, load_pinned, NAME, "gone")
    assert NAME in message
    assert "no revision gone" in message
    assert "no revision" in complain(client, load_pinned, NAME, "0" * 40)


@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(hub, client, checkpoints, filename):
    left_out = (filename, "pytorch_model.bin")
    hub.repositories[NAME].push({name: data for name, data in checkpoints[1.0].items() if name not in left_out})
    message = complain(client, load, NAME)
    assert NAME in message
    assert f"no {filename}" in message


def test_a_repository_without_a_tokenizer_says_what_was_expected(hub, client, checkpoints):
    hub.repositories[NAME].push({name: checkpoints[1.0][name] for name in ("config.json", "model.safetensors")})
    assert "tokenizer.json or vocab.txt" in complain(client, tokenize, NAME, "the team won")


@pytest.mark.parametrize("form", ["safetensors in shards", "bin in shards"])
def test_a_shard_that_is_missing_is_named(hub, client, checkpoints, form):
    *there, missing = forms_of(checkpoints[1.0])[form].items()
    hub.repositories[NAME].push({**without_weights(checkpoints[1.0]), **dict(there)})
    message = complain(client, load, NAME)
    assert NAME in message
    assert f"no {missing[0]} on the Hub" in message


def test_a_tokenizer_is_missed_before_the_weights_are_downloaded(hub, client, checkpoints):
    hub.repositories[NAME].push({name: checkpoints[1.0][name] for name in ("config.json", "model.safetensors")})
    assert "tokenizer.json or vocab.txt" in complain(client, zero_shot, NAME)
    assert hub.downloads() == ["config.json"]


def test_broken_weights_on_the_hub_are_an_error_that_names_the_file(hub, client, checkpoints):
    hub.repositories[NAME].push({**checkpoints[1.0], "model.safetensors": b"broken"})
    assert "model.safetensors" in complain(client, load, NAME)


# The command line


QUESTION = ["zero-shot", "the team won", "--labels", "a,b", "--device", "cpu", "--json", "--model"]


def test_the_command_line_downloads_and_answers_and_a_terminal_shows_how_far_it_is(hub, client):
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
def test_a_terminal_shows_a_first_download_and_no_second(client, verb):
    status, out, err = client(command_on_a_terminal, *verb, NAME)
    assert status == 0
    assert [name for name in FILES if f"{name}: 100%" not in err] == []
    assert client(command_on_a_terminal, *verb, NAME) == (0, out, "")


@pytest.mark.parametrize(
    ("run", "environment"), [(command, {}), (command_on_a_terminal, {"HF_HUB_DISABLE_PROGRESS_BARS": "1"})]
)
def test_without_a_terminal_or_where_they_are_switched_off_there_are_no_progress_bars(client, run, environment):
    status, out, err = client(run, *QUESTION, NAME, **environment)
    assert (status, err) == (0, "")
    assert json.loads(out)["sequence"] == "the team won"


@pytest.mark.parametrize("run", [command, command_on_a_terminal])
def test_a_download_that_is_taken_up_again_leaves_stdout_to_the_answer(hub, client, run):
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


def test_the_command_line_says_in_one_line_what_is_missing(client):
    status, out, err = client(command, *QUESTION, "nobody/nothing")
    assert (status, out) == (2, "")
    assert "nobody/nothing" in err
    assert len(err.splitlines()) == 1
