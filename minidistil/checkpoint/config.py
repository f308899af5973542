"""The config of a checkpoint, and BERT checkpoints that DistilBERT cannot load."""

from __future__ import annotations

from ..config import DistilBertConfig, read_json
from ..errors import CheckpointError
from .files import Files

UNSUPPORTED_BERT = {  # class names without Bert -> why DistilBERT cannot load them
    "ForSequenceClassification": "its classifier reads a pooler, which DistilBERT lacks",
    "ForMultipleChoice": "its classifier reads a pooler, which DistilBERT lacks",
    "ForNextSentencePrediction": "its classifier reads a pooler, which DistilBERT lacks",
    "ForQuestionAnswering": "it marks the context as a second segment, which DistilBERT lacks",
}


def read_config(files: Files) -> tuple[DistilBertConfig, bool]:
    """Return the config of a checkpoint, and whether it is a BERT. Errors name the file."""
    path = files.get("config.json")
    values = read_json(path)
    try:
        return DistilBertConfig.from_dict(values), values.get("model_type") == "bert"
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def refuse_unsupported_bert(files: Files, architecture: str) -> None:
    """Raise CheckpointError for a BERT head that DistilBERT cannot have."""
    if reason := UNSUPPORTED_BERT.get(architecture.removeprefix("Bert")):
        raise CheckpointError(
            f"{files} cannot be converted to Distil{architecture}: {reason}; "
            "from_pretrained(..., new_head=True) adds a new, untrained head to its encoder"
        )
