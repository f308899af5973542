"""The model card says what the run gave, and nothing else; the meter's numbers are codecarbon's."""

from __future__ import annotations

import copy
import importlib.util
import re
import subprocess
import sys
import types

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from minidistil import CheckpointError, InputError, MissingDependency
from minidistil.training import card as card_module
from minidistil.training.card import Meter, card, machine, processor, write_card

RUN = {
    "command": "minidistil train owner/base train.jsonl.gz --output OUT --seed 7",
    "base": "owner/base",
    "new_head": True,
    "license": "apache-2.0",
    "language": "en",
    "data": {"train": ["train.jsonl.gz"], "examples": 140929, "unlabelled": 12, "eval": ["held.jsonl.gz"]},
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
            "at": "the best checkpoint",
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
| classifier's head at the start | new |
| language | en |
| license | apache-2.0 |
| made with | minidistil 0.1.0, torch 2.13.0, python 3.11.7 |
| files | train.jsonl.gz |
| examples | 140,929 |
| rows without a label, left out | 12 |
| held out, for evaluation only | held.jsonl.gz |
| epochs | 5.0 |
| batch_size | 16 |
| learning_rate | 2e-05 |
| dropout | None |
| steps | 44,045 |
| epochs | 5.00 |
| examples | 700,000 |
| tokens | 26,000,000 |
| step of the best checkpoint, which is this one | 40,000 |
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
    """A copy with other values; model__labels is that of the model."""
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


def test_the_front_matter_is_the_hubs():
    assert front(card(RUN)) == {
        "language": "en",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-classification",
        "base_model": "owner/base",
        "tags": ["distilbert", "minidistil"],
        "metrics": ["accuracy", "f1", "pearsonr"],
    }


def test_of_what_a_run_does_not_know_nothing_is_invented():
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


def test_what_is_known_to_be_none_is_not_unknown():
    assert "| held out, for evaluation only | none |" in card(changed(RUN, data__eval=[]))


def test_null_is_as_good_as_missing():
    names = ("new_head", "license", "language", "machine", "versions", "progress", "evaluation", "emissions")
    assert card({**LEAST, **dict.fromkeys(names)}) == card(LEAST)


@pytest.mark.parametrize("base", ["./a", "/a/b", "~/a", "a", "a/b/c", "a\\b/c", "here/there", ""])
def test_a_base_that_is_no_hub_id_is_not_given_as_one(base, tmp_path, monkeypatch):
    (tmp_path / "here" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front(card(changed(RUN, base=base)))


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (None, "chooses one of the labels"),
        ("single_label_classification", "chooses one of the labels"),
        ("multi_label_classification", "says of each of the labels"),
        ("regression", "estimates the values"),
    ],
)
def test_what_the_model_is_for_is_what_it_was_trained_for(problem, says):
    text = card(changed(RUN, model__labels=["a", "b"], model__problem_type=problem))
    assert says in text
    assert front(text)["pipeline_tag"] == "text-classification"
    assert 'pipeline("text-classification", model="FOLDER")' in text


def test_the_code_to_get_started_is_python():
    for run in (RUN, LEAST):
        block = re.search(r"```python\n(.*?)```", card(run), re.DOTALL)
        compile(block[1], "card", "exec")


def test_a_confusion_matrix_too_large_to_read_is_left_out():
    names = [f"label {i}" for i in range(11)]
    metrics = {"examples": 1, "labels": names, "confusion": [[0] * 11] * 11}
    assert "true, below" not in card(changed(RUN, evaluation=[{"data": "d", "metrics": metrics}]))


def test_a_metric_that_cannot_be_told_is_not_measured():
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
def test_energy_keeps_its_digits_however_small(kwh, shown):
    assert f"| energy | {shown} kWh |" in card({**LEAST, "emissions": {"energy_kwh": kwh}})


def bars(line):
    """How many bars part a line's cells."""
    return len(re.findall(r"\|", re.sub(r"\\.", "", line)))


def shape(text, command):
    """The card without its front matter and its command: the bars of each line."""
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
def test_a_text_is_shown_as_it_is(text, shown):
    assert card_module._escape(text) == shown


def test_a_card_is_written_into_the_folder_of_the_run(tmp_path):
    write_card(tmp_path / "out", RUN)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == card(RUN)


def test_a_name_that_is_not_unicode_does_not_lose_the_card(tmp_path):
    write_card(tmp_path, changed(RUN, base="caf\udce9", language="\udce9"))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| fine-tuned from | caf? |" in text
    assert front(text)["language"] == "?"


def test_a_card_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "README.md").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write to .*README\.md is a folder"):
        write_card(tmp_path, RUN)


def test_a_machine_is_described():
    found = machine(torch.device("cpu"), 2)
    assert found["processor"] == processor() != ""
    assert found["cores"] >= 1
    assert (found["device"], found["processes"]) == ("cpu", 2)


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert machine(torch.device("cuda:1"), 1)["device"] == "GPU 1"


@pytest.mark.parametrize("cpuinfo", [None, "", "Processor : 0\n"])
def test_a_processor_without_a_model_name_is_its_kind(cpuinfo, monkeypatch):
    monkeypatch.setattr(card_module.Path, "exists", lambda path: cpuinfo is not None)
    monkeypatch.setattr(card_module.Path, "read_text", lambda path, encoding: cpuinfo)
    monkeypatch.setattr(card_module.platform, "processor", lambda: "")
    monkeypatch.setattr(card_module.platform, "machine", lambda: "riscv64")
    assert processor() == "riscv64"


