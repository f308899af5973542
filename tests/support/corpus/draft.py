"""A checkpoint before it is written, what can be changed in it, and how it is loaded."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import pickle
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import minidistil
from minidistil import CheckpointError
from support.twins import draw

SIZES = {"vocab_size": 60, "max_position_embeddings": 16, "id2label": {0: "contra", 1: "entail", 2: "neutral"}}
DISTIL = {"dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48}
BERT = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
IDS = (torch.arange(24).reshape(3, 8) * 7 + 5) % 60
MASK = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] + [0] * 7])
WORDS = "distilbert.embeddings.word_embeddings.weight"
TYPEFORM = {  # the keys of the checkpoint that the zero-shot pipeline is known for
    "activation": "gelu",
    "architectures": ["DistilBertForSequenceClassification"],
    "attention_dropout": 0.1,
    "dropout": 0.1,
    "finetuning_task": "mnli",
    "id2label": {"0": "ENTAILMENT", "1": "NEUTRAL", "2": "CONTRADICTION"},
    "initializer_range": 0.02,
    "label2id": {"CONTRADICTION": 2, "ENTAILMENT": 0, "NEUTRAL": 1},
    "model_type": "distilbert",
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "transformers_version": "4.3.2",
    "xla_device": True,
}


# Models of transformers'


@functools.cache
def model_of(name: str, **values: Any) -> Any:
    """Transformers' model of that class, with weights large enough that no logits are flat. Not to be changed."""
    bert = name.startswith("Bert")
    options = {"add_pooling_layer": values.pop("pooler")} if "pooler" in values else {}
    labels = {"id2label": {i: f"label {i}" for i in range(values.pop("labels"))}} if "labels" in values else {}
    if name.endswith("QuestionAnswering"):
        labels = {"id2label": {0: "LABEL_0", 1: "LABEL_1"}}
    shape = {**SIZES, **(BERT if bert else DISTIL), **labels, **values}
    shape["label2id"] = {label: i for i, label in shape["id2label"].items()}
    config = (transformers.BertConfig if bert else transformers.DistilBertConfig)(**shape)
    torch.manual_seed(0)
    model = getattr(transformers, name)(config, **options).eval()
    draw(model)
    return model


