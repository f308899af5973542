import json
import subprocess
import sys

import hub_server
import pytest
import torch
from hub_server import Client, Repository, command, load, load_pinned, tokenize, zero_shot

from minidistil import CheckpointError, DistilBertConfig, DistilBertForSequenceClassification

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


def files_of(folder, mark):
    """The files of a tiny checkpoint, laid out as those of NAME on the Hub. mark: the classifier's first bias."""
    config = DistilBertConfig(
        vocab_size=len(VOCABULARY),
        max_position_embeddings=32,
        dim=16,
        n_heads=2,
        n_layers=1,
        hidden_dim=16,
        id2label={0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"},
    )
    model = DistilBertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.bias[0] = mark
    model.save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    others = ["pytorch_model.bin", "tf_model.h5", "README.md", ".gitattributes"]
    return {
        **files,
        **dict.fromkeys(others, b"not to be downloaded"),
        "vocab.txt": "".join(f"{token}\n" for token in VOCABULARY).encode(),
        "tokenizer_config.json": b'{"do_lower_case": true, "model_max_length": 512}',
        "special_tokens_map.json": b'{"mask_token": "[MASK]"}',
    }


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The files of two checkpoints, which differ in their mark."""
    return {mark: files_of(tmp_path_factory.mktemp("files"), mark) for mark in (1.0, 2.0)}


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
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]


def test_a_tokenizer_is_its_own_files_and_the_config(hub, client):
    assert client(tokenize, NAME, "the team won") == IDS
    assert sorted(hub.downloads()) == ["config.json", *TOKENIZER]


def test_a_pipeline_downloads_nothing_else(hub, client):
    assert client(zero_shot, NAME)["sequence"] == "the team won"
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors", *TOKENIZER]


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


def test_a_second_load_downloads_nothing(hub, client):
    first = client(zero_shot, NAME)
    hub.downloads()
    assert client(zero_shot, NAME) == first
    assert hub.downloads() == []


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
def test_when_the_hub_fails_the_cache_is_enough_and_without_it_the_error_says_so(hub, client, status):
    hub.status = status
    assert NAME in complain(client, load, NAME)
    hub.status = None
    client(load, NAME)
    hub.status = status
    assert client(load, NAME) == 1.0


def test_a_download_that_breaks_off_is_an_error_and_leaves_no_broken_file_behind(hub, client):
    hub.cut = "model.safetensors"
    assert "model.safetensors" in complain(client, load, NAME)
    hub.cut = None
    assert client(load, NAME) == 1.0


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


def test_a_gated_repository_says_that_access_must_be_asked_for(hub, client):
    hub.repositories[NAME].gated = True
    assert "gated" in complain(client, load, NAME, HF_TOKEN="hf_secret")


# What is not there


def test_a_missing_repository_is_named(client):
    message = complain(client, load, "nobody/nothing")
    assert "nobody/nothing" in message
    assert "no Hub repository" in message
    assert "nobody/nothing" in complain(client, load, "nobody/nothing", HF_TOKEN="hf_any")


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


def test_broken_weights_on_the_hub_are_an_error_that_names_the_file(hub, client, checkpoints):
    hub.repositories[NAME].push({**checkpoints[1.0], "model.safetensors": b"broken"})
    assert "model.safetensors" in complain(client, load, NAME)


# The command line


QUESTION = ["zero-shot", "the team won", "--labels", "a,b", "--device", "cpu", "--json", "--model"]


def test_the_command_line_downloads_and_answers(hub, client):
    arguments = [sys.executable, "-m", "minidistil", *QUESTION, NAME]
    done = subprocess.run(arguments, env=client.environment(), capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert sorted(answer["labels"]) == ["a", "b"]
    assert sum(answer["scores"]) == pytest.approx(1)
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors", *TOKENIZER]
    hub.stop()
    assert client(command, *QUESTION, NAME, HF_HUB_OFFLINE="1") == (0, done.stdout, "")


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
