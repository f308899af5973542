"""`minidistil VERB`: the pipelines from a shell. Answers go to stdout or --output, all else to stderr."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import re
import shlex
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import Error, InputError  # all else is imported when needed: --help takes no torch

if TYPE_CHECKING:
    from .stream import Sink, Source

BAR = 24  # how wide the bar of a score of 1 is
DATA = "labelled texts: a .jsonl, .csv or .tsv file, gzipped or not, or hub:NAME:SPLIT"
RECIPE = (  # options of `train` that are fields of its Recipe, which has their defaults
    ("epochs", float, "times that each example is seen"),
    ("batch-size", int, "examples of a step"),
    ("batch-tokens", int, "tokens of a step, in place of examples"),
    ("gradient-accumulation-steps", int, "batches that are added up to one step"),
    ("learning-rate", float, "at the end of the warm-up"),
    ("schedule", str, "linear, cosine or constant"),
    ("warmup-ratio", float, "the part of the steps in which the learning rate grows"),
    ("weight-decay", float, "of weights, not of norms and biases"),
    ("max-grad-norm", float, "what gradients are clipped to"),
    ("max-length", int, "tokens that texts are cut to"),
    ("dropout", float, "in place of the model's own"),
    ("dtype", str, "float32, or bfloat16 or float16 for autocast"),
    ("seed", int, "of the new head, the order and the dropout"),
    ("metric", str, "what decides which checkpoint is best"),
)
EXAMPLES = """examples:
  minidistil zero-shot "The team won in extra time." --labels sports,politics,business
  minidistil classify "A man sleeps." --pair "A person is awake." --model MODEL
  minidistil fill-mask "Paris is the [MASK] of France." --model MODEL
  minidistil tag "Ada lives in London." --aggregation-strategy simple --model MODEL
  minidistil answer "Where does Ada live?" --context "Ada lives in London." --model MODEL
  minidistil embed "A sentence." --json --model MODEL
  minidistil zero-shot --input texts.txt --labels sports,politics --output answers.jsonl
  minidistil train MODEL train.jsonl --eval-data dev.jsonl --output mine
  minidistil eval mine dev.jsonl

