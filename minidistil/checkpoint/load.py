"""A checkpoint's files → tensors → a model; and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import heads
from .. import model as models
from ..backends import int8
from ..checks import is_int
from ..config import CHOICES, DistilBertConfig, read_json
from ..errors import CheckpointError, InputError
from ..model import Model, draw
from ..ops import Ops
from .files import Files, find_files, write_files, write_json
from .names import OTHER_HEAD, POSITIONS, PROJECTOR, SEGMENTS, WORDS, Plan, plan
from .tensors import INT8, Stored, find_weights

M = TypeVar("M", bound=Model)

MODELS: dict[str, type[Model]] = {
    cls.__name__: cls
    for cls in (
        models.DistilBertModel,
        heads.DistilBertForSequenceClassification,
        heads.DistilBertForTokenClassification,
        heads.DistilBertForQuestionAnswering,
        heads.DistilBertForMaskedLM,
        heads.DistilBertForMultipleChoice,
    )
}
TASKS: dict[str, type[Model]] = {
    "text-classification": heads.DistilBertForSequenceClassification,
    "sentiment-analysis": heads.DistilBertForSequenceClassification,
    "zero-shot-classification": heads.DistilBertForSequenceClassification,
    "token-classification": heads.DistilBertForTokenClassification,
    "ner": heads.DistilBertForTokenClassification,
    "question-answering": heads.DistilBertForQuestionAnswering,
    "fill-mask": heads.DistilBertForMaskedLM,
    "feature-extraction": models.DistilBertModel,
    "sentence-embedding": models.DistilBertModel,
}
BERT_REFUSED = {  # what DistilBERT cannot be, by what follows Bert in a class's name
    "ForSequenceClassification": "its classifier reads a pooler, which DistilBERT lacks",
    "ForMultipleChoice": "its classifier reads a pooler, which DistilBERT lacks",
    "ForNextSentencePrediction": "its classifier reads a pooler, which DistilBERT lacks",
    "ForQuestionAnswering": "it marks the context as a second segment, which DistilBERT lacks",
}
UNLABELLED: dict[type[Model], str] = {
    heads.DistilBertForMultipleChoice: "multiple choice has one score for each choice",
    heads.DistilBertForMaskedLM: "a masked language model has one score for each word",
}
FLOATS = "model.safetensors"
SHOWN = 8  # how many names of a kind an error lists


def from_pretrained(
    name: str | Path | Files,
    *,
    task: str | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    ops: Ops | None = None,
    new_head: bool = False,
    num_labels: int | None = None,
) -> Model:
    """Load a checkpoint, ready to answer (in eval mode).

    name: a folder, a checkpoint of weights/, or a Hub id. task: a pipeline's task; None: the class that
    config.json names in `architectures`. revision: a branch, tag or commit of the Hub's repository.
    dtype: "float32", "bfloat16", "float16", "float64" or a torch.dtype; "auto": what the files say; None:
    float32 on the CPU, "auto" elsewhere; "int8": the blocks' products in 8 bits, all else in float32, for
    answering only, see `int8.py`. device: None is the CPU. ops: the operations to use. new_head: leave the head
    that the files may have, and draw another as transformers does, with torch's generator
    (`torch.manual_seed`). num_labels: how many labels the new head has; None: those of config.json.

    A BERT becomes the DistilBERT that it is when it is used with one segment. `CheckpointError` says which file,
    name or key is not as it must be, `InputError` which argument. On the CPU, weights stored in the asked dtype
    are not copied: they are the file, mapped into memory.
    """
    files = find_files(name, revision)
    cls = _class_for_files(files, new_head) if task is None else _class_for_task(task)
    return load(cls, files, dtype=dtype, device=device, ops=ops, new_head=new_head, num_labels=num_labels)


def load(
    cls: type[M],
    name: str | Path | Files,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    ops: Ops | None = None,
    new_head: bool = False,
    num_labels: int | None = None,
) -> M:
    """Load a checkpoint as one class: see `from_pretrained`."""
    if ops is not None and not isinstance(ops, Ops):
        raise InputError(f"ops is {type(ops).__name__}: expected Ops(...)")
    where = parse_device("cpu" if device is None else device)
    eight = dtype in ("int8", torch.int8)
    if eight:
        ops = int8.compose(ops)
    wanted = torch.float32 if eight else _wanted_dtype(dtype, where)
    files = find_files(name, revision)
    config, bert = _read_config(files)
    if bert and not new_head:
        _refuse_bert(files, cls.__name__.removeprefix("Distil"))
    if new_head:
        config = _with_new_labels(cls, config, num_labels, files)
    elif num_labels is not None:
        raise InputError(
            f"num_labels is {num_labels!r}, but only a new head can have another number: new_head=True"
        )
    path, found = find_weights(files, int8=eight and not new_head)
    if config.n_layers > len(found):
        raise CheckpointError(f"{files}: n_layers is {config.n_layers}, but {path.name} has {len(found)} tensors")
    try:
        model = cls(config, device="meta")  # type: ignore[call-arg]
    except CheckpointError as error:
        raise CheckpointError(f"{files.get('config.json')}: {error}") from error
    if path.name == INT8:
        if new_head or not (eight or dtype in (None, "auto")):
            raise InputError(f"{path} is stored in 8 bits, for answering only: leave out dtype= and new_head=")
        int8.quantize_model(model)
        model.load_state_dict(_read_int8(path, found, model, where), strict=False, assign=True)
        return model.eval().with_ops(**vars(ops if eight else int8.compose(ops)))
    tensors = _read(path, found, model, where, wanted, bert, new_head)
    if config.tie_word_embeddings and _differ(tensors.get(f"distilbert.{WORDS}"), tensors.get(PROJECTOR)):
        model = cls(dataclasses.replace(config, tie_word_embeddings=False), device="meta")  # type: ignore[call-arg]
    if new_head:  # only now: the files bear out the sizes
        _draw_heads(model, like=next(iter(tensors.values())))
    model.load_state_dict(tensors, strict=False, assign=True)
    model.eval()
    if eight:
        int8.quantize_model(model)
    return model if ops is None else model.with_ops(**vars(ops))


def _read_config(files: Files) -> tuple[DistilBertConfig, bool]:
    """Read config.json, and whether it is a BERT's."""
    path = files.get("config.json")
    values = read_json(path)
    try:
        return DistilBertConfig.from_dict(values), values.get("model_type") == "bert"
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _class_for_task(task: str) -> type[Model]:
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"task is {task!r}: expected one of {', '.join(TASKS)}")
    return TASKS[task]


