"""The files of a sentence-transformers checkpoint: pooling, normalization, truncation and prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.files import Files
from ..checks import check_count
from ..config import read_json
from ..errors import CheckpointError, InputError

POOLINGS = ("mean", "cls")
TRANSFORMER = {  # supported values of sentence_bert_config.json, beside max_seq_length and do_lower_case
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
NORMALIZE = dict.fromkeys(("module_input_name", "module_output_name"), "sentence_embedding")


def declared(files: Files) -> dict[str, Any]:
    """Return the arguments of `SentenceEmbedding` that the files set; none without modules.json.

    Raises CheckpointError for a setting that minidistil does not support.
    """
    modules = files.find("modules.json")
    if modules is None:
        return {}
    folders = _folders(modules)
    arguments = {"pooling": _pooling(files.get(f"{folders[1]}/config.json")), "normalize": len(folders) > 2}
    if arguments["normalize"] and (path := files.find(f"{folders[2]}/config.json")):
        _check_supported(path, read_json(path), NORMALIZE)
    if path := files.find("sentence_bert_config.json") or files.find("sentence_distilbert_config.json"):
        arguments |= _transformer(path)
    if path := files.find("config_sentence_transformers.json"):
        arguments |= _prompt(path)
    return arguments


def _folders(path: Path) -> list[str]:
    """Read modules.json: the folders of Transformer, Pooling and, if there is one, Normalize."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        types, folders = [module["type"] for module in modules], [module["path"] for module in modules]
        names = [kind.split(".")[-1] if kind.startswith("sentence_transformers.") else kind for kind in types]
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected a list of modules, each with type and path: {error!r}") from error
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        supported = "sentence-transformers' Transformer and Pooling, optionally with Normalize after them"
        raise CheckpointError(f"{path}: the modules are {', '.join(names)}: minidistil supports {supported}")
    if folders[0] != "":
        raise CheckpointError(f"{path}: Transformer is in {folders[0]!r}: expected the checkpoint itself, ''")
    for name, folder in zip(names[1:], folders[1:], strict=True):
        if not isinstance(folder, str) or not re.fullmatch(r"\w[\w.-]{0,99}", folder, re.ASCII):
            raise CheckpointError(f"{path}: {name} is in {folder!r}: expected a folder of the checkpoint")
    return folders


def _check_supported(path: Path, values: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Raise CheckpointError for an unsupported value, or an unknown key that is set: it may change the vectors."""
    for key, value in values.items():
        if value not in ([supported[key]] if key in supported else [None, False, {}]):
            raise CheckpointError(f"{path}: {key} is {value!r}, which minidistil does not support")


def _pooling(path: Path) -> str:
    """Read the config of a Pooling module, with the keys of new or old versions."""
    values = read_json(path)
    flags = {
        "cls": values.pop("pooling_mode_cls_token", False),
        "mean": values.pop("pooling_mode_mean_tokens", False),
    }
    modes = values.pop("pooling_mode", [mode for mode in flags if flags[mode]] or "mean")
    modes = modes if isinstance(modes, list) else [modes]
    _check_supported(path, {k: v for k, v in values.items() if "dimension" not in k}, {"include_prompt": True})
    if modes not in ([mode] for mode in POOLINGS):
        raise CheckpointError(f"{path}: pooling_mode is {modes}: minidistil supports {' or '.join(POOLINGS)}")
    return modes[0]


def _transformer(path: Path) -> dict[str, Any]:
    """Read the config of the Transformer module: truncation and lowercasing."""
    values = read_json(path)
    max_length, do_lower_case = values.pop("max_seq_length", None), values.pop("do_lower_case", False)
    try:
        check_count("max_seq_length", max_length)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(do_lower_case, bool):
        raise CheckpointError(f"{path}: do_lower_case is {do_lower_case!r}: expected true or false")
    _check_supported(path, values, TRANSFORMER)
    return {"max_length": max_length, "do_lower_case": do_lower_case}


def _prompt(path: Path) -> dict[str, str]:
    """Read the prompt that is prepended to each text."""
    values = read_json(path)
    supported = {"model_type": "SentenceTransformer", "truncate_dim": None}
    _check_supported(path, {key: value for key, value in values.items() if key in supported}, supported)
    name, prompts = values.get("default_prompt_name"), values.get("prompts")
    if name is None:
        return {}
    if not isinstance(prompts, dict) or not isinstance(name, str) or not isinstance(prompts.get(name), str):
        raise CheckpointError(f"{path}: default_prompt_name is {name!r}: expected one of prompts, {prompts!r}")
    return {"prompt": prompts[name]}