MODEL is a folder in the Hub's format, or a Hub id such as typeform/distilbert-base-uncased-mnli."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 for success, 1 where the lab rejects, 2 for an error in what was given, 130 stopped."""
    options = _parser().parse_args(arguments)
    options.command = shlex.join([*_program(), *(sys.argv[1:] if arguments is None else arguments)])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"minidistil: {message}\n"
    try:
        code: int = options.run(options) or 0
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        if options.debug:
            raise
        written = f": {stop}" if str(stop) else ""
        if getattr(options, "input", None):
            written = "; the lines written so far are complete"
        print(f"minidistil: interrupted{written}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Error, OSError) as error:
        if options.debug:
            raise
        print(f"minidistil: {_located(options, ' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    return code


def _program() -> list[str]:
    """Give what this command began with: its name, or torchrun's many processes."""
    count = os.environ.get("WORLD_SIZE", "1")
    return ["minidistil"] if count == "1" else ["torchrun", "--nproc-per-node", count, "-m", "minidistil"]


def _located(options: argparse.Namespace, message: str) -> str:
    """Name the line of the input, or the text, where a pipeline names a place among its inputs."""
    source = getattr(options, "source", None)
    place = r"\b(?:inputs|sequences)\[(\d+)\](?:\['(\w+)'\])?"
    if source is None:
        return re.sub(place, lambda match: f"the {match[2] or 'text'}", message)
    return re.sub(place, lambda match: f"{source.place(int(match[1]))}: the {match[2] or 'text'}", message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minidistil",
        description="DistilBERT: classify, tag and embed text, fill masks, and find answers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minidistil {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    verb = _verb(verbs, "zero-shot", "classify with any labels", zero_shot)
    verb.add_argument("--labels", help="the labels, with commas between; for JSONL input, where a line has none")
    given: dict[str, Any] = {"default": argparse.SUPPRESS}  # what is not given keeps the pipeline's own default
    verb.add_argument(
        "--template", dest="hypothesis_template", metavar="TEXT", help="a sentence with {} for the label", **given
    )
    verb.add_argument(
        "--multi-label", action="store_true", help="score each label alone: several may be true", **given
    )

    verb = _verb(verbs, "classify", "classify with the model's own labels", classify)
    verb.add_argument("--pair", help="a second text, for models of pairs")
    verb.add_argument("--top-k", type=int, metavar="N", help="how many labels; the default is the best", **given)

    verb = _verb(verbs, "fill-mask", "guess masked words", fill_mask)
    verb.add_argument("--targets", metavar="WORDS", help="the words to choose from, with commas between")
    verb.add_argument("--top-k", type=int, metavar="N", help="how many words", **given)

    verb = _verb(verbs, "tag", "label the words of a text, such as names", tag)
    verb.add_argument(
        "--aggregation-strategy", metavar="NAME", help="none, simple, first, average or max", **given
    )
    verb.add_argument(
        "--stride", type=int, metavar="N", help="read long texts in parts that share N tokens", **given
    )

    verb = _verb(verbs, "answer", "find the answer to a question in a text", answer, "the question")
    verb.add_argument("--context", help="the text that the answer is in; for JSONL input, where a line has none")
    verb.add_argument("--top-k", type=int, metavar="N", help="how many answers", **given)
    verb.add_argument(
        "--handle-impossible-answer", action="store_true", help="an empty answer, where that is likelier", **given
    )

    verb = _verb(verbs, "embed", "turn texts into vectors", embed)
    verb.add_argument("--pooling", metavar="NAME", help="mean or cls; the default is the model's own", **given)
    verb.add_argument("--normalize", action="store_true", help="make vectors of length 1", **given)

    _add_train(verbs.add_parser("train", help="fine-tune a classifier", description="Fine-tune a classifier."))
    _add_eval(
        verbs.add_parser("eval", help="measure a classifier", description="Measure how good a classifier is.")
    )

    verb = verbs.add_parser("bench", help="measure against transformers", description="Measure speed and memory.")
    verb.set_defaults(run=run_bench)
    verb.add_argument("--model", help="a folder or a Hub id", required=True)
    verb.add_argument("--pairs", metavar="FILE", help="answers: JSONL with premise and hypothesis")
    verb.add_argument("--train", metavar="DATA", help="training: labelled texts")
    verb.add_argument("--steps", type=int, help="of training, in each turn", **given)
    verb.add_argument("--base", action="store_true", help="random weights of base size", **given)
    verb.add_argument("--repeats", type=int, help="turns of each", **given)
    verb.add_argument("--peers", action="store_true", help="answers: beside every runtime that is installed")
    verb.add_argument("--texts", type=int, metavar="N", help="with --peers: how many are the bulk", **given)
    verb.add_argument("--only", metavar="NAMES", help="with --peers: some of them, with commas between", **given)
    verb.add_argument("--plot", metavar="FILE", help="with --peers: draw a picture, .svg or .png", **given)
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")

    _add_lab(verbs.add_parser("lab", help="kernels: is one right, is it fast", description="The kernel lab."))
    return parser


def _add_lab(lab: argparse.ArgumentParser) -> None:
    verbs = lab.add_subparsers(metavar="VERB", required=True)
    verb = verbs.add_parser("list", help="show every implementation, and whether it can run here")
    verb.set_defaults(run=lab_list)
    verb.add_argument("op", nargs="?", help="an operation; the default is all")
    verb = verbs.add_parser("check", help="check implementations against float64: exit code 1 if one is wrong")
    verb.set_defaults(run=lab_check)
    verb.add_argument("what", nargs="?", help="an operation, or a .py file that registers implementations")
    verb.add_argument("name", nargs="?", help="one implementation of the operation; the default is all")
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    verb = verbs.add_parser("bench", help="time what the check passes, alone or in a whole model")
    verb.set_defaults(run=lab_bench)
    verb.add_argument("what", help="an operation, or a .py file that registers implementations of one")
    verb.add_argument("name", nargs="?", help="one implementation; the default is all, or the file's")
    verb.add_argument("--dtype", help="float32, bfloat16 or float16", **given)
    verb.add_argument("--seconds", type=float, metavar="N", help="that a case may take", **given)
    verb.add_argument("--plot", metavar="FILE", help="draw a picture, .svg or .png", **given)
    verb.add_argument("--model", help="what the one does to this model: a folder or a Hub id")
    verb.add_argument("--data", metavar="DATA", help=f"with --model, {DATA}")
    verb.add_argument("--examples", type=int, metavar="N", help="with --model: how many of the texts", **given)
    verb = verbs.add_parser("bulk", help="time the whole model in bulk on this device, beside transformers")
    verb.set_defaults(run=lab_bulk)
    verb.add_argument("model", help="a folder or a Hub id")
    verb.add_argument("pairs", help="a .jsonl file with premise and hypothesis")
    verb.add_argument("--base", action="store_true", help="random weights of DistilBERT base's size", **given)
    verb.add_argument("--dtype", help="float32, bfloat16 or float16; the default is bfloat16", **given)
    verb.add_argument("--texts", type=int, metavar="N", help="how many", **given)
    verb.add_argument("--seconds", type=float, metavar="N", help="that it may take", **given)
    for verb in verbs.choices.values():
        verb.add_argument("--json", action="store_true", help="one line of JSON")
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _verb(
    verbs: Any, name: str, description: str, run: Callable[[argparse.Namespace], None], text: str = "the text"
) -> argparse.ArgumentParser:
    """Add a verb with what all verbs share."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=description, description=description)
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    verb.set_defaults(run=run)
    verb.add_argument("text", nargs="?", help=text)
    shipped = name == "zero-shot"
    models = "a folder or a Hub id" + (
        "; the default is minidistil-mnli, which comes with the package" if shipped else ""
    )
    verb.add_argument("--model", help=models, required=not shipped)
    verb.add_argument("--revision", help="a branch, tag or commit on the Hub", **given)
    verb.add_argument("--device", help="cpu, cuda, cuda:1, ...", **given)
    verb.add_argument("--dtype", help="float32, bfloat16, float16, float64 or int8", **given)
    verb.add_argument("--input", metavar="FILE", help="many texts: one a line, or .jsonl, or .csv; - is stdin")
    verb.add_argument("--jsonl", action="store_true", help="the input is JSONL, whatever its name")
    verb.add_argument("--text-column", metavar="NAME", help="of .jsonl and .csv input, what holds the text")
    verb.add_argument("--output", metavar="FILE", help="where to write: .jsonl or .csv; the default is stdout")
    verb.add_argument("--resume", action="store_true", help="go on after the answers that --output has")
    verb.add_argument("--json", action="store_true", help="answer in JSON, a line for each text")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return verb


def _add_train(verb: argparse.ArgumentParser) -> None:
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    verb.set_defaults(run=train)
    verb.add_argument("base", metavar="MODEL", help="what to start from: a folder or a Hub id")
    verb.add_argument("data", nargs="+", metavar="DATA", help=DATA)
    verb.add_argument("--output", metavar="FOLDER", help="where the model and the run's files go", required=True)
    verb.add_argument("--eval-data", metavar="DATA", help="measured after each epoch: the best is kept", **given)
    verb.add_argument("--labels", help="the labels of a new head, with commas between")
    _add_columns(verb)
    verb.add_argument(
        "--problem-type",
        metavar="NAME",
        help="single_label_classification, multi_label_classification, regression",
        **given,
    )
    verb.add_argument("--revision", help="a branch, tag or commit on the Hub", **given)
    verb.add_argument("--device", help="cpu, cuda, cuda:1, ...", **given)
    for name, kind, text in RECIPE:
        verb.add_argument(f"--{name}", type=kind, metavar="N" if kind is not str else "NAME", help=text, **given)
    verb.add_argument("--eval-steps", type=int, metavar="N", help="measure every N steps", **given)
    verb.add_argument("--save-steps", type=int, metavar="N", help="save the state every N steps", **given)
    verb.add_argument("--resume", action="store_true", help="go on with the run that is in --output", **given)
    verb.add_argument("--overwrite", action="store_true", help="begin anew in --output", **given)
    verb.add_argument("--country", metavar="ISO", help="three letters: carbon by codecarbon", **given)
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_eval(verb: argparse.ArgumentParser) -> None:
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    verb.set_defaults(run=evaluate)
    verb.add_argument("model", metavar="MODEL", help="a folder or a Hub id")
    verb.add_argument("data", metavar="DATA", help=DATA)
    _add_columns(verb)
    verb.add_argument("--zero-shot", action="store_true", help="classify with the labels that the data have")
    verb.add_argument("--template", metavar="TEXT", help="for --zero-shot: a sentence with {} for the label")
    verb.add_argument("--max-length", type=int, metavar="N", help="tokens that texts are cut to", **given)
    verb.add_argument("--revision", help="a branch, tag or commit on the Hub", **given)
    verb.add_argument("--device", help="cpu, cuda, cuda:1, ...", **given)
    verb.add_argument("--dtype", help="float32, bfloat16, float16, float64 or int8", **given)
    verb.add_argument("--json", action="store_true", help="one line of JSON")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_columns(verb: argparse.ArgumentParser) -> None:
    for name in ("text", "pair", "label"):
        verb.add_argument(f"--{name}-column", metavar="NAME", help=f"the data's column for the {name}")


def zero_shot(options: argparse.Namespace) -> None:
    """Run the verb `zero-shot`."""
    labels = None if options.labels is None else _split(options.labels)
    _check(options)
    if labels is None and not _structured(options):
        raise InputError("--labels is missing: give the labels to choose from, with commas between")
    call = _given(options, "hypothesis_template", "multi_label")
    if options.input is None:
        found = _pipeline("zero-shot-classification", options)(options.text, labels, **call)
        _print_one(options, found, found["sequence"], zip(found["labels"], found["scores"], strict=True))
        return
    texts, label_sets = itertools.tee(_texts_with_labels(options, labels))
    pipe = _pipeline("zero-shot-classification", options)
    _write(options, pipe((text for text, _ in texts), (choices for _, choices in label_sets), **call))


def classify(options: argparse.Namespace) -> None:
    """Run the verb `classify`."""
    _check(options)
    if options.input is None:
        example = options.text if options.pair is None else {"text": options.text, "text_pair": options.pair}
        answers = _pipeline("text-classification", options)(example, top_k=None)
        title = options.text if options.pair is None else f"{options.text} / {options.pair}"
        shown = answers[: options.top_k] if "top_k" in options else answers
        found = shown if "top_k" in options else answers[0]
        _print_one(options, found, title, ((answer["label"], answer["score"]) for answer in shown))
        return
    if options.pair is not None:
        raise InputError("--pair goes with one text: in JSONL input, give each line a text_pair")
    _write(options, _pipeline("text-classification", options)(_examples(options), **_given(options, "top_k")))


def fill_mask(options: argparse.Namespace) -> None:
    """Run the verb `fill-mask`."""
    _check(options)
    call = _given(options, "top_k")
    if options.targets is not None:
        call["targets"] = _split(options.targets)
    pipe = _pipeline("fill-mask", options)
    if options.input is not None:
        _write(options, pipe(_texts(options), **call))
        return
    found = pipe(options.text, **call)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    masks = found if isinstance(found[0], list) else [found]
    for number, rows in enumerate(masks, 1):
        title = options.text if len(masks) == 1 else f"{options.text} (mask {number} of {len(masks)})"
        _print_one(options, found, title, ((row["token_str"], row["score"]) for row in rows))


def tag(options: argparse.Namespace) -> None:
    """Run the verb `tag`."""
    _check(options)
    call = _given(options, "aggregation_strategy", "stride")
    pipe = _pipeline("token-classification", options)
    if options.input is not None:
        _write(options, pipe(_texts(options), **call))
        return
    found = pipe(options.text, **call)
    label = "entity_group" if found and "entity_group" in found[0] else "entity"
    width = max((_width(row["word"]) for row in found), default=0)
    words = [row["word"] + " " * (width - _width(row["word"])) for row in found]
    rows = [(f"{word}  {row[label]}", row["score"]) for word, row in zip(words, found, strict=True)]
    _print_one(options, found, options.text, rows)


def answer(options: argparse.Namespace) -> None:
    """Run the verb `answer`."""
    _check(options)
    if options.context is None and not _structured(options):
        raise InputError("--context is missing: give the text that the answer is in")
    call = _given(options, "top_k", "handle_impossible_answer")
    pipe = _pipeline("question-answering", options)
    if options.input is not None:
        _write(options, pipe(_questions(options), **call))
        return
    found = pipe(question=options.text, context=options.context, **call)
    rows = found if isinstance(found, list) else [found]
    _print_one(options, found, options.text, ((row["answer"] or "(no answer)", row["score"]) for row in rows))


def embed(options: argparse.Namespace) -> None:
    """Run the verb `embed`."""
    _check(options)
    call = _given(options, "pooling", "normalize")
    pipe = _pipeline("sentence-embedding", options)
    if options.input is not None:
        _write(options, (vector.tolist() for vector in pipe(_texts(options), **call)))
        return
    vector = pipe(options.text, **call).tolist()
    if options.json:
        print(json.dumps(vector))
        return
    length = sum(number * number for number in vector) ** 0.5
    print(_one_line(options.text))
    print(f"  {len(vector)} numbers, of length {length:.3f}: {' '.join(f'{x:.4f}' for x in vector[:6])} ...")


def _split(names: str) -> list[str]:
    """Give names that have commas between them."""
    return [name.strip() for name in names.split(",")]


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Give those of the options that the user gave."""
    return {name: value for name, value in vars(options).items() if name in names}


def _check(options: argparse.Namespace) -> None:
    if (options.text is None) == (options.input is None):
        raise InputError("give either one text or --input FILE")
    if options.input is None and (options.output is not None or options.jsonl):
        raise InputError("--output and --jsonl go with --input FILE")
    if options.resume and (options.output is None or not Path(options.input or "").is_file()):
        raise InputError("--resume goes with --input FILE and --output FILE: it goes on where that stopped")
    if options.input not in (None, "-") and not Path(options.input).exists():
        raise InputError(f"cannot read {options.input}: there is no such file")
    if options.output is not None:
        _check_output(Path(options.output), options.input)
    if options.input is not None:
        options.source, options.sink = _streams(options)
    if options.text_column is not None and not _structured(options):
        raise InputError("--text-column goes with --input of .jsonl or .csv")


def _streams(options: argparse.Namespace) -> tuple[Source, Sink]:
    """Give where texts come from and where answers go, beyond what an earlier run has done."""
    from .stream import Sink, Source

    source, sink = Source(options.input, options.jsonl), Sink(options.output)
    if options.resume:
        source.done = sink.answered()
        if source.total is not None and source.done > source.total:
            raise InputError(
                f"{options.output} has {source.done} answers, but {options.input} {source.total} texts"
            )
    return source, sink


def _structured(options: argparse.Namespace) -> bool:
    """Whether there are many texts, which come with names for what they are."""
    return options.input is not None and options.source.structured


def _write(options: argparse.Namespace, answers: Iterable[Any]) -> None:
    options.sink.write(answers, options.source)


def _check_output(path: Path, source: str) -> None:
    """Refuse before the model is loaded what could not be written after."""
    if path.suffix.lower() in (".gz", ".tsv"):
        raise InputError(f"--output {path}: answers are written as .jsonl or .csv")
    try:
        new = not path.exists()
        if source != "-" and not new and path.samefile(source):
            raise InputError(f"--output {path} is the input: it would be overwritten while it is read")
        path.open("a").close()
        if new:  # it is made again with its first line
            path.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from error


def _pipeline(task: str, options: argparse.Namespace) -> Any:
    from ..backends.onednn import keep_memory
    from ..pipelines import pipeline

    keep_memory()
    return pipeline(task, options.model, **_given(options, "revision", "device", "dtype"))


def _print_one(options: argparse.Namespace, found: Any, title: str, scores: Iterable[tuple[str, float]]) -> None:
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    rows = [(_one_line(label), score) for label, score in scores]
    width = max((_width(label) for label, _ in rows), default=0)
    print(_one_line(title))
    if not rows:
        print("  (nothing found)")
    for label, score in rows:
        bar = "█" * round(BAR * min(max(score, 0.0), 1.0))
        print(f"  {label}{' ' * (width - _width(label))}  {score:.3f}  {bar}".rstrip())


def _one_line(text: str) -> str:
    """Give a text as a terminal can show it in one line: without what moves its cursor or changes its colours."""
    return "".join(
        " " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in text
    )


def _width(text: str) -> int:
    """How many columns a terminal gives a text: wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in ("Mn", "Me") for character in text)


def _text(record: dict[str, Any], key: str, where: str) -> str:
    from ..checks import check_text

    text = record.get(key)
    if text is None:
        raise InputError(f"{where} has no {key}: expected it beside {', '.join(record) or 'nothing'}")
    if not isinstance(text, str):
        raise InputError(f"{where}: {key} is {text!r}: expected a string")
    check_text(text, f"{where}: {key}")
    return text


def _texts(options: argparse.Namespace) -> Iterator[str]:
    return (text for text, _, _ in _with_records(options))


def _with_records(options: argparse.Namespace, key: str = "text") -> Iterator[tuple[str, dict[str, Any], str]]:
    key = options.text_column or key
    return ((_text(record, key, where), record, where) for record, where in options.source)


def _questions(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Give questions with their contexts: lines of text are questions, records may bring a context."""
    for question, record, where in _with_records(options, "question" if options.source.structured else "text"):
        given = record if options.context is None else {"context": options.context, **record}
        yield {"question": question, "context": _text(given, "context", where)}


def _texts_with_labels(options: argparse.Namespace, labels: list[str] | None) -> Iterator[tuple[str, list[str]]]:
    for text, record, where in _with_records(options):
        own = record.get("labels", labels)
        if isinstance(own, str) and options.source.table:
            own = _split(own)  # in a table's cell, as in --labels
        if not text:
            raise InputError(f"{where}: the text is empty: there is nothing to classify")
        if not isinstance(own, list) or not own or not all(isinstance(x, str) and x.strip() for x in own):
            raise InputError(f"{where}: labels is {own!r}: expected a list of labels, or --labels for all")
        yield text, own


def _examples(options: argparse.Namespace) -> Iterator[str | dict[str, str]]:
    for text, record, where in _with_records(options):
        pair = record.get("text_pair")
        if pair is None or (pair == "" and options.source.table):  # a table's empty cell
            yield text
        else:
            yield {"text": text, "text_pair": _text(record, "text_pair", where)}


def train(options: argparse.Namespace) -> None:
    """Run the verb `train`: progress on stderr, and at the end what was measured on stdout."""
    from ..training.loop import Recipe, fine_tune

    names = [name.replace("-", "_") for name, _, _ in RECIPE]
    call = _given(options, "eval_data", "problem_type", "revision", "device", "eval_steps", "save_steps")
    call |= _given(options, "resume", "overwrite", "country")
    run = fine_tune(
        options.base,
        options.data,
        options.output,
        recipe=Recipe(**_given(options, *names)),
        columns=_columns(options),
        labels=None if options.labels is None else _split(options.labels),
        command=options.command,
        **call,
    )
    for found in run.get("evaluation", []):
        _print_table(found["metrics"])
    if "progress" in run:  # other processes than the first say nothing
        print(f"the model is in {options.output}", file=sys.stderr)


def evaluate(options: argparse.Namespace) -> None:
    """Run the verb `eval`."""
    from ..training.data import Labels, read_rows
    from ..training.evaluate import evaluate, evaluate_zero_shot

    rows = read_rows(options.data, _columns(options))
    if options.template is not None and not options.zero_shot:
        raise InputError("--template goes with --zero-shot")
    if options.zero_shot:
        for row in rows:
            if not isinstance(row.label, str) or row.label.strip().isdecimal():
                raise InputError(f"{row.place}: the label is {row.label!r}: --zero-shot needs the name of a class")
        if "max_length" in options:
            raise InputError("--max-length goes without --zero-shot, which reads as much as the model does")
    pipe = _pipeline("zero-shot-classification" if options.zero_shot else "text-classification", options)
    single = "single_label_classification"
    labels = Labels.found_in(rows, single) if options.zero_shot else Labels.of(pipe.model.config)
    examples, unlabelled = labels.read(rows)
    if options.zero_shot:
        found = evaluate_zero_shot(pipe, examples, labels.names, options.template)
    else:
        found = evaluate(pipe.model, pipe.tokenizer, examples, **_given(options, "max_length"))
    if unlabelled:
        print(f"minidistil: {unlabelled} rows without a label are left out", file=sys.stderr)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print_table(found)


def _print_table(found: dict[str, Any]) -> None:
    from ..training.evaluate import table

    print(table(found))


def _columns(options: argparse.Namespace) -> Any:
    from ..training.data import Columns

    return Columns(options.text_column, options.pair_column, options.label_column)


def run_bench(options: argparse.Namespace) -> None:
    """Run the verb `bench`: a report for people, and one line of JSON at its end."""
    from ..benchmarks.startup import bench, bench_training

    if (options.pairs is None) == (options.train is None):
        raise InputError("give either --pairs, to measure answers, or --train, to measure training")
    if options.peers and options.train is not None:
        raise InputError("--peers goes with --pairs: it measures answers")
    of_peers = _given(options, "texts", "only", "plot")
    if of_peers and not options.peers:
        raise InputError(f"--{next(iter(of_peers))} goes with --peers")
    if options.peers:
        from ..benchmarks.race import race

        found = race(options.model, options.pairs, **_given(options, "base", "repeats"), **of_peers)
    elif options.train is None:
        found = bench(options.model, options.pairs, **_given(options, "base", "repeats"))
    else:
        found = bench_training(options.model, options.train, **_given(options, "base", "steps", "repeats"))
    print(json.dumps(found))


def lab_list(options: argparse.Namespace) -> None:
    """Run the verb `lab list`."""
    from ..lab import implementations

    found = implementations(options.op)
    if options.json:
        fields = ("op", "name", "device", "needs", "dtypes", "gradients", "precision", "lacks", "about", "file")
        print(json.dumps([{field: getattr(one, field) for field in fields} for one in found]))
        return
    width = max(len(one.name) for one in found)
    for op, ones in itertools.groupby(found, lambda one: one.op):
        print(op)
        for one in ones:
            where = one.device if one.lacks is None else f"cannot run: {one.lacks}"
            print(f"  {one.name:<{width}}  {where}  {one.about}")


def lab_check(options: argparse.Namespace) -> int:
    """Run the verb `lab check`."""
    from ..lab import find, implementations, load
    from ..lab.gate import check, show

    if options.what is not None and options.what.endswith(".py"):
        found = load(options.what)
    elif options.name is not None:
        found = [find(options.what, options.name)]
    else:
        found = implementations(options.what)
    verdicts = []
    for one in found:
        if one.lacks is not None:
            print(f"left out  {one.title}: {one.lacks}", file=sys.stderr)
            continue
        verdicts.append(check(one))
        if not options.json:
            print(*show(verdicts[-1]), sep="\n", flush=True)
    if options.json:
        print(json.dumps([verdict.as_json() for verdict in verdicts]))
    return int(not all(verdict.passed for verdict in verdicts))


def lab_bulk(options: argparse.Namespace) -> None:
    """Run the verb `lab bulk`: a report for people, and with --json one line of JSON at its end."""
    from ..lab.bulk import bulk

    report = bulk(options.model, options.pairs, **_given(options, "base", "dtype", "texts", "seconds"))
    if options.json:
        print(json.dumps(report))


def lab_bench(options: argparse.Namespace) -> None:
    """Run the verb `lab bench`: a report for people, and with --json one line of JSON at its end."""
    from ..lab import load
    from ..lab.timing import bench, bench_model

    op, names = options.what, None if options.name is None else [options.name]
    if op.endswith(".py"):
        found = [one for one in load(op) if options.name in (None, one.name)]
        if len({one.op for one in found}) != 1:
            raise InputError(
                f"{op} registers {len(found)} implementations: name one, all that are timed have one op"
            )
        op, names = found[0].op, [one.name for one in found]
    call = _given(options, "dtype", "seconds")
    if (options.model is None) != (options.data is None) or ("examples" in options and options.model is None):
        raise InputError("--model, --data and --examples go together")
    if options.model is None:
        timed = None if names is None else list(dict.fromkeys(["torch", *names]))
        report = bench(op, names=timed, **call, **_given(options, "plot"))
    elif names is None or len(names) != 1 or "plot" in options:
        raise InputError("--model takes one implementation, by its name, and no --plot")
    else:
        call |= _given(options, "examples")
        report = bench_model(options.model, options.data, op, names[0], **call)
    if options.json:
        print(json.dumps(report))
