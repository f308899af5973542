"""Labeled examples: rows with their labels converted to the targets of a model."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..config import DistilBertConfig
from .label_rules import infer_schema
from .labels import REGRESSION, SINGLE, Schema, Summary, Target
from .records import Row

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

TOKENIZED_AT_ONCE = 10_000  # examples


@dataclasses.dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with the target of a model of C outputs."""

    text: str
    pair: str | None
    label: Target
    place: str  # such as "train.jsonl, line 3"


@dataclasses.dataclass(frozen=True)
class Labels:
    """The names of a model's outputs, and what they are for."""

    names: tuple[str, ...]
    problem_type: str

    @classmethod
    def from_config(cls, config: DistilBertConfig) -> Labels:
        """Return the labels of a model."""
        default = REGRESSION if config.num_labels == 1 else SINGLE
        return cls(tuple(config.id2label[i] for i in range(config.num_labels)), config.problem_type or default)

    def read(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        """Return the examples of the labeled rows, and the number of rows without a label."""
        schema = infer_schema(rows, names=self.names, problem_type=self.problem_type)
        examples, summary = read_examples(rows, schema)
        return examples, summary.skipped.total()


def read_examples(rows: Sequence[Row], schema: Schema) -> tuple[list[Example], Summary]:
    """Return the examples of the labeled rows, and how the labels were read."""
    summary = schema.read(rows)
    examples = [
        Example(row.text, row.pair, target, row.place)
        for row, target in zip(rows, summary.targets, strict=True)
        if target is not None
    ]
    return examples, summary


def tokenize(tokenizer: Tokenizer, examples: Sequence[Example], max_length: int) -> list[array[int]]:
    """Return the token ids of each example, truncated."""
    ids = [array("i") for _ in examples]
    for paired in (False, True):
        chosen = [i for i, example in enumerate(examples) if (example.pair is not None) == paired]
        for start in range(0, len(chosen), TOKENIZED_AT_ONCE):
            block = chosen[start : start + TOKENIZED_AT_ONCE]
            encoded = tokenizer.encode(
                [examples[i].text for i in block],
                [examples[i].pair or "" for i in block] if paired else None,
                max_length=max_length,
                names=[examples[i].place for i in block],
            )
            for i, sequence in zip(block, encoded.ids, strict=True):
                ids[i] = array("i", sequence)
    return ids
