"""Fine-tuning: a step is torch's, a stopped run goes on bit for bit, many processes are one, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file

import minidistil
from minidistil import InputError, Tokenizer
from minidistil.cli import main as cli
from minidistil.training import loop as module
from minidistil.training.data import Example, Labels
from minidistil.training.loop import Processes, Recipe, Trainer, fine_tune, losses, optimizer_for
from support.twins import ours, theirs

pytestmark = pytest.mark.usefixtures("one_thread")

LINE = "good bad film food slow fast great awful warm cold a the was is very not it and but so"
WORDS = LINE.split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SMALL = {"vocab_size": len(VOCAB), "n_layers": 2, "n_heads": 2, "dim": 16, "hidden_dim": 32}
QUICK = Recipe(epochs=2, batch_size=4, learning_rate=1e-3, max_length=16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder without a head."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    minidistil.DistilBertModel(minidistil.DistilBertConfig(**SMALL)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """24 texts whose label is whether they hold the word good."""
    return write(tmp_path_factory.mktemp("data") / "texts.jsonl", examples(24))


def examples(count, seed=0):
    chance = random.Random(seed)
    rows = []
    for i in range(count):
        words = [chance.choice(WORDS[2:]) for _ in range(chance.randint(1, 9))]
        words.insert(chance.randint(0, len(words)), WORDS[i % 2])
        rows.append({"text": " ".join(words), "label": "yes" if i % 2 == 0 else "no"})
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def assert_equal(folder, other):
    a, b = weights_of(folder), weights_of(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(encoder, texts, tmp_path_factory):
    """A run that nobody stopped."""
    output = tmp_path_factory.mktemp("run") / "whole"
    return output, fine_tune(encoder, texts, output, recipe=QUICK, eval_data=texts, device="cpu")


# one step


PROBLEMS = {
    "single_label_classification": (3, torch.tensor([0, 2, 1, 2])),
    "multi_label_classification": (3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
    "regression": (1, torch.tensor([0.5, -2.0, 1.0, 3.0])),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_step_is_that_of_transformers_loss_and_torchs_adamw(problem, tmp_path):
    count, target = PROBLEMS[problem]
    names = {i: f"class {i}" for i in range(count)}
    nothing = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0)
    # float64: where a gradient is rounding alone, as that of the keys' biases, float32's AdamW would blow it up
    peer = theirs({**nothing, "id2label": names, "problem_type": problem}).double().train()
    model = ours(peer)
    ids = [[2, 7, 9, 3], [2, 8, 3], [2, 5, 5, 6, 11, 3], [2, 3]]
    values = target.tolist() if target.ndim == 2 else target[:, None].tolist()
    if problem == "single_label_classification":
        values = torch.nn.functional.one_hot(target, count).tolist()
    rows = [Example("", None, tuple(map(float, value)), f"row {i}") for i, value in enumerate(values)]
    recipe = Recipe(weight_decay=0.1, learning_rate=1e-3, batch_size=4)
    trainer = a_trainer(model, rows, ids, recipe, tmp_path)
    record = trainer.take_step([[0, 1, 2, 3]], 10)

    decayed = [p for p in peer.parameters() if p.ndim >= 2]
    others = [p for p in peer.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in ids], batch_first=True)
    target = target if problem == "single_label_classification" else target.double()
    loss = peer(input_ids=padded, attention_mask=mask, labels=target).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
    optimizer.step()

    assert record["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)
    expected = dict(peer.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-9)


def a_trainer(model, rows, ids, recipe, folder):
    """A Trainer of given token ids."""
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}', encoding="utf-8")
    labels = Labels.of(model.config)
    trainer = Trainer(
        model, Tokenizer.from_pretrained(folder), recipe, labels, rows, [], "accuracy", folder, Processes(0, 1)
    )
    trainer.ids, trainer.lengths = ids, [len(row) for row in ids]
    return trainer


def test_soft_labels_weigh_each_class():
    logits = torch.randn(5, 3)
    shares = torch.rand(5, 3).softmax(1)
    expected = torch.nn.functional.cross_entropy(logits, shares, reduction="none")
    torch.testing.assert_close(losses(logits, shares, "single_label_classification"), expected)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_is_transformers(schedule, warmup):
    recipe = Recipe(schedule=schedule, warmup_ratio=warmup)
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=recipe.learning_rate)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    steps = 40
    their = transformers.get_scheduler(name, optimizer, int(warmup * steps), steps)
    for step in range(steps):
        assert recipe.rate(step, steps) == pytest.approx(their.get_last_lr()[0])
        optimizer.step()
        their.step()


def test_norms_and_biases_never_decay():
    model = ours(theirs({}))
    decayed, kept = optimizer_for(model, Recipe(weight_decay=0.1)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(name.endswith("weight") and "norm" not in name.lower() for name in ids_of(decayed, names))
    assert all(name.endswith("bias") or "norm" in name.lower() for name in ids_of(kept, names))


def ids_of(group, names):
    return [names[id(parameter)] for parameter in group["params"]]


@pytest.mark.parametrize("key", ["epochs", "batch_size", "learning_rate", "max_grad_norm", "max_length"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_recipe_refuses_what_cannot_be(key, value):
    with pytest.raises(InputError, match=f"{key} is"):
        Recipe(**{key: value})


WRONG = {
    "warmup_ratio": 1.0,
    "weight_decay": -0.1,
    "dropout": 1.0,
    "seed": 2**32,
    "schedule": "steep",
    "dtype": "int8",
}


@pytest.mark.parametrize("key", WRONG)
def test_a_recipe_names_the_wrong_argument(key):
    with pytest.raises(InputError, match=f"{key} is"):
        Recipe(**{key: WRONG[key]})


# a run


def test_eight_examples_can_be_learned_by_heart(encoder, tmp_path):
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


def test_every_step_is_a_line_of_the_log(finished):
    output, run = finished
    lines = [line for line in log_of(output) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, run["progress"]["steps"] + 1))
    assert sum(line["tokens"] for line in lines) == run["progress"]["tokens"]
    assert all(line.keys() >= {"loss", "learning_rate", "grad_norm", "seconds", "epoch"} for line in lines)


def test_the_best_checkpoint_is_kept(encoder, texts, tmp_path, monkeypatch):
    values = iter([0.5, 0.9, 0.7, 0.9])
    found = []

    def judge(model, *args, **options):
        found.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"accuracy": {"value": next(values, 0.0)}}

    monkeypatch.setattr(module, "evaluate", judge)
    recipe = Recipe(epochs=4, batch_size=8, learning_rate=1e-3)
    run = fine_tune(encoder, texts, tmp_path / "out", recipe=recipe, eval_data=texts, device="cpu")
    assert run["progress"]["best_step"] == 6
    written = weights_of(tmp_path / "out")
    assert all(torch.equal(written[name], tensor) for name, tensor in found[1].items())


def test_evaluations_may_come_every_few_steps(encoder, texts, tmp_path):
    options = {"recipe": QUICK, "eval_data": texts, "eval_steps": 5, "device": "cpu"}
    fine_tune(encoder, texts, tmp_path / "out", **options)
    assert [line["step"] for line in log_of(tmp_path / "out") if "evaluation" in line] == [5, 10, 12]


def test_the_last_checkpoint_is_kept_where_nothing_is_measured(encoder, texts, tmp_path):
    run = fine_tune(encoder, texts, tmp_path / "out", recipe=QUICK, device="cpu")
    assert run["evaluation"] == []
    assert weights_of(tmp_path / "out")


def test_the_base_is_not_touched(encoder, texts, tmp_path):
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


@pytest.mark.parametrize("labels", [["a", "a"], []])
def test_labels_must_differ(encoder, texts, tmp_path, labels):
    with pytest.raises(InputError, match="expected different names"):
        fine_tune(encoder, texts, tmp_path / "out", labels=labels, device="cpu")


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


def test_accumulated_batches_are_one_large_one(encoder, texts, tmp_path):
    options = {"epochs": 1, "learning_rate": 1e-3, "dropout": 0.0}
    trainers = [
        trainer_of(encoder, texts, tmp_path / "a", Recipe(batch_size=8, **options)),
        trainer_of(encoder, texts, tmp_path / "b", Recipe(batch_size=4, gradient_accumulation_steps=2, **options)),
    ]
    trainers[0].take_step([[0, 1, 2, 3, 4, 5, 6, 7]], 10)
    trainers[1].take_step([[0, 1, 2, 3], [4, 5, 6, 7]], 10)
    gradients = [t.optimizer.state_dict()["state"] for t in trainers]
    for one, other in zip(*(g.values() for g in gradients), strict=True):
        torch.testing.assert_close(one["exp_avg"], other["exp_avg"], rtol=1e-4, atol=1e-7)


def trainer_of(base, data, output, recipe):
    """The Trainer that fine_tune would make."""
    rows = module.read_rows(data)
    model, tokenizer, _ = module.prepare(base, rows, recipe)
    labels = Labels.of(model.config)
    kept, _ = labels.read(rows)
    return Trainer(model, tokenizer, recipe, labels, kept, [], "accuracy", output, Processes(0, 1))


def test_a_batch_that_is_filled_up_has_the_same_loss_and_gradient(finished, texts, tmp_path):
    found = []
    for fill in (False, True):
        trainer = trainer_of(finished[0], texts, tmp_path, Recipe(dropout=0.0))
        trainer.fill = fill
        found.append(trainer.take_step([list(range(16))], 10))
    for key in ("loss", "grad_norm", "tokens"):  # what fills up is not counted
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-5)


def test_attention_is_computed_in_float32_whatever_autocast_says():
    layout = minidistil.Layout.from_lengths([3, 2])
    q, k, v = (torch.randn(5, 2, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = module.attention_float32(q, k, v, layout, layout)
    expected = module.attention(q.float(), k.float(), v.float(), layout, layout)
    assert torch.equal(out, expected)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_gives_about_the_same_loss_and_gradient_to_float32_weights(finished, texts, tmp_path, dtype):
    found = []
    for name in ("float32", dtype):
        trainer = trainer_of(finished[0], texts, tmp_path, Recipe(dtype=name, dropout=0.0))
        found.append(trainer.take_step([list(range(16))], 10))
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-2)
    assert found[0]["grad_norm"] == pytest.approx(found[1]["grad_norm"], rel=5e-2)


def test_a_table_of_sinusoids_is_not_trained(texts, tmp_path):
    config = minidistil.DistilBertConfig(**SMALL, sinusoidal_pos_embds=True)
    base = tmp_path / "base"
    minidistil.DistilBertModel(config).save_pretrained(base)
    (base / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    fine_tune(base, texts, tmp_path / "out", recipe=QUICK, device="cpu")
    before = load_file(base / "model.safetensors")["embeddings.position_embeddings.weight"]
    after = weights_of(tmp_path / "out")["distilbert.embeddings.position_embeddings.weight"]
    assert torch.equal(before, after)


# stopped and taken up again


@pytest.mark.parametrize("step", [1, 6, 7])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(encoder, texts, tmp_path, finished, monkeypatch, step):
    output = tmp_path / "out"
    take_step = Trainer.take_step

    def interrupt(self, *args):
        record = take_step(self, *args)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)
        return record

    options = {"recipe": QUICK, "eval_data": texts, "device": "cpu"}
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", interrupt)
        with pytest.raises(KeyboardInterrupt, match=f"after step {step}: --resume goes on"):
            fine_tune(encoder, texts, output, **options)
    run = fine_tune(encoder, texts, output, resume=True, **options)
    assert_equal(output, finished[0])
    assert run["progress"].keys() == finished[1]["progress"].keys()
    for key in ("steps", "examples", "tokens", "best_step"):
        assert run["progress"][key] == finished[1]["progress"][key]
    for line, other in zip(log_of(output), log_of(finished[0]), strict=True):
        assert {**line, "seconds": 0} == {**other, "seconds": 0}
    assert not (output / "checkpoint.pt").exists()


def test_a_second_interrupt_is_not_waited_for():
    stop = module._Stop()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.asked


def test_a_run_in_another_thread_needs_no_signals(encoder, texts, tmp_path, finished):
    output = tmp_path / "out"
    options = {"recipe": QUICK, "eval_data": texts, "device": "cpu"}
    thread = threading.Thread(target=fine_tune, args=(encoder, texts, output), kwargs=options)
    thread.start()
    thread.join()
    assert_equal(output, finished[0])


def stop_at_once(monkeypatch, *args, **options):
    """Begin a run, and stop it before its first step."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(*args, device="cpu", **options)


