"""The model card of a fine-tuning run: README.md in the Hub's format, with nothing that the run did not produce.

Its sections are those of typeform/distilbert-base-uncased-mnli; so is what it says about the energy, which
codecarbon measures (`Meter`).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.files import write_files
from ..errors import InputError, require

UNMEASURED = "not measured"
UNSTATED = "not stated"
METRICS = {  # by their first word -> the Hub's name
    "accuracy": "accuracy",
    "f1": "f1",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
MOST_SHOWN = 10  # labels of a confusion matrix
SHEET = """---
{front}
---

# A text classifier, fine-tuned from {base}

minidistil wrote this card at the end of the run that it describes. What the run did not measure or was not told
is marked so: "not measured", "not stated".

## Model Details

{details}

## How to Get Started with the Model

`FOLDER` is the folder that this file lies in.

```python
from minidistil import pipeline

pipe = pipeline("{task}", model="FOLDER")
print({call})
```

The same files load in transformers: `from transformers import pipeline` is then the only line that changes.

## Uses

### Direct Use

{use}

### Misuse and Out-of-scope Use

How good the model is, is known for the data under [Evaluation](#evaluation) and nothing else: for another kind of
text or another language, measure first. It knows nothing of the world, so it cannot tell whether a text is true,
and no decision about a person should rest on it.

## Risks, Limitations and Biases

**Predictions of this model may repeat stereotypes that are disturbing or offensive.** A language model takes up
the stereotypes of the texts that it learned from
([Sheng et al., 2021](https://aclanthology.org/2021.acl-long.330),
[Bender et al., 2021](https://doi.org/10.1145/3442188.3445922)), and fine-tuning does not take them away. How far
that goes here: not measured by this run.

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

Carbon is an estimate from hardware, hours and country, as by
[Lacoste et al., 2019](https://arxiv.org/abs/1910.09700).{meter}
"""


def write_card(folder: str | Path, run: Mapping[str, Any]) -> None:
    """Write the card of a run into its folder, as README.md."""
    text = card(run)

    def write(path: Path) -> None:
        path.write_bytes(text.encode())

    write_files(folder, {"README.md": write})


def card(run: Mapping[str, Any]) -> str:
    """Give the card of a run, which is what train.py writes into run.json."""
    task = _task(run)
    emissions = run.get("emissions") or {}
    by_codecarbon = str(emissions.get("tool")).startswith("codecarbon")
    text = SHEET.format(
        front=_front(run, task),
        base=_escape(run["base"]),
        details=_details(run),
        task=task,
        call=_call(task),
        use=_use(run, task),
        data=_data(run["data"]),
        command=_code(str(run["command"])),
        recipe=_table(["hyper-parameter", "value"], run["recipe"].items()),
        progress=_progress(run.get("progress") or {}),
        evaluation="\n\n".join(map(_evaluation, run.get("evaluation") or [])) or f"{UNMEASURED.capitalize()}.",
        impact=_impact(run, emissions),
        meter="\ncodecarbon estimates power too, where it finds no meter in the hardware."
        if by_codecarbon
        else "",
    )
    return text.encode("utf-8", "replace").decode()  # a path may hold what is not Unicode


def _task(run: Mapping[str, Any]) -> str:
    """Name the pipeline that the model is for."""
    labels = {str(label).lower() for label in run["model"].get("labels") or []}
    return "zero-shot-classification" if labels >= {"entailment", "contradiction"} else "text-classification"


def _front(run: Mapping[str, Any], task: str) -> str:
    """Give the YAML that the Hub reads."""
    found = [name for one in run.get("evaluation") or [] for name in one.get("metrics") or {}]
    names = {"language": run.get("language"), "license": run.get("license")}
    names |= {"library_name": "transformers", "pipeline_tag": task}
    names["base_model"] = run["base"] if _is_hub_id(str(run["base"])) else None
    lines = [f"{name}: {_yaml(value)}" for name, value in names.items() if value]
    metrics = dict.fromkeys(METRICS[word] for name in found if (word := name.split("_")[0]) in METRICS)
    for name, values in {"tags": ["distilbert", "minidistil"], "metrics": list(metrics)}.items():
        lines += [f"{name}:", *(f"- {_yaml(value)}" for value in values)] if values else []
    return "\n".join(lines)


def _yaml(text: str) -> str:
    """Quote for YAML: as JSON does, and what YAML takes for a line's end, or for none of its characters."""
    quoted = json.dumps(str(text), ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _is_hub_id(name: str) -> bool:
    """Whether this may be a model of the Hub's, OWNER/NAME, and is no folder here."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]{1,96}", name, re.ASCII) is not None and not Path(name).is_dir()


def _escape(value: object) -> str:
    """Give a text as one line of Markdown that shows it as it is."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", " ".join(str(value).split()))
    return re.sub(r"[\\`*|<~&$#]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])", r"\\\g<0>", text)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _code(text: str) -> str:
    """Give a block of code, in a fence that is longer than any in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}sh\n{text}\n{fence}"


def _show(value: object, missing: str = UNSTATED) -> str:
    """Show a value to people: thousands apart, lists as words."""
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
    """Show a measured quantity that may be tiny."""
    if value is None:
        return UNMEASURED
    return f"{value:,.2f} {unit}" if abs(value) >= 1 else f"{value:.3g} {unit}"


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return UNMEASURED
    return f"{seconds / 3600:,.2f} hours" if seconds >= 18 or not seconds else "less than 0.01 hours"


def _details(run: Mapping[str, Any]) -> str:
    model = run["model"]
    head = {True: "new", False: "that of the checkpoint"}.get(run.get("new_head"))  # type: ignore[arg-type]
    rows = {
        "model": model.get("class"),
        "parameters": model.get("parameters"),
        "layers": model.get("layers"),
        "width": model.get("dim"),
        "attention heads": model.get("heads"),
        "vocabulary": model.get("vocabulary"),
        "labels": model.get("labels"),
        "problem": model.get("problem_type"),
        "fine-tuned from": run["base"],
        "classifier's head at the start": head,
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
            "Given two texts, the model says whether the first entails or contradicts the second. So it also\n"
            "sorts texts by labels that are named only when it is used, by asking what a text entails."
        )
    if problem == "regression":
        return "Given a text, or a pair of texts, the model estimates the values named above as labels."
    if problem == "multi_label_classification":
        return "Given a text, or a pair of texts, the model says of each of the labels above whether it applies."
    return "Given a text, or a pair of texts, the model chooses one of the labels above."


def _data(data: Mapping[str, Any]) -> str:
    rows = {
        "files": data.get("train"),
        "examples": data.get("examples"),
        "rows without a label, left out": data.get("unlabelled"),
        "held out, for evaluation only": data.get("eval"),
    }
    return _table(["", ""], [[name, _show(value)] for name, value in rows.items()])


def _progress(progress: Mapping[str, Any]) -> str:
    """Give what was done."""
    rows = {name: progress.get(name) for name in ("steps", "epochs", "examples", "tokens")}
    if progress.get("best_step") is not None:
        rows["step of the best checkpoint, which is this one"] = progress["best_step"]
    return _table(["done", ""], [[name, _show(value, UNMEASURED)] for name, value in rows.items()])


def _evaluation(one: Mapping[str, Any]) -> str:
    """Give what was measured on one data set."""
    metrics = dict(one.get("metrics") or {})
    labels, counts = metrics.pop("labels", None), metrics.pop("confusion", None)
    examples = _show(metrics.pop("examples", None))
    parts = [f"### {_escape(one.get('data') or UNSTATED)}"]
    if one.get("at"):
        parts.append(f"Measured at {_escape(one['at'])}.")
    rows = [[name, *_estimate(name, value), examples] for name, value in metrics.items()]
    parts.append(_table(["metric", "value", "95 % interval", "examples"], rows or [[UNMEASURED] * 3 + [examples]]))
    if labels and counts and len(labels) <= MOST_SHOWN:
        lines = [[label, *map(_show, row)] for label, row in zip(labels, counts, strict=False)]
        parts.append(_table(["true, below; predicted, right", *labels], lines))
    return "\n\n".join(parts)


def _estimate(name: str, value: Any) -> tuple[str, str]:
    """Show a metric and its interval; shares as percentages."""
    found = value if isinstance(value, Mapping) else {"value": value}
    percent = name.startswith(("accuracy", "f1"))
    shown = [
        f"{number * 100:.1f}" if percent else f"{number:.4f}" if isinstance(number, float) else str(number)
        for number in (found.get(key) for key in ("value", "low", "high"))
        if number is not None
    ]
    if found.get("value") is None:
        return UNMEASURED, UNMEASURED
    return shown[0] + (" %" if percent else ""), f"[{shown[1]}, {shown[2]}]" if len(shown) == 3 else UNMEASURED


def _impact(run: Mapping[str, Any], emissions: Mapping[str, Any]) -> str:
    place, progress = run.get("machine") or {}, run.get("progress") or {}
    rows = {
        "processor": _show(place.get("processor")),
        "cores": _show(place.get("cores")),
        "device": _show(place.get("device")),
        "processes": _show(place.get("processes")),
        "time": _hours(progress.get("seconds")),
        "tokens": _show(progress.get("tokens"), UNMEASURED),
        "energy": _small(emissions.get("energy_kwh"), "kWh"),
        "carbon": _small(emissions.get("carbon_kg"), "kg CO2eq"),
        "country": _show(emissions.get("country")),
        "measured with": _show(emissions.get("tool"), UNMEASURED),
    }
    return _table(["", ""], rows.items())


def processor() -> str:
    """Name the machine's processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: torch.device, processes: int) -> dict[str, Any]:
    """Say what a run runs on, as plain values for JSON."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {"processor": processor(), "cores": os.cpu_count(), "device": name, "processes": processes}


class Meter:
    """Measures the energy of this machine, and the carbon of it in a country: codecarbon, without the network.

    country: three letters of ISO 3166; None measures nothing. folder: where codecarbon may put what it needs.
    `InputError` for a country whose electricity codecarbon does not know.
    """

    def __init__(self, country: str | None, folder: str | Path):
        self.country, self.folder = country, folder
        self.tracker: Any = None
        if country is None:
            return
        if not isinstance(country, str) or not re.fullmatch("[A-Z]{3}", country):
            raise InputError(f"country is {country!r}: expected the three letters of ISO 3166, such as FRA")
        require("codecarbon", "carbon")
        if country not in require("codecarbon.input", "carbon").DataSource().get_global_energy_mix_data():
            raise InputError(
                f"country is {country!r}: expected one whose electricity codecarbon knows, such as FRA"
            )

    def start(self) -> None:
        """Begin to measure."""
        if self.country is None:
            return
        write_files(self.folder, {})  # it must be there
        codecarbon = require("codecarbon", "carbon")
        logging.getLogger("codecarbon").setLevel(logging.ERROR)  # it speaks before it reads its log_level
        self.tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code=self.country,
            output_dir=str(self.folder),
            log_level="error",
            allow_multiple_runs=True,  # else it takes Ctrl-C for itself
            output_methods=[],  # from here on: whatever its config files and variables say
            output_handlers=[],
            emissions_endpoint=None,
            electricitymaps_api_token="",
            force_carbon_intensity_g_co2e_kwh=None,
            region=None,
            cloud_provider=None,
            cloud_region=None,
        )
        self.tracker.start()

    def stop(self) -> dict[str, Any] | None:
        """End, and give the kWh and the kg of CO2eq; None where nothing was measured."""
        if self.tracker is None:
            return None
        self.tracker.stop()
        final = getattr(self.tracker, "final_emissions_data", None)  # codecarbon prints its errors and goes on
        if final is None:
            return None
        return {
            "energy_kwh": final.energy_consumed,
            "carbon_kg": final.emissions,
            "country": final.country_iso_code,
            "tool": f"codecarbon {final.codecarbon_version}",
        }
