"""Task heads: logits from the encoder's hidden states. They compute no loss.

Shapes: T tokens, n sequences, L padded length, D model width, C labels, V vocabulary; Tq tokens of a subset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DistilBertConfig
from .layout import Batch, Subset, enter, enter_choices, first_tokens
from .model import DistilBertModel, Model, layer_norm, linear_layer
from .ops import Ops

Input: TypeAlias = Batch | Tensor  # packed, or padded ids
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class Head(Model):
    """An encoder with a head, with random weights, or without storage on the device "meta"."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = DistilBertModel(config, device="meta")

    @property
    def ops(self) -> Ops:  # type: ignore[override]
        """The operations of the encoder."""
        return self.distilbert.ops


class SequenceHead(Head):
    """Two linear layers on the first token, [CLS], of each sequence."""

    def __init__(self, config: DistilBertConfig, outputs: int, device: torch.device | str):
        super().__init__(config)
        self.pre_classifier = linear_layer(config.dim, config.dim)
        self.classifier = linear_layer(config.dim, outputs)
        self.dropout = nn.Dropout(config.seq_classif_dropout)
        self.initialize(device)

    def score(self, batch: Batch) -> Tensor:
        """Score each sequence: (T,) -> (n, outputs). A sequence of length 0 has a hidden state of zeros."""
        cls = first_tokens(batch)
        x = self.distilbert.encode(batch, cls)  # one row per sequence of at least one token
        x = cls.pad(x).flatten(0, 1)  # (n, D)
        return self.classifier(self.dropout(F.relu(self.pre_classifier(x))))


class DistilBertForSequenceClassification(SequenceHead):
    """Classify texts, or pairs of texts."""

    def __init__(self, config: DistilBertConfig, device: torch.device | str = "cpu"):
        super().__init__(config, config.num_labels, device)

    def forward(self, input_ids: Input, attention_mask: Tensor | None = None, **other: Any) -> Tensor:
        """Classify a Batch, or padded ids and mask, both (n, L) and starting with a token: logits (n, C)."""
        batch, _ = enter(input_ids, attention_mask, self.config, **other)
        return self.score(batch)


class DistilBertForMultipleChoice(SequenceHead):
    """Score each choice of a question, one sequence per choice."""

    def __init__(self, config: DistilBertConfig, device: torch.device | str = "cpu"):
        super().__init__(config, 1, device)

    def forward(self, input_ids: Input, attention_mask: Tensor | None = None, **other: Any) -> Tensor:
        """Score padded ids and mask, both (n, choices, L): (n, choices); or a Batch of m sequences: (m,)."""
        batch, leave = enter_choices(input_ids, attention_mask, self.config, **other)
        return leave(self.score(batch).squeeze(1))


class DistilBertForTokenClassification(Head):
    """Classify each token."""

    def __init__(self, config: DistilBertConfig, device: torch.device | str = "cpu"):
        super().__init__(config)
        self.classifier = linear_layer(config.dim, config.num_labels)
        self.dropout = nn.Dropout(config.dropout)
        self.initialize(device)

    def forward(self, input_ids: Input, attention_mask: Tensor | None = None, **other: Any) -> Tensor:
        """Classify the tokens of a Batch: (T, C); or of padded ids and mask, both (n, L): (n, L, C)."""
        batch, leave = enter(input_ids, attention_mask, self.config, **other)
        return leave(self.classifier(self.dropout(self.distilbert.encode(batch))))


class SpanLogits(NamedTuple):
    """Logits of an answer's start and end at each token: (T,) each, or (n, L) each, 0 at padding."""

    start: Tensor
    end: Tensor


class DistilBertForQuestionAnswering(Head):
    """Find the span of a context that answers a question."""

    def __init__(self, config: DistilBertConfig, device: torch.device | str = "cpu"):
        config.check_span_labels()
        super().__init__(config)
        self.qa_outputs = linear_layer(config.dim, 2)
        self.dropout = nn.Dropout(config.qa_dropout)
        self.initialize(device)

    def forward(self, input_ids: Input, attention_mask: Tensor | None = None, **other: Any) -> SpanLogits:
        """Score the tokens of a Batch, or of padded ids and mask, both (n, L), as an answer's start and end."""
        batch, leave = enter(input_ids, attention_mask, self.config, **other)
        start, end = self.qa_outputs(self.dropout(self.distilbert.encode(batch))).unbind(1)
        return SpanLogits(leave(start), leave(end))


class DistilBertForMaskedLM(Head):
    """Predict masked tokens."""

    def __init__(self, config: DistilBertConfig, device: torch.device | str = "cpu"):
        super().__init__(config)
        self.vocab_transform = linear_layer(config.dim, config.dim)
        self.vocab_layer_norm = layer_norm(config.dim)
        self.vocab_projector = linear_layer(config.dim, config.vocab_size)
        self.tie()
        self.initialize(device)

    def forward(
        self, input_ids: Input, attention_mask: Tensor | None = None, *, tokens: Subset | None = None, **other: Any
    ) -> Tensor:
        """Score the vocabulary at the tokens of a Batch: (T, V); of padded ids and mask, both (n, L): (n, L, V).

        tokens: with a Batch, score only these tokens: (Tq, V). The last block then computes only them.
        """
        batch, leave = enter(input_ids, attention_mask, self.config, **other)
        scores = self.project(self.distilbert.encode(batch, tokens))
        return leave(scores) if tokens is None else scores

    def project(self, x: Tensor) -> Tensor:
        """Score the vocabulary for hidden states: (T, D) -> (T, V)."""
        x = ACTIVATIONS[self.config.activation](self.vocab_transform(x))
        return self.vocab_projector(self.vocab_layer_norm(x))

    def tie(self) -> None:
        """Use the word embeddings as the weight of the projector, if the config ties them."""
        if self.config.tie_word_embeddings:
            self.vocab_projector.weight = self.distilbert.embeddings.word_embeddings.weight

    # Loading, moving or converting weights may replace the tied parameter by two: tie them again.

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as nn.Module does, then tie the projector."""
        result = super().load_state_dict(state_dict, strict, assign)
        self.tie()
        return result

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.tie()
        return self
