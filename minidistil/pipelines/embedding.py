"""Text → vectors: one for each token, or one for the whole text, as a sentence-transformers repository says."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch.nn.functional as F
from tokenizers import normalizers
from torch import Tensor

from ..checkpoint.files import Files
from ..checks import check_count, check_text
from ..config import read_json
from ..errors import CheckpointError, InputError
from ..layout import Batch, enter, first_tokens
from ..model import DistilBertModel, Model
from ..tokenizer import NO_LIMIT, Encoded, Tokenizer
from .base import Pipeline, check_inputs, cut_by, deliver, named_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]  # (D,), or of n texts (n, D)

READING = {  # what sentence_bert_config.json may say beside the two keys that are read
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
NORMALIZE = dict.fromkeys(("module_input_name", "module_output_name"), "sentence_embedding")


class Encoder(Pipeline):
    """What the two tasks share: the encoder alone, and single texts."""

    model_class = DistilBertModel
    model: DistilBertModel

    def encoded(self, texts: Iterable[str], truncation: str, limit: int) -> Iterator[Encoded]:
        """Give the token ids of a stream of texts, a window at a time."""
        for names, window in named_windows(texts, self.window):
            most = NO_LIMIT if truncation == "error" else limit
            found = self.tokenizer.encode(window, max_length=most, truncation=truncation, names=names)
            for name, ids in zip(names, found.ids, strict=True):
                if len(ids) > limit:
                    raise InputError(
                        f"{name} has {len(ids)} tokens, but the model reads {limit}: truncation=True cuts it"
                    )
            yield found


class FeatureExtraction(Encoder):
    """Give the last hidden state of each token."""

    window = 32  # an answer has a number for each token and dimension

    def run(
        self,
        inputs: str | Iterable[str],
        *,
        return_tensors: bool = False,
        truncation: bool | str | None = None,
        tokenize_kwargs: dict[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Encode each text.

        inputs: a text, a list of them, or any iterable, which is read and answered as a stream. truncation: True
        or a strategy of `Tokenizer`; otherwise a text longer than the model is an error. tokenize_kwargs:
        "truncation" and "max_length", which cuts on its own too; "padding" is taken, and without effect.
        batch_size: sequences in a batch at most.

        Returns nested lists (1, T, D) for a text of T tokens, special ones included, or with return_tensors a
        tensor; a list of those for a list; an iterator for another iterable. `InputError` for what is not text.
        """
        texts = _texts(inputs)
        check_count("batch_size", batch_size)
        strategy, max_length = cut_by("tokenize_kwargs", tokenize_kwargs, truncation)
        limit = self.model.config.max_position_embeddings if strategy == "error" else self.limit(max_length)
        answers = self._answers(texts, strategy, limit, batch_size)
        given = answers if return_tensors else (answer.tolist() for answer in answers)
        return deliver(inputs, isinstance(inputs, str), given)

    def outputs(self, batch: Batch) -> Sequence[Tensor]:
        """Give each sequence's hidden states, (T, D)."""
        return self.model(batch).split(batch.layout.lengths)

    def _answers(
        self, texts: Iterable[str], strategy: str, limit: int, batch_size: int | None
    ) -> Iterator[Tensor]:
        for found in self.encoded(texts, strategy, limit):
            for hidden in self.infer([tuple(ids) for ids in found.ids], batch_size):
                yield hidden[None].clone()  # the caller's own, which autograd takes


class SentenceEmbedding(Encoder):
    """Give one vector for each text, as sentence-transformers does."""

    def __init__(
        self, task: str, model: Model, tokenizer: Tokenizer, *, do_lower_case: bool = False, **defaults: Any
    ):
        """Wrap a model and its tokenizer. do_lower_case: whether to lower texts for a tokenizer that does not."""
        super().__init__(task, model, _lowered(tokenizer) if do_lower_case else tokenizer, **defaults)

    def run(
        self,
        inputs: str | Iterable[str],
        *,
        pooling: str | None = None,
        normalize: bool = False,
        prompt: str = "",
        max_length: int | None = None,
        batch_size: int | None = None,
    ) -> Vector | Iterator[Vector]:
        """Embed each text; where a repository of sentence-transformers says how, that is the default.

        inputs: a text, a list of them, or any iterable, which is read and answered as a stream. pooling: how the
        vectors of its tokens, special ones included, become one: "mean", or "cls" for the first. normalize: to
        length 1. prompt: is put before each text. max_length: tokens that a text is cut to, with one warning;
        None: as many as the model takes. batch_size: sequences in a batch at most.

        Returns a NumPy array in float32, (D,) for a text and (n, D) for a list; an iterator of (D,) for another
        iterable. `InputError` where nobody says the pooling, and for what is not text.
        """
        if not isinstance(pooling, str) or pooling not in POOLINGS:
            unsaid = ", and the checkpoint does not say it" if pooling is None else ""
            raise InputError(f"pooling is {pooling!r}{unsaid}: expected 'mean' or 'cls'")
        check_text(prompt, "prompt")
        check_count("max_length", max_length)
        check_count("batch_size", batch_size)
        rows = self._rows(_texts(inputs, prompt), pooling, self.limit(max_length), batch_size)
        vectors = ((F.normalize(row, dim=0) if normalize else row).numpy().copy() for row in rows)
        answer = deliver(inputs, isinstance(inputs, str), vectors)
        if isinstance(answer, list):
            return np.stack(answer) if answer else np.zeros((0, self.model.config.dim), np.float32)
        return answer

    def _rows(self, texts: Iterable[str], pooling: str, limit: int, batch_size: int | None) -> Iterator[Tensor]:
        outputs = functools.partial(POOLINGS[pooling], self.model)
        for found in self.encoded(texts, "longest_first", limit):
            self.warn_of_cut(found.truncated, limit)
            yield from self.infer([tuple(ids) for ids in found.ids], batch_size, outputs)

    @classmethod
    def check_arguments(cls, names: Iterable[str]) -> None:
        """Raise TypeError where neither a call nor the pipeline would know one of these arguments."""
        super().check_arguments(name for name in names if name != "do_lower_case")

    @classmethod
    def declared(cls, files: Files) -> dict[str, Any]:
        """Read what sentence-transformers does with these files; CheckpointError for what is not done here."""
        modules = files.find("modules.json")
        if modules is None:
            return {}
        folders = _folders(modules)
        found = {"pooling": _pooling(files.get(f"{folders[1]}/config.json")), "normalize": len(folders) > 2}
        if found["normalize"] and (path := files.find(f"{folders[2]}/config.json")):
            _refuse_others(path, read_json(path), NORMALIZE)
        if path := files.find("sentence_bert_config.json") or files.find("sentence_distilbert_config.json"):
            found |= _reading(path)
        if path := files.find("config_sentence_transformers.json"):
            found |= _prompt(path)
        return found


