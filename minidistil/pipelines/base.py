"""Base of all pipelines: call options, streams of inputs, and the interface to the model.

The pipelines use NumPy arrays and do not import torch; only `inference.py` and
`pooling.py` do, behind the `Engine` interface. `numpy_engine.py` implements it without torch.

Shapes: L tokens of a sequence, C labels, D model width, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from ..checkpoint.arguments import (
    PIPELINE_ATTRIBUTES,
    missing_attribute,
    without_transformers_arguments,
)
from ..checkpoint.files import Files
from ..checks import check_count, plain
from ..config import DistilBertConfig
from ..errors import CheckpointError, InputError, input_name, warn
from ..tokenizer import Tokenizer, truncation_strategy
from .scores import Array

WINDOW = 1024  # maximum number of inputs that are sorted by length together
FIRST_WINDOW = 32  # inputs of the first window of a stream, so that its answers do not wait for many inputs
TOKENIZER_OPTIONS = ("truncation", "max_length", "padding")  # padding has no effect: batches are packed

Answer: TypeAlias = dict[str, Any]
Ids: TypeAlias = tuple[int, ...]
T = TypeVar("T")

signature = functools.cache(inspect.signature)  # of a class's `run`; cached, since every call needs it


class Engine(Protocol):
    """The interface of a model to its pipeline: a config, and outputs for sequences of token ids."""

    config: DistilBertConfig

    @property
    def device(self) -> Any:
        """Device of the model."""

    @property
    def dtype(self) -> Any:
        """Dtype in which the model computes."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of the model into a folder."""

    def hand_over(self) -> Any:
        """Return the model to code that may change it. Changes apply from the next batch on."""

    def run(
        self, output: str, sequences: Sequence[Ids], batch_size: int | None = None, **options: Any
    ) -> list[Array]:
        """Return the rows of each sequence, (rows, columns), in order; nan and inf raise CheckpointError.

        output: "sequence_logits" (1, C), "token_logits" (L, C), "span_logits" (L, 2), "masked_logits" (masks, V)
        with the option `mask_id`; of an encoder "token_logits" (L, D), and "pooled" (1, modes * D) with the
        options `modes` and `skip`.
        """


def check_finite(finite: bool, dtype: object) -> None:
    """Raise CheckpointError unless the outputs of a model that computes in a dtype are finite."""
    if not finite:
        raise CheckpointError(
            f"the model returns nan or inf: check its weights, or use a wider dtype than {dtype}"
        )


class Pipeline:
    """Text → answers, for one task: encode texts, run the engine, turn its outputs into answers."""

    window = WINDOW  # smaller where answers are large
    first_window = FIRST_WINDOW
    own_arguments: tuple[str, ...] = ()  # of the pipeline, not of a call

    def __init__(self, task: str, engine: Engine, tokenizer: Tokenizer, **defaults: Any):
        """Wrap an engine and its tokenizer. defaults: arguments of every call; TypeError for an unknown one."""
        defaults = self.checked_arguments(defaults)
        self.task = task
        self.engine = engine
        self.tokenizer = tokenizer
        # every call uses the defaults, so iterators become lists
        self.defaults = {key: list(v) if isinstance(v, Iterator) else v for key, v in defaults.items()}
        self._warned = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call `run` with the pipeline's default arguments and these."""
        own = signature(type(self).run)
        options = without_transformers_arguments(options, own=own.parameters)
        arguments = own.bind_partial(self, *args, **options).arguments
        del arguments["self"]
        return self.run(**{name: plain(value) for name, value in {**self.defaults, **arguments}.items()})

    if not TYPE_CHECKING:  # type checkers know the attributes

        def __getattr__(self, name):
            """Raise AttributeError, which names what replaces an attribute of transformers' pipelines."""
            raise missing_attribute(self, name, PIPELINE_ATTRIBUTES)

    def __repr__(self) -> str:
        """Return the task, the model and the tokenizer."""
        return f"{type(self).__name__}(task={self.task!r}, engine={self.engine!r}, tokenizer={self.tokenizer!r})"

    def predict(self, inputs: Any) -> Any:
        """Call the pipeline, under a name of scikit-learn's."""
        return self(inputs)

    transform = predict

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of the model and of the tokenizer into a folder, which `pipeline` loads."""
        self.engine.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def run(self, *args: Any, **options: Any) -> Any:
        """Answer one input or many; each task documents its arguments."""
        raise TypeError(f"{type(self).__name__} is not a task: use one of its subclasses")

    @classmethod
    def checked_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return default arguments without those that hold anyway. Raises TypeError for an unknown one."""
        own = signature(cls.run)
        kept = without_transformers_arguments(arguments, own={*own.parameters, *cls.own_arguments})
        own.bind_partial(None, **{name: value for name, value in kept.items() if name not in cls.own_arguments})
        return kept

    @classmethod
    def declared(cls, files: Files) -> tuple[dict[str, Any], Files]:
        """Return the default arguments that a checkpoint's files set, and the files of its model."""
        return {}, files

    @property
    def config(self) -> DistilBertConfig:
        """Config of the model."""
        return self.engine.config

    @property
    def model(self) -> Any:
        """The model, which may be changed: after the first access it runs without prepacked weights."""
        return self.engine.hand_over()

    @property
    def device(self) -> Any:
        """Device of the model."""
        return self.engine.device

    @property
    def dtype(self) -> Any:
        """Dtype in which the model computes."""
        return self.engine.dtype

    def limit(self, max_length: int | None = None) -> int:
        """Return the maximum tokens of a text: `max_length` or the tokenizer's, at most the model's maximum."""
        return min(max_length or self.tokenizer.max_length, self.config.max_position_embeddings)

    def windows(
        self, inputs: Iterable[T], names: Iterator[str] | None = None
    ) -> Iterator[tuple[list[str], list[T]]]:
        """Yield a stream in windows, each with the names of its inputs for error messages."""
        names = map(input_name, itertools.count()) if names is None else names
        for window in windows(inputs, self.window, self.first_window):
            yield list(itertools.islice(names, len(window))), window

    def encode_pairs(
        self, window: list[tuple[str, str | None]], names: list[str], truncation: str, max_length: int
    ) -> list[Ids]:
        """Return the token ids of each text or pair, truncated with a warning."""
        ids: dict[int, Ids] = {}
        truncated = 0
        for paired in (False, True):
            indices = [i for i, (_, pair) in enumerate(window) if (pair is not None) == paired]
            if not indices:
                continue
            encoded = self.tokenizer.encode(
                [window[i][0] for i in indices],
                [window[i][1] or "" for i in indices] if paired else None,
                max_length=max_length,
                truncation=truncation,
                names=[names[i] for i in indices],
            )
            ids.update(zip(indices, map(tuple, encoded.ids), strict=True))
            truncated += encoded.truncated
        self.warn_truncated(truncated, max_length)
        return [ids[i] for i in range(len(window))]

    def warn_truncated(self, count: int, max_length: int) -> None:
        """Warn, once per pipeline, if texts were truncated."""
        if count and not self._warned:
            self._warned = True
            warn(f"texts longer than {max_length} tokens are truncated")


