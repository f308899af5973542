"""Text → answers, with transformers' task names, arguments and results: `pipeline` makes one for a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..checkpoint.files import find_files
from ..checkpoint.load import from_pretrained, parse_device
from ..errors import InputError
from ..model import Model
from ..tokenizer import Tokenizer
from .base import Pipeline
from .classification import TextClassification, ZeroShotClassification
from .embedding import FeatureExtraction, SentenceEmbedding
from .fill_mask import FillMask
from .question_answering import QuestionAnswering
from .token_classification import TokenClassification

TASKS: dict[str, type[Pipeline]] = {
    "zero-shot-classification": ZeroShotClassification,
    "text-classification": TextClassification,
    "sentiment-analysis": TextClassification,
    "feature-extraction": FeatureExtraction,
    "sentence-embedding": SentenceEmbedding,
    "fill-mask": FillMask,
    "token-classification": TokenClassification,
    "ner": TokenClassification,
    "question-answering": QuestionAnswering,
}
DEFAULTS = {"zero-shot-classification": "minidistil-mnli"}  # the models that come with the project


def pipeline(
    task: str,
    model: str | Path | Model | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    **defaults: Any,
) -> Pipeline:
    """Make a pipeline for a task, by its name in `TASKS`.

    model: a name as for `from_pretrained`, or a model; None: the task's own, see `DEFAULTS`. tokenizer: likewise;
    None: the model's own. revision: of the model's repository. device: -1 is the CPU, a number that CUDA device;
    None: CUDA where there is one, and where a given model is. defaults: arguments of every call, see `run` of each
    task. `InputError` for what does not fit together.
    """
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"task is {task!r}: expected one of {', '.join(TASKS)}")
    if model is None:
        if task not in DEFAULTS:
            raise InputError("model is missing: expected a folder, a Hub id or a model")
        model = DEFAULTS[task]
    TASKS[task].check_arguments(defaults)  # before a long download
    loaded = isinstance(model, Model)
    if isinstance(model, Model):
        if tokenizer is None or dtype is not None or revision is not None:
            raise InputError("with a model that is loaded, give its tokenizer too, and no dtype or revision")
        if device is not None and (where := parse_device(device)) != model.device:
            model = model.to(where)
    else:
        files = find_files(model, revision)  # once: the model and its tokenizer are of one commit
        default = "cuda" if torch.cuda.is_available() else "cpu"
        where = parse_device(default if device is None else device)
        files.get("config.json")  # then what is small: what is wrong with it is said before a long download
        tokenizer = Tokenizer.from_pretrained(files) if tokenizer is None else tokenizer
        defaults = {**TASKS[task].declared(files), **defaults}
        model = from_pretrained(files, task=task, dtype=dtype, device=where)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_pretrained(tokenizer)
    made = TASKS[task](task, model, tokenizer, **defaults)
    made.owns_model = not loaded
    return made
