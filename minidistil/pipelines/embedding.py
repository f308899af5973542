"""Text → vectors: one per token, or one per text as in sentence-transformers.

Shapes: T tokens of a text, D model width, n texts, W width of pooled vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tokenizers
from tokenizers import normalizers

from ..checkpoint.arguments import EMBEDDING, refuse_arguments
from ..checkpoint.files import Files
from ..checks import check_count, check_text, plain
from ..errors import InputError, input_name
from ..tokenizer import NO_LIMIT, Tokenizer
from .base import Engine, Ids, Pipeline, deliver, read_inputs, truncation_options
from .scores import Array
from .sentence_transformers import POOLINGS, Layer, Normalize, declared, width_after

Text: TypeAlias = str | Sequence[str]  # a text, or a pair of texts
ENCODE_ARGUMENTS = ("convert_to_numpy", "normalize_embeddings", "output_value", "precision", "show_progress_bar")


class FeatureExtraction(Pipeline):
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
        texts = read_inputs("inputs", inputs)
        check_count("batch_size", batch_size)
        strategy, max_length = truncation_options("tokenize_kwargs", tokenize_kwargs, truncation)
        limit = self.config.max_position_embeddings if strategy == "error" else self.limit(max_length)
        hidden = self._hidden(texts, strategy, limit, batch_size)
        answers = map(_tensor, hidden) if return_tensors else (states.tolist() for states in hidden)
        return deliver(inputs, isinstance(inputs, str), answers)

    def _hidden(self, texts: Iterable[str], strategy: str, limit: int, batch_size: int | None) -> Iterator[Array]:
        """Yield the hidden states of each text: (1, T, D)."""
        max_length = NO_LIMIT if strategy == "error" else limit
        for names, window in self.windows(_checked(texts)):
            encoded = self.tokenizer.encode(window, max_length=max_length, truncation=strategy, names=names)
            for name, ids in zip(names, encoded.ids, strict=True):
                if len(ids) > limit:
                    raise InputError(
                        f"{name} has {len(ids)} tokens, but the model takes {limit}: truncate it with "
                        "truncation=True",
                        subject=name,
                    )
            for states in self.engine.run("token_logits", [tuple(ids) for ids in encoded.ids], batch_size):
                yield states[None]


class SentenceEmbedding(Pipeline):
    """Return one vector per text, as sentence-transformers does."""

    own_arguments = ("do_lower_case", "include_prompt", "layers", "pairs", "prompts")

    def __init__(
        self,
        task: str,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        do_lower_case: bool = False,
        include_prompt: bool = True,
        layers: Sequence[Layer] = (),
        pairs: bool = True,
        prompts: Mapping[str, str] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        **defaults: Any,
    ):
        """Wrap an engine and its tokenizer. The files of a checkpoint set the arguments that are not passed.

        Args:
            task, engine, tokenizer, defaults: as for every pipeline.
            do_lower_case: lowercase texts before a tokenizer that does not.
            include_prompt: whether the tokens of the prompt are pooled.
            layers: applied to the pooled vectors, in order.
            pairs: whether the model takes pairs of texts.
            prompts: the texts that `prompt_name` names.
            prompt, prompt_name: used where a call passes neither. `prompt` overrides `prompt_name`.
        """
        super().__init__(task, engine, _lowercasing(tokenizer) if do_lower_case else tokenizer, **defaults)
        self.include_prompt = include_prompt
        self.layers = list(layers)
        self.pairs = pairs
        self.prompts = dict(prompts or {})
        for name, text in self.prompts.items():
            check_text(text, f"prompts[{name!r}]")
        self.prompt = ""
        self.prompt = self._prompt(prompt, prompt_name if prompt is None else None)
        if "pooling" in self.defaults:
            width_after(self.layers, len(_modes(self.defaults["pooling"])) * self.config.dim)

    def run(
        self,
        inputs: Text | Iterable[Text],
        *,
        pooling: str | Sequence[str] | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        convert_to_tensor: bool = False,
        max_length: int | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Embed each text. The files of a sentence-transformers checkpoint set the defaults.

        Args:
            inputs: a text, a list of texts and pairs, or any iterable of them, which is read and answered as a
                stream. A pair is a tuple or a list of two texts.
            pooling: "mean" of the hidden states of all tokens, special tokens included; "cls", the first token;
                "max", "mean_sqrt_len_tokens", "weightedmean" or "lasttoken". Vectors of several names are
                concatenated.
            normalize: scale vectors to length 1, at the end; False: never; None: where the files declare it.
            prompt: prepended to each text.
            prompt_name: name of a prompt of the checkpoint.
            truncate_dim: number of elements to which vectors are truncated.
            convert_to_tensor: return torch tensors, on the model's device.
            max_length: tokens to which texts are truncated, with one warning; None: the model's maximum.
            batch_size: maximum number of sequences per batch.

        Returns a NumPy array in float32, (D,) for a text and (n, D) for a list; an iterator of (D,) for another
        iterable. Raises InputError without a pooling, and for inputs that are not text.
        """
        modes = _modes(pooling)
        check_count("truncate_dim", truncate_dim)
        check_count("max_length", max_length)
        check_count("batch_size", batch_size)
        width = width_after(self.layers, len(modes) * self.config.dim)
        text, limit = self._prompt(prompt, prompt_name), self.limit(max_length)
        skip = 0 if self.include_prompt else self._prompt_length(text, limit)
        windows = self._windows(inputs, text, limit)

        def vectors() -> Iterator[Array]:
            for sequences in windows:
                pooled = self.engine.run("pooled", sequences, batch_size, modes=modes, skip=skip)
                yield from map(np.copy, self._finished(np.concatenate(pooled), normalize, truncate_dim))

        answer = deliver(inputs, isinstance(inputs, str), vectors())
        if isinstance(answer, Iterator):
            return map(self._tensor, answer) if convert_to_tensor else answer
        if isinstance(answer, list):
            answer = np.stack(answer) if answer else np.zeros((0, min(width, truncate_dim or width)), np.float32)
        return self._tensor(answer) if convert_to_tensor else answer

    def encode(
        self,
        inputs: Text | Iterable[Text] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **others: Any,
    ) -> Any:
        """Embed texts with the arguments and results of `encode` in sentence-transformers.

        Args:
            inputs, prompt_name, prompt, batch_size, convert_to_tensor, truncate_dim: as for `run`.
            show_progress_bar: show a progress bar.
            output_value: "token_embeddings" returns the hidden states of each text, a tensor (T, D).
            precision: "float32".
            convert_to_numpy: False returns a list of tensors.
            device: None, or the device of the pipeline.
            normalize_embeddings: scale vectors to length 1, after `truncate_dim`.
            others: further arguments of sentence-transformers, which raise InputError with their replacement.

        Raises InputError for other values, and as `run` does.
        """
        refuse_arguments("encode", others, EMBEDDING)
        inputs, batch_size = plain(inputs), plain(batch_size)
        check_count("batch_size", batch_size)
        device = None if device is None else str(device)
        for name, value, expected in (
            ("output_value", output_value, ("sentence_embedding", "token_embeddings")),
            ("precision", precision, ("float32", None)),
            ("device", device, (str(self.device), self.device.type, None)),
        ):
            if value not in expected:
                supported = " or ".join(map(repr, filter(None, dict.fromkeys(expected))))
                raise InputError(f"{name} is {value!r}: expected {supported}", subject=name)
        texts: list[Text] = [*read_inputs("inputs", inputs)]
        options: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name, "batch_size": batch_size}
        if output_value == "sentence_embedding":
            options |= {"truncate_dim": truncate_dim, "normalize": normalize_embeddings or None}
            options["convert_to_tensor"] = False
        options = {name: value for name, value in options.items() if value is not None}
        embed = self if output_value == "sentence_embedding" else self._token_embeddings
        answers = embed(iter(texts), **options)
        rows = [*_with_progress(answers, len(texts))] if show_progress_bar else [*answers]
        if output_value == "token_embeddings" or not (convert_to_numpy or convert_to_tensor):
            answer: Any = [*map(self._tensor, rows)]
        else:
            array = np.stack(rows) if rows else self([], **options)
            answer = self._tensor(array) if convert_to_tensor else array
        return answer[0] if isinstance(inputs, str) else answer

    def encode_query(self, inputs: Text | Iterable[Text] | None = None, **options: Any) -> Any:
        """Embed queries: `encode` with the prompt that is named "query", or with none."""
        return self._encode_as("query", inputs, options)

    def encode_document(self, inputs: Text | Iterable[Text] | None = None, **options: Any) -> Any:
        """Embed documents: `encode` with the prompt that is named "document", or with none."""
        return self._encode_as("document", inputs, options)

    def _encode_as(self, kind: str, inputs: Text | Iterable[Text] | None, options: dict[str, Any]) -> Any:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options["prompt"] = self.prompts.get(kind, "")
        return self.encode(inputs, **options)

    def get_embedding_dimension(self) -> int:
        """Return the number of elements of a vector."""
        width = width_after(self.layers, len(_modes(self.defaults.get("pooling"))) * self.config.dim)
        truncate_dim: Any = self.defaults.get("truncate_dim")
        return min(width, truncate_dim or width)

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int:
        """Tokens to which texts are truncated."""
        max_length: Any = self.defaults.get("max_length")
        return self.limit(max_length)

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        check_count("max_seq_length", plain(value))
        self.defaults["max_length"] = plain(value)

    def _token_embeddings(
        self,
        texts: Iterable[Text],
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Array]:
        """Yield the hidden states of each text: (T, D)."""
        max_length: Any = self.defaults.get("max_length")
        limit = self.limit(max_length)
        for sequences in self._windows(texts, self._prompt(prompt, prompt_name), limit):
            yield from map(np.copy, self.engine.run("token_logits", sequences, batch_size))

    def _windows(self, inputs: Text | Iterable[Text], prompt: str, limit: int) -> Iterator[list[Ids]]:
        """Yield the token ids of a stream of texts and pairs, in windows."""
        texts = read_inputs("inputs", inputs)
        examples = (self._example(text, input_name(i), prompt) for i, text in enumerate(texts))
        return (
            self.encode_pairs(window, names, "longest_first", limit)
            for names, window in self.windows(examples)
            if window
        )

    def _example(self, text: Text, name: str, prompt: str) -> tuple[str, str | None]:
        """Check a text or a pair of texts, and prepend the prompt."""
        if not isinstance(text, list | tuple):
            check_text(text, name, "a text, or a pair of texts")
            return f"{prompt}{text}", None
        if len(text) != 2:
            raise InputError(f"{name} has {len(text)} elements: expected a text, or a pair of texts", subject=name)
        if not self.pairs:
            raise InputError(
                f"{name} is a pair, but a BERT that is converted to DistilBERT has one segment: expected a text",
                subject=name,
            )
        for i, part in enumerate(text):
            check_text(part, f"{name}[{i}]")
        return prompt + text[0], text[1]

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """Return the text that is prepended to each text."""
        if prompt is not None and name is not None:
            raise InputError("prompt and prompt_name are both passed: pass one of them", subject="prompt_name")
        if name is not None and (not isinstance(name, str) or name not in self.prompts):
            known = ", ".join(self.prompts) or "none, since the checkpoint has no prompts"
            raise InputError(f"prompt_name is {name!r}: expected one of {known}", subject="prompt_name")
        if prompt is not None:
            check_text(prompt, "prompt")
            return prompt
        return self.prompt if name is None else self.prompts[name]

    def _prompt_length(self, prompt: str, limit: int) -> int:
        """Return the number of tokens of a prompt, without the special token after it."""
        if not prompt:
            return 0
        [encoding] = self.tokenizer.encodings([prompt], max_length=limit)
        return len(encoding) - sum(encoding.special_tokens_mask[-1:])

    def _finished(self, rows: Array, normalize: bool | None, truncate_dim: int | None) -> Array:
        """Apply what follows pooling: (n, W) -> (n, width of a vector)."""
        for layer in self.layers:
            if normalize is not False or not isinstance(layer, Normalize):
                rows = layer(rows)
        rows = rows[:, :truncate_dim]
        return Normalize()(rows) if normalize else rows

    def _tensor(self, array: Array) -> Any:
        return _tensor(array).to(self.device)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call `run` with the pipeline's default arguments and these."""
        if only := options.keys() & ENCODE_ARGUMENTS:
            raise TypeError(
                f"{min(only)} is an argument of encode(): call encode(), or see the arguments of run()"
            )
        return super().__call__(*args, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Raise InputError, since the settings of pooling would be lost."""
        raise InputError(
            "the pooling of sentence embeddings is not saved: copy the folder of the checkpoint, or save the "
            "model with pipe.model.save_pretrained(folder) and pass pooling= when you load it"
        )

    @classmethod
    def declared(cls, files: Files) -> tuple[dict[str, Any], Files]:
        """Return the arguments that the files of a repository set, and the files of its encoder."""
        return declared(files)


def _modes(pooling: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of poolings."""
    modes = pooling if isinstance(pooling, list | tuple) else (pooling,)
    known = [*POOLINGS.values()]
    if not modes or not all(mode in known for mode in modes):
        missing = ", and the checkpoint does not set it" if pooling is None else ""
        raise InputError(
            f"pooling is {pooling!r}{missing}: expected one or more of {', '.join(known)}", subject="pooling"
        )
    return tuple(modes)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, checked."""
    for i, text in enumerate(texts):
        check_text(text, input_name(i))
        yield text


def _with_progress(answers: Iterator[Array], total: int) -> Iterable[Array]:
    """Show a progress bar."""
    from huggingface_hub.utils.tqdm import tqdm

    return tqdm(answers, total=total)


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
