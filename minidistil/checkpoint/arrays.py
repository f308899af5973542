"""Load a model into NumPy, with the checks of `load.py`: files → tensors → arrays by parameter name."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..config import DistilBertConfig
from ..errors import CheckpointError
from .config import read_config, refuse_unsupported_bert
from .files import Files
from .matching import match, parameter_shapes
from .names import POSITIONS, WORDS
from .tensors import INT8, find_weights


def read_arrays(files: Files, model_class: str) -> tuple[DistilBertConfig, dict[str, NDArray[Any]]] | None:
    """Return the config and the weights of a pipeline's model, by name; None if only torch can read them.

    The weights are in float32, except for the word embeddings, which stay in the file: few rows are read. Raises
    CheckpointError as `load` does.
    """
    config, bert = read_config(files)
    if bert:
        refuse_unsupported_bert(files, model_class.removeprefix("Distil"))
    path, stored = find_weights(files)
    try:
        shapes = parameter_shapes(model_class, config)
    except CheckpointError as error:
        raise CheckpointError(f"{files.get('config.json')}: {error}") from error
    if path.name == INT8:
        return None
    planned = match(path, stored, shapes, config, model_class, bert)
    sources = {*planned.sources.values(), *filter(None, [planned.segments])}
    if any(stored[source].array is None for source in sources):
        return None
    words = next(source for name, source in planned.sources.items() if name.endswith(WORDS))
    parts = {source: stored[source] for source in sources}
    arrays = {
        source: part.array() if source == words and part.array else part.float32()
        for source, part in parts.items()
    }
    weights = {name: arrays[source] for name, source in planned.sources.items()}
    if planned.segments:
        position = next(name for name in weights if name.endswith(POSITIONS))
        weights[position] = weights[position] + arrays[planned.segments][0]
    return config, weights
