"""Question and context → the part of the context that answers, as transformers did it until version 5.2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import tokenizers
import torch
from torch import Tensor

from ..checks import check_count, check_text
from ..errors import InputError
from ..layout import Batch
from ..model import DistilBertForQuestionAnswering
from ..tokenizer import NO_LIMIT
from .base import Answer, Pipeline, deliver, named_windows

MAX_SEQ_LEN = 384  # tokens of question and context that are read together
MAX_ANSWER_LEN = 15  # tokens
DOC_STRIDE = 128  # tokens that neighbouring parts of a context share


class Question(NamedTuple):
    """What is asked, of what."""

    question: str
    context: str


class Options(NamedTuple):
    """How contexts are read, and answers chosen."""

    length: int  # tokens of question and context that are read together
    stride: int  # tokens that neighbouring parts of a context share
    longest: int  # tokens of an answer, at most
    top_k: int
    impossible: bool  # whether no answer is one
    align: bool  # whether answers are whole words


class QuestionAnswering(Pipeline):
    """Find the span of a context that answers a question."""

    model_class = DistilBertForQuestionAnswering

    def run(
        self,
        inputs: str | dict[str, str] | Iterable[dict[str, str]] | None = None,
        context: str | Sequence[str] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        padding: bool | str = False,
        batch_size: int | None = None,
    ) -> Any:
        """Answer each question from its context.

        question, context: texts, or lists of as many; one context may serve many questions. inputs: instead of
        both, {"question": ..., "context": ...}, a list of those, or any iterable of them, which is read and
        answered as a stream. top_k: how many answers, if there are as many; None: 1. max_seq_len: tokens of
        question and context that are read together; None: 384, or what the model takes. A longer context is read
        in parts, which share doc_stride tokens; None: 128, or half of a part. max_answer_len: tokens of an answer
        at most; None: 15. max_question_len: tokens that a question is cut to; None: it is not.
        handle_impossible_answer: whether "" may be the answer. align_to_words: whether answers are whole words.
        padding: taken, as transformers does, but every value gives the same answer. batch_size: parts in a batch
        at most.

        Returns {"score", "start", "end", "answer"}, start and end being places in the context; a list of those,
        best first, where there are several; a list of that for a list of questions, if it has more than one; an
        iterator for another iterable. Equal answers are one, whose score is the sum of theirs, also over parts.
        `InputError` for what is empty or not text.
        """
        del padding
        counts = {"top_k": top_k, "max_answer_len": max_answer_len, "max_question_len": max_question_len}
        for name, value in {**counts, "max_seq_len": max_seq_len, "batch_size": batch_size}.items():
            check_count(name, value)
        length = min(MAX_SEQ_LEN, self.limit()) if max_seq_len is None else max_seq_len
        if length > self.limit():
            raise InputError(f"max_seq_len is {length}: the model reads {self.limit()} tokens")
        if doc_stride != 0:
            check_count("doc_stride", doc_stride)
        options = Options(
            length=length,
            stride=min(length // 2, DOC_STRIDE) if doc_stride is None else doc_stride,
            longest=min(max_answer_len or MAX_ANSWER_LEN, length),
            top_k=top_k or 1,
            impossible=handle_impossible_answer,
            align=align_to_words,
        )
        asked = _asked(inputs, question, context)
        one = isinstance(asked, dict) or (isinstance(asked, list | tuple) and len(asked) == 1)
        examples: Iterable[Any] = [asked] if isinstance(asked, dict) else asked
        questions = (self._question(example, i, max_question_len, options) for i, example in enumerate(examples))
        return deliver(asked, one, self._answers(questions, options, batch_size))

    def outputs(self, batch: Batch) -> Sequence[Tensor]:
        """Give the logits of each sequence's tokens, as start and as end: (L, 2)."""
        return torch.stack(self.model(batch), dim=1).split(batch.layout.lengths)

    def _question(self, example: Any, i: int, most: int | None, options: Options) -> Question:
        """Take one question in, cut to a number of tokens."""
        if not isinstance(example, dict) or example.keys() != {"question", "context"}:
            raise InputError(f'inputs[{i}] is {example!r:.60}: expected {{"question": ..., "context": ...}}')
        for key in ("question", "context"):
            check_text(example[key], f"inputs[{i}][{key!r}]")
            if not example[key]:
                raise InputError(f"inputs[{i}][{key!r}] is empty")
        question, context = example["question"], example["context"]
        ends = self._ends(question)
        if most is not None and len(ends) > most:
            question, ends = question[: ends[most - 1]], ends[:most]
        room = options.length - self.tokenizer.backend.num_special_tokens_to_add(True) - len(ends)
        if room <= options.stride and room < len(self._ends(context)):
            raise InputError(
                f"inputs[{i}] has a question of {len(ends)} tokens, which leaves {max(room, 0)} of "
                f"{options.length} for a part of its context: expected more than doc_stride, {options.stride}; "
                "max_question_len cuts it"
            )
        return Question(question, context)

    def _ends(self, text: str) -> list[int]:
        """Give where each token of a text ends."""
        [encoded] = self.tokenizer.encodings([text], max_length=NO_LIMIT, truncation="error")
        return [end for (_, end), part in zip(encoded.offsets, encoded.sequence_ids, strict=True) if part == 0]

    def _answers(self, questions: Iterable[Question], options: Options, batch_size: int | None) -> Iterator[Any]:
        for names, window in named_windows(questions, self.window):
            encoded = self.tokenizer.encodings(
                [question.question for question in window],
                [question.context for question in window],
                max_length=options.length,
                truncation="only_second",
                stride=options.stride,
                names=names,
            )
            contexts = [[first, *first.overflowing] for first in encoded]
            logits = iter(self.infer([tuple(part.ids) for parts in contexts for part in parts], batch_size))
            for question, parts in zip(window, contexts, strict=True):
                yield self._answer(question.context, [(part, next(logits)) for part in parts], options)

    def _answer(
        self, context: str, parts: list[tuple[tokenizers.Encoding, Tensor]], options: Options
    ) -> Answer | list[Answer]:
        """Choose the answers among the likeliest spans of all parts."""
        found: list[Answer] = []
        nulls = []
        for part, logits in parts:
            start, end, null = self._shares(part, logits)
            nulls.append(null)
            for first, last, score in _likeliest(start, end, options):
                begin, stop = _place(part, first, last, options.align)
                _add(found, {"score": score, "start": begin, "end": stop, "answer": context[begin:stop]})
        if options.impossible or not found:
            score = min(nulls) if options.impossible else 0.0
            found.append({"score": score, "start": 0, "end": 0, "answer": ""})
        best = sorted(found, key=lambda answer: answer["score"], reverse=True)[: options.top_k]
        return best[0] if len(best) == 1 else best

    def _shares(self, part: tokenizers.Encoding, logits: Tensor) -> tuple[Tensor, Tensor, float]:
        """Give how likely an answer starts and ends at each token, both (L,), and that there is none.

        [CLS] stands for no answer: it has its share, and then no part in any.
        """
        cls = self.tokenizer.id_of("cls_token")
        possible = [s == 1 or i == cls for s, i in zip(part.sequence_ids, part.ids, strict=True)]
        shares = logits.masked_fill(~torch.tensor(possible)[:, None], -10000.0).softmax(0)  # (L, 2)
        null = shares[0].prod().item()
        shares[0] = 0
        return shares[:, 0], shares[:, 1], null