def _class_for_files(files: Files, new_head: bool) -> type[Model]:
    config, bert = _read_config(files)
    for architecture in config.architectures:
        if architecture in MODELS:
            return MODELS[architecture]
        if bert and not new_head:
            _refuse_bert(files, architecture)
    named = f"names {', '.join(config.architectures)}" if config.architectures else "is missing"
    raise CheckpointError(
        f"{files}: architectures in config.json {named}: minidistil has {', '.join(MODELS)}; "
        f"give task= ({', '.join(TASKS)}) to choose one"
    )


def _refuse_bert(files: Files, architecture: str) -> None:
    if reason := BERT_REFUSED.get(architecture.removeprefix("Bert")):
        raise CheckpointError(
            f"{files} cannot become a Distil{architecture}: {reason}; "
            "from_pretrained(..., new_head=True) gives its encoder a new head, to be trained"
        )


def _with_new_labels(
    cls: type[Model], config: DistilBertConfig, num_labels: int | None, files: Files
) -> DistilBertConfig:
    """Give the config of a model with a new head."""
    if cls is models.DistilBertModel:
        raise InputError("new_head is True, but DistilBertModel has no head: give task=, or load a class with one")
    asks = cls is heads.DistilBertForQuestionAnswering
    if num_labels is None:
        if asks and config.num_labels != 2:
            raise CheckpointError(
                f"{files.get('config.json')}: num_labels is {config.num_labels}, but question answering has 2: "
                "give num_labels=2"
            )
        return config
    if not is_int(num_labels) or num_labels < 1:
        raise InputError(f"num_labels is {num_labels!r}: expected an integer of at least 1")
    if asks and num_labels != 2:
        raise InputError(f"num_labels is {num_labels}: question answering has 2, start and end")
    if cls in UNLABELLED:
        raise InputError(f"num_labels is {num_labels}: {UNLABELLED[cls]}; task= chooses another class")
    labels = {i: f"LABEL_{i}" for i in range(num_labels)}
    return dataclasses.replace(config, id2label=labels, problem_type=None)


