"""Text with masks → the most likely words for each mask.

Shape: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..checks import check_count, check_text
from ..errors import InputError, input_name, warn
from ..tokenizer import NO_LIMIT, Tokenizer
from .base import Answer, Engine, Ids, Pipeline, deliver, read_inputs, truncation_options
from .scores import Array, softmax, top

TOP_K = 5


class FillMask(Pipeline):
    """Predict masked words, each of several masks independently."""

    window = 64  # an output has a logit for every word of the vocabulary, at each mask

    def __init__(self, task: str, engine: Engine, tokenizer: Tokenizer, **defaults: Any):
        super().__init__(task, engine, tokenizer, **defaults)
        self.mask_id = tokenizer.id_of("mask_token")

    def run(
        self,
        inputs: str | Iterable[str],
        *,
        targets: str | Iterable[str] | None = None,
        top_k: int | None = TOP_K,
        tokenizer_kwargs: dict[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Fill the masks of each text.

        Args:
            inputs: a text with at least one mask, a list of texts, or any iterable, which is read and answered as
                a stream.
            targets: words to score. For a word outside the vocabulary its first token is scored, with a warning.
            top_k: maximum number of words; None: 5.
            tokenizer_kwargs: "truncation" and "max_length", without which no text is truncated; "padding" has no
                effect.
            batch_size: maximum number of sequences per batch.

        Returns for a text a list of {"score", "token", "token_str", "sequence"}, best first, or for several masks
        a list of such lists; for a list of texts a list of that, except that, as in transformers, a list of one
        text is answered like the text; for another iterable an iterator. Raises InputError for a text without a
        mask or longer than the model takes, and for targets without a word.
        """
        texts = read_inputs("inputs", inputs)
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            check_count(name, value)
        target_ids = None if targets is None else self._target_ids(targets)
        strategy, max_length = truncation_options("tokenizer_kwargs", tokenizer_kwargs)
        single = isinstance(texts, list | tuple) and len(texts) == 1
        examples = (self._encode(text, input_name(i), strategy, max_length) for i, text in enumerate(texts))
        return deliver(inputs, single, self._answers(examples, target_ids, top_k or TOP_K, batch_size))

    def _encode(self, text: str, name: str, strategy: str, max_length: int | None) -> Ids:
        check_text(text, name)
        limit = NO_LIMIT if strategy == "error" else self.limit(max_length)
        encoded = self.tokenizer.encode([text], max_length=limit, truncation=strategy, names=[name])
        [ids] = encoded.ids
        if self.mask_id not in ids:
            mask = self.tokenizer.backend.id_to_token(self.mask_id)
            where = f" in the {limit} tokens to which it is truncated" if encoded.truncated else ""
            raise InputError(f"{name} has no {mask}{where}: expected one for each word to predict", subject=name)
        positions = self.config.max_position_embeddings
        if len(ids) > positions:
            advice = f'tokenizer_kwargs={{"truncation": True, "max_length": {positions}}}'
            raise InputError(
                f"{name} has {len(ids)} tokens, but the model takes {positions}: truncate it with {advice}",
                subject=name,
            )
        return tuple(ids)

    def _target_ids(self, targets: str | Iterable[str]) -> list[int]:
        """Return the token of each target, without duplicates, in order."""
        words = list(read_inputs("targets", targets))
        ids = [i for j, word in enumerate(words) for i in self._target_id(word, f"targets[{j}]")]
        if not ids:
            raise InputError(f"targets is {words}: expected at least one word")
        if max(ids) >= self.config.vocab_size:
            raise InputError(f"targets has token {max(ids)}, but vocab_size is {self.config.vocab_size}")
        return list(dict.fromkeys(ids))

    def _target_id(self, word: str, name: str) -> list[int]:
        """Return the token of a target, or its first token; an empty list if it has none, such as a space."""
        check_text(word, name)
        index = self.tokenizer.backend.token_to_id(word)
        if index is not None:
            return [index]
        [encoding] = self.tokenizer.encodings([word], max_length=NO_LIMIT, truncation="error")
        first = encoding.special_tokens_mask.index(0) if 0 in encoding.special_tokens_mask else None
        instead = "it is skipped" if first is None else f"{encoding.tokens[first]} is scored instead"
        warn(f"{name} is {word!r}, which is not in the vocabulary: {instead}")
        return [] if first is None else [encoding.ids[first]]

    def _answers(
        self, examples: Iterator[Ids], targets: list[int] | None, top_k: int, batch_size: int | None
    ) -> Iterator[Any]:
        for _, window in self.windows(examples):
            outputs = self.engine.run("masked_logits", window, batch_size, mask_id=self.mask_id)
            for ids, logits in zip(window, outputs, strict=True):  # logits: (masks, V)
                masks = [i for i, token in enumerate(ids) if token == self.mask_id]
                answers = [
                    self._answer(ids, mask, scores, targets, top_k, skip_special=len(masks) == 1)
                    for mask, scores in zip(masks, softmax(logits), strict=True)
                ]
                yield answers if len(answers) > 1 else answers[0]

    def _answer(
        self, ids: Ids, mask: int, scores: Array, targets: list[int] | None, top_k: int, skip_special: bool
    ) -> list[Answer]:
        """Return the best words for one mask. mask: its index in ids. scores: (V,)."""
        answer = []
        scores = scores if targets is None else scores[targets]
        for i in top(scores, top_k):
            token = i if targets is None else targets[i]
            filled = [t for t in (*ids[:mask], token, *ids[mask + 1 :]) if t != self.tokenizer.pad_id]
            row = {"score": float(scores[i]), "token": token, "token_str": self.tokenizer.decode([token])}
            answer.append({**row, "sequence": self.tokenizer.decode(filled, skip_special)})
        return answer
