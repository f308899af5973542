"""Match the tensors in a checkpoint's files with the parameters of a model: names, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..config import DistilBertConfig
from ..errors import CheckpointError
from .names import OTHER_HEAD, POSITIONS, SEGMENTS, WORDS, Plan, plan
from .tensors import FLOAT_DTYPES, Stored

LISTED = 8  # maximum names per kind in an error message

Shapes = dict[str, list[int]]  # of the parameters of a model, by name


def parameter_shapes(model_class: str, config: DistilBertConfig) -> Shapes:
    """Return the shape of each parameter of a pipeline's model, in the order of the model, without building it."""
    width, hidden = config.dim, config.hidden_dim

    def linear(name: str, outputs: int, inputs: int = width) -> Shapes:
        return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}

    def norm(name: str) -> Shapes:
        return {f"{name}.weight": [width], f"{name}.bias": [width]}

    encoder = {WORDS: [config.vocab_size, width], POSITIONS: [config.max_position_embeddings, width]}
    encoder |= norm("embeddings.LayerNorm")
    for i in range(config.n_layers):
        layer = f"transformer.layer.{i}"
        for projection in ("q_lin", "k_lin", "v_lin", "out_lin"):
            encoder |= linear(f"{layer}.attention.{projection}", width)
        encoder |= norm(f"{layer}.sa_layer_norm")
        encoder |= linear(f"{layer}.ffn.lin1", hidden) | linear(f"{layer}.ffn.lin2", width, hidden)
        encoder |= norm(f"{layer}.output_layer_norm")
    if model_class == "DistilBertForQuestionAnswering":
        config.check_span_labels()
    classifier = linear("classifier", config.num_labels)
    words = norm("vocab_layer_norm") | linear("vocab_projector", config.vocab_size)
    heads: dict[str, Shapes] = {
        "DistilBertForSequenceClassification": linear("pre_classifier", width) | classifier,
        "DistilBertForTokenClassification": classifier,
        "DistilBertForQuestionAnswering": linear("qa_outputs", 2),
        "DistilBertForMaskedLM": linear("vocab_transform", width) | words,
    }
    if model_class not in heads:
        return encoder
    return {f"distilbert.{name}": shape for name, shape in encoder.items()} | heads[model_class]


def match(
    path: Path,
    stored: Mapping[str, Stored],
    shapes: Shapes,
    config: DistilBertConfig,
    model_class: str,
    bert: bool,
) -> Plan:
    """Return the source of each parameter of a model. Raises CheckpointError, which lists what differs."""
    pooled = bert and "DistilBertForTokenClassification" not in config.architectures
    try:
        planned = plan(stored, shapes, bert=bert, tied=config.tie_word_embeddings, pooled=pooled)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _check_match(path, stored, shapes, planned, config, model_class)
    parts = {name: stored[source] for name, source in planned.sources.items()}
    others = [f"{name} ({part.dtype})" for name, part in parts.items() if part.dtype not in FLOAT_DTYPES.values()]
    if others:
        raise CheckpointError(f"{path}: expected floating-point weights, found {listed(others)}")
    return planned


def _check_match(
    path: Path,
    stored: Mapping[str, Stored],
    shapes: Shapes,
    planned: Plan,
    config: DistilBertConfig,
    model_class: str,
) -> None:
    """Raise CheckpointError, which lists every difference, unless names and shapes match those of the model."""
    mismatched = [
        f"{name} {stored[source].shape} (expected {shapes[name]})"
        for name, source in planned.sources.items()
        if stored[source].shape != shapes[name]
    ]
    if planned.segments:
        shape = stored[planned.segments].shape
        width = next(shape[1] for name, shape in shapes.items() if name.endswith(POSITIONS))
        if shape[1:] != [width] or not shape[0]:
            mismatched.append(f"{planned.segments} {shape} (expected [segments, {width}])")
    kinds = (("missing", planned.missing), ("unexpected", planned.unexpected), ("of another shape", mismatched))
    problems = [f"{kind}: {listed(names)}" for kind, names in kinds if names]
    others = [name for name, reason in planned.dropped.items() if reason == OTHER_HEAD]
    if problems and others:
        problems.append(f"{OTHER_HEAD}: {listed(others)}")
    if problems:
        encoder = [name for name in shapes if name.startswith("distilbert.")]  # empty for a model without a head
        head_only = encoder and planned.missing and not {*encoder, SEGMENTS} & {*planned.missing}
        hint = "; from_pretrained(..., new_head=True) adds a new, untrained head" if head_only else ""
        named = [name for name in config.architectures if name != model_class]
        hint = f"; architectures in config.json names {', '.join(named)}{hint}" if named else hint
        own = {part for name in (*shapes, "bert") for part in name.split(".")[:2]}
        outer: list[str] = []
        for parts in zip(*(name.split(".") for name in stored), strict=False):
            if len(set(parts)) > 1 or parts[0] in own:
                break
            outer.append(parts[0])
        if planned.missing and outer:
            where = ".".join(outer)
            hint = f"; every name in the file begins with {where}: save the state dict of the model inside it"
        raise CheckpointError(f"{path} does not hold this model's weights; {'; '.join(problems)}{hint}")


def listed(names: list[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
