"""config.json as a frozen dataclass, with the names of the Hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from .checks import is_int
from .errors import CheckpointError, InputError

LIMIT = 2**28  # upper bound of every size, so that sizes in bytes cannot overflow
MAX_LAYERS = 48  # with more, a pipeline takes longer than a second to load; BERT-large has 24
DIGITS = 9  # maximum length of an id that is stored as a string
MAX_LABELS = 100_000
MAX_BYTES = 2**22  # of a JSON file
MAX_LABEL_BYTES = MAX_BYTES - 2**16  # of all labels in config.json
MAX_CONTAINERS = 20_000  # lists and objects in a JSON file
MAX_VALUES = 200_000  # in all lists and objects of a JSON file
MAX_DEPTH = 64  # of lists and objects in each other
ALIASES = {
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "torch_dtype": "dtype",
}
BERT = {  # BERT keys -> DistilBERT keys, in addition to ALIASES
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
BERT_DEFAULTS = {"num_hidden_layers": 12}  # where they differ from DistilBERT's
BERT_ONLY = {  # keys that DistilBERT lacks -> values that can be converted, the default first; None: any value
    "layer_norm_eps": (1e-12,),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "type_vocab_size": None,
    "classifier_dropout": None,
    "use_cache": None,
    "gradient_checkpointing": None,
}
BERT_CLASSES = {
    "BertModel": "DistilBertModel",
    "BertForMaskedLM": "DistilBertForMaskedLM",
    "BertForTokenClassification": "DistilBertForTokenClassification",
}
Place: TypeAlias = (
    "tuple[()] | tuple[Place, object]"  # of a value in a JSON file: that of its container, and its key
)
CHOICES = {
    "activation": ("gelu", "relu"),
    "dtype": ("float32", "float16", "bfloat16", "float64", None),
    "problem_type": ("regression", "single_label_classification", "multi_label_classification", None),
}


@dataclasses.dataclass(frozen=True)
class DistilBertConfig:
    """The sizes of a DistilBERT and the names of its labels.

    Fields and defaults are those of transformers' DistilBertConfig. `extra` keeps unknown keys for saving. Raises
    CheckpointError, which names the invalid key.
    """

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    problem_type: str | None = None
    dtype: str | None = None
    architectures: tuple[str, ...] = ()
    id2label: Mapping[int, str] = dataclasses.field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim"):
            value = getattr(self, key)
            if not is_int(value) or not 1 <= value < LIMIT:
                raise CheckpointError(f"{key} is {value!r}: expected an integer of at least 1 and below {LIMIT}")
        if self.n_layers > MAX_LAYERS:
            raise CheckpointError(f"n_layers is {self.n_layers}: expected at most {MAX_LAYERS}")
        if self.dim % self.n_heads:
            raise CheckpointError(f"n_heads is {self.n_heads}: it must divide dim, which is {self.dim}")
        pad = self.pad_token_id
        if pad is not None and not (is_int(pad) and 0 <= pad < self.vocab_size):
            raise CheckpointError(f"pad_token_id is {pad!r}: expected an id below vocab_size, or null")
        for key in ("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"):
            value = getattr(self, key)
            if not is_number(value) or not 0 <= value < 1:
                raise CheckpointError(f"{key} is {value!r}: expected a probability of at least 0 and below 1")
        if not is_number(self.initializer_range) or not 0 <= self.initializer_range < float("inf"):
            raise CheckpointError(
                f"initializer_range is {self.initializer_range!r}: expected a number of at least 0"
            )
        for key in ("sinusoidal_pos_embds", "tie_word_embeddings"):
            if not isinstance(getattr(self, key), bool):
                raise CheckpointError(f"{key} is {getattr(self, key)!r}: expected true or false")
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                known = ", ".join(choice for choice in choices if choice)
                raise CheckpointError(f"{key} is {getattr(self, key)!r}: expected one of {known}")
        labels = self.id2label
        if not isinstance(labels, Mapping) or not labels or set(labels) != set(range(len(labels))):
            raise CheckpointError(f"id2label is {labels}: expected a label for each id, counting from 0")
        for index, label in labels.items():
            if not isinstance(label, str) or not is_text(label):
                raise CheckpointError(
                    f"id2label[{index}] is {label!r}: expected a string that can be encoded in UTF-8"
                )
        size = 2 * len(json.dumps([*labels.values()])) + 40 * len(labels)  # of id2label and label2id in the file
        if size > MAX_LABEL_BYTES:
            raise CheckpointError(f"the labels have {size:,} bytes: expected at most {MAX_LABEL_BYTES:,}")

    hidden_size = property(lambda self: self.dim, doc="General name of `dim` in transformers.")
    num_attention_heads = property(lambda self: self.n_heads, doc="General name of `n_heads` in transformers.")
    num_hidden_layers = property(lambda self: self.n_layers, doc="General name of `n_layers` in transformers.")

    @property
    def num_labels(self) -> int:
        """Number of logits of a classifier."""
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        """The inverse of `id2label`. A duplicate label maps to its last id, as in transformers."""
        return {label: index for index, label in self.id2label.items()}

    def check_span_labels(self) -> None:
        """Raise CheckpointError unless there are two labels: the start and the end of an answer."""
        if self.num_labels != 2:
            raise CheckpointError(f"num_labels is {self.num_labels}: question answering has 2, start and end")

    def check_ids(self, largest_id: int, largest_position: int) -> None:
        """Raise InputError for ids beyond the vocabulary and sequences beyond the position embeddings."""
        if largest_id >= self.vocab_size:
            raise InputError(
                f"a token id is {largest_id}, but vocab_size is {self.vocab_size}: "
                "use the tokenizer of the same checkpoint; if it is, its files have tokens that the model lacks"
            )
        if largest_position >= self.max_position_embeddings:
            raise InputError(
                f"a sequence has {largest_position + 1} tokens, but the model has "
                f"{self.max_position_embeddings} positions: truncate it, for example with max_length="
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistilBertConfig:
        """Create a config from the keys of a config.json, including old key names and ids stored as strings.

        The config of a single-segment BERT is converted to DistilBERT.
        """
        if values.get("model_type") == "bert":
            values = _converted_bert(values)
        rest = {key: value for key, value in values.items() if key not in ALIASES}
        for alias, key in ALIASES.items():
            if alias in values and rest.setdefault(key, values[alias]) != values[alias]:
                raise CheckpointError(f"{key} is {rest[key]!r}, but its alias {alias} is {values[alias]!r}")
        names = rest.get("architectures")
        if "model_type" not in rest and isinstance(names, list) and any(str(n).startswith("Bert") for n in names):
            raise CheckpointError(
                f'model_type is missing, and architectures is {names}: expected "model_type": "bert"'
            )
        model_type = rest.pop("model_type", "distilbert")
        if model_type != "distilbert":
            raise CheckpointError(f"model_type is {model_type!r}: minidistil loads 'distilbert' and 'bert'")
        maps = (rest.pop("id2label", None), rest.pop("label2id", None), rest.pop("num_labels", None))
        known: dict[str, Any] = {"id2label": _labels(*maps)}
        known["architectures"] = _architectures(rest.pop("architectures", None))
        known["extra"] = {}
        fields = {field.name for field in dataclasses.fields(cls)} - {"extra"}
        for key, value in rest.items():
            (known if key in fields else known["extra"])[key] = value
        return cls(**known)

    @classmethod
    def from_file(cls, path: str | Path) -> DistilBertConfig:
        """Read a config.json. Raises CheckpointError, which names the file."""
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of a config.json, from which transformers reads the same config."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        extra = values.pop("extra")
        values["architectures"] = list(self.architectures)
        values["id2label"] = {str(index): label for index, label in self.id2label.items()}
        values["label2id"] = self.label2id
        values["model_type"] = "distilbert"
        absent = [key for key, value in values.items() if value is None and key != "pad_token_id"]
        return {**extra, **{key: value for key, value in values.items() if key not in absent}}


def _converted_bert(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a BERT with DistilBERT's keys. Raises CheckpointError if it cannot be converted."""
    for key, needed in BERT_ONLY.items():
        if needed is not None and values.get(key, needed[0]) not in needed:
            raise CheckpointError(
                f"{key} is {values[key]!r}: a BERT can be converted to DistilBERT only with {needed[0]!r}"
            )
    activation = values.get("hidden_act", "gelu")
    if activation not in CHOICES["activation"]:
        raise CheckpointError(f"hidden_act is {activation!r}: expected one of gelu, relu")
    kept = {key: value for key, value in values.items() if key not in BERT_ONLY and key not in BERT.values()}
    converted = {BERT.get(key, key): value for key, value in {**BERT_DEFAULTS, **kept}.items()}
    converted["model_type"] = "distilbert"
    if isinstance(names := values.get("architectures"), list):
        converted["architectures"] = [
            BERT_CLASSES.get(name, name) if isinstance(name, str) else name for name in names
        ]
    return converted


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises CheckpointError, also for what could not be saved again: lone surrogates and deep nesting.
    """
    values = read_values(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def read_values(path: str | Path) -> Any:
    """Read a file of JSON, as `read_json` does."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES or content.count(b"[") + content.count(b"{") > MAX_CONTAINERS:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes, or {MAX_CONTAINERS:,} lists and objects")
        text = content.decode()
        values = json.loads(text)
        if isinstance(values, dict | list):
            _check_values(values, with_strings="\\ud" in text.lower())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    return values


def _check_values(values: object, with_strings: bool) -> None:
    """Raise ValueError for too many values, deep nesting and, with strings, lone surrogates."""
    containers: list[tuple[Any, int, Place]] = [(values, 0, ())]
    count = 0
    for container, depth, place in containers:  # which grows
        count += len(container)
        if count > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"{_path(place)[:100]} is nested deeper than {MAX_DEPTH}")
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            if with_strings and not (is_text(str(key)) and (not isinstance(value, str) or is_text(value))):
                raise ValueError(f"{_path((place, key))} has a lone surrogate, which is not text")
            if isinstance(value, dict | list):
                containers.append((value, depth + 1, (place, key)))


