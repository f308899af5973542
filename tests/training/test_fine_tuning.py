"""A run writes a checkpoint with its card; base models, problem types and errors."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minidistil
from minidistil import InputError, Tokenizer
from minidistil.training.fine_tuning import fine_tune
from minidistil.training.recipe import Recipe
from support.runs import QUICK, SMALL, VOCAB, assert_equal, examples, weights_of, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.full
def test_training_overfits_eight_examples(encoder, tmp_path):
    path = write(tmp_path / "eight.jsonl", examples(8))
    recipe = Recipe(epochs=60, batch_size=8, learning_rate=3e-3, dropout=0.0)
    run = fine_tune(encoder, path, tmp_path / "out", recipe=recipe, eval_data=path, device="cpu")
    assert run["evaluation"][0]["metrics"]["accuracy"]["value"] == 1.0


def test_the_output_is_a_checkpoint_with_a_card(finished, texts):
    output, run = finished
    names = {path.name for path in output.iterdir()}
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert names == expected | {"run.json", "log.jsonl"}
    assert json.loads((output / "run.json").read_text(encoding="utf-8")) == json.loads(json.dumps(run))
    pipe = minidistil.pipeline("text-classification", output, device="cpu")
    assert {answer["label"] for answer in pipe("good food", top_k=None)} == {"yes", "no"}
    text = (output / "README.md").read_text(encoding="utf-8")
    assert f"{run['progress']['tokens']:,}" in text
    assert str(texts) in text


def test_transformers_loads_the_output_and_gives_its_logits(finished):
    output, _ = finished
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(output).eval()
    model, tokenizer = minidistil.from_pretrained(output), Tokenizer.from_pretrained(output)
    batch = tokenizer(["good food", "it was bad and slow"])
    ids, mask = batch.padded()
    torch.testing.assert_close(model(batch), peer(input_ids=ids, attention_mask=mask).logits, rtol=0, atol=1e-5)
    assert peer.config.label2id == {"no": 0, "yes": 1}


@pytest.mark.full
def test_the_base_checkpoint_is_not_modified(encoder, texts, tmp_path):
    base = shutil.copytree(encoder, tmp_path / "base")
    fine_tune(base, texts, tmp_path / "out", recipe=QUICK, device="cpu")
    assert_equal(base, encoder)


def test_a_classifier_keeps_its_head_and_its_labels(finished, texts, tmp_path):
    output, _ = finished
    recipe = Recipe(epochs=1, learning_rate=1e-12)
    run = fine_tune(output, texts, tmp_path / "out", recipe=recipe, device="cpu")
    assert not run["new_head"]
    before, after = weights_of(output), weights_of(tmp_path / "out")
    torch.testing.assert_close(after["classifier.weight"], before["classifier.weight"], rtol=0, atol=1e-6)


def test_given_labels_put_a_new_head_on_a_classifier(finished, texts, tmp_path):
    output, _ = finished
    options = {"labels": ["no", "maybe", "yes"], "recipe": Recipe(epochs=1), "device": "cpu"}
    run = fine_tune(output, texts, tmp_path / "out", **options)
    assert (run["new_head"], run["model"]["labels"]) == (True, ["no", "maybe", "yes"])


@pytest.mark.parametrize("labels", [["a", "a"], [], "a,b"])
def test_labels_must_differ(encoder, texts, tmp_path, labels):
    with pytest.raises(InputError, match="expected a list of different names"):
        fine_tune(encoder, texts, tmp_path / "out", labels=labels, device="cpu")


def test_one_label_is_for_regression_only(encoder, texts, tmp_path):
    with pytest.raises(InputError, match="expected at least 2, or --problem-type regression"):
        fine_tune(encoder, texts, tmp_path / "out", labels=["a"], device="cpu")


@pytest.mark.full
def test_several_labels_and_values_are_learned_too(encoder, tmp_path):
    rows = [{"text": row["text"], "label": [row["label"], "text"]} for row in examples(12)]
    several = write(tmp_path / "several.jsonl", rows)
    run = fine_tune(encoder, several, tmp_path / "a", recipe=QUICK, eval_data=several, device="cpu")
    assert run["model"]["problem_type"] == "multi_label_classification"
    assert run["model"]["labels"] == ["no", "text", "yes"]
    rows = [{"text": row["text"], "score": len(row["text"]) / 10} for row in examples(12)]
    values = write(tmp_path / "values.jsonl", rows)
    run = fine_tune(encoder, values, tmp_path / "b", recipe=QUICK, eval_data=values, device="cpu")
    assert run["model"]["problem_type"] == "regression"
    assert -1 <= run["evaluation"][0]["metrics"]["pearson"]["value"] <= 1
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "b")
    assert (peer.config.num_labels, peer.config.problem_type) == (1, "regression")


@pytest.mark.full
def test_sinusoidal_position_embeddings_are_not_trained(texts, tmp_path):
    config = minidistil.DistilBertConfig(**SMALL, sinusoidal_pos_embds=True)
    base = tmp_path / "base"
    minidistil.DistilBertModel(config).save_pretrained(base)
    (base / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    fine_tune(base, texts, tmp_path / "out", recipe=QUICK, device="cpu")
    before = load_file(base / "model.safetensors")["embeddings.position_embeddings.weight"]
    after = weights_of(tmp_path / "out")["distilbert.embeddings.position_embeddings.weight"]
    assert torch.equal(before, after)


# Errors


def test_the_folder_of_another_run_is_refused(finished, encoder, texts, tmp_path):
    output, _ = finished
    before = weights_of(output)
    with pytest.raises(
        InputError, match=r"is not empty: continue its run \(--resume\), or replace it \(--overwrite\)"
    ):
        fine_tune(encoder, texts, output, recipe=QUICK, device="cpu")
    with pytest.raises(InputError, match="has a finished run"):
        fine_tune(encoder, texts, output, recipe=QUICK, eval_data=texts, device="cpu", resume=True)
    with pytest.raises(InputError, match="resume and overwrite cannot be combined"):
        fine_tune(encoder, texts, output, recipe=QUICK, device="cpu", resume=True, overwrite=True)
    (tmp_path / "letter.txt").write_text("Dear Ada", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty: choose another folder"):
        fine_tune(encoder, texts, tmp_path, recipe=QUICK, device="cpu")
    with pytest.raises(InputError, match="has no run to resume"):
        fine_tune(encoder, texts, tmp_path, recipe=QUICK, device="cpu", resume=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(output).items())


def test_other_files_are_never_overwritten(encoder, texts, tmp_path):
    (tmp_path / "README.md").write_text("Dear Ada", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty: choose another folder"):
        fine_tune(encoder, texts, tmp_path, recipe=QUICK, device="cpu", overwrite=True)
    base = shutil.copytree(encoder, tmp_path / "base")
    with pytest.raises(InputError, match="is the checkpoint that the run starts from"):
        fine_tune(base, texts, base, recipe=QUICK, device="cpu", overwrite=True)
    assert_equal(base, encoder)


@pytest.mark.parametrize("name", ["save_steps", "eval_steps"])
def test_steps_are_counted_from_one(encoder, texts, tmp_path, name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        fine_tune(encoder, texts, tmp_path / "out", device="cpu", **{name: 0})


def test_eval_data_requires_labels_and_metric_requires_eval_data(encoder, texts, tmp_path):
    path = write(tmp_path / "test.jsonl", [{"text": "good", "label": -1}])
    with pytest.raises(InputError, match=r"test.jsonl: none of the 1 rows has a label"):
        fine_tune(encoder, texts, tmp_path / "out", eval_data=path, device="cpu")
    with pytest.raises(InputError, match="which requires evaluation data"):
        fine_tune(encoder, texts, tmp_path / "out", recipe=Recipe(metric="loss"), device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_shows_its_batch(encoder, texts, tmp_path):
    base = shutil.copytree(encoder, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][VOCAB.index("warm")] = float("nan")

    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"has the loss nan .*bad-batch.jsonl"):
        fine_tune(base, texts, tmp_path / "out", recipe=QUICK, device="cpu")
    lines = (tmp_path / "out" / "bad-batch.jsonl").read_text(encoding="utf-8").splitlines()
    assert any("warm" in json.loads(line)["text"] for line in lines)
    assert len(lines) == QUICK.batch_size


def test_data_without_labels_and_unknown_labels_are_refused(finished, encoder, tmp_path):
    unlabelled = write(tmp_path / "a.jsonl", [{"text": "good", "label": "-"}])
    with pytest.raises(InputError, match="none of the 1 rows has a label"):
        fine_tune(finished[0], unlabelled, tmp_path / "out", device="cpu")
    unknown = write(tmp_path / "b.jsonl", [{"text": "good", "label": "perhaps"}])
    with pytest.raises(InputError, match=r"b.jsonl, line 1: the label is 'perhaps': expected one of no, yes"):
        fine_tune(finished[0], unknown, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_an_unknown_metric_is_named(encoder, texts, tmp_path):
    with pytest.raises(InputError, match="metric is 'taste'"):
        fine_tune(encoder, texts, tmp_path / "out", recipe=Recipe(metric="taste"), eval_data=texts, device="cpu")
