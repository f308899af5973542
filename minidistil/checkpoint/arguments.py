"""Arguments of transformers that scripts pass: those that hold here anyway, and what replaces the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError

ARGUMENTS: dict[str, tuple[tuple[object, ...], str]] = {  # name -> values that hold here anyway, and what to do
    "attn_implementation": (("sdpa",), "omit it, or pass a model.with_ops(attention=...)"),
    "cache_dir": ((), "set the environment variable HF_HUB_CACHE"),
    "config": ((), "edit config.json in the folder of the checkpoint"),
    "data": ((), "pass it as the first argument"),
    "device_map": (("auto",), "pass device=: the model runs on one device"),
    "framework": (("pt",), "omit it: minidistil runs on PyTorch"),
    "grouped_entities": ((), 'pass aggregation_strategy="simple"'),
    "ignore_subwords": ((), 'pass aggregation_strategy="first"'),
    "load_in_8bit": ((False,), 'pass dtype="int8"'),
    "low_cpu_mem_usage": ((True, False), "omit it: weights are memory-mapped"),
    "multi_class": ((), "pass multi_label="),
    "num_workers": ((0,), "omit it: the tokenizer runs in threads, and texts are batched by length"),
    "offset_mapping": ((), "omit it: the tokenizer returns the offsets of every token"),
    "pipeline_class": ((), "pass the task, and subclass its pipeline"),
    "quantization_config": ((), 'pass dtype="int8"'),
    "return_all_scores": ((), "pass top_k=None for all labels, or omit it for the best"),
    "topk": ((), "pass top_k="),
    "trust_remote_code": ((True, False), "omit it: the code of a checkpoint never runs"),
    "use_auth_token": ((), "pass token="),
    "use_fast": ((True,), "omit it: every tokenizer is a fast one"),
    "X": ((), "pass it as the first argument"),
}


def without_transformers_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that hold here anyway. Raises InputError that names a replacement."""
    kept = {}
    for name, value in arguments.items():
        values, replacement = ARGUMENTS.get(name, ((), ""))
        if not replacement:
            kept[name] = value
        elif value is not None and not any(value is held or value == held for held in values):
            raise InputError(f"{name} is {value!r:.60}, which has no meaning here: {replacement}", subject=name)
    return kept


def merged(*arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments of several sources as one dict, with `torch_dtype` as `dtype`."""
    result: dict[str, Any] = {}
    for source in arguments:
        if not isinstance(source, Mapping | None):
            raise InputError(f"model_kwargs is {type(source).__name__}: expected a dict", subject="model_kwargs")
        for name, value in (source or {}).items():
            name = "dtype" if name == "torch_dtype" else name
            if name in result:
                raise InputError(f"{name} is passed twice: pass it once", subject=name)
            result[name] = value
    return result


def resolve_dtype(dtype: Any, other: Mapping[str, Any]) -> Any:
    """Return dtype=, or torch_dtype= among the other arguments of `from_pretrained`, where nothing else may be."""
    passed = merged({} if dtype is None else {"dtype": dtype}, without_transformers_arguments(other))
    dtype = passed.pop("dtype", None)
    if passed:
        raise TypeError(f"from_pretrained() got an unexpected keyword argument {min(passed)!r}")
    return dtype
