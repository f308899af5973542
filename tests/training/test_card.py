"""The model card has every value of run.json, and no others."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from minidistil import CheckpointError
from minidistil.training import card as card_module
from minidistil.training.card import card, write_card

RUN = {
    "command": "minidistil train owner/base train.jsonl.gz --output OUT --seed 7",
    "base": "owner/base",
    "new_head": True,
    "license": "apache-2.0",
    "language": "en",
    "data": {"train": ["train.jsonl.gz"], "examples": 140929, "unlabeled": 12, "eval": ["held.jsonl.gz"]},
    "recipe": {"epochs": 5.0, "batch_size": 16, "learning_rate": 2e-05, "dropout": None, "seed": 7},
    "model": {
        "class": "DistilBertForSequenceClassification",
        "parameters": 22712451,
        "layers": 6,
        "dim": 384,
        "heads": 12,
        "vocabulary": 30522,
        "labels": ["entailment", "neutral", "contradiction"],
        "problem_type": "single_label_classification",
    },
    "machine": {"processor": "Intel(R) Xeon(R)", "cores": 2, "device": "cpu", "processes": 3},
    "versions": {"minidistil": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
    "progress": {
        "steps": 44045,
        "epochs": 5.0,
        "examples": 700000,
        "tokens": 26000000,
        "seconds": 7200.0,
        "best_step": 40000,
    },
    "evaluation": [
        {
            "data": "held.jsonl.gz",
            "at": "at the best checkpoint",
            "metrics": {
                "examples": 3960,
                "loss": 0.61,
                "accuracy": {"value": 0.77, "low": 0.76, "high": 0.78},
                "f1_macro": {"value": 0.7651, "low": 0.751, "high": 0.779},
                "confusion": [[1001, 1, 2], [3, 1004, 5], [6, 7, 1008]],
                "labels": ["entailment", "neutral", "contradiction"],
            },
        },
        {"data": "other.tsv", "metrics": {"examples": 17, "pearson": {"value": 0.5, "low": None, "high": None}}},
    ],
    "emissions": {"energy_kwh": 0.12, "carbon_kg": 0.03, "country": "FRA", "tool": "codecarbon 3.3.2"},
}


LEAST = {
    "command": "from Python",
    "base": "./folder",
    "recipe": {"epochs": 1},
    "model": {"labels": ["a", "b"]},
    "data": {},
}


ROWS = """
| parameters | 22,712,451 |
| layers | 6 |
| width | 384 |
| attention heads | 12 |
| vocabulary | 30,522 |
| labels | entailment, neutral, contradiction |
| fine-tuned from | owner/base |
| classification head | new |
| language | en |
| license | apache-2.0 |
| made with | minidistil 0.1.0, torch 2.13.0, python 3.11.7 |
| files | train.jsonl.gz |
| examples | 140,929 |
| unlabeled rows, skipped | 12 |
| evaluation data | held.jsonl.gz |
| epochs | 5.0 |
| batch_size | 16 |
| learning_rate | 2e-05 |
| dropout | None |
| steps | 44,045 |
| epochs | 5.00 |
| examples | 700,000 |
| tokens | 26,000,000 |
| best step, saved here | 40,000 |
| loss | 0.6100 | not measured | 3,960 |
| accuracy | 77.0 % | [76.0, 78.0] | 3,960 |
| f1_macro | 76.5 % | [75.1, 77.9] | 3,960 |
| neutral | 3 | 1,004 | 5 |
| pearson | 0.5000 | not measured | 17 |
| processor | Intel(R) Xeon(R) |
| cores | 2 |
| device | cpu |
| processes | 3 |
| time | 2.00 hours |
| energy | 0.12 kWh |
| carbon | 0.03 kg CO2eq |
| country | FRA |
| measured with | codecarbon 3.3.2 |
"""


def changed(run, **values):
    """Return a copy with other values; model__labels sets run["model"]["labels"]."""
    run = copy.deepcopy(run)
    for name, value in values.items():
        *above, last = name.split("__")
        place = run
        for key in above:
            place = place[key]
        place[last] = value
    return run


def front(text):
    start, between, _ = text.partition("\n---\n")
    assert start.startswith("---\n")
    assert between
    return yaml.safe_load(start.removeprefix("---\n"))


def test_every_number_of_a_run_is_in_its_card():
    lines = card(RUN).splitlines()
    assert [row for row in ROWS.split("\n") if row not in lines] == []
    assert "Measured at the best checkpoint." in lines
    assert lines.count("not measured") == 0


def test_the_sections_are_those_of_a_card_on_the_hub():
    heads = [line.lstrip("# ") for line in card(RUN).splitlines() if line.startswith("##")]
    assert [head for head in heads if head not in ("held.jsonl.gz", "other.tsv")] == [
        "Model Details",
        "How to Get Started with the Model",
        "Uses",
        "Direct Use",
        "Misuse and Out-of-scope Use",
        "Risks, Limitations and Biases",
        "Training",
        "Training Data",
        "Training Procedure",
        "Evaluation",
        "Environmental Impact",
    ]


def test_the_command_is_in_a_block_of_code():
    assert f"```sh\n{RUN['command']}\n```\n" in card(RUN)


def test_the_front_matter_has_the_hubs_fields():
    assert front(card(RUN)) == {
        "language": "en",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-classification",
        "base_model": "owner/base",
        "tags": ["distilbert", "minidistil"],
        "metrics": ["accuracy", "f1", "pearsonr"],
    }


def test_missing_values_are_marked_as_missing():
    text = card(LEAST)
    assert front(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["distilbert", "minidistil"],
    }
    lines = text.splitlines()
    for row in ("time", "energy", "carbon", "tokens", "steps", "measured with"):
        assert f"| {row} | not measured |" in lines
    for row in ("language", "license", "parameters", "processor", "cores", "country", "files", "made with"):
        assert f"| {row} | not stated |" in lines
    assert "## Evaluation\n\nNot measured.\n" in text
    assert "codecarbon" not in text
    assert "| epochs | 1 |" in lines
    found = set(re.findall(r"\d+", text))
    assert found == {"1", "2021", "2019", "330", "10", "1145", "3442188", "3445922", "1910", "09700"}


def test_an_empty_list_is_none_rather_than_not_stated():
    assert "| evaluation data | none |" in card(changed(RUN, data__eval=[]))


def test_null_is_the_same_as_missing():
    names = ("new_head", "license", "language", "machine", "versions", "progress", "evaluation", "emissions")
    assert card({**LEAST, **dict.fromkeys(names)}) == card(LEAST)


@pytest.mark.parametrize("base", ["./a", "/a/b", "~/a", "a", "a/b/c", "a\\b/c", "here/there", ""])
def test_a_base_that_is_not_a_hub_id_is_not_in_the_front_matter(base, tmp_path, monkeypatch):
    (tmp_path / "here" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front(card(changed(RUN, base=base)))


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (None, "predicts one of the labels above"),
        ("single_label_classification", "predicts one of the labels above"),
        ("multi_label_classification", "predicts which of the labels above apply"),
        ("regression", "predicts a number for each of the labels above"),
    ],
)
def test_the_intended_use_depends_on_the_problem_type(problem, says):
    text = card(changed(RUN, model__labels=["a", "b"], model__problem_type=problem))
    assert says in text
    assert front(text)["pipeline_tag"] == "text-classification"
    assert 'pipeline("text-classification", model=".")' in text


def test_the_code_to_get_started_is_python():
    for run in (RUN, LEAST):
        block = re.search(r"```python\n(.*?)```", card(run), re.DOTALL)
        compile(block[1], "card", "exec")


def test_a_large_confusion_matrix_is_omitted():
    names = [f"label {i}" for i in range(11)]
    metrics = {"examples": 1, "labels": names, "confusion": [[0] * 11] * 11}
    assert "true (rows)" not in card(changed(RUN, evaluation=[{"data": "d", "metrics": metrics}]))


def test_an_undefined_metric_is_not_measured():
    metrics = {"pearson": {"value": None, "low": None, "high": None}, "template": "About {}."}
    text = card(changed(LEAST, evaluation=[{"data": None, "metrics": metrics}, {"data": "empty"}]))
    assert "### not stated\n" in text
    assert "| pearson | not measured | not measured | not stated |" in text
    assert "| template | About {}. | not measured | not stated |" in text
    assert "| not measured | not measured | not measured | not stated |" in text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0.00 hours"), (17.9, "less than 0.01 hours"), (18, "0.01 hours"), (3.6e6, "1,000.00 hours")],
)
def test_hours_have_two_decimals(seconds, shown):
    assert f"| time | {shown} |" in card({**LEAST, "progress": {"seconds": seconds}})


@pytest.mark.parametrize(("kwh", "shown"), [(7.756e-06, "7.76e-06"), (0, "0"), (1234.5, "1,234.50")])
def test_small_energies_keep_three_digits(kwh, shown):
    assert f"| energy | {shown} kWh |" in card({**LEAST, "emissions": {"energy_kwh": kwh}})


def bars(line):
    """Return the number of unescaped bars in a line."""
    return len(re.findall(r"\|", re.sub(r"\\.", "", line)))


def shape(text, command):
    """Return the number of bars in each line, without the front matter and the command."""
    body = text.partition("\n---\n")[2]
    fence = re.search(r"### Training Procedure\n\n(`+)sh\n", body)[1]
    block = f"{fence}sh\n{command}\n{fence}\n"
    assert body.count(block) == 1
    assert len(fence) >= 3
    assert fence not in command
    return [bars(line) for line in body.replace(block, "").splitlines()]


STRINGS = st.text(min_size=1) | st.text(
    st.sampled_from("`|\n\r\"'\\-: #{}[]<>&*_~a0\x85\u2028\ufeff\ufffe\x7f\0"), min_size=1
)


@pytest.mark.full
@given(command=STRINGS, base=STRINGS, label=STRINGS, told=STRINGS, data=STRINGS)
def test_no_string_breaks_the_card(command, base, label, told, data):
    values = {"command": command, "base": base, "language": told, "license": told}
    values |= {"model__labels": [label, "b"], "data__train": [data], "recipe": {data: label}}
    values |= {"evaluation": [{"data": data, "at": told, "metrics": RUN["evaluation"][0]["metrics"]}]}
    text = card(changed(RUN, **values))
    found = front(text)
    assert (found["language"], found["license"]) == (told, told)
    assert found.get("base_model", base) == base
    plain = {**values, "base": "a", "language": "a", "license": "a", "recipe": {"a": "a"}, "command": "a"}
    plain |= {"model__labels": ["a", "b"], "data__train": ["a"]}
    plain["evaluation"] = [{"data": "a", "at": "a", "metrics": RUN["evaluation"][0]["metrics"]}]
    assert shape(text, command) == shape(card(changed(RUN, **plain)), "a")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("a\nb\u2028c", "a b c"),
        ("learning_rate", "learning_rate"),
        ("_a_ *b*", r"\_a\_ \*b\*"),
        ("[a](b)", r"[a\](b)"),
        ("[76.0, 78.0]", "[76.0, 78.0]"),
        ("<b>&amp;", r"\<b>\&amp;"),
        ("a\0b", "a\ufffdb"),
    ],
)
def test_special_characters_are_escaped(text, shown):
    assert card_module._escape(text) == shown


def test_a_card_is_written_into_the_folder_of_the_run(tmp_path):
    write_card(tmp_path / "out", RUN)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == card(RUN)


def test_a_path_that_is_not_unicode_can_be_written(tmp_path):
    write_card(tmp_path, changed(RUN, base="caf\udce9", language="\udce9"))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| fine-tuned from | caf? |" in text
    assert front(text)["language"] == "?"


def test_the_error_for_an_unwritable_card_has_its_path(tmp_path):
    (tmp_path / "README.md").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write to .*README\.md is a folder"):
        write_card(tmp_path, RUN)
