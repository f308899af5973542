"""Question and context → the span of the context that answers, as in transformers up to version 5.2.

Shape: L tokens of a part of a context with its question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from ..checks import check_count, check_text
from ..errors import InputError, input_name
from ..tokenizer import NO_LIMIT
from .base import Answer, Pipeline, deliver, is_list_like, read_inputs
from .scores import Array, softmax, top

MAX_SEQ_LEN = 384  # tokens of a sequence: question and part of a context
MAX_ANSWER_LEN = 15  # tokens
DOC_STRIDE = 128  # tokens that adjacent parts of a context share
EXPECTED = '{"question": ..., "context": ...}, or an iterable of those'


class Question(NamedTuple):
    """A question and its context."""

    question: str
    context: str


class Options(NamedTuple):
    """How contexts are split, and answers selected."""

    max_seq_len: int  # tokens of a sequence: question and part of a context
    stride: int  # tokens that adjacent parts of a context share
    max_answer_len: int  # tokens
    top_k: int
    impossible: bool  # whether "" may be the answer
    align: bool  # whether answers are extended to whole words


class QuestionAnswering(Pipeline):
    """Find the span of a context that answers a question."""

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

        Args:
            inputs: {"question": ..., "context": ...}, a list of those, or any iterable of them, which is read and
                answered as a stream.
            question, context: instead of inputs, two texts, or two lists of the same length; or a list of
                questions and one context.
            top_k: maximum number of answers; None: 1.
            doc_stride: tokens that adjacent parts of a long context share; None: 128, at most half of max_seq_len.
            max_answer_len: maximum tokens of an answer; None: 15.
            max_seq_len: maximum tokens of question and context together. A longer context is split into parts.
                None: 384, or the model's maximum if that is less.
            max_question_len: tokens to which questions are truncated; None: they are not.
            handle_impossible_answer: whether "" may be the answer.
            align_to_words: whether answers are extended to whole words.
            padding: accepted as in transformers, without effect.
            batch_size: maximum number of parts per batch.

        Returns {"score", "start", "end", "answer"} with start and end as offsets in the context; a list of those,
        best first, for several answers; a list of that for a list of several questions; an iterator for another
        iterable. Equal answers are merged, and their scores added, also over parts. Raises InputError for inputs
        that are empty or not text.
        """
        del padding
        counts = {"top_k": top_k, "max_answer_len": max_answer_len, "max_question_len": max_question_len}
        for name, value in {**counts, "max_seq_len": max_seq_len, "batch_size": batch_size}.items():
            check_count(name, value)
        max_seq_len = min(MAX_SEQ_LEN, self.limit()) if max_seq_len is None else max_seq_len
        if max_seq_len > self.limit():
            raise InputError(f"max_seq_len is {max_seq_len}: the model takes {self.limit()} tokens")
        if doc_stride != 0:
            check_count("doc_stride", doc_stride)
        options = Options(
            max_seq_len=max_seq_len,
            stride=min(max_seq_len // 2, DOC_STRIDE) if doc_stride is None else doc_stride,
            max_answer_len=min(max_answer_len or MAX_ANSWER_LEN, max_seq_len),
            top_k=top_k or 1,
            impossible=handle_impossible_answer,
            align=align_to_words,
        )
        inputs = _combined(inputs, question, context)
        single = isinstance(inputs, dict) or (isinstance(inputs, list | tuple) and len(inputs) == 1)
        examples: Iterable[Any] = [inputs] if isinstance(inputs, dict) else read_inputs("inputs", inputs, EXPECTED)
        questions = (self._question(example, i, max_question_len, options) for i, example in enumerate(examples))
        return deliver(inputs, single, self._answers(questions, options, batch_size))

    def _question(self, example: Any, i: int, max_len: int | None, options: Options) -> Question:
        """Check one input, and truncate its question."""
        if not isinstance(example, dict) or example.keys() != {"question", "context"}:
            raise InputError(f'inputs[{i}] is {example!r:.60}: expected {{"question": ..., "context": ...}}')
        for key in ("question", "context"):
            name = input_name(i, key)
            check_text(example[key], name)
            if not example[key]:
                raise InputError(f"{name} is empty: expected text", subject=name)
        question, context = example["question"], example["context"]
        ends = self._ends(question)
        if max_len is not None and len(ends) > max_len:
            question, ends = question[: ends[max_len - 1]], ends[:max_len]
        room = options.max_seq_len - self.tokenizer.backend.num_special_tokens_to_add(True) - len(ends)
        if room <= options.stride and room < len(self._ends(context)):
            raise InputError(
                f"inputs[{i}] has a question of {len(ends)} tokens, which leaves {max(room, 0)} of "
                f"{options.max_seq_len} for a part of its context: expected more than doc_stride, "
                f"{options.stride}; truncate it with max_question_len",
                subject=input_name(i),
            )
        return Question(question, context)

    def _ends(self, text: str) -> list[int]:
        """Return the offset of the end of each token of a text."""
        [encoded] = self.tokenizer.encodings([text], max_length=NO_LIMIT, truncation="error")
        return [end for (_, end), part in zip(encoded.offsets, encoded.sequence_ids, strict=True) if part == 0]

    def _answers(self, questions: Iterable[Question], options: Options, batch_size: int | None) -> Iterator[Any]:
        for names, window in self.windows(questions):
            encoded = self.tokenizer.encodings(
                [question.question for question in window],
                [question.context for question in window],
                max_length=options.max_seq_len,
                truncation="only_second",
                stride=options.stride,
                names=names,
            )
            contexts = [[first, *first.overflowing] for first in encoded]
            sequences = [tuple(part.ids) for parts in contexts for part in parts]
            logits = iter(self.engine.run("span_logits", sequences, batch_size))
            for question, parts in zip(window, contexts, strict=True):
                yield self._answer(question.context, [(part, next(logits)) for part in parts], options)

    def _answer(
        self, context: str, parts: list[tuple[tokenizers.Encoding, Array]], options: Options
    ) -> Answer | list[Answer]:
        """Select the answers among the most likely spans of all parts."""
        answers: list[Answer] = []
        no_answer = []  # probability for each part
        for part, logits in parts:
            start, end, none = self._probabilities(part, logits)
            no_answer.append(none)
            for first, last, score in _most_likely(start, end, options):
                offset, stop = _offsets(part, first, last, options.align)
                _merge(answers, {"score": score, "start": offset, "end": stop, "answer": context[offset:stop]})
        if options.impossible or not answers:
            score = min(no_answer) if options.impossible else 0.0
            answers.append({"score": score, "start": 0, "end": 0, "answer": ""})
        best = sorted(answers, key=lambda answer: answer["score"], reverse=True)[: options.top_k]
        return best[0] if len(best) == 1 else best

    def _probabilities(self, part: tokenizers.Encoding, logits: Array) -> tuple[Array, Array, float]:
        """Return the probabilities of an answer's start and end at each token, (L,) each, and of no answer.

        logits: (L, 2). [CLS] stands for no answer: it has a probability, but no answer starts or ends there.
        """
        cls = self.tokenizer.id_of("cls_token")
        possible = [s == 1 or i == cls for s, i in zip(part.sequence_ids, part.ids, strict=True)]
        start, end = softmax(np.where(possible, logits.T, np.float32(-10000)))
        none = float(start[0] * end[0])
        start[0] = end[0] = 0
        return start, end, none


def _combined(inputs: Any, question: Any, context: Any) -> Any:
    """Combine the arguments into inputs: a dict, or an iterable of dicts."""
    if isinstance(inputs, str) and question is None and context is not None:
        inputs, question = None, inputs  # two positional arguments
    if inputs is not None:
        if question is not None or context is not None:
            raise InputError("inputs cannot be combined with question or context: pass one or the other")
        if isinstance(inputs, str):
            raise InputError(f"inputs is str: expected {EXPECTED}", subject="inputs")
        return inputs
    if isinstance(question, str) and isinstance(context, str):
        return {"question": question, "context": context}
    if not is_list_like(question) or not (isinstance(context, str) or is_list_like(context)):
        kinds = f"{type(question).__name__} and {type(context).__name__}"
        raise InputError(f"question and context are {kinds}: expected two texts, or two lists")
    contexts = [context] * len(question) if isinstance(context, str) else context
    if len(question) != len(contexts):
        raise InputError(
            f"there are {len(question)} questions but {len(contexts)} contexts: expected one for each"
        )
    return [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]


def _most_likely(start: Array, end: Array, options: Options) -> Iterator[tuple[int, int, float]]:
    """Yield the most likely spans: first token, last token, probability. start, end: (L,)."""
    count = 2 * options.top_k + 10 if options.align else options.top_k  # several spans may align to the same words
    width = min(options.max_answer_len, len(start))
    ends = np.lib.stride_tricks.sliding_window_view(np.pad(end, (0, width - 1)), width)  # (L, width)
    probabilities = (start[:, None] * ends).ravel()
    for index in top(probabilities, count):
        if probabilities[index] > 0:  # a context may have fewer spans
            first, length = divmod(index, width)
            yield first, first + length, float(probabilities[index])


def _offsets(part: tokenizers.Encoding, first: int, last: int, align: bool) -> tuple[int, int]:
    """Return the offsets in the context of a span of tokens, or with `align` of their words."""
    start, end = part.offsets[first], part.offsets[last]
    words = part.word_ids[first], part.word_ids[last]
    if align and words[0] is not None and words[1] is not None:
        start = part.word_to_chars(words[0], sequence_index=1) or start
        end = part.word_to_chars(words[1], sequence_index=1) or end
    return start[0], end[1]


def _merge(answers: list[Answer], answer: Answer) -> None:
    """Append an answer, or add its score to an equal answer."""
    for other in answers:
        if other["answer"].lower() == answer["answer"].lower():
            other["score"] += answer["score"]
            return
    answers.append(answer)