def _path(place: Place) -> str:
    """Return the keys that lead to a value, joined by dots."""
    keys: list[str] = []
    while place:
        place, key = place
        keys.append(str(key)[:50])
    return ".".join(reversed(keys))


def is_text(string: str) -> bool:
    """Return whether a string has no lone surrogates, so that it can be encoded in UTF-8."""
    return string.encode(errors="ignore").decode() == string


def is_number(value: object) -> bool:
    """Return whether a value is an integer or a float; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _architectures(names: object) -> tuple[str, ...]:
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"architectures is {names!r}: expected a list of class names")
    return tuple(names)


def _labels(id2label: object, label2id: object, num_labels: object) -> dict[int, str]:
    """Return the labels by id. Raises CheckpointError where the three keys contradict each other.

    If one map has only default names, LABEL_n, the other map is used.
    """
    by_id = {_label_id(index, id2label): str(label) for index, label in _pairs("id2label", id2label)}
    by_id = dict(sorted(by_id.items()))
    if len(by_id) < len(_pairs("id2label", id2label)):
        raise CheckpointError(f"id2label is {id2label}: two labels have the same id")
    by_label = {_label_id(index, label2id): label for label, index in _pairs("label2id", label2id)}
    by_label = dict(sorted(by_label.items()))
    if len(by_label) < len(_pairs("label2id", label2id)):
        raise CheckpointError(f"label2id is {label2id}: two labels have the same id")
    names, inverse = ({} if _has_default_names(map_) else map_ for map_ in (by_id, by_label))
    if names and any(names.get(index) != label for index, label in inverse.items()):
        raise CheckpointError(f"id2label and label2id contradict each other: {id2label} and {label2id}")
    labels = names or inverse or by_id or by_label
    if num_labels is None:
        num_labels = len(labels) or 2
    if not is_int(num_labels) or not 1 <= num_labels <= MAX_LABELS or (labels and len(labels) != num_labels):
        expected = f"the number of labels, {len(labels)}" if labels else f"an integer from 1 to {MAX_LABELS}"
        raise CheckpointError(f"num_labels is {num_labels!r}: expected {expected}")
    return labels or {index: f"LABEL_{index}" for index in range(num_labels)}


def _pairs(key: str, values: object) -> list[tuple[Any, Any]]:
    if values is None:
        return []
    if not isinstance(values, dict):
        raise CheckpointError(f"{key} is {values!r}: expected a JSON object")
    if len(values) > MAX_LABELS:
        raise CheckpointError(f"{key} has {len(values):,} labels: expected at most {MAX_LABELS:,}")
    for label in values.values() if key == "id2label" else ():
        if isinstance(label, dict | list):
            raise CheckpointError(f"{key} has the label {label!r}: expected a string")
    return list(values.items())


def _label_id(index: Any, labels: object) -> int:
    """Return an id that is stored as an integer or as a string of digits. Hashes of larger ones may be equal."""
    digits = isinstance(index, str) and index.isdecimal() and len(index) <= DIGITS
    if digits or (is_int(index) and 0 <= index < 10**DIGITS):
        return int(index)
    raise CheckpointError(f"the label map {labels} has the id {index!r}: expected an integer of at least 0")


def _has_default_names(labels: dict[int, str]) -> bool:
    return all(label == f"LABEL_{index}" for index, label in labels.items())