def windows(inputs: Iterable[T], size: int | None = None, first: int = FIRST_WINDOW) -> Iterator[list[T]]:
    """Yield a stream in windows that grow from `first` inputs up to a size.

    If the stream raises, the inputs before the error are yielded first.
    """
    largest = min(WINDOW, size or WINDOW)
    window: list[T] = []
    limit = min(largest, first)
    try:
        for example in inputs:
            window.append(example)
            if len(window) == limit:
                yield window
                window, limit = [], min(largest, 2 * limit)
    except Exception:
        yield window
        raise
    yield window


def deliver(inputs: object, single: bool, answers: Iterator[T]) -> T | list[T] | Iterator[T]:
    """Return one answer for a single input, a list for list-like inputs, and an iterator for other iterables."""
    if single:
        return next(answers)
    return list(answers) if is_list_like(inputs) else answers


def is_list_like(inputs: object) -> bool:
    """Return whether inputs are like a list: arrays, Series and columns of a data set are, generators are not.

    As in transformers, data sets without an iterator, such as KeyDataset, are not: they are answered as a stream.
    """
    if isinstance(inputs, str | bytes | Mapping):
        return False
    return isinstance(inputs, Iterable) and isinstance(inputs, Sized) and hasattr(inputs, "__getitem__")


def read_inputs(name: str, inputs: Any, expected: str = "a text or an iterable of texts") -> Iterable[Any]:
    """Return a text, or many, as an iterable. Raises InputError for anything else.

    A table is refused, since its iterator yields the names of its columns.
    """
    if isinstance(inputs, str):
        return [inputs]
    if not isinstance(inputs, Iterable) and isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
        return (inputs[i] for i in range(len(inputs)))
    if not isinstance(inputs, Iterable) or isinstance(inputs, bytes | Mapping):
        raise InputError(f"{name} is {type(inputs).__name__}: expected {expected}", subject=name)
    if (dimensions := getattr(inputs, "ndim", 1)) != 1:
        raise InputError(
            f"{name} is {type(inputs).__name__} of {dimensions} dimensions: expected one, such as one column",
            subject=name,
        )
    return inputs


def truncation_options(name: str, options: Any, truncation: bool | str | None = None) -> tuple[str, int | None]:
    """Return the truncation strategy and max_length of the tokenizer options in the argument `name`.

    As in transformers, `max_length` without `truncation` truncates, unless `padding` is set.
    """
    if options is None:
        options = {}
    if isinstance(options, dict):
        options = without_transformers_arguments(options, own=TOKENIZER_OPTIONS)
    if not isinstance(options, dict) or not options.keys() <= set(TOKENIZER_OPTIONS):
        raise InputError(f"{name} is {options!r}: expected a dict of {', '.join(TOKENIZER_OPTIONS)}")
    if truncation is not None and "truncation" in options:
        raise InputError(f"truncation is passed twice: as an argument, and in {name}")
    max_length = plain(options.get("max_length"))
    check_count("max_length", max_length)
    truncation = options.get("truncation") if truncation is None else truncation
    if truncation is None:
        truncation = max_length is not None and options.get("padding", False) is False
    return truncation_strategy(truncation), max_length
