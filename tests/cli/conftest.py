"""Tiny checkpoints, a function that runs the command on them, and the pipelines with the expected answers."""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file

import minidistil
from minidistil.cli import main as cli
from support.cli import (
    HEADS,
    POSITIONS,
    WORDS,
    Result,
    default_pipeline,
    write_json,
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny classifier with random weights, in the Hub's format."""
    folder = tmp_path_factory.mktemp("checkpoint")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "!", *WORDS.split()]
    config = minidistil.DistilBertConfig(
        vocab_size=len(vocab),
        max_position_embeddings=POSITIONS,
        n_layers=2,
        n_heads=2,
        dim=16,
        hidden_dim=32,
        id2label={0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"},
        architectures=("DistilBertForSequenceClassification",),
    )
    write_json(folder / "config.json", config.to_dict())
    torch.manual_seed(0)
    shapes = minidistil.DistilBertForSequenceClassification(config, device="meta").state_dict()
    weights = {name: torch.randn(tensor.shape) for name, tensor in shapes.items()}
    for name, tensor in weights.items():
        if name.lower().endswith("norm.weight"):
            tensor.mul_(0.2).add_(1)
        elif tensor.ndim == 2 and "embeddings" not in name:
            tensor.mul_(3 / tensor.shape[1] ** 0.5)  # so that the scores are far from uniform
    save_file(weights, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": POSITIONS})
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the checkpoint, for a test to damage."""
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def command(capsys, monkeypatch, folder):
    """Run the command in this process, with the tiny checkpoint unless --model is passed.

    device: "cpu" computes in torch; None: as by default, a few texts in NumPy.
    """
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the command replaces it

    def run(*arguments, stdin=b"", device="cpu"):
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin)
        )
        arguments = [str(argument) for argument in arguments]
        if "--model" not in arguments:
            arguments += ["--model", str(folder)]
        if "--device" not in arguments and device is not None:
            arguments += ["--device", device]
        code = cli.main(arguments)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def zero_shot(folder):
    return default_pipeline("zero-shot-classification", folder)


@pytest.fixture(scope="session")
def classify(folder):
    return default_pipeline("text-classification", folder)


@pytest.fixture(scope="session")
def heads(folder, tmp_path_factory):
    """A tiny checkpoint for each verb, with the classifier's tokenizer."""
    folders = {}
    for verb, (_, cls) in HEADS.items():
        folders[verb] = shutil.copytree(folder, tmp_path_factory.mktemp("heads") / verb)
        config = dataclasses.replace(
            minidistil.from_pretrained(folder).config, id2label={0: "O", 1: "B-MAN"}, n_layers=1
        )
        torch.manual_seed(1)
        model = cls(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
        model.save_pretrained(folders[verb])
    return folders


@pytest.fixture
def verb(command, heads):
    """Run a verb with its checkpoint."""
    return lambda name, *arguments, **options: command(name, *arguments, "--model", heads[name], **options)


@pytest.fixture
def pipe(heads):
    """The pipeline behind a verb."""
    return lambda name: minidistil.pipeline(HEADS[name][0], heads[name], device="cpu")
