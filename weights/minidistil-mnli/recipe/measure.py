"""Evaluate the checkpoint on the development sets, and write its card and the logs of its runs.

    python measure.py FOLDER DEV inference=0.15 all=0.85 zero-shot-*.json

DEV is a folder of data sets. The arguments with "=" are the training runs, with their weights in the average. The
other files are the output of `minidistil eval --zero-shot --json` for runs without the respective data set.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import minidistil
from minidistil.training.card import write_card
from minidistil.training.data import Labels
from minidistil.training.evaluation import evaluate
from minidistil.training.records import read_rows

DEV = {
    "mnli_dev_matched": "MultiNLI 1.0 dev, matched",
    "mnli_dev_mismatched": "MultiNLI 1.0 dev, mismatched (without 2 pairs)",
    "snli_dev": "SNLI 1.0 dev",
}


def one_after_another(values: Iterable[str]) -> str:
    """Return the distinct values of the runs, in order."""
    return ", then ".join(dict.fromkeys(values))


def main(folder: str, dev: str, *given: str) -> None:
    """Evaluate the checkpoint and write its card, run.json and logs."""
    shares = [one for one in given if "=" in one]
    names = [one.rpartition("=")[0] for one in shares]
    answers = [one for one in given if "=" not in one]
    runs = [json.loads(Path(run, "run.json").read_text(encoding="utf-8")) for run in names]
    model, tokenizer = (
        minidistil.from_pretrained(folder, dtype="float32"),
        minidistil.Tokenizer.from_pretrained(folder),
    )
    labels = Labels.from_config(model.config)
    found: list[dict[str, Any]] = []
    for name, title in DEV.items():
        examples, _ = labels.read(read_rows(Path(dev, f"{name}.jsonl.gz")))
        found.append({"data": title, "at": "in float32", "metrics": evaluate(model, tokenizer, examples)})
        print(title, found[-1]["metrics"]["accuracy"], flush=True)
    held, _ = labels.read(read_rows(runs[-1]["data"]["eval"][0]))
    chosen = {"data": "held out of the training pairs", "at": "in float32; the recipe was chosen on these pairs"}
    found.append({**chosen, "metrics": evaluate(model, tokenizer, held)})
    for path in answers:
        metrics = json.loads(Path(path).read_text(encoding="utf-8"))
        title = f"{Path(path).stem.removeprefix('zero-shot-')}, zero-shot"
        template = metrics.pop("template")
        found.append(
            {"data": title, "at": f"with a run without this data set, by {template!r}", "metrics": metrics}
        )
    run = {
        **runs[-1],
        "base": "sentence-transformers/all-MiniLM-L6-v2",
        "new_head": True,
        "language": "en",
        "license": "apache-2.0",
        "command": "\n".join(
            [*dict.fromkeys(run["command"] for run in runs), f"python average.py averaged {' '.join(shares)}"]
        ),
        "data": {
            "train": list(dict.fromkeys(name for run in runs for name in run["data"]["train"])),
            "examples": one_after_another(f"{run['data']['examples']:,}" for run in runs),
            "unlabeled": sum(run["data"]["unlabeled"] for run in runs),
            "eval": runs[-1]["data"]["eval"],
        },
        "recipe": {
            name: value
            if all(run["recipe"].get(name) == value for run in runs)
            else one_after_another(str(run["recipe"].get(name)) for run in runs)
            for name, value in runs[-1]["recipe"].items()
            if not (name == "batch_size" and runs[-1]["recipe"].get("batch_tokens"))  # batch_tokens replaces it
        },
        "progress": {
            key: sum(run["progress"][key] for run in runs)
            for key in ("steps", "epochs", "examples", "tokens", "seconds")
        },
        "evaluation": found,
    }
    write_card(folder, run)
    Path(folder, "run.json").write_text(json.dumps(run, ensure_ascii=False) + "\n", encoding="utf-8")
    for source in names:
        with gzip.open(Path(folder, f"log-{Path(source).name}.jsonl.gz"), "wb") as log:
            log.write(Path(source, "log.jsonl").read_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
