"""The files of a sentence-transformers checkpoint: its modules, their settings, and its prompts.

modules.json lists the modules: a Transformer, a Pooling, and any number of Dense and Normalize after them. A
setting that would change the vectors and that minidistil does not support is an error.

Shapes: n texts, K and N input and output width of a Dense module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..checkpoint.files import Files, Subfolder
from ..checkpoint.tensors import find_weights
from ..checks import check_count
from ..config import read_json, read_values
from ..errors import CheckpointError, InputError
from ..reference import gelu
from .scores import Array, sigmoid

POOLINGS = {  # names in old files -> names of poolings, in the order of concatenated vectors
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {  # of a Dense module, by the class in torch.nn
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "Sigmoid": sigmoid,
    "SiLU": lambda x: x * sigmoid(x),
    "GELU": gelu,
}
ACTIVATION = re.compile(r"torch\.nn\.(?:modules\.\w+\.)?(\w+)")
TRANSFORMER = (  # files with the settings of a Transformer, in order
    "sentence_bert_config.json",
    "sentence_distilbert_config.json",
)
# settings that are not read -> supported values
TRANSFORMER_SETTINGS: dict[str, list[Any]] = {
    "transformer_task": ["feature-extraction"],
    "modality_config": [{"text": {"method": "forward", "method_output_name": "last_hidden_state"}}],
    "module_output_name": ["token_embeddings"],
}
LAYER_SETTINGS: dict[str, list[Any]] = {
    "module_input_name": ["sentence_embedding"],
    "module_output_name": ["sentence_embedding", None],
}
GENERAL_SETTINGS: dict[str, list[Any]] = {"model_type": ["SentenceTransformer"]}
MAX_MODULES = 16
UNUSED = ("__version__", "similarity_fn_name", "requirements")  # in config_sentence_transformers.json


class Normalize:
    """Scales vectors to length 1."""

    def __call__(self, x: Array) -> Array:
        """Normalize each row: (n, K) -> (n, K). A row of zeros stays one."""
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))


class Dense(NamedTuple):
    """A linear layer on the vectors, with an activation."""

    weight: Array  # (N, K)
    bias: Array | None  # (N,)
    activation: str  # a key of ACTIVATIONS
    residual: Array | None  # (N, K): what is added to the output, a projection of the input

    def __call__(self, x: Array) -> Array:
        """Apply to each row: (n, K) -> (n, N)."""
        y = x @ self.weight.T
        y = ACTIVATIONS[self.activation](y if self.bias is None else y + self.bias)
        return y if self.residual is None else y + x @ self.residual.T


Layer: TypeAlias = Normalize | Dense


def declared(files: Files) -> tuple[dict[str, Any], Files]:
    """Return the arguments of `SentenceEmbedding` that the files set, and the files of the encoder.

    Raises CheckpointError for a setting that minidistil does not support.
    """
    path = files.find("modules.json")
    if path is None:
        return _config(files), files
    modules = [(kind, Subfolder(files, folder) if folder else files) for kind, folder in _modules(path)]
    (_, encoder), (_, pooling), *rest = modules
    arguments = _config(encoder) | _transformer(encoder) | _pooling(pooling.get("config.json"))
    arguments["layers"] = [_dense(folder) if kind == "Dense" else _normalize(folder) for kind, folder in rest]
    if path := files.find("config_sentence_transformers.json"):
        arguments |= _settings(path)
    return arguments, encoder


def _modules(path: Path) -> list[tuple[str, str]]:
    """Read modules.json: the class and the folder of each module."""
    modules = read_values(path)
    if not isinstance(modules, list) or len(modules) > MAX_MODULES:
        raise CheckpointError(f"{path}: expected a list of modules, at most {MAX_MODULES}")
    try:
        types = [module["type"].rpartition(".") for module in modules]
        folders = [module["path"] for module in modules]
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected a list of modules, each with type and path: {error!r}") from error
    for module in modules:
        _check_supported(path, {k: v for k, v in module.items() if k not in ("idx", "name", "path", "type")}, {})
    kinds = [
        name if package.startswith("sentence_transformers.") else f"{package}{dot}{name}"
        for package, dot, name in types
    ]
    if kinds[:2] != ["Transformer", "Pooling"] or not {"Dense", "Normalize"}.issuperset(kinds[2:]):
        supported = "sentence-transformers' Transformer, Pooling, and any number of Dense and Normalize after them"
        raise CheckpointError(f"{path}: the modules are {', '.join(kinds)}: minidistil supports {supported}")
    for kind, folder in zip(kinds, folders, strict=True):
        root = kind == "Transformer" and folder == ""
        if not (root or (isinstance(folder, str) and re.fullmatch(r"\w[\w.-]{0,99}", folder, re.ASCII))):
            raise CheckpointError(f"{path}: {kind} is in {folder!r}: expected a folder of the checkpoint")
    if len(set(folders)) < len(folders):
        raise CheckpointError(f"{path}: two modules are in the same folder: {', '.join(folders)}")
    return list(zip(kinds, folders, strict=True))


def _check_supported(path: Path, values: Mapping[str, Any], supported: Mapping[str, list[Any]]) -> None:
    """Raise CheckpointError for an unsupported value, or an unknown key that is set: it may change the vectors."""
    for key, value in values.items():
        if value not in supported.get(key, [None, False, {}, []]):
            raise CheckpointError(f"{path}: {key} is {value!r}, which minidistil does not support")


def _flag(path: Path, values: dict[str, Any], key: str, default: bool = False) -> bool:
    """Remove a key from the values and return it."""
    value = values.pop(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} is {value!r}: expected true or false")
    return value


def _count(path: Path, values: dict[str, Any], key: str) -> int | None:
    """Remove a key from the values and return it, an integer of at least 1 or null."""
    value = values.pop(key, None)
    try:
        check_count(key, value)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return value


def _config(files: Files) -> dict[str, Any]:
    """Return whether the model takes pairs: a BERT marks the second text as a segment, which DistilBERT lacks."""
    return {"pairs": read_json(files.get("config.json")).get("model_type") != "bert"}


def _transformer(files: Files) -> dict[str, Any]:
    """Read the settings of the Transformer: truncation and lowercasing."""
    path = next((path for name in TRANSFORMER if (path := files.find(name))), None)
    values = {} if path is None else read_json(path)
    if path is None or not values:
        return {}
    arguments = {
        "max_length": _count(path, values, "max_seq_length"),
        "do_lower_case": _flag(path, values, "do_lower_case"),
    }
    _check_supported(path, values, TRANSFORMER_SETTINGS)
    return arguments


def _pooling(path: Path) -> dict[str, Any]:
    """Read the settings of the Pooling, with the keys of new or old versions."""
    values = read_json(path)
    flags = [mode for key, mode in POOLINGS.items() if _flag(path, values, key)]
    modes = values.pop("pooling_mode", flags or "mean")
    modes = modes if isinstance(modes, list) else [modes]
    known = [*POOLINGS.values()]
    if not 1 <= len(modes) <= len(known) or not all(mode in known for mode in modes):
        supported = f"{', '.join(known)}, at most {len(known)} together"
        raise CheckpointError(f"{path}: pooling_mode is {modes}: minidistil supports {supported}")
    include_prompt = _flag(path, values, "include_prompt", True)
    _check_supported(path, {k: v for k, v in values.items() if "dimension" not in k}, {})
    return {"pooling": modes, "include_prompt": include_prompt}


def _normalize(files: Files) -> Normalize:
    """Check the settings of a Normalize module, which old versions have not written."""
    if path := files.find("config.json"):
        _check_supported(path, read_json(path), LAYER_SETTINGS)
    return Normalize()


def _dense(files: Files) -> Dense:
    """Read the settings and the weights of a Dense module."""
    path = files.get("config.json")
    values = read_json(path)
    inputs, outputs = _count(path, values, "in_features"), _count(path, values, "out_features")
    bias, residual = _flag(path, values, "bias", True), _flag(path, values, "use_residual")
    activation = values.pop("activation_function", "torch.nn.modules.activation.Tanh")
    name = ACTIVATION.fullmatch(activation) if isinstance(activation, str) else None
    if name is None or name[1] not in ACTIVATIONS:
        supported = ", ".join(f"torch.nn.{name}" for name in ACTIVATIONS)
        raise CheckpointError(f"{path}: activation_function is {activation!r}: minidistil supports {supported}")
    _check_supported(path, values, LAYER_SETTINGS)
    shapes = {"linear.weight": [outputs, inputs]}
    shapes |= {"linear.bias": [outputs]} if bias else {}
    shapes |= {"residual.weight": [outputs, inputs]} if residual and inputs != outputs else {}
    file, stored = find_weights(files)
    found = {name: part.shape for name, part in stored.items()}
    if found != shapes:
        raise CheckpointError(f"{file} has the tensors {found}: expected {shapes}, as {path} sets them")
    weights = {name: part.float32() for name, part in stored.items()}
    if residual and inputs == outputs:
        weights["residual.weight"] = np.eye(len(weights["linear.weight"]), dtype=np.float32)
    if not all(np.isfinite(weight).all() for weight in weights.values()):
        raise CheckpointError(f"{file} has weights that are nan or inf: expected finite numbers")
    return Dense(weights["linear.weight"], weights.get("linear.bias"), name[1], weights.get("residual.weight"))


def width_after(layers: Sequence[Layer], width: int) -> int:
    """Return the width of vectors of a width after the layers. Raises CheckpointError if they do not fit."""
    for dense in (layer for layer in layers if isinstance(layer, Dense)):
        outputs, inputs = dense.weight.shape
        if inputs != width:
            raise CheckpointError(f"a Dense module takes vectors of {inputs} elements: found {width} before it")
        width = outputs
    return width


def _settings(path: Path) -> dict[str, Any]:
    """Read the prompts, the name of the prompt that is used by default, and the truncation of vectors."""
    values = read_json(path)
    prompts, name = values.pop("prompts", None) or {}, values.pop("default_prompt_name", None)
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise CheckpointError(f"{path}: prompts is {prompts!r}: expected a text for each name")
    if name is not None and (not isinstance(name, str) or name not in prompts):
        raise CheckpointError(f"{path}: default_prompt_name is {name!r}: expected one of prompts, {prompts!r}")
    truncate_dim = _count(path, values, "truncate_dim")
    _check_supported(path, {key: value for key, value in values.items() if key not in UNUSED}, GENERAL_SETTINGS)
    prompts = {name: prompt or "" for name, prompt in prompts.items()}
    return {"prompts": prompts, "prompt_name": name, "truncate_dim": truncate_dim}