@functools.cache
def saved(model: Any) -> tuple[str, dict[str, Tensor]]:
    """What transformers writes of a model: the text of config.json, and the tensors."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder, "model.safetensors"))
        return Path(folder, "config.json").read_text("utf-8"), {k: v.clone() for k, v in tensors.items()}


@torch.no_grad()
def answers(model: Any) -> list[Tensor]:
    """What a model of ours or theirs says to IDS, at the tokens that are not padding."""
    if isinstance(model, minidistil.DistilBertForMultipleChoice | transformers.DistilBertForMultipleChoice):
        ids, mask = torch.stack([IDS, IDS.flip(1)], 1), torch.stack([MASK, MASK], 1)
    else:
        ids, mask = IDS, MASK
    said = model(ids, attention_mask=mask)
    if isinstance(said, dict):  # theirs
        names = "last_hidden_state", "prediction_logits", "logits", "start_logits", "end_logits"
        said = tuple(said[name] for name in names if name in said)
    said = said if isinstance(said, tuple) else (said,)
    return [part[mask.bool()] if part.shape[:2] == mask.shape else part for part in said]


def difference(mine: Any, other: Any) -> float:
    """How far the answers of two models are apart, as a share of the largest."""
    pairs = list(zip(answers(mine), answers(other), strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


# Checkpoints that are not written yet, and what can be changed in them


@dataclasses.dataclass
class Draft:
    """A checkpoint before it is written."""

    model: Any
    config: dict[str, Any] | str | None  # a string is written as it is, None not at all
    tensors: dict[str, Tensor]
    forms: tuple[Form, ...]

    def write(self, folder: Path) -> None:
        """Write all its files."""
        folder.mkdir()
        if self.config is not None:
            text = self.config if isinstance(self.config, str) else json.dumps(self.config)
            (folder / "config.json").write_text(text, "utf-8")
        for form in self.forms:
            form(folder, self)


Change = Callable[[Draft], None]
Form = Callable[[Path, Draft], None]


def draft(model: Any) -> Draft:
    """Begin with what transformers writes."""
    config, tensors = saved(model)
    return Draft(model, json.loads(config), dict(tensors), (safetensors,))


def config(text: str | None = "", **values: Any) -> Change:
    """Change keys of config.json (... takes one out), or all of it, by a text; None: there is no such file."""

    def change(draft: Draft) -> None:
        changed = {**draft.config, **values}
        draft.config = {k: v for k, v in changed.items() if v is not ...} if values else text

    return change


def only(**values: Any) -> Change:
    """Let config.json hold these keys alone."""
    return lambda draft: setattr(draft, "config", values)


def typeform(**values: Any) -> Change:
    """Let config.json be the well-known one, of our sizes."""
    return only(**{**TYPEFORM, **DISTIL, "vocab_size": 60, "max_position_embeddings": 16, **values})


def rename(pattern: str, becomes: str) -> Change:
    """Change the names of tensors."""

    def change(draft: Draft) -> None:
        renamed = {re.sub(pattern, becomes, name): tensor for name, tensor in draft.tensors.items()}
        assert len(renamed) == len(draft.tensors)
        assert list(renamed) != list(draft.tensors), "no name is like that"
        draft.tensors = renamed

    return change


def drop(pattern: str) -> Change:
    """Take tensors out."""

    def change(draft: Draft) -> None:
        kept = {name: tensor for name, tensor in draft.tensors.items() if not re.search(pattern, name)}
        assert len(kept) < len(draft.tensors), "no name is like that"
        draft.tensors = kept

    return change


def add(**values: Any) -> Change:
    """Put tensors in; a string is the name of another one, to be copied."""

    def change(draft: Draft) -> None:
        for name, value in values.items():
            draft.tensors[name] = draft.tensors[value].clone() if isinstance(value, str) else value.clone()

    return change


def replace(name: str, how: Callable[[Tensor], Any]) -> Change:
    """Change one tensor."""

    def change(draft: Draft) -> None:
        draft.tensors[name] = how(draft.tensors[name])

    return change


def cast(dtype: torch.dtype, pattern: str = "") -> Change:
    """Round the tensors of these names."""

    def change(draft: Draft) -> None:
        for name in draft.tensors:
            if re.search(pattern, name):
                draft.tensors[name] = draft.tensors[name].to(dtype)

    return change


def form(*forms: Form) -> Change:
    """Choose the files to write."""
    return lambda draft: setattr(draft, "forms", forms)


# Forms of files


def safetensors(folder: Path, draft: Draft) -> None:
    """model.safetensors."""
    save_file(draft.tensors, folder / "model.safetensors", metadata={"format": "pt"})


def theirs(folder: Path, draft: Draft) -> None:
    """Shards of safetensors and their index, as transformers writes them."""
    draft.model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()


def zipped(folder: Path, draft: Draft) -> None:
    """pytorch_model.bin."""
    torch.save(draft.tensors, folder / "pytorch_model.bin")


def legacy(folder: Path, draft: Draft) -> None:
    """pytorch_model.bin, as torch wrote it before 1.6."""
    torch.save(draft.tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def pickled(content: Callable[[Draft, Path], Any]) -> Form:
    """pytorch_model.bin, with anything in it."""
    return lambda folder, draft: torch.save(content(draft, folder), folder / "pytorch_model.bin")


def shards(ending: str, spoil: Callable[..., None] = lambda index, first, second: None) -> Form:
    """Two shards and their index, which a function may spoil: it is given the index and both shards' tensors."""

    def write(folder: Path, draft: Draft) -> None:
        stem = "model" if ending == "safetensors" else "pytorch_model"
        names = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
        parts: tuple[dict[str, Tensor], ...] = ({}, {})
        for i, (name, tensor) in enumerate(draft.tensors.items()):
            parts[i % 2][name] = tensor
        where = {name: names[i % 2] for i, name in enumerate(draft.tensors)}
        index: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": where}
        spoil(index, *parts)
        for name, part in zip(names, parts, strict=True):
            (save_file if ending == "safetensors" else torch.save)(part, folder / name)
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index), "utf-8")

    return write


def beside(*names: str) -> Form:
    """Files of other frameworks, which hold nothing."""

    def write(folder: Path, draft: Draft) -> None:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"\x89HDF and the like")

    return write


def plus_one(form: Form) -> Form:
    """Write other weights."""

    def write(folder: Path, draft: Draft) -> None:
        form(folder, dataclasses.replace(draft, tensors={name: part + 1 for name, part in draft.tensors.items()}))

    return write