def _mean(model: DistilBertModel, batch: Batch) -> Tensor:
    """Average each sequence's tokens, in float32: (T,) -> (n, D)."""
    sums = batch.layout.pad(model(batch).float()).sum(1)  # (n, D)
    return sums / batch.layout.starts.diff().clamp(min=1)[:, None]


def _first(model: DistilBertModel, batch: Batch) -> Tensor:
    """Take each sequence's first token, [CLS]; the last block computes no other: (T,) -> (n, D)."""
    batch, _ = enter(batch, None, model.config)
    queries = first_tokens(batch)
    return queries.pad(model.encode(batch, queries)).flatten(0, 1)  # (n, D)


POOLINGS = {"mean": _mean, "cls": _first}


def _texts(inputs: str | Iterable[str], prompt: str = "") -> Iterator[str]:
    """Give one text, or many, as a stream that checks them."""
    check_inputs("inputs", inputs)

    def checked(texts: Iterable[str]) -> Iterator[str]:
        for i, text in enumerate(texts):
            check_text(text, f"inputs[{i}]")
            yield prompt + text

    return checked([inputs] if isinstance(inputs, str) else inputs)


def _lowered(tokenizer: Tokenizer) -> Tokenizer:
    """Give a tokenizer that lowers texts before all else, but not the special tokens in them."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return Tokenizer(backend, tokenizer.max_length, tokenizer.settings)


def _folders(path: Path) -> list[str]:
    """Read modules.json: the folders of Transformer, Pooling and, if it is there, Normalize."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        types, folders = [module["type"] for module in modules], [module["path"] for module in modules]
        names = [kind.split(".")[-1] if kind.startswith("sentence_transformers.") else kind for kind in types]
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected a list of modules, each with type and path: {error!r}") from error
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        known = "sentence-transformers' Transformer and Pooling, and Normalize after them"
        raise CheckpointError(f"{path}: the modules are {', '.join(names)}: minidistil has {known}")
    if folders[0] != "":
        raise CheckpointError(f"{path}: Transformer lies in {folders[0]!r}: expected it at the top, in ''")
    for name, folder in zip(names[1:], folders[1:], strict=True):
        if not isinstance(folder, str) or not re.fullmatch(r"\w[\w.-]{0,99}", folder, re.ASCII):
            raise CheckpointError(f"{path}: {name} lies in {folder!r}: expected a folder of the checkpoint")
    return folders


def _refuse_others(path: Path, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse what may change the vectors: a key of another value than is known, or one that is unknown and on."""
    for key, value in values.items():
        if value not in ([known[key]] if key in known else [None, False, {}]):
            raise CheckpointError(f"{path}: {key} is {value!r}, which minidistil does not do")


def _pooling(path: Path) -> str:
    """Read how a Pooling module pools, in new words or old."""
    values = read_json(path)
    old = {
        "cls": values.pop("pooling_mode_cls_token", False),
        "mean": values.pop("pooling_mode_mean_tokens", False),
    }
    modes = values.pop("pooling_mode", [mode for mode in old if old[mode]] or "mean")
    modes = modes if isinstance(modes, list) else [modes]
    _refuse_others(path, {k: v for k, v in values.items() if "dimension" not in k}, {"include_prompt": True})
    if modes not in ([mode] for mode in POOLINGS):
        raise CheckpointError(f"{path}: pooling_mode is {modes}: minidistil has {' or '.join(POOLINGS)}, alone")
    return modes[0]


def _reading(path: Path) -> dict[str, Any]:
    """Read how texts are cut and lowered."""
    values = read_json(path)
    found = {"max_length": values.pop("max_seq_length", None), "do_lower_case": values.pop("do_lower_case", False)}
    try:
        check_count("max_seq_length", found["max_length"])
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(found["do_lower_case"], bool):
        raise CheckpointError(f"{path}: do_lower_case is {found['do_lower_case']!r}: expected true or false")
    _refuse_others(path, values, READING)
    return found


def _prompt(path: Path) -> dict[str, str]:
    """Read what is put before each text."""
    values = read_json(path)
    known = {"model_type": "SentenceTransformer", "truncate_dim": None}
    _refuse_others(path, {key: value for key, value in values.items() if key in known}, known)
    name, prompts = values.get("default_prompt_name"), values.get("prompts")
    if name is None:
        return {}
    if not isinstance(prompts, dict) or not isinstance(name, str) or not isinstance(prompts.get(name), str):
        raise CheckpointError(f"{path}: default_prompt_name is {name!r}: expected one of prompts, {prompts!r}")
    return {"prompt": prompts[name]}
