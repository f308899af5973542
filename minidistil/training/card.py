"""The model card of a fine-tuning run: README.md in the Hub's format, written from run.json.

It has the sections of the card of typeform/distilbert-base-uncased-mnli.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.files import write_files

UNMEASURED = "not measured"
UNSTATED = "not stated"
HUB_METRICS = {  # first word of a metric -> its name on the Hub
    "accuracy": "accuracy",
    "f1": "f1",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
MAX_LABELS = 10  # of a confusion matrix
TEMPLATE = """---
{front}
---

# {title}, fine-tuned from {base}

minidistil generated this card at the end of training. "Not measured" marks values that the run did not measure;
"not stated" marks values that were not provided.

## Model Details

{details}

## How to Get Started with the Model

Run this in the folder of this file, or replace `.` with the path of the folder:

```python
from minidistil import pipeline

pipe = pipeline("{task}", model=".")
print({call})
```

To use transformers instead, change the import to `from transformers import pipeline`.

## Uses

### Direct Use

{use}

### Misuse and Out-of-scope Use

The model was evaluated only on the data under [Evaluation](#evaluation). Evaluate it before you use it on other
kinds of text or in other languages. It cannot tell whether a text is true. Do not use it to make decisions
about people.

## Risks, Limitations and Biases

**Predictions of this model may repeat disturbing or offensive stereotypes.** Language models learn the stereotypes
of their training texts ([Sheng et al., 2021](https://aclanthology.org/2021.acl-long.330),
[Bender et al., 2021](https://doi.org/10.1145/3442188.3445922)), and fine-tuning does not remove them. They were
not measured for this model.

## Training

### Training Data

{data}

### Training Procedure

{command}

{recipe}

{progress}

## Evaluation

{evaluation}

## Environmental Impact

{impact}

Carbon emissions are estimated from hardware, hours and country, as proposed by
[Lacoste et al., 2019](https://arxiv.org/abs/1910.09700).{meter}
"""


def write_card(folder: str | Path, run: Mapping[str, Any]) -> None:
    """Write the card of a run into its folder, as README.md."""
    text = card(run)

    def write(path: Path) -> None:
        path.write_bytes(text.encode())

    write_files(folder, {"README.md": write})


def card(run: Mapping[str, Any]) -> str:
    """Return the card of a run. run: the contents of run.json."""
    task = _task(run)
    emissions = run.get("emissions") or {}
    by_codecarbon = str(emissions.get("tool")).startswith("codecarbon")
    evaluations = [_evaluation(evaluation) for evaluation in run.get("evaluation") or []]
    text = TEMPLATE.format(
        front=_front(run, task),
        title=_title(run, task),
        base=_escape(run["base"]),
        details=_details(run),
        task=task,
        call=_call(task),
        use=_use(run, task),
        data=_data(run["data"]),
        command=_code(str(run["command"])),
        recipe=_table(["hyperparameter", "value"], run["recipe"].items()),
        progress=_progress(run.get("progress") or {}),
        evaluation="\n\n".join(evaluations) or f"{UNMEASURED.capitalize()}.",
        impact=_impact(run, emissions),
        meter="\nWhere the hardware does not report its power draw, codecarbon estimates it."
        if by_codecarbon
        else "",
    )
    return text.encode("utf-8", "replace").decode()  # a path may not be valid Unicode


def _task(run: Mapping[str, Any]) -> str:
    """Return the pipeline task of the model."""
    labels = {str(label).lower() for label in run["model"].get("labels") or []}
    return "zero-shot-classification" if labels >= {"entailment", "contradiction"} else "text-classification"


def _title(run: Mapping[str, Any], task: str) -> str:
    if task == "zero-shot-classification":
        return "Zero-shot text classifier"
    titles = {"multi_label_classification": "Multi-label text classifier", "regression": "Text regression model"}
    return titles.get(run["model"].get("problem_type"), "Text classifier")


def _front(run: Mapping[str, Any], task: str) -> str:
    """Return the YAML front matter that the Hub reads."""
    measured = [name for evaluation in run.get("evaluation") or [] for name in evaluation.get("metrics") or {}]
    names = {"language": run.get("language"), "license": run.get("license")}
    names |= {"library_name": "transformers", "pipeline_tag": task}
    names["base_model"] = run["base"] if _is_hub_id(str(run["base"])) else None
    lines = [f"{name}: {_yaml(value)}" for name, value in names.items() if value]
    metrics = dict.fromkeys(HUB_METRICS[word] for name in measured if (word := name.split("_")[0]) in HUB_METRICS)
    for name, values in {"tags": ["distilbert", "minidistil"], "metrics": list(metrics)}.items():
        lines += [f"{name}:", *(f"- {_yaml(value)}" for value in values)] if values else []
    return "\n".join(lines)


def _yaml(text: str) -> str:
    """Quote for YAML: as JSON, with escapes for line breaks and for characters that YAML does not allow."""
    quoted = json.dumps(str(text), ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", quoted)


def _is_hub_id(name: str) -> bool:
    """Return whether a name looks like a Hub id, OWNER/NAME, and is not a local folder."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]{1,96}", name, re.ASCII) is not None and not Path(name).is_dir()


def _escape(value: object) -> str:
    """Escape a value as one line of Markdown that renders literally."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", " ".join(str(value).split()))
    return re.sub(r"[\\`*|<~&$#]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])", r"\\\g<0>", text)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _code(text: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}sh\n{text}\n{fence}"


def _show(value: object, missing: str = UNSTATED) -> str:
    """Format a value: thousands separators, lists joined by commas."""
    if isinstance(value, Mapping):
        return _show([f"{name} {version}" for name, version in value.items()], missing)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if value is None or value == "":
        return missing
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _small(value: float | None, unit: str) -> str:
    """Format a quantity: two decimals from 1 up, else three significant digits."""
    if value is None:
        return UNMEASURED
    return f"{value:,.2f} {unit}" if abs(value) >= 1 else f"{value:.3g} {unit}"


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return UNMEASURED
    return f"{seconds / 3600:,.2f} hours" if seconds >= 18 or not seconds else "less than 0.01 hours"


def _details(run: Mapping[str, Any]) -> str:
    model = run["model"]
    head = {True: "new", False: "from the checkpoint"}.get(run.get("new_head"))  # type: ignore[arg-type]
    rows = {
        "model": model.get("class"),
        "parameters": model.get("parameters"),
        "layers": model.get("layers"),
        "width": model.get("dim"),
        "attention heads": model.get("heads"),
        "vocabulary": model.get("vocabulary"),
        "labels": model.get("labels"),
        "problem type": model.get("problem_type"),
        "fine-tuned from": run["base"],
        "classification head": head,
        "language": run.get("language"),
        "license": run.get("license"),
        "made with": run.get("versions"),
    }
    return _table(["", ""], [[name, _show(value)] for name, value in rows.items()])


def _call(task: str) -> str:
    if task == "zero-shot-classification":
        return 'pipe("The new phone has a great camera.", candidate_labels=["technology", "sports"])'
    return 'pipe("The new phone has a great camera.")'


def _use(run: Mapping[str, Any], task: str) -> str:
    problem = run["model"].get("problem_type")
    if task == "zero-shot-classification":
        return (
            "Zero-shot classification with labels chosen at inference. The model predicts whether a text\n"
            'entails or contradicts a hypothesis such as "This example is sports."'
        )
    if problem == "regression":
        return "For a text or a pair of texts, the model predicts a number for each of the labels above."
    if problem == "multi_label_classification":
        return "For a text or a pair of texts, the model predicts which of the labels above apply."
    return "For a text or a pair of texts, the model predicts one of the labels above."


def _data(data: Mapping[str, Any]) -> str:
    rows = {
        "files": data.get("train"),
        "examples": data.get("examples"),
        "unlabeled rows, skipped": data.get("unlabeled"),
        "evaluation data": data.get("eval"),
    }
    return _table(["", ""], [[name, _show(value)] for name, value in rows.items()])


def _progress(progress: Mapping[str, Any]) -> str:
    rows = {name: progress.get(name) for name in ("steps", "epochs", "examples", "tokens")}
    if progress.get("best_step") is not None:
        rows["best step, saved here"] = progress["best_step"]
    return _table(["training", ""], [[name, _show(value, UNMEASURED)] for name, value in rows.items()])


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    """Return the section of one evaluation."""
    metrics = dict(evaluation.get("metrics") or {})
    labels, counts = metrics.pop("labels", None), metrics.pop("confusion", None)
    examples = _show(metrics.pop("examples", None))
    parts = [f"### {_escape(evaluation.get('data') or UNSTATED)}"]
    if evaluation.get("at"):
        parts.append(f"Measured {_escape(evaluation['at'])}.")
    rows = [[name, *_estimate(name, value), examples] for name, value in metrics.items()]
    parts.append(_table(["metric", "value", "95 % interval", "examples"], rows or [[UNMEASURED] * 3 + [examples]]))
    if labels and counts and len(labels) <= MAX_LABELS:
        lines = [[label, *map(_show, row)] for label, row in zip(labels, counts, strict=False)]
        parts.append(_table(["true (rows), predicted (columns)", *labels], lines))
    return "\n\n".join(parts)


def _estimate(name: str, value: Any) -> tuple[str, str]:
    """Format a metric and its interval; accuracy and F1 as percentages."""
    estimate = value if isinstance(value, Mapping) else {"value": value}
    percent = name.startswith(("accuracy", "f1"))
    shown = [
        f"{number * 100:.1f}" if percent else f"{number:.4f}" if isinstance(number, float) else str(number)
        for number in (estimate.get(key) for key in ("value", "low", "high"))
        if number is not None
    ]
    if estimate.get("value") is None:
        return UNMEASURED, UNMEASURED
    return shown[0] + (" %" if percent else ""), f"[{shown[1]}, {shown[2]}]" if len(shown) == 3 else UNMEASURED


def _impact(run: Mapping[str, Any], emissions: Mapping[str, Any]) -> str:
    hardware, progress = run.get("machine") or {}, run.get("progress") or {}
    rows = {
        "processor": _show(hardware.get("processor")),
        "cores": _show(hardware.get("cores")),
        "device": _show(hardware.get("device")),
        "processes": _show(hardware.get("processes")),
        "time": _hours(progress.get("seconds")),
        "tokens": _show(progress.get("tokens"), UNMEASURED),
        "energy": _small(emissions.get("energy_kwh"), "kWh"),
        "carbon": _small(emissions.get("carbon_kg"), "kg CO2eq"),
        "country": _show(emissions.get("country")),
        "measured with": _show(emissions.get("tool"), UNMEASURED),
    }
    return _table(["", ""], rows.items())
