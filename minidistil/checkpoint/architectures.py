"""The model class of a checkpoint, and the limits of new heads."""

from __future__ import annotations

import dataclasses

from .. import heads
from ..checks import is_int
from ..config import DistilBertConfig
from ..errors import CheckpointError, InputError
from ..model import DistilBertModel, Model
from .config import read_config, refuse_unsupported_bert
from .files import Files
from .tasks import TASKS

MODELS: dict[str, type[Model]] = {
    cls.__name__: cls
    for cls in (
        DistilBertModel,
        heads.DistilBertForSequenceClassification,
        heads.DistilBertForTokenClassification,
        heads.DistilBertForQuestionAnswering,
        heads.DistilBertForMaskedLM,
        heads.DistilBertForMultipleChoice,
    )
}
WITHOUT_LABELS: dict[type[Model], str] = {
    heads.DistilBertForMultipleChoice: "multiple choice has one score per choice",
    heads.DistilBertForMaskedLM: "a masked language model has one score per word",
}


def class_for_task(task: str) -> type[Model]:
    """Return the model class of a task."""
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"task is {task!r}: expected one of {', '.join(TASKS)}")
    return MODELS[TASKS[task].model_class]


def class_for_files(files: Files, new_head: bool) -> type[Model]:
    """Return the class of the first name in config.json's `architectures` that minidistil supports."""
    config, bert = read_config(files)
    for architecture in config.architectures:
        if architecture in MODELS:
            return MODELS[architecture]
        if bert and not new_head:
            refuse_unsupported_bert(files, architecture)
    named = f"names {', '.join(config.architectures)}" if config.architectures else "is missing"
    raise CheckpointError(
        f"{files}: architectures in config.json {named}: expected one of {', '.join(MODELS)}; "
        f"pass task= ({', '.join(TASKS)}) to choose one"
    )


def with_new_labels(
    cls: type[Model], config: DistilBertConfig, num_labels: int | None, files: Files
) -> DistilBertConfig:
    """Return the config of a model with a new head of `num_labels` labels; None: the labels of the config."""
    if cls is DistilBertModel:
        raise InputError("new_head is True, but DistilBertModel has no head: choose a class with task=")
    spans = cls is heads.DistilBertForQuestionAnswering
    if num_labels is None:
        if spans and config.num_labels != 2:
            raise CheckpointError(
                f"{files.get('config.json')}: num_labels is {config.num_labels}, but question answering has 2: "
                "pass num_labels=2"
            )
        return config
    if not is_int(num_labels) or num_labels < 1:
        raise InputError(f"num_labels is {num_labels!r}: expected an integer of at least 1")
    if spans and num_labels != 2:
        raise InputError(f"num_labels is {num_labels}: question answering has 2, start and end")
    if cls in WITHOUT_LABELS:
        raise InputError(f"num_labels is {num_labels}: {WITHOUT_LABELS[cls]}; choose another class with task=")
    labels = {i: f"LABEL_{i}" for i in range(num_labels)}
    return dataclasses.replace(config, id2label=labels, problem_type=None)
