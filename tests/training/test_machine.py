"""The description of the machine, and energy as measured by codecarbon."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import types

import pytest
import torch
import yaml

from minidistil import InputError, MissingDependency
from minidistil.training import machine as module
from minidistil.training.machine import EnergyMeter, machine, processor


def test_a_machine_is_described():
    found = machine(torch.device("cpu"), 2)
    assert found["processor"] == processor() != ""
    assert found["cores"] >= 1
    assert (found["device"], found["processes"]) == ("cpu", 2)


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert machine(torch.device("cuda:1"), 1)["device"] == "GPU 1"


@pytest.mark.parametrize("cpuinfo", [None, "", "Processor : 0\n"])
def test_a_processor_without_a_model_name_is_described_by_its_architecture(cpuinfo, monkeypatch):
    monkeypatch.setattr(module.Path, "exists", lambda path: cpuinfo is not None)
    monkeypatch.setattr(module.Path, "read_text", lambda path, encoding: cpuinfo)
    monkeypatch.setattr(module.platform, "processor", lambda: "")
    monkeypatch.setattr(module.platform, "machine", lambda: "riscv64")
    assert processor() == "riscv64"


class FakeTracker:
    """An OfflineEmissionsTracker with fixed values."""

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
    """A fake codecarbon package with one country."""
    source = types.SimpleNamespace(get_global_energy_mix_data=lambda: {"FRA": {}})
    package = types.ModuleType("codecarbon")
    package.OfflineEmissionsTracker = FakeTracker
    package.input = types.ModuleType("codecarbon.input")
    package.input.DataSource = lambda: source
    monkeypatch.setitem(sys.modules, "codecarbon", package)
    monkeypatch.setitem(sys.modules, "codecarbon.input", package.input)
    monkeypatch.setattr(FakeTracker, "made", [])


@pytest.mark.usefixtures("fake")
def test_the_meter_returns_the_trackers_final_values(tmp_path):
    meter = EnergyMeter("FRA", tmp_path / "new")
    meter.start()
    assert meter.stop() == {"energy_kwh": 0.12, "carbon_kg": 0.03, "country": "FRA", "tool": "codecarbon 9.9"}
    (tracker,) = FakeTracker.made
    assert tracker.calls == ["start", "stop"]
    assert tracker.options["country_iso_code"] == "FRA"
    assert (tmp_path / "new").is_dir()


@pytest.mark.usefixtures("fake")
def test_a_tracker_that_fails_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeTracker, "fails", True)
    meter = EnergyMeter("FRA", tmp_path)
    meter.start()
    assert meter.stop() is None


@pytest.mark.usefixtures("fake")
def test_a_meter_that_was_not_started_measures_nothing(tmp_path):
    assert EnergyMeter("FRA", tmp_path).stop() is None


def test_without_a_country_nothing_is_measured_and_nothing_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    meter = EnergyMeter(None, tmp_path)
    meter.start()
    assert meter.stop() is None


@pytest.mark.parametrize("country", ["fra", "FR", "France", "", 33, "FRA\n"])
def test_an_invalid_country_code_is_refused(country, tmp_path):
    with pytest.raises(InputError, match="expected the three letters of ISO 3166, such as FRA"):
        EnergyMeter(country, tmp_path)


@pytest.mark.usefixtures("fake")
def test_a_country_that_codecarbon_does_not_know_is_refused(tmp_path):
    with pytest.raises(InputError, match="country is 'XXX': codecarbon has no electricity data for it"):
        EnergyMeter("XXX", tmp_path)


def test_a_missing_codecarbon_is_named_with_the_extra_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(MissingDependency, match=r"codecarbon is not installed: run pip install .*\[carbon\]"):
        EnergyMeter("FRA", tmp_path)


@pytest.mark.full
def test_importing_the_module_imports_no_codecarbon():
    code = "import sys, minidistil.training.machine\n"
    code += "print([m for m in sys.modules if m.startswith(('codecarbon', 'pandas'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


NO_NETWORK = """
import json, socket, sys, time
def refuse(*_, **__): print("NETWORK", file=sys.stderr)
socket.socket.connect = socket.getaddrinfo = refuse
from minidistil.training.machine import EnergyMeter
meter = EnergyMeter("FRA", sys.argv[1])
meter.start()
time.sleep(0.1)
print(json.dumps(meter.stop()))
try:
    EnergyMeter("XXX", sys.argv[1])
except ValueError as error:
    print(error, file=sys.stderr)
"""


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("codecarbon") is None, reason="codecarbon is not installed")
def test_codecarbon_does_not_use_the_network_whatever_its_configuration(tmp_path):
    """Its configuration would send measurements to an API and a server, and replace the carbon intensity."""
    settings = {"SAVE_TO_API": "true", "OUTPUT_METHODS": "csv,api,prometheus", "CO2_SIGNAL_API_TOKEN": "x"}
    settings |= {"EMISSIONS_ENDPOINT": "http://localhost:9", "FORCE_CARBON_INTENSITY_G_CO2E_KWH": "1000000"}
    settings |= {"ALLOW_MULTIPLE_RUNS": "false", "REGION": "quebec", "LOG_LEVEL": "debug"}
    environment = {**module.os.environ, **{f"CODECARBON_{key}": value for key, value in settings.items()}}
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert (
        done.stderr == "country is 'XXX': codecarbon has no electricity data for it; expected a code such as FRA\n"
    )
    found = yaml.safe_load(done.stdout)
    assert found["country"] == "FRA"
    assert re.fullmatch(r"codecarbon \d[\d.]+", found["tool"])
    assert 0 < found["energy_kwh"] < 0.1
    assert 0.01 < found["carbon_kg"] / found["energy_kwh"] < 0.2  # France's electricity, in kg for a kWh
    assert list(tmp_path.iterdir()) == []