class FakeTracker:
    """An OfflineEmissionsTracker that knows its numbers."""

    made: list[FakeTracker] = []  # noqa: RUF012
    fails = False

    def __init__(self, **options):
        self.options, self.calls = options, []
        FakeTracker.made.append(self)

    def start(self):
        self.calls.append("start")

    def stop(self):
        self.calls.append("stop")
        if not self.fails:
            self.final_emissions_data = types.SimpleNamespace(
                energy_consumed=0.12, emissions=0.03, country_iso_code="FRA", codecarbon_version="9.9"
            )


@pytest.fixture
def fake(monkeypatch):
    """A package codecarbon that knows one country."""
    source = types.SimpleNamespace(get_global_energy_mix_data=lambda: {"FRA": {}})
    package = types.ModuleType("codecarbon")
    package.OfflineEmissionsTracker = FakeTracker
    package.input = types.ModuleType("codecarbon.input")
    package.input.DataSource = lambda: source
    monkeypatch.setitem(sys.modules, "codecarbon", package)
    monkeypatch.setitem(sys.modules, "codecarbon.input", package.input)
    monkeypatch.setattr(FakeTracker, "made", [])


@pytest.mark.usefixtures("fake")
def test_the_meter_gives_the_trackers_last_numbers(tmp_path):
    meter = Meter("FRA", tmp_path / "new")
    meter.start()
    assert meter.stop() == {"energy_kwh": 0.12, "carbon_kg": 0.03, "country": "FRA", "tool": "codecarbon 9.9"}
    (tracker,) = FakeTracker.made
    assert tracker.calls == ["start", "stop"]
    assert tracker.options["country_iso_code"] == "FRA"
    assert (tmp_path / "new").is_dir()


@pytest.mark.usefixtures("fake")
def test_a_tracker_that_fails_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeTracker, "fails", True)
    meter = Meter("FRA", tmp_path)
    meter.start()
    assert meter.stop() is None


@pytest.mark.usefixtures("fake")
def test_a_meter_that_was_not_started_measures_nothing(tmp_path):
    assert Meter("FRA", tmp_path).stop() is None


def test_without_a_country_nothing_is_measured_and_nothing_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    meter = Meter(None, tmp_path)
    meter.start()
    assert meter.stop() is None


@pytest.mark.parametrize("country", ["fra", "FR", "France", "", 33, "FRA\n"])
def test_a_country_that_is_no_code_is_refused(country, tmp_path):
    with pytest.raises(InputError, match="expected the three letters of ISO 3166, such as FRA"):
        Meter(country, tmp_path)


@pytest.mark.usefixtures("fake")
def test_a_country_that_codecarbon_does_not_know_is_refused(tmp_path):
    with pytest.raises(InputError, match="country is 'XXX': expected one whose electricity codecarbon knows"):
        Meter("XXX", tmp_path)


def test_a_missing_codecarbon_is_named_with_the_extra_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(
        MissingDependency, match=r"codecarbon is not installed: pip install 'minidistil\[carbon\]'"
    ):
        Meter("FRA", tmp_path)


def test_importing_the_module_imports_no_codecarbon():
    code = "import sys, minidistil.training.card\n"
    code += "print([m for m in sys.modules if m.startswith(('codecarbon', 'pandas'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


NO_NETWORK = """
import json, socket, sys, time
def refuse(*_, **__): print("NETWORK", file=sys.stderr)
socket.socket.connect = socket.getaddrinfo = refuse
from minidistil.training.card import Meter
meter = Meter("FRA", sys.argv[1])
meter.start()
time.sleep(0.1)
print(json.dumps(meter.stop()))
try:
    Meter("XXX", sys.argv[1])
except ValueError as error:
    print(error, file=sys.stderr)
"""


@pytest.mark.skipif(importlib.util.find_spec("codecarbon") is None, reason="codecarbon is not installed")
def test_codecarbon_measures_without_the_network_whatever_its_settings_say(tmp_path):
    """Its settings would send what it measures to an API and a server, and take the carbon from elsewhere."""
    settings = {"SAVE_TO_API": "true", "OUTPUT_METHODS": "csv,api,prometheus", "CO2_SIGNAL_API_TOKEN": "x"}
    settings |= {"EMISSIONS_ENDPOINT": "http://localhost:9", "FORCE_CARBON_INTENSITY_G_CO2E_KWH": "1000000"}
    settings |= {"ALLOW_MULTIPLE_RUNS": "false", "REGION": "quebec", "LOG_LEVEL": "debug"}
    environment = {**card_module.os.environ, **{f"CODECARBON_{key}": value for key, value in settings.items()}}
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.stderr == "country is 'XXX': expected one whose electricity codecarbon knows, such as FRA\n"
    found = yaml.safe_load(done.stdout)
    assert found["country"] == "FRA"
    assert re.fullmatch(r"codecarbon \d[\d.]+", found["tool"])
    assert 0 < found["energy_kwh"] < 0.1
    assert 0.01 < found["carbon_kg"] / found["energy_kwh"] < 0.2  # France's electricity, in kg for a kWh
    assert list(tmp_path.iterdir()) == []
