"""The checkpoint that ships with the project agrees with its model card."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file

import minidistil
from minidistil.training.data import Labels
from minidistil.training.evaluation import evaluate, predict
from minidistil.training.records import read_rows
from support.places import OURS, ROOT, SHARED

SAMPLE = ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl"
DEV = {
    "MultiNLI 1.0 dev, matched": SHARED / "data" / "nli" / "mnli_dev_matched.jsonl.gz",
    "MultiNLI 1.0 dev, mismatched (without 2 pairs)": SHARED / "data" / "nli" / "mnli_dev_mismatched.jsonl.gz",
    "SNLI 1.0 dev": SHARED / "data" / "nli" / "snli_dev.jsonl.gz",
}


def test_the_weights_folder_has_no_other_files():
    """The whole folder is in the wheel, so converted copies of a checkpoint must not be left there."""
    kinds = {path.suffix for path in OURS.parent.rglob("*") if path.is_file()}
    assert kinds - {".pyc"} == {".gz", ".json", ".md", ".py", ".safetensors", ".sh"}


@pytest.fixture(scope="module")
def run():
    return json.loads((OURS / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model():
    return minidistil.from_pretrained("minidistil-mnli")


@pytest.fixture(scope="module")
def tokenizer():
    return minidistil.Tokenizer.from_pretrained("minidistil-mnli")


def examples_of(model, path):
    return Labels.from_config(model.config).read(read_rows(path))[0]


def test_the_file_is_in_float16_and_the_model_in_float32(model):
    tensors = load_file(OURS / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert (OURS / "model.safetensors").stat().st_size < 46e6
    assert model.config.dtype == "float32"
    assert model.dtype == minidistil.from_pretrained(OURS, dtype="auto").dtype == torch.float32
    assert list(model.config.id2label.values()) == ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]


def test_the_card_has_the_figures_of_the_run(run):
    card = (OURS / "README.md").read_text(encoding="utf-8")
    for result in run["evaluation"]:
        assert f"### {result['data']}" in card.replace("\\", "")
        assert f"| {result['metrics']['accuracy']['value'] * 100:.1f} % |" in card
    assert run["command"] in card
    assert f"{run['progress']['tokens']:,}" in card
    assert "f1_micro" not in card  # for single-label classification, the same as accuracy


def test_the_example_of_the_card_prints_the_output_below_it(capsys):
    card = (OURS / "README.md").read_text(encoding="utf-8")
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", card, re.DOTALL).groups()
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out == output


def test_the_logs_of_the_training_runs_are_complete(run):
    logs = [read_rows_of_log(path) for path in sorted(OURS.glob("log-*.jsonl.gz"))]
    assert sum(len(log) for log in logs) == run["progress"]["steps"]
    assert sum(line["tokens"] for log in logs for line in log) == run["progress"]["tokens"]


def read_rows_of_log(path):
    import gzip

    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [line for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.full
def test_logits_of_real_pairs_match_transformers(model, tokenizer):
    rows = read_rows(SAMPLE)
    batch = tokenizer([row.text for row in rows], [row.pair for row in rows])
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(OURS).eval()
    ids, mask = batch.padded()
    with torch.inference_mode():
        expected = peer(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.full
def test_zero_shot_classification_uses_it_by_default_in_any_folder(tmp_path):
    code = "import minidistil; print(minidistil.pipeline('zero-shot-classification')('A match.', 'sports, war'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.match(r"\{'sequence': 'A match.', 'labels': \['(sports|war)', '(war|sports)'\]", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEV)
def test_accuracy_matches_the_card_and_predictions_match_transformers(run, model, tokenizer, name):
    if not DEV[name].exists():
        pytest.skip(f"needs {DEV[name]}")
    examples = examples_of(model, DEV[name])
    (expected,) = (result["metrics"] for result in run["evaluation"] if result["data"] == name)
    measured = evaluate(model, tokenizer, examples)
    # another CPU may round differently, which can change the label of a close call
    assert measured["accuracy"]["value"] == pytest.approx(expected["accuracy"]["value"], abs=3 / len(examples))

    mine = predict(model, tokenizer, examples)
    peer = transformers.pipeline(
        "text-classification", str(OURS), device="cpu", top_k=None, function_to_apply="none"
    )
    pairs = [{"text": example.text, "text_pair": example.pair} for example in examples]
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]["text"]) + len(pairs[i]["text_pair"]))
    answers = peer([pairs[i] for i in order], batch_size=32, truncation=True)
    for i, answer in zip(order, answers, strict=True):
        assert answer[0]["label"] == model.config.id2label[int(mine[i].argmax())], pairs[i]