class Runs:
    """What runs a command where it is unpickled: it makes a file in the folder."""

    def __init__(self, folder: Path):
        self.command = f"touch '{folder}/ran'"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def plain(protocol: int) -> Form:
    """pytorch_model.bin that pickle wrote, and torch did not; it would run a command."""
    return lambda folder, draft: (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(folder), protocol))


def command_in_a_shard(folder: Path, draft: Draft) -> None:
    """Shards of .bin, one of which would run a command."""
    shards("bin", lambda index, first, second: second.update({"classifier.weight": Runs(folder)}))(folder, draft)


def pointer(name: str) -> Form:
    """What lies in a large file's place where git cloned the Hub's repository without its extension for those."""
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 267949840\n"
    return lambda folder, draft: (folder / name).write_text(text)


def cut(name: str) -> Form:
    """Let a file that is written lack its end."""
    return lambda folder, draft: (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def lose(pattern: str) -> Form:
    """Take files away that are written."""

    def write(folder: Path, draft: Draft) -> None:
        [path] = folder.glob(pattern)
        path.unlink()

    return write


# What shards and their index may have wrong


def place(becomes: Callable[[str], Any]) -> Callable[..., None]:
    """Let the index place one tensor elsewhere."""

    def spoil(index: dict[str, Any], *parts: Any) -> None:
        index["weight_map"]["classifier.bias"] = becomes(index["weight_map"]["classifier.bias"])

    return spoil


def move(index: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Let another shard hold one tensor."""
    second["classifier.bias"] = first.pop("classifier.bias")


def forget(index: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Let no shard hold one tensor."""
    del first["classifier.bias"]


# Cases


def itself(model: Any) -> Any:
    """The model whose weights are in the files."""
    return model


def encoder(model: Any) -> Any:
    """Its encoder."""
    return model.base_model


def rounded(dtype: torch.dtype) -> Callable[[Any], Any]:
    """The model with weights that a narrower type can hold."""
    return lambda model: copy.deepcopy(model).to(dtype).float()


def biased(how: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """BERT's masked-LM model with another bias of the words, made of what is stored as cls.predictions.bias."""

    def change(model: Any) -> Any:
        changed = copy.deepcopy(model)
        changed.cls.predictions.decoder.bias = torch.nn.Parameter(how(model.cls.predictions.bias.detach()))
        return changed

    return change


@dataclasses.dataclass
class Case:
    """A checkpoint, how it is loaded, and what becomes of that."""

    name: str
    model: str  # the class of transformers' model whose weights these are
    changes: tuple[Change, ...]
    shape: dict[str, Any]  # of that model's config
    cls: str | None  # load it as this class of ours
    load: dict[str, Any]  # the arguments of from_pretrained
    like: Callable[[Any], Any]  # what ours must answer like, made of that model
    peer: bool  # whether transformers, too, reads these files so
    labels: list[str] | None  # what the labels must be
    error: str | None  # what the error must say
    raises: type[Exception]

    def write(self, folder: Path) -> Any:
        """Write the folder, and return the model that ours must answer like."""
        model = model_of(self.model, **self.shape)
        checkpoint = draft(model)
        for change in self.changes:
            change(checkpoint)
        checkpoint.write(folder)
        return self.like(model)

    def open(self, folder: Path) -> Any:
        """Load the folder with minidistil."""
        if self.cls is not None:
            return getattr(minidistil, self.cls).from_pretrained(folder, **self.load)
        return minidistil.from_pretrained(folder, **self.load)

    def open_in_transformers(self, folder: Path, cls: str) -> Any:
        """Load the folder with transformers, as its class that is ours."""
        cls = cls.removeprefix("Distil") if self.model.startswith("Bert") else cls
        return getattr(transformers, cls).from_pretrained(folder, dtype=torch.float32)


def case(
    name: str,
    model: str,
    *changes: Change,
    shape: dict[str, Any] | None = None,
    cls: str | None = None,
    like: Callable[[Any], Any] = itself,
    peer: bool = True,
    labels: list[str] | None = None,
    error: str | None = None,
    raises: type[Exception] = CheckpointError,
    **load: Any,
) -> Case:
    """Write a line of the table."""
    return Case(name, model, changes, shape or {}, cls, load, like, peer, labels, error, raises)
