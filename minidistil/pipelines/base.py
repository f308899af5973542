"""What every pipeline shares: one stream of inputs, in batches bounded by tokens, without padding."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..backends import onednn as packed
from ..batching import batch_by_size, filler_lengths, with_filler
from ..checkpoint.files import Files
from ..checks import check_count
from ..errors import CheckpointError, InputError
from ..layout import Batch
from ..model import Model
from ..tokenizer import Tokenizer

WINDOW = 1024  # how many inputs are sorted by length together, at most
FIRST_WINDOW = 32  # and at first
TOKENS = 2048  # how many tokens a batch has at most, if it has more than one sequence, before it is filled
CUDA_TOKENS = 4096  # and on CUDA; a CPU's allocator gives larger results back, and asks for fresh pages each time
TOKENIZER_OPTIONS = ("truncation", "max_length", "padding")  # the last without effect: nothing is padded

Answer: TypeAlias = dict[str, Any]
Ids: TypeAlias = tuple[int, ...]
T = TypeVar("T")


class Pipeline:
    """Text → answers, for one task. A task says which model it needs, what a batch gives, and how to `run`."""

    model_class: type[Model]
    window = WINDOW  # less where an answer is large
    owns_model = False  # whether nobody else has the model, who could train it

    def __init__(self, task: str, model: Model, tokenizer: Tokenizer, **defaults: Any):
        """Wrap a model and its tokenizer. defaults: arguments of every call; TypeError for an unknown one."""
        if not isinstance(model, self.model_class):
            raise InputError(f"{task} needs a {self.model_class.__name__}, found {type(model).__name__}")
        self.check_arguments(defaults)
        self.task = task
        self.model = model.eval()
        self.tokenizer = tokenizer
        # an iterator serves every call
        self.defaults = {key: list(v) if isinstance(v, Iterator) else v for key, v in defaults.items()}
        self._warned = False
        self._batches = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Answer: the arguments are those of `run`, with the pipeline's own defaults."""
        given = inspect.signature(self.run).bind_partial(*args, **options).arguments
        return self.run(**{**self.defaults, **given})

    def run(self, *args: Any, **options: Any) -> Any:
        """Answer one input or many; each task documents its own."""
        raise TypeError(f"{type(self).__name__} has no task of its own")

    @classmethod
    def check_arguments(cls, names: Iterable[str]) -> None:
        """Raise TypeError where a call would not know one of these arguments."""
        inspect.signature(cls.run).bind_partial(None, **dict.fromkeys(names))

    @classmethod
    def declared(cls, files: Files) -> dict[str, Any]:
        """Give the arguments that a checkpoint's own files set, such as its pooling; most tasks have none."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def limit(self, max_length: int | None = None) -> int:
        """Give how many tokens of a text are read: as asked, or as the tokenizer says, if the model can."""
        return min(max_length or self.tokenizer.max_length, self.model.config.max_position_embeddings)

    def outputs(self, batch: Batch) -> Sequence[Tensor]:
        """Give what the model says of each sequence of a batch: its row (C,), unless the task says otherwise."""
        return self.model(batch)

    def infer(
        self,
        sequences: Sequence[Ids],
        batch_size: int | None = None,
        outputs: Callable[[Batch], Sequence[Tensor] | Tensor] | None = None,
    ) -> list[Tensor]:
        """Give what the model says of each sequence of token ids, in float32 on the CPU.

        Equal sequences are computed once, so that ties are exact. `CheckpointError` for nan and inf.
        """
        distinct = list(dict.fromkeys(sequences))
        found: dict[Ids, Tensor] = {}
        cuda = self.device.type == "cuda"
        most = CUDA_TOKENS if cuda else TOKENS
        lengths = [len(sequence) for sequence in distinct]
        by_length = sorted(range(len(distinct)), key=lengths.__getitem__)
        for group in batch_by_size(lengths, by_length, max_tokens=most, max_sequences=batch_size, even=True):
            chosen = [distinct[i] for i in group]
            filler = [] if cuda else filler_lengths([lengths[i] for i in group])
            batch = Batch.from_lists(with_filler(chosen, filler)).to(self.device)
            self._pack()
            with torch.inference_mode():
                given = (outputs or self.outputs)(batch)[: len(chosen)]
                flat = torch.cat([output.flatten() for output in given]).float().cpu()  # waits once a batch
            if not flat.isfinite().all():
                raise CheckpointError(
                    f"the model gives nan or inf: are its weights whole, is {self.model.dtype} wide enough?"
                )
            parts = flat.split([output.numel() for output in given])
            found.update((ids, part.view(o.shape)) for ids, part, o in zip(chosen, parts, given, strict=True))
        return [found[sequence] for sequence in sequences]

    def _pack(self) -> None:
        """Lay the weights out for the processor before the second batch: for a first answer it would not pay."""
        self._batches += 1
        model = self.model
        if self._batches != 2 or not self.owns_model or not packed.packable(model.ops):
            return
        if packed.works(model.device, model.dtype):
            self.model = model.with_ops(**packed.PRODUCTS)

    def warn_of_cut(self, count: int, max_length: int) -> None:
        """Say once that texts are cut."""
        if count and not self._warned:
            self._warned = True
            warnings.warn(f"texts longer than {max_length} tokens are cut", stacklevel=2)


def windows(inputs: Iterable[T], size: int | None = None) -> Iterator[list[T]]:
    """Cut a stream into windows that grow to a size, so that the first answers need not wait for many inputs.

    What comes before a broken input is still answered.
    """
    largest = min(WINDOW, size or WINDOW)
    window: list[T] = []
    limit = min(largest, FIRST_WINDOW)
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


def named_windows(inputs: Iterable[T], size: int | None = None) -> Iterator[tuple[list[str], list[T]]]:
    """Give the windows of a stream, each with what errors call its inputs."""
    count = 0
    for window in windows(inputs, size):
        yield [f"inputs[{i}]" for i in range(count, count + len(window))], window
        count += len(window)


def deliver(inputs: object, one: bool, answers: Iterator[T]) -> T | list[T] | Iterator[T]:
    """Give answers as their inputs came: one for one, a list for a list, an iterator for any other iterable."""
    if one:
        return next(answers)
    return list(answers) if isinstance(inputs, list | tuple) else answers


def check_inputs(name: str, value: object) -> None:
    """Refuse what is neither a text nor many of them."""
    if not isinstance(value, Iterable) or isinstance(value, bytes | dict):
        raise InputError(f"{name} is {type(value).__name__}: expected a text, or texts")


def cut_by(name: str, options: Any, truncation: bool | str | None = None) -> tuple[str, int | None]:
    """Give the strategy and the length that a task's tokenizer arguments, of that name, cut texts by.

    As in transformers, a length cuts on its own where padding does not explain it.
    """
    if options is None:
        options = {}
    if not isinstance(options, dict) or not options.keys() <= set(TOKENIZER_OPTIONS):
        raise InputError(f"{name} is {options!r}: expected a dict of {', '.join(TOKENIZER_OPTIONS)}")
    if truncation is not None and "truncation" in options:
        raise InputError(f"truncation is given twice: as an argument, and in {name}")
    max_length = options.get("max_length")
    check_count("max_length", max_length)
    truncation = options.get("truncation") if truncation is None else truncation
    if truncation is None:
        truncation = max_length is not None and options.get("padding", False) is False
    return strategy_of(truncation), max_length


def strategy_of(truncation: bool | str) -> str:
    """Give the Tokenizer's name of how texts are cut: transformers knows more names for it."""
    if isinstance(truncation, bool):
        return "longest_first" if truncation else "error"
    return "error" if truncation == "do_not_truncate" else truncation


def ranked(scores: Sequence[float]) -> list[int]:
    """Give the places of scores from the best down; equal ones keep their order."""
    return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