KILLED = """
import sys, torch
torch.set_num_threads(1)
from minidistil.training.loop import Recipe, fine_tune
base, data, output = sys.argv[1:]
recipe = Recipe(epochs=10, batch_size=4, learning_rate=1e-3, max_length=16)
print("ready", flush=True)
fine_tune(base, data, output, recipe=recipe, eval_data=data, save_steps=3, resume=RESUME, device="cpu")
"""


def test_a_run_that_is_killed_ten_times_ends_as_if_it_had_not_been(encoder, texts, tmp_path):
    chance = random.Random(7)
    recipe = Recipe(epochs=10, batch_size=4, learning_rate=1e-3, max_length=16)
    fine_tune(encoder, texts, tmp_path / "whole", recipe=recipe, eval_data=texts, device="cpu")
    output, kills = tmp_path / "out", 0
    for _ in range(40):
        code = KILLED.replace("RESUME", str((output / "run.json").exists()))
        command = [sys.executable, "-c", code, str(encoder), str(texts), str(output)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.readline()
            if kills < 10:
                time.sleep(chance.uniform(0.0, 0.35))
                process.kill()
            error = process.communicate()[1]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error.decode()
        kills += 1
        if "finished" in error.decode():
            break
    assert_equal(output, tmp_path / "whole")
    assert [line["step"] for line in log_of(output) if "loss" in line] == list(range(1, 61))
    assert kills >= 3


def test_a_full_disk_leaves_the_last_state(encoder, texts, tmp_path, monkeypatch, finished):
    output = tmp_path / "out"
    options = {"recipe": QUICK, "eval_data": texts, "save_steps": 3, "device": "cpu"}
    save = Trainer._save
    most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self):
        """From the second time on, no file may be longer than 20 kB: what torch sees is as on a full disk."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most[1]) if self.step > 3 else most)
        try:
            save(self)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save", full)
        with pytest.raises(minidistil.CheckpointError, match="cannot write to"):
            fine_tune(encoder, texts, output, **options)
    assert torch.load(output / "checkpoint.pt", weights_only=True)["step"] == 3
    fine_tune(encoder, texts, output, resume=True, **options)
    assert_equal(output, finished[0])


def test_a_state_that_cannot_be_read_is_named(encoder, texts, tmp_path, monkeypatch):
    output = tmp_path / "out"
    stop_at_once(monkeypatch, encoder, texts, output, recipe=QUICK)
    (output / "checkpoint.pt").write_bytes(b"PK not a state")
    with pytest.raises(InputError, match=r"checkpoint.pt is not a state to go on from"):
        fine_tune(encoder, texts, output, recipe=QUICK, device="cpu", resume=True)


# what is refused


def test_another_runs_folder_is_refused(finished, encoder, texts, tmp_path):
    output, _ = finished
    before = weights_of(output)
    with pytest.raises(InputError, match=r"is not empty: resume it \(--resume\), or begin anew \(--overwrite\)"):
        fine_tune(encoder, texts, output, recipe=QUICK, device="cpu")
    with pytest.raises(InputError, match="a run that is finished"):
        fine_tune(encoder, texts, output, recipe=QUICK, eval_data=texts, device="cpu", resume=True)
    with pytest.raises(InputError, match="resume and overwrite contradict"):
        fine_tune(encoder, texts, output, recipe=QUICK, device="cpu", resume=True, overwrite=True)
    (tmp_path / "letter.txt").write_text("Dear Ada", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty: choose another folder"):
        fine_tune(encoder, texts, tmp_path, recipe=QUICK, device="cpu")
    with pytest.raises(InputError, match="holds no run to resume"):
        fine_tune(encoder, texts, tmp_path, recipe=QUICK, device="cpu", resume=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(output).items())


def test_a_run_can_be_begun_anew(encoder, texts, tmp_path, finished, monkeypatch):
    output = shutil.copytree(finished[0], tmp_path / "out")
    stop_at_once(monkeypatch, encoder, texts, output, recipe=Recipe(epochs=1), overwrite=True)
    assert [path.name for path in output.iterdir()] == ["run.json"]  # the other run's model is not this one's
    fine_tune(encoder, texts, output, recipe=Recipe(epochs=1), device="cpu", overwrite=True)
    assert len(log_of(output)) == 2


def test_another_recipe_cannot_resume(encoder, texts, tmp_path, monkeypatch):
    output = tmp_path / "out"
    stop_at_once(monkeypatch, encoder, texts, output, recipe=QUICK)
    with pytest.raises(InputError, match=r"has another recipe: .*give the same again"):
        fine_tune(encoder, texts, output, recipe=Recipe(epochs=9), device="cpu", resume=True)


def test_what_was_killed_at_its_very_end_can_still_be_finished(encoder, texts, tmp_path, finished, monkeypatch):
    output = tmp_path / "out"
    options = {"recipe": QUICK, "eval_data": texts, "device": "cpu"}

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_card", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(encoder, texts, output, **options)
    (output / ".saving-abc").mkdir()  # as kill -9 leaves it
    fine_tune(encoder, texts, output, resume=True, **options)
    assert {path.name for path in output.iterdir()} == {path.name for path in finished[0].iterdir()}
    assert_equal(output, finished[0])


def test_what_is_no_run_is_never_overwritten(encoder, texts, tmp_path):
    (tmp_path / "README.md").write_text("Dear Ada", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty: choose another folder"):
        fine_tune(encoder, texts, tmp_path, recipe=QUICK, device="cpu", overwrite=True)
    base = shutil.copytree(encoder, tmp_path / "base")
    with pytest.raises(InputError, match="is what the run starts from"):
        fine_tune(base, texts, base, recipe=QUICK, device="cpu", overwrite=True)
    assert_equal(base, encoder)


@pytest.mark.parametrize("name", ["save_steps", "eval_steps"])
def test_steps_are_counted_from_one(encoder, texts, tmp_path, name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        fine_tune(encoder, texts, tmp_path / "out", device="cpu", **{name: 0})


def test_an_evaluation_needs_labels_and_a_metric_an_evaluation(encoder, texts, tmp_path):
    path = write(tmp_path / "test.jsonl", [{"text": "good", "label": -1}])
    with pytest.raises(InputError, match=r"test.jsonl: none of the 1 rows has a label"):
        fine_tune(encoder, texts, tmp_path / "out", eval_data=path, device="cpu")
    with pytest.raises(InputError, match="there is no eval_data to measure it on"):
        fine_tune(encoder, texts, tmp_path / "out", recipe=Recipe(metric="loss"), device="cpu")
    assert not (tmp_path / "out").exists()


def test_processes_go_on_together_or_not_at_all(encoder, texts, tmp_path, monkeypatch):
    two = Processes(1, 2)
    monkeypatch.setattr(Processes, "total", lambda self, values: values + 1)
    with pytest.raises(InputError, match="the first process could not begin"):
        two.first_does(lambda: None, torch.device("cpu"))
    trainer = trainer_of(encoder, texts, tmp_path, QUICK)
    trainer.processes = two
    with pytest.raises(InputError, match="is not there for every process"):
        trainer.resume()


def test_gradients_that_overflow_float16_are_skipped_but_not_for_ever(encoder, texts, tmp_path, monkeypatch):
    trainer = trainer_of(encoder, texts, tmp_path, Recipe(dtype="float16"))
    infinite = torch.tensor(float("inf"))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: infinite)
    for _ in range(module.SKIPPED):
        assert trainer.take_step([[0, 1]], 100)["grad_norm"] is None
    with pytest.raises(InputError, match="a gradient of length inf"):
        trainer.take_step([[0, 1]], 100)


def test_a_loss_that_is_not_finite_stops_the_run_and_shows_its_batch(encoder, texts, tmp_path):
    base = shutil.copytree(encoder, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][VOCAB.index("warm")] = float("nan")
    from safetensors.torch import save_file

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


# many processes


PARALLEL = """
import sys, torch
torch.set_num_threads(1)
from minidistil.training.loop import Recipe, fine_tune
base, data, output = sys.argv[1:]
recipe = Recipe(epochs=2, batch_size=5, gradient_accumulation_steps=2, learning_rate=1e-3, dropout=0.0)
fine_tune(base, data, output, recipe=recipe, eval_data=data, device="cpu")
"""


def test_two_processes_give_the_weights_of_one(encoder, tmp_path):
    data = write(tmp_path / "texts.jsonl", examples(21))  # the last batch has one example, for one of the two
    script = tmp_path / "script.py"
    script.write_text(PARALLEL, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for output, start in (("one", []), ("two", launch)):
        command = [sys.executable, *start, str(script), str(encoder), str(data), str(tmp_path / output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, tensor in one.items():
        difference = (tensor - two[name]).abs()
        assert difference.max() < 2e-4, name  # a fraction of one step, where a gradient is rounding alone
        assert difference.median() < 1e-7, name
    logs = [[line["loss"] for line in log_of(tmp_path / name) if "loss" in line] for name in ("one", "two")]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)
    run = json.loads((tmp_path / "two" / "run.json").read_text(encoding="utf-8"))
    assert run["machine"]["processes"] == 2


# the command line


def test_the_command_trains_and_measures(encoder, texts, tmp_path, capsys):
    output = str(tmp_path / "out")
    command = ["train", str(encoder), str(texts), "--output", output, "--eval-data", str(texts), "--epochs", "2"]
    command += ["--batch-size", "4", "--learning-rate", "1e-3", "--max-length", "16", "--device", "cpu"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "step 12 of 12, loss" in printed.err
    assert "tokens a second" in printed.err
    assert printed.out.startswith("examples     24\n")
    assert f"minidistil train {encoder} {texts}" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")

    assert cli.main(["eval", output, str(texts), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == printed.out
    assert cli.main(["eval", output, str(texts), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert found["confusion"] == run["evaluation"][0]["metrics"]["confusion"]


def test_the_card_says_what_started_many_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert cli._program() == ["torchrun", "--nproc-per-node", "4", "-m", "minidistil"]


def test_the_command_says_how_to_resume(encoder, texts, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise module.Interrupted("stopped after step 3: --resume goes on from there")

    monkeypatch.setattr(Trainer, "run", stop)
    assert (
        cli.main(["train", str(encoder), str(texts), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 130
    )
    expected = "minidistil: interrupted: stopped after step 3: --resume goes on from there"
    assert capsys.readouterr().err.splitlines()[-1] == expected


def test_zero_shot_is_measured_with_the_labels_of_the_data(tmp_path, capsys):
    names = {0: "entailment", 1: "neutral", 2: "contradiction"}
    config = minidistil.DistilBertConfig(**SMALL, id2label=names)
    folder = tmp_path / "nli"
    minidistil.DistilBertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    rows = [{"text": "a film", "label": "-"}, *examples(10)]
    data = str(write(tmp_path / "data.jsonl", rows))
    command = ["eval", str(folder), data, "--zero-shot", "--template", "it was {}", "--device", "cpu"]
    assert cli.main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["examples"], found["labels"], found["template"]) == (10, ["no", "yes"], "it was {}")
    assert "skipped 1 rows without a label" in printed.err
    assert cli.main(["eval", str(folder), data, "--template", "it was {}"]) == 2
    assert "--template requires --zero-shot" in capsys.readouterr().err
    assert cli.main(["eval", str(folder), data, "--zero-shot", "--max-length", "9"]) == 2
    assert "--max-length cannot be combined with --zero-shot" in capsys.readouterr().err
    ids = str(write(tmp_path / "ids.jsonl", [{"text": "a film", "label": 0}]))
    assert cli.main(["eval", str(folder), ids, "--zero-shot"]) == 2
    assert "ids.jsonl, line 1: the label is 0: --zero-shot requires class names" in capsys.readouterr().err
