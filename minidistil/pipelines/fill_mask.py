"""Text with masks → the words that may stand in their place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count, check_text
from ..errors import InputError
from ..layout import Batch
from ..model import DistilBertForMaskedLM, Model
from ..tokenizer import NO_LIMIT, Tokenizer
from .base import Answer, Ids, Pipeline, check_inputs, cut_by, deliver, ranked, windows

TOP_K = 5
CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # without their spaces, in turn


class FillMask(Pipeline):
    """Say which words the model would write in place of a mask; of several masks, each is guessed alone."""

    model_class = DistilBertForMaskedLM
    model: DistilBertForMaskedLM
    window = 64  # an answer is a logit for every word of the vocabulary, at each mask

    def __init__(self, task: str, model: Model, tokenizer: Tokenizer, **defaults: Any):
        super().__init__(task, model, tokenizer, **defaults)
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

        inputs: a text with one mask or more, a list of them, or any iterable, which is read and answered as a
        stream. targets: the words to score; of one that the vocabulary lacks, the first piece, with a warning.
        top_k: how many words, if there are as many; None: 5. tokenizer_kwargs: "truncation" and "max_length",
        without which no text is cut; "padding" is taken, but adds nothing. batch_size: sequences in a batch at
        most.

        Returns for a text a list of {"score", "token", "token_str", "sequence"}, best first, or, if it has
        several masks, a list of those. For a list of texts, a list of what each gives alone, but for a list of
        one, as transformers does, what that one gives; for another iterable, an iterator. `InputError` for a
        text without a mask or longer than the model, and for targets without a word.
        """
        check_inputs("inputs", inputs)
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            check_count(name, value)
        target_ids = None if targets is None else self._target_ids(targets)
        strategy, max_length = cut_by("tokenizer_kwargs", tokenizer_kwargs)
        texts: Iterable[str] = [inputs] if isinstance(inputs, str) else inputs
        one = isinstance(texts, list | tuple) and len(texts) == 1
        examples = (self._encode(text, f"inputs[{i}]", strategy, max_length) for i, text in enumerate(texts))
        return deliver(inputs, one, self._answers(examples, target_ids, top_k or TOP_K, batch_size))

    def outputs(self, batch: Batch) -> Sequence[Tensor]:
        """Give each sequence's logits (masks, V): only masks meet the head, whose product is the largest."""
        places = (batch.ids.cpu() == self.mask_id).nonzero().flatten()  # (masks,)
        counts = torch.bucketize(places, batch.layout.starts_cpu[1:], right=True).bincount(minlength=len(batch))
        hidden = self.model.distilbert(batch)[places.to(self.device)]  # (masks, D)
        return self.model.project(hidden).split(counts.tolist())

    def _encode(self, text: str, name: str, strategy: str, max_length: int | None) -> Ids:
        check_text(text, name)
        limit = NO_LIMIT if strategy == "error" else self.limit(max_length)
        encoded = self.tokenizer.encode([text], max_length=limit, truncation=strategy, names=[name])
        [ids] = encoded.ids
        if self.mask_id not in ids:
            mask = self.tokenizer.backend.id_to_token(self.mask_id)
            cut = f" in the {limit} tokens that it is cut to" if encoded.truncated else ""
            raise InputError(f"{name} has no {mask}{cut}: expected one wherever a word is asked for")
        most = self.model.config.max_position_embeddings
        if len(ids) > most:
            advice = f'tokenizer_kwargs={{"truncation": True, "max_length": {most}}}'
            raise InputError(f"{name} has {len(ids)} tokens, but the model reads {most}: cut it with {advice}")
        return tuple(ids)

    def _target_ids(self, targets: str | Iterable[str]) -> list[int]:
        """Give the token of each target: each once, in the order given."""
        check_inputs("targets", targets)
        words = [targets] if isinstance(targets, str) else list(targets)
        ids = [i for j, word in enumerate(words) for i in self._target_id(word, f"targets[{j}]")]
        if not ids:
            raise InputError(f"targets is {words}: expected at least one word")
        if max(ids) >= self.model.config.vocab_size:
            raise InputError(f"targets has token {max(ids)}, beyond the model's {self.model.config.vocab_size}")
        return list(dict.fromkeys(ids))

    def _target_id(self, word: str, name: str) -> list[int]:
        """Give the token of a target, or of its first piece; none for what has no pieces, such as a space."""
        check_text(word, name)
        index = self.tokenizer.backend.token_to_id(word)
        if index is not None:
            return [index]
        [encoding] = self.tokenizer.encodings([word], max_length=NO_LIMIT, truncation="error")
        first = encoding.special_tokens_mask.index(0) if 0 in encoding.special_tokens_mask else None
        instead = "it is left out" if first is None else f"{encoding.tokens[first]} is scored instead"
        warnings.warn(f"{name} is {word!r}, which is not in the vocabulary: {instead}", stacklevel=2)
        return [] if first is None else [encoding.ids[first]]

    def _answers(
        self, examples: Iterator[Ids], targets: list[int] | None, top_k: int, batch_size: int | None
    ) -> Iterator[Any]:
        for window in windows(examples, self.window):
            for ids, logits in zip(window, self.infer(window, batch_size), strict=True):
                masks = [i for i, token in enumerate(ids) if token == self.mask_id]
                rows = [
                    self._answer(ids, mask, scores, targets, top_k, skip_special=len(masks) == 1)
                    for mask, scores in zip(masks, logits.softmax(1), strict=True)
                ]
                yield rows if len(rows) > 1 else rows[0]

    def _answer(
        self, ids: Ids, mask: int, scores: Tensor, targets: list[int] | None, top_k: int, skip_special: bool
    ) -> list[Answer]:
        """Give the best words in place of one mask. scores: (V,)."""
        answer = []
        scores = scores if targets is None else scores[targets]
        for i in _best(scores, top_k):
            token = i if targets is None else targets[i]
            filled = [t for t in (*ids[:mask], token, *ids[mask + 1 :]) if t != self.tokenizer.pad_id]
            row = {"score": float(scores[i]), "token": token, "token_str": self._decode([token], False)}
            answer.append({**row, "sequence": self._decode(filled, skip_special)})
        return answer

    def _decode(self, ids: Sequence[int], skip_special: bool) -> str:
        text = self.tokenizer.backend.decode(ids, skip_special_tokens=skip_special)
        if self.tokenizer.settings.get("clean_up_tokenization_spaces"):
            for mark in CLEANED:
                text = text.replace(mark, mark.strip())
        return text


def _best(scores: Tensor, count: int) -> list[int]:
    """Give the places of the best scores, from the best down; equal ones keep their order, which topk does not."""
    least = scores.topk(min(count, len(scores))).values[-1]
    places = (scores >= least).nonzero().flatten().tolist()
    return [places[i] for i in ranked(scores[places].tolist())][:count]