@torch.no_grad()
def _draw_heads(model: Model, like: Tensor) -> None:
    """Give a model on the meta device random weights in all but its encoder."""
    for name, part in model.named_children():
        if name != "distilbert":
            part.to_empty(device="cpu")
            draw(part, model.config.initializer_range)
            part.to(like.device, like.dtype)


def _differ(words: Tensor | None, projector: Tensor | None) -> bool:
    """Whether the projector is not the word table, whatever the config says; so does transformers decide."""
    return (
        words is not None
        and projector is not None
        and projector is not words
        and not torch.equal(projector, words)
    )


def _wanted_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """Give the dtype to load; None for what the files say."""
    if dtype is None and device.type == "cpu":
        return torch.float32
    return None if dtype is None or dtype == "auto" else parse_dtype(dtype, "int8")


def parse_dtype(dtype: str | torch.dtype, *others: str) -> torch.dtype:
    """Give the torch.dtype of a name, if it is one that models compute in. others: what else may be asked for."""
    name = str(dtype).removeprefix("torch.")
    names = [choice for choice in CHOICES["dtype"] if choice]
    if name not in names:
        raise InputError(f"dtype is {name!r}: expected one of {', '.join([*names, *others])}")
    return getattr(torch, name)


def parse_device(device: str | int | torch.device) -> torch.device:
    """Give a torch.device that this machine has; -1 is the CPU, another number that CUDA device."""
    if isinstance(device, int):
        device = f"cuda:{device}" if device >= 0 else "cpu"
    try:
        where = torch.device(device)
        if where.type not in ("cpu", "cuda"):
            torch.empty(1, device=where).cpu()  # whether torch has it at all: each kind raises an error of its own
    except Exception as error:
        raise InputError(f"device is {device!r}: expected cpu, cuda, cuda:1 or the like") from error
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {str(where)!r}: torch sees {torch.cuda.device_count()} CUDA devices here")
    if where.type == "cuda" and where.index is None:
        return torch.device("cuda", torch.cuda.current_device())  # as parameters name it
    return torch.device("cpu") if where.type == "cpu" else where


def _read(
    path: Path,
    found: Mapping[str, Stored],
    model: Model,
    device: torch.device,
    dtype: torch.dtype | None,
    bert: bool,
    new_head: bool,
) -> dict[str, Tensor]:
    """Read what a model needs of its files, each tensor on the device and in the dtype asked for."""
    shapes = {
        name: list(p.shape)
        for name, p in model.named_parameters(remove_duplicate=False)
        if not new_head or name.startswith("distilbert.")
    }
    config = model.config
    pooled = bert and "DistilBertForTokenClassification" not in config.architectures
    try:
        planned = plan(found, shapes, bert=bert, tied=config.tie_word_embeddings, pooled=pooled)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _compare(path, found, shapes, planned, model)
    stored = {name: found[source] for name, source in planned.sources.items()}
    odd = [f"{name} ({part.dtype})" for name, part in stored.items() if isinstance(part.dtype, str)]
    if odd:
        raise CheckpointError(f"{path}: expected floating-point weights, found {_some(odd)}")
    if dtype is None:
        dtype = parse_dtype(config.dtype or str(next(iter(stored.values())).dtype))
    tensors = {source: found[source].read().detach() for source in planned.sources.values()}
    if planned.segments:
        position = next(source for name, source in planned.sources.items() if name.endswith(POSITIONS))
        tensors[position] = _fold(tensors[position], found[planned.segments].read().detach())
    moved = {source: tensor.to(device, dtype).contiguous() for source, tensor in tensors.items()}
    return {name: moved[source] for name, source in planned.sources.items()}


