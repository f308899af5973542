"""The verbs that answer texts. To add a verb, write a `Verb` and list it in `VERBS`."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .answer import Verb
from .options import comma_separated, flag, integer, names
from .output import display_width, one_line, pad, score_lines

if TYPE_CHECKING:
    from ..io.text_files import Record
    from .sources import Source

# zero-shot


def _check_labels(options: argparse.Namespace, source: Source | None) -> None:
    if options.labels is None and (source is None or not source.has_fields):
        raise InputError("--labels is missing: expected comma-separated labels, such as sports,politics")


def _text_and_labels(options: argparse.Namespace) -> tuple[str, list[str]]:
    return options.text, options.labels


def _texts_and_labels(
    options: argparse.Namespace, source: Source, records: Iterator[Record]
) -> tuple[Iterator[str], Iterator[list[str]]]:
    rows, copy = itertools.tee(_read_labels(options, source, records))
    return (text for text, _ in rows), (labels for _, labels in copy)


def _read_labels(
    options: argparse.Namespace, source: Source, records: Iterator[Record]
) -> Iterator[tuple[str, list[str]]]:
    from .sources import single_text

    for record in records:
        text = single_text(record, options.text_column)
        labels = record.fields.get("labels", options.labels)
        if isinstance(labels, str) and source.is_table:
            labels = comma_separated(labels)
        if not isinstance(labels, list) or not labels or not all(isinstance(x, str) and x.strip() for x in labels):
            raise InputError(
                f"{record.place}: labels is {labels!r}: expected a list of labels; --labels sets a default"
            )
        yield text, labels


def _show_labels(options: argparse.Namespace, answer: Any) -> Iterator[str]:
    return score_lines(answer["sequence"], zip(answer["labels"], answer["scores"], strict=True))


ZERO_SHOT = Verb(
    name="zero-shot",
    task="zero-shot-classification",
    help="classify a text with labels of your choice, without training",
    check=_check_labels,
    single=_text_and_labels,
    stream=_texts_and_labels,
    show=_show_labels,
    input_options={
        "--labels": names("comma-separated labels; a field `labels` in the input takes precedence"),
    },
    call_options={
        "--template": {
            "dest": "hypothesis_template",
            "metavar": "TEXT",
            "help": "sentence with {} for the label (default: This example is {}.)",
        },
        "--multi-label": flag("score each label independently, if several may be true"),
    },
)

# classify


def _check_pair(options: argparse.Namespace, source: Source | None) -> None:
    if options.pair is not None and source is not None:
        raise InputError("--pair cannot be combined with --input: put a field text_pair in the input instead")
    if options.pair_column is not None and (source is None or not source.has_fields):
        raise InputError("--pair-column requires an --input in .jsonl, .csv or .tsv")


def _text_or_pair(options: argparse.Namespace) -> tuple[dict[str, str]]:
    text = {"text": options.text}
    return (text if options.pair is None else {**text, "text_pair": options.pair},)


def _texts_or_pairs(
    options: argparse.Namespace, source: Source, records: Iterator[Record]
) -> tuple[Iterator[str | dict[str, str]]]:
    return (_read_pairs(options, source, records),)


def _read_pairs(
    options: argparse.Namespace, source: Source, records: Iterator[Record]
) -> Iterator[str | dict[str, str]]:
    from ..io.text_files import text_columns
    from .sources import text_of

    for record in records:
        column, pair_column = text_columns(record.fields, options.text_column, options.pair_column)
        text = text_of(record, column)
        if pair_column is None or (pair_column in record.fields and record.fields[pair_column] in (None, "")):
            yield text
        else:
            yield {"text": text, "text_pair": text_of(record, pair_column, "name it with --pair-column")}


def _show_classes(options: argparse.Namespace, answer: Any) -> Iterator[str]:
    title = options.text if options.pair is None else f"{options.text} / {options.pair}"
    return score_lines(title, ((row["label"], row["score"]) for row in answer))


CLASSIFY = Verb(
    name="classify",
    task="text-classification",
    help="classify a text or a pair of texts with the model's own labels",
    check=_check_pair,
    single=_text_or_pair,
    stream=_texts_or_pairs,
    show=_show_classes,
    show_arguments={"top_k": None},
    input_options={
        "--pair": {"metavar": "TEXT", "help": "second text, for a model of text pairs"},
        "--pair-column": {"metavar": "NAME", "help": "column or field of --input that holds the second text"},
    },
    call_options={"--top-k": integer("number of labels (default: all; with --json or --input the best one)")},
)

# fill-mask


def _show_words(options: argparse.Namespace, answer: Any) -> Iterator[str]:
    masks = answer if isinstance(answer[0], list) else [answer]
    for number, words in enumerate(masks, 1):
        title = options.text if len(masks) == 1 else f"{options.text} (mask {number} of {len(masks)})"
        yield from score_lines(title, ((word["token_str"], word["score"]) for word in words))


FILL_MASK = Verb(
    name="fill-mask",
    task="fill-mask",
    help="predict the masked words of a text",
    show=_show_words,
    call_options={
        "--targets": names("comma-separated words to choose among"),
        "--top-k": integer("number of words per mask (default: 5)"),
    },
)

# tag


def _show_entities(options: argparse.Namespace, answer: Any) -> Iterator[str]:
    label = "entity_group" if answer and "entity_group" in answer[0] else "entity"
    width = max((display_width(entity["word"]) for entity in answer), default=0)
    rows = ((f"{pad(entity['word'], width)}  {entity[label]}", entity["score"]) for entity in answer)
    return score_lines(options.text, rows)


TAG = Verb(
    name="tag",
    task="token-classification",
    help="label the words of a text, such as names of people and places",
    show=_show_entities,
    call_options={
        "--aggregation-strategy": {
            "metavar": "NAME",
            "help": "how to group tokens into entities: none, simple, first, average or max (default: none)",
        },
        "--stride": integer("split long texts into parts that overlap by N tokens"),
    },
)

# answer


def _check_context(options: argparse.Namespace, source: Source | None) -> None:
    if options.context is None and (source is None or not source.has_fields):
        raise InputError("--context is missing: expected the text to search for the answer")


def _question(options: argparse.Namespace) -> tuple[dict[str, str]]:
    return ({"question": options.text, "context": options.context},)


def _questions(
    options: argparse.Namespace, source: Source, records: Iterator[Record]
) -> tuple[Iterator[dict[str, str]]]:
    from .sources import text_of

    key = options.text_column or ("question" if source.has_fields else "text")
    default = {} if options.context is None else {"context": options.context}
    records = (record._replace(fields={**default, **record.fields}) for record in records)
    remedy = "add it, or pass --context"
    return (
        ({"question": text_of(record, key), "context": text_of(record, "context", remedy)} for record in records),
    )


def _show_answers(options: argparse.Namespace, answer: Any) -> Iterator[str]:
    answers = answer if isinstance(answer, list) else [answer]
    return score_lines(options.text, ((row["answer"] or "(no answer)", row["score"]) for row in answers))


ANSWER = Verb(
    name="answer",
    task="question-answering",
    help="find the answer to a question in a text",
    text="question",
    check=_check_context,
    single=_question,
    stream=_questions,
    show=_show_answers,
    input_options={
        "--context": {
            "metavar": "TEXT",
            "help": "text to search for the answer; a field `context` in the input takes precedence",
        },
    },
    call_options={
        "--top-k": integer("number of answers (default: 1)"),
        "--handle-impossible-answer": flag("allow an empty answer, if the text does not answer the question"),
    },
)

# embed


def _show_vector(options: argparse.Namespace, answer: Any) -> Iterator[str]:
    vector = answer.tolist()
    norm = sum(element * element for element in vector) ** 0.5
    first = " ".join(f"{element:.4f}" for element in vector[:6])
    yield one_line(options.text)
    yield f"  {len(vector)} dimensions, norm {norm:.3f}: {first} ..."


EMBED = Verb(
    name="embed",
    task="sentence-embedding",
    help="embed a text as a vector",
    show=_show_vector,
    call_options={
        "--pooling": {"metavar": "NAME", "help": "such as mean, cls or max (default: as the checkpoint declares)"},
        "--normalize": flag("scale the vector to norm 1"),
    },
)

VERBS = (ZERO_SHOT, CLASSIFY, FILL_MASK, TAG, ANSWER, EMBED)
