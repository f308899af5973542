"""Text → vectors: one per token, or one per text as in sentence-transformers.

Shapes: T tokens of a text, D model width, n texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers
from tokenizers import normalizers

from ..checkpoint.files import Files
from ..checks import check_count, check_text
from ..errors import InputError, input_name
from ..tokenizer import NO_LIMIT, Encoded, Tokenizer
from .base import Engine, Pipeline, check_inputs, deliver, truncation_options
from .scores import Array
from .sentence_transformers import POOLINGS, declared


class Encoder(Pipeline):
    """Base of both tasks: an encoder without a head."""

    def encoded(self, texts: Iterable[str], truncation: str, limit: int) -> Iterator[Encoded]:
        """Yield the token ids of a stream of texts, one window at a time."""
        for names, window in self.windows(texts):
            max_length = NO_LIMIT if truncation == "error" else limit
            encoded = self.tokenizer.encode(window, max_length=max_length, truncation=truncation, names=names)
            for name, ids in zip(names, encoded.ids, strict=True):
                if len(ids) > limit:
                    raise InputError(
                        f"{name} has {len(ids)} tokens, but the model takes {limit}: truncate it with "
                        "truncation=True",
                        subject=name,
                    )
            yield encoded


class FeatureExtraction(Encoder):
    """Return the last hidden state of each token."""

    window = 32  # each answer has D numbers per token

    def run(
        self,
        inputs: str | Iterable[str],
        *,
        return_tensors: bool = False,
        truncation: bool | str | None = None,
        tokenize_kwargs: dict[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Encode each text.

        Args:
            inputs: a text, a list of texts, or any iterable, which is read and answered as a stream.
            return_tensors: return torch tensors instead of nested lists.
            truncation: True or a strategy of `Tokenizer`; False: a text longer than the model takes is an error.
            tokenize_kwargs: "truncation" and "max_length", which also truncates alone; "padding" has no effect.
            batch_size: maximum number of sequences per batch.

        Returns nested lists (1, T, D) for a text of T tokens, special tokens included, or a tensor; a list of
        those for a list; an iterator for another iterable. Raises InputError for inputs that are not text.
        """
        texts = _texts(inputs)
        check_count("batch_size", batch_size)
        strategy, max_length = truncation_options("tokenize_kwargs", tokenize_kwargs, truncation)
        limit = self.config.max_position_embeddings if strategy == "error" else self.limit(max_length)
        hidden = self._hidden(texts, strategy, limit, batch_size)
        answers = map(_tensor, hidden) if return_tensors else (states.tolist() for states in hidden)
        return deliver(inputs, isinstance(inputs, str), answers)

    def _hidden(self, texts: Iterable[str], strategy: str, limit: int, batch_size: int | None) -> Iterator[Array]:
        """Yield the hidden states of each text: (1, T, D)."""
        for encoded in self.encoded(texts, strategy, limit):
            for states in self.engine.run("token_logits", [tuple(ids) for ids in encoded.ids], batch_size):
                yield states[None]


class SentenceEmbedding(Encoder):
    """Return one vector per text, as sentence-transformers does."""

    def __init__(
        self, task: str, engine: Engine, tokenizer: Tokenizer, *, do_lower_case: bool = False, **defaults: Any
    ):
        """Wrap an engine and its tokenizer. do_lower_case: lowercase texts before a tokenizer that does not."""
        super().__init__(task, engine, _lowercasing(tokenizer) if do_lower_case else tokenizer, **defaults)

    def run(
        self,
        inputs: str | Iterable[str],
        *,
        pooling: str | None = None,
        normalize: bool = False,
        prompt: str = "",
        max_length: int | None = None,
        batch_size: int | None = None,
    ) -> Array | Iterator[Array]:
        """Embed each text. The files of a sentence-transformers checkpoint set the defaults.

        Args:
            inputs: a text, a list of texts, or any iterable, which is read and answered as a stream.
            pooling: "mean" of the hidden states of all tokens, special tokens included; or "cls", the first token.
            normalize: scale vectors to length 1.
            prompt: prepended to each text.
            max_length: tokens to which texts are truncated, with one warning; None: the model's maximum.
            batch_size: maximum number of sequences per batch.

        Returns a NumPy array in float32, (D,) for a text and (n, D) for a list; an iterator of (D,) for another
        iterable. Raises InputError without a pooling, and for inputs that are not text.
        """
        if not isinstance(pooling, str) or pooling not in POOLINGS:
            missing = ", and the checkpoint does not set it" if pooling is None else ""
            raise InputError(f"pooling is {pooling!r}{missing}: expected 'mean' or 'cls'", subject="pooling")
        check_text(prompt, "prompt")
        check_count("max_length", max_length)
        check_count("batch_size", batch_size)
        vectors = self._vectors(_texts(inputs, prompt), pooling, normalize, self.limit(max_length), batch_size)
        answer = deliver(inputs, isinstance(inputs, str), vectors)
        if isinstance(answer, list):
            return np.stack(answer) if answer else np.zeros((0, self.config.dim), np.float32)
        return answer

    def _vectors(
        self, texts: Iterable[str], pooling: str, normalize: bool, limit: int, batch_size: int | None
    ) -> Iterator[Array]:
        for encoded in self.encoded(texts, "longest_first", limit):
            self.warn_truncated(encoded.truncated, limit)
            for (vector,) in self.engine.run(pooling, [tuple(ids) for ids in encoded.ids], batch_size):
                yield vector / max(np.linalg.norm(vector), np.float32(1e-12)) if normalize else vector.copy()

    @classmethod
    def check_arguments(cls, names: Iterable[str]) -> None:
        """Raise TypeError for an argument that neither a call nor the pipeline takes."""
        super().check_arguments(name for name in names if name != "do_lower_case")

    @classmethod
    def declared(cls, files: Files) -> dict[str, Any]:
        """Return the arguments that the files of a sentence-transformers checkpoint set."""
        return declared(files)


def _texts(inputs: str | Iterable[str], prompt: str = "") -> Iterator[str]:
    """Return the text or texts as a stream that checks each one."""
    check_inputs("inputs", inputs)

    def checked(texts: Iterable[str]) -> Iterator[str]:
        for i, text in enumerate(texts):
            check_text(text, input_name(i))
            yield prompt + text

    return checked([inputs] if isinstance(inputs, str) else inputs)


def _lowercasing(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that lowercases texts first, except special tokens in them."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return Tokenizer(backend, tokenizer.max_length, tokenizer.settings)


def _tensor(states: Array) -> Any:
    """Return a copy as a torch tensor."""
    import torch

    return torch.from_numpy(states.copy())
