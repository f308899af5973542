"""A checkpoint before it is written, the changes to it, and the way that it is loaded."""

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
TYPEFORM = {  # config.json of typeform/distilbert-base-uncased-mnli
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


# Models of transformers


@functools.cache
def model_of(name: str, **values: Any) -> Any:
    """Return a transformers model of that class, with weights as in `support.twins`. Do not modify it."""
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
    """Save a model with transformers; return the text of config.json, and the tensors."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder, "model.safetensors"))
        return Path(folder, "config.json").read_text("utf-8"), {k: v.clone() for k, v in tensors.items()}


@torch.no_grad()
def answers(model: Any) -> list[Tensor]:
    """Return the outputs of a model of minidistil or transformers for IDS, without padding."""
    if isinstance(model, minidistil.DistilBertForMultipleChoice | transformers.DistilBertForMultipleChoice):
        ids, mask = torch.stack([IDS, IDS.flip(1)], 1), torch.stack([MASK, MASK], 1)
    else:
        ids, mask = IDS, MASK
    output = model(ids, attention_mask=mask)
    if isinstance(output, dict):  # of transformers
        names = "last_hidden_state", "prediction_logits", "logits", "start_logits", "end_logits"
        output = tuple(output[name] for name in names if name in output)
    output = output if isinstance(output, tuple) else (output,)
    return [part[mask.bool()] if part.shape[:2] == mask.shape else part for part in output]


def difference(mine: Any, other: Any) -> float:
    """Return the largest difference between the outputs of two models, relative to the largest output."""
    pairs = list(zip(answers(mine), answers(other), strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


# Drafts, and changes to them


@dataclasses.dataclass
class Draft:
    """A checkpoint before it is written."""

    model: Any
    config: dict[str, Any] | str | None  # a string is written unchanged, None means no file
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
    """Return a draft of the files that transformers writes."""
    config, tensors = saved(model)
    return Draft(model, json.loads(config), dict(tensors), (safetensors,))


def config(text: str | None = "", **values: Any) -> Change:
    """Change keys of config.json (... removes a key), or replace the file by a text; None removes it."""

    def change(draft: Draft) -> None:
        changed = {**draft.config, **values}
        draft.config = {k: v for k, v in changed.items() if v is not ...} if values else text

    return change


def only(**values: Any) -> Change:
    """Replace config.json by these keys."""
    return lambda draft: setattr(draft, "config", values)


def typeform(**values: Any) -> Change:
    """Replace config.json by TYPEFORM with the sizes of the draft."""
    return only(**{**TYPEFORM, **DISTIL, "vocab_size": 60, "max_position_embeddings": 16, **values})


def rename(pattern: str, becomes: str) -> Change:
    """Rename tensors."""

    def change(draft: Draft) -> None:
        renamed = {re.sub(pattern, becomes, name): tensor for name, tensor in draft.tensors.items()}
        assert len(renamed) == len(draft.tensors)
        assert list(renamed) != list(draft.tensors), "no name matches"
        draft.tensors = renamed

    return change


def drop(pattern: str) -> Change:
    """Remove tensors."""

    def change(draft: Draft) -> None:
        kept = {name: tensor for name, tensor in draft.tensors.items() if not re.search(pattern, name)}
        assert len(kept) < len(draft.tensors), "no name matches"
        draft.tensors = kept

    return change


def add(**values: Any) -> Change:
    """Add tensors; a string is the name of a tensor to copy."""

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
    """Convert the tensors whose names match."""

    def change(draft: Draft) -> None:
        for name in draft.tensors:
            if re.search(pattern, name):
                draft.tensors[name] = draft.tensors[name].to(dtype)

    return change


def form(*forms: Form) -> Change:
    """Set the files to write."""
    return lambda draft: setattr(draft, "forms", forms)


# Forms of files


def safetensors(folder: Path, draft: Draft) -> None:
    """Write model.safetensors."""
    save_file(draft.tensors, folder / "model.safetensors", metadata={"format": "pt"})


def shards_by_transformers(folder: Path, draft: Draft) -> None:
    """Write shards of safetensors and their index with transformers."""
    draft.model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()


def zipped(folder: Path, draft: Draft) -> None:
    """Write pytorch_model.bin."""
    torch.save(draft.tensors, folder / "pytorch_model.bin")


def legacy(folder: Path, draft: Draft) -> None:
    """Write pytorch_model.bin in the format of torch before 1.6."""
    torch.save(draft.tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def pickled(content: Callable[[Draft, Path], Any]) -> Form:
    """Write any object to pytorch_model.bin with torch.save."""
    return lambda folder, draft: torch.save(content(draft, folder), folder / "pytorch_model.bin")


def shards(ending: str, spoil: Callable[..., None] = lambda index, first, second: None) -> Form:
    """Write two shards and their index. `spoil` may change the index and the tensors of both shards."""

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
    """Write dummy files of other frameworks."""

    def write(folder: Path, draft: Draft) -> None:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"\x89HDF and the like")

    return write


def plus_one(form: Form) -> Form:
    """Write the weights plus 1."""

    def write(folder: Path, draft: Draft) -> None:
        form(folder, dataclasses.replace(draft, tensors={name: part + 1 for name, part in draft.tensors.items()}))

    return write


class Runs:
    """An object that runs a command when it is unpickled, which creates a file in the folder."""

    def __init__(self, folder: Path):
        self.command = f"touch '{folder}/ran'"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def plain(protocol: int) -> Form:
    """Write pytorch_model.bin with pickle instead of torch; it would run a command."""
    return lambda folder, draft: (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(folder), protocol))


def command_in_a_shard(folder: Path, draft: Draft) -> None:
    """Write shards of .bin, one of which would run a command."""
    shards("bin", lambda index, first, second: second.update({"classifier.weight": Runs(folder)}))(folder, draft)


def pointer(name: str) -> Form:
    """Write a git-lfs pointer, as in a clone without git-lfs."""
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 267949840\n"
    return lambda folder, draft: (folder / name).write_text(text)


def cut(name: str) -> Form:
    """Cut off the end of a written file."""
    return lambda folder, draft: (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def lose(pattern: str) -> Form:
    """Remove a written file."""

    def write(folder: Path, draft: Draft) -> None:
        [path] = folder.glob(pattern)
        path.unlink()

    return write


# Damage to shards and their index


def place(becomes: Callable[[str], Any]) -> Callable[..., None]:
    """Change the shard of one tensor in the index."""

    def spoil(index: dict[str, Any], *parts: Any) -> None:
        index["weight_map"]["classifier.bias"] = becomes(index["weight_map"]["classifier.bias"])

    return spoil


def move(index: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Move one tensor to the other shard."""
    second["classifier.bias"] = first.pop("classifier.bias")


def forget(index: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Remove one tensor from its shard."""
    del first["classifier.bias"]


# Cases


def itself(model: Any) -> Any:
    """Return the model unchanged."""
    return model


def encoder(model: Any) -> Any:
    """Return the encoder of a model."""
    return model.base_model


def rounded(dtype: torch.dtype) -> Callable[[Any], Any]:
    """Round the weights of a model to a narrower dtype."""
    return lambda model: copy.deepcopy(model).to(dtype).float()


def biased(how: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """Replace the bias of BERT's masked LM by a function of cls.predictions.bias."""

    def change(model: Any) -> Any:
        changed = copy.deepcopy(model)
        changed.cls.predictions.decoder.bias = torch.nn.Parameter(how(model.cls.predictions.bias.detach()))
        return changed

    return change


@dataclasses.dataclass
class Case:
    """A checkpoint, the way that it is loaded, and the expected result."""

    name: str
    model: str  # the transformers class whose weights are saved
    changes: tuple[Change, ...]
    shape: dict[str, Any]  # of that model's config
    cls: str | None  # the class of minidistil to load it with
    load: dict[str, Any]  # the arguments of from_pretrained
    like: Callable[[Any], Any]  # the model with the expected logits, made from the saved one
    peer: bool  # whether transformers reads these files with the same result
    labels: list[str] | None  # expected labels
    error: str | None  # expected message, a regular expression
    raises: type[Exception]

    def write(self, folder: Path) -> Any:
        """Write the folder, and return the model with the expected logits."""
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
        """Load the folder with the transformers class of the same name."""
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
    """Return a line of the table."""
    return Case(name, model, changes, shape or {}, cls, load, like, peer, labels, error, raises)
