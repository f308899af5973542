"""The verbs `train` and `eval`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..errors import InputError
from .options import (
    DATA,
    MODEL,
    OPTIONAL,
    add_debug_option,
    add_dtype_option,
    add_model_options,
    add_parser,
    add_quiet_option,
    flag,
    integer,
    load_pipeline,
    names,
    supplied,
)
from .output import print_json

RECIPE: tuple[tuple[str, type, Any, str], ...] = (  # fields of `Recipe`: name, type, default, help
    ("epochs", float, 5.0, "passes over the training data"),
    ("batch-size", int, 16, "examples per step"),
    ("batch-tokens", int, None, "tokens per step, instead of --batch-size"),
    ("gradient-accumulation-steps", int, 1, "batches per step, whose gradients are added"),
    ("learning-rate", float, 2e-5, "peak learning rate, reached after the warm-up"),
    ("schedule", str, "linear", "learning-rate schedule: linear, cosine or constant"),
    ("warmup-ratio", float, 0.0, "fraction of the steps in which the learning rate rises"),
    ("weight-decay", float, 0.0, "weight decay of all weights except biases and LayerNorms"),
    ("max-grad-norm", float, 1.0, "maximum norm of the gradients, to which they are clipped"),
    ("max-length", int, 128, "maximum tokens of a text, to which it is truncated"),
    ("dropout", float, None, "dropout probability (default: the model's config)"),
    ("dtype", str, "float32", "float32, or bfloat16 or float16 for autocast"),
    ("seed", int, 42, "seed of the new head, the order of examples and dropout"),
    ("metric", str, None, "metric that selects the best checkpoint (default: accuracy, F1 or Pearson's r)"),
)


def add_train(verbs: Any) -> None:
    """Add the parser of `train`."""
    verb = add_parser(verbs, "train", "fine-tune a classifier", train)
    verb.add_argument("base", metavar="MODEL", help=f"model to start from: {MODEL}")
    verb.add_argument("data", nargs="+", metavar="DATA", help=DATA)
    verb.add_argument(
        "--output", metavar="FOLDER", help="folder for the model, its card and the log", required=True
    )
    verb.add_argument(
        "--eval-data", metavar="DATA", help="labeled texts to evaluate on; the best checkpoint is kept", **OPTIONAL
    )
    verb.add_argument("--eval-steps", **integer("evaluate every N steps (default: once per epoch)"), **OPTIONAL)
    verb.add_argument("--save-steps", **integer("save the state every N steps (default: 500)"), **OPTIONAL)
    verb.add_argument("--resume", **flag("continue the run in --output"), **OPTIONAL)
    verb.add_argument("--overwrite", **flag("replace the run in --output"), **OPTIONAL)
    carbon = "three-letter country code, for the estimate of carbon emissions"
    verb.add_argument("--country", metavar="ISO", help=carbon, **OPTIONAL)
    add_model_options(verb)
    add_quiet_option(verb)
    add_debug_option(verb)
    group = verb.add_argument_group("data")
    _add_data_options(group)
    group.add_argument("--labels", **names("comma-separated labels of a new head"))
    group = verb.add_argument_group("recipe")
    for name, kind, default, text in RECIPE:
        metavar = "NAME" if kind is str else "N"
        text = text if default is None else f"{text} (default: {default})"
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=text, **OPTIONAL)


def add_eval(verbs: Any) -> None:
    """Add the parser of `eval`."""
    verb = add_parser(verbs, "eval", "evaluate a classifier on labeled texts", evaluate)
    verb.add_argument("model", metavar="MODEL", help=MODEL)
    verb.add_argument("data", metavar="DATA", help=DATA)
    _add_data_options(verb)
    verb.add_argument("--zero-shot", **flag("zero-shot classification, with the labels of the data as candidates"))
    verb.add_argument("--template", metavar="TEXT", help="with --zero-shot: sentence with {} for the label")
    verb.add_argument("--max-length", **integer("maximum tokens of a text, to which it is truncated"), **OPTIONAL)
    add_model_options(verb)
    add_dtype_option(verb)
    verb.add_argument("--json", **flag("print one line of JSON"))
    add_quiet_option(verb)
    add_debug_option(verb)


def _add_data_options(parser: Any) -> None:
    for name, what in (("text", "text"), ("pair", "second text"), ("label", "label")):
        parser.add_argument(f"--{name}-column", metavar="NAME", help=f"column or field that holds the {what}")
    types = "single_label_classification, multi_label_classification or regression"
    parser.add_argument("--problem-type", metavar="NAME", help=types, **OPTIONAL)
    separator = "separator of several labels in a string (default: |)"
    parser.add_argument("--label-separator", metavar="TEXT", help=separator, **OPTIONAL)
    parser.add_argument("--unlabeled", **names("comma-separated labels of rows to skip, such as -1"), **OPTIONAL)


def train(options: argparse.Namespace) -> None:
    """Run `train`: progress goes to stderr, the final evaluation to stdout."""
    from ..training import Recipe, fine_tune

    fields = [name.replace("-", "_") for name, *_ in RECIPE]
    arguments = supplied(options, "eval_data", "problem_type", "revision", "device", "eval_steps", "save_steps")
    arguments |= supplied(options, "resume", "overwrite", "country", "label_separator", "unlabeled")
    run = fine_tune(
        options.base,
        options.data,
        options.output,
        recipe=Recipe(**supplied(options, *fields)),
        columns=_columns(options),
        labels=options.labels,
        command=options.command,
        quiet=options.quiet,
        **arguments,
    )
    for evaluation in run.get("evaluation", []):
        _print_table(evaluation["metrics"])
    if "progress" in run and not options.quiet:  # only the first of several processes reports
        print(f"saved the model to {options.output}", file=sys.stderr)


def evaluate(options: argparse.Namespace) -> None:
    """Run `eval`."""
    from ..training.console import label_report
    from ..training.data import Labels, read_examples
    from ..training.evaluation import evaluate, evaluate_zero_shot
    from ..training.label_rules import infer_schema
    from ..training.labels import SINGLE
    from ..training.records import read_rows

    rows = read_rows(options.data, _columns(options))
    if options.template is not None and not options.zero_shot:
        raise InputError("--template requires --zero-shot")
    if options.zero_shot and "max_length" in options:
        raise InputError("--max-length cannot be combined with --zero-shot")
    pipe = load_pipeline("zero-shot-classification" if options.zero_shot else "text-classification", options)
    how: dict[str, Any] = supplied(options, "problem_type", "unlabeled")
    how["separator"] = getattr(options, "label_separator", None)
    if not options.zero_shot:
        own = Labels.from_config(pipe.model.config)
        how = {"names": own.names, "problem_type": own.problem_type, **how}
    schema = infer_schema(rows, **how)
    if options.zero_shot and (schema.problem_type != SINGLE or schema.integers):
        found = "numbers" if schema.integers else schema.problem_type
        raise InputError(
            f"{options.data}: the labels are {found}: --zero-shot requires the name of a class per text"
        )
    examples, summary = read_examples(rows, schema)
    if not options.quiet:
        print(label_report(schema, summary), file=sys.stderr)
    if options.zero_shot:
        metrics = evaluate_zero_shot(pipe, examples, schema.names, options.template, quiet=options.quiet)
    else:
        arguments = supplied(options, "max_length", "problem_type", "quiet")
        metrics = evaluate(pipe.model, pipe.tokenizer, examples, **arguments)
    if options.json:
        print_json(metrics)
    else:
        _print_table(metrics)


def _print_table(metrics: dict[str, Any]) -> None:
    from ..training.evaluation import table

    print(table(metrics))


def _columns(options: argparse.Namespace) -> Any:
    from ..training.records import Columns

    return Columns(options.text_column, options.pair_column, options.label_column)