def _asked(inputs: Any, question: Any, context: Any) -> Any:
    """Give the questions as dicts, however they were put."""
    if isinstance(inputs, str) and question is None and context is not None:
        inputs, question = None, inputs  # without names
    if inputs is not None:
        if question is not None or context is not None:
            raise InputError("give inputs, or question and context, not both")
        if isinstance(inputs, str) or not isinstance(inputs, Iterable):
            raise InputError(f'inputs is {type(inputs).__name__}: expected {{"question": ..., "context": ...}}')
        return inputs
    if isinstance(question, str) and isinstance(context, str):
        return {"question": question, "context": context}
    if not isinstance(question, list | tuple) or not isinstance(context, str | list | tuple):
        kinds = f"{type(question).__name__} and {type(context).__name__}"
        raise InputError(f"question and context are {kinds}: expected texts, or lists of as many")
    contexts = [context] * len(question) if isinstance(context, str) else context
    if len(question) != len(contexts):
        raise InputError(
            f"there are {len(question)} questions but {len(contexts)} contexts: expected one for each"
        )
    return [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]


def _likeliest(start: Tensor, end: Tensor, options: Options) -> Iterator[tuple[int, int, float]]:
    """Give the spans that are likeliest to be the answer: first token, last token, share. start, end: (L,)."""
    count = 2 * options.top_k + 10 if options.align else options.top_k  # several may be parts of the same words
    shares = torch.outer(start, end).triu().tril(options.longest - 1).flatten()  # (L * L,)
    for share, place in zip(*shares.topk(min(count, len(shares))), strict=True):
        if share > 0:  # a context may have fewer spans than are asked for
            first, last = divmod(place.item(), len(start))
            yield int(first), int(last), share.item()


def _place(part: tokenizers.Encoding, first: int, last: int, align: bool) -> tuple[int, int]:
    """Give where the context has these tokens, or the words that they belong to."""
    start, end = part.offsets[first], part.offsets[last]
    words = part.word_ids[first], part.word_ids[last]
    if align and words[0] is not None and words[1] is not None:
        start = part.word_to_chars(words[0], sequence_index=1) or start
        end = part.word_to_chars(words[1], sequence_index=1) or end
    return start[0], end[1]


def _add(spans: list[Answer], span: Answer) -> None:
    """Add a span to those found so far, as one with its like."""
    for other in spans:
        if other["answer"].lower() == span["answer"].lower():
            other["score"] += span["score"]
            return
    spans.append(span)