def _read_int8(path: Path, found: Mapping[str, Stored], model: Model, device: torch.device) -> dict[str, Tensor]:
    """Read what a quantized model, on the meta device, needs of a file that holds exactly that."""
    kind: dict[torch.dtype, Any] = {torch.int8: "I8"}  # as the file calls it
    tensors = int8.to_stored(model)
    expected = {name: (list(part.shape), kind.get(part.dtype, part.dtype)) for name, part in tensors.items()}
    wrong = [
        f"{name} {found[name].shape} {found[name].dtype} (expected {shape} {dtype})"
        for name, (shape, dtype) in expected.items()
        if name in found and (found[name].shape, found[name].dtype) != (shape, dtype)
    ]
    kinds = (
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
        ("of another shape or kind", wrong),
    )
    problems = "; ".join(f"{what}: {_some(names)}" for what, names in kinds if names)
    if problems:
        raise CheckpointError(f"{path} does not hold this model's weights in 8 bits; {problems}")
    return int8.from_stored(model, {name: found[name].read().to(device) for name in expected})


def _fold(positions: Tensor, segments: Tensor) -> Tensor:
    """Add a BERT's first segment to each position: (positions, D), (segments, D) -> (positions, D)."""
    wide = torch.promote_types(positions.dtype, torch.float32)
    return positions.to(wide) + segments[0].to(wide)


def _compare(
    path: Path, found: Mapping[str, Stored], shapes: Mapping[str, list[int]], planned: Plan, model: Model
) -> None:
    """Refuse files whose names and shapes are not the model's, naming every kind of difference at once."""
    sources = planned.sources
    wrong = [
        f"{name} {found[source].shape} (expected {shapes[name]})"
        for name, source in sources.items()
        if found[source].shape != shapes[name]
    ]
    if planned.segments:
        shape = found[planned.segments].shape
        width = next(shape[1] for name, shape in shapes.items() if name.endswith(POSITIONS))
        if shape[1:] != [width] or not shape[0]:
            wrong.append(f"{planned.segments} {shape} (expected [segments, {width}])")
    kinds = (("missing", planned.missing), ("unexpected", planned.unexpected), ("of another shape", wrong))
    problems = [f"{kind}: {_some(names)}" for kind, names in kinds if names]
    others = [name for name, reason in planned.dropped.items() if reason == OTHER_HEAD]
    if problems and others:
        problems.append(f"{OTHER_HEAD}: {_some(others)}")
    if problems:
        encoder = [name for name in shapes if name.startswith("distilbert.")]  # none: it has no head
        whole = encoder and planned.missing and not {*encoder, SEGMENTS} & {*planned.missing}
        hint = "; from_pretrained(..., new_head=True) draws a new head, to be trained" if whole else ""
        named = [name for name in model.config.architectures if name != type(model).__name__]
        hint = f"; config.json calls it a {', '.join(named)}{hint}" if named else hint
        raise CheckpointError(f"{path} does not hold this model's weights; {'; '.join(problems)}{hint}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def save(model: Model, folder: str | Path) -> None:
    """Write config.json and model.safetensors, in the parameters' own dtype, as transformers reads them.

    A model in 8 bits is written as model-int8.safetensors, and never beside the other: which one would be loaded?
    """
    from safetensors.torch import save_file

    if model.device.type == "meta":
        raise InputError("there is nothing to save: the model is on the meta device, without weights")
    eight = any(isinstance(part, int8.Linear8) for part in model.modules())
    # named_parameters() gives parameters that are tied once, under the first of their names
    found = int8.to_stored(model) if eight else dict(model.named_parameters())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    file, other = (INT8, FLOATS) if eight else (FLOATS, INT8)
    if Path(folder, other).exists():
        raise InputError(f"{folder} holds a {other}, beside which {file} would mislead: choose another folder")
    dtype = str(model.dtype).removeprefix("torch.")
    config = dataclasses.replace(model.config, architectures=(type(model).__name__,), dtype=dtype)
    write_files(
        folder,
        {
            file: lambda path: save_file(tensors, path, metadata={"format": "pt"}),
            "config.json": lambda path: write_json(path, config.to_dict()),
        },
    )
