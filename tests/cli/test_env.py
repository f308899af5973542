"""The report of `minidistil env`: versions, hardware and settings."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys

import pytest
import torch

import minidistil
from minidistil.cli import env
from minidistil.cli import main as cli

CPUINFO = {
    "x86": ("model name : Some Xeon\nflags : fpu avx2 avx512f avx512_vnni amx_tile\n", "Some Xeon"),
    "Arm": ("processor : 0\nFeatures : fp asimd bf16 sve\n", None),
}
FEATURES = {"x86": ["AVX2", "AVX-512", "AVX512-VNNI", "AMX"], "Arm": ["NEON", "BF16", "SVE"]}


@pytest.fixture
def cpuinfo(monkeypatch, tmp_path):
    """Replace /proc/cpuinfo, or with None remove it."""

    def replace(content):
        path = tmp_path / "cpuinfo"
        if content is not None:
            path.write_text(content)
        monkeypatch.setattr(env, "CPUINFO", path)

    return replace


def replace_distribution(monkeypatch, ours):
    """Replace the metadata of minidistil, and of no other package."""
    real = importlib.metadata.distribution
    monkeypatch.setattr(env.metadata, "distribution", lambda name: ours if name == "minidistil" else real(name))


def test_the_report_names_versions_and_hardware(capsys):
    assert cli.main(["env"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    rows = {name: value.strip() for name, value in lines.items()}
    assert rows["minidistil"].startswith(minidistil.__version__)
    assert rows["torch"] == importlib.metadata.version("torch")
    hardware = {"cpu", "cpu features", "memory", "gpu", "threads"}
    assert {"python", "platform", *hardware, "extras", *env.DEPENDENCIES} <= {*rows}
    assert re.fullmatch(r"[0-9.]+ GiB|unknown", rows["memory"])
    assert rows["threads"].startswith(str(torch.get_num_threads()))
    assert "Error" not in "".join(rows.values())


def test_json_is_one_line_with_the_same_values(capsys):
    assert cli.main(["env", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert "test" in report["extras"]


def test_a_broken_torch_is_reported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["env"]) == 0
    out = capsys.readouterr().out
    assert "ModuleNotFoundError: import of torch halted" in out
    assert "numpy" in out


def test_a_missing_dependency_is_reported(capsys, monkeypatch):
    monkeypatch.setattr(env, "DEPENDENCIES", ("no-such-package",))
    assert cli.main(["env"]) == 0
    assert "PackageNotFoundError: No package metadata was found for no-such-package" in capsys.readouterr().out


@pytest.mark.parametrize("kind", CPUINFO)
def test_cpu_features_are_read_from_cpuinfo(cpuinfo, kind):
    content, name = CPUINFO[kind]
    cpuinfo(content)
    report = env.environment()["cpu"]
    assert report["features"] == FEATURES[kind]
    assert name in (None, report["name"])
    assert report["name"]


def test_without_cpuinfo_torch_reports_the_features(cpuinfo, monkeypatch):
    cpuinfo(None)
    for probe in env.PROBES:
        monkeypatch.setattr(torch.cpu, probe, lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: True)
    assert env.environment()["cpu"]["features"] == ["AVX2"]
    monkeypatch.delattr(torch.cpu, "_is_avx2_supported")
    assert env.environment()["cpu"]["features"] == []


def test_the_name_of_a_mac_comes_from_sysctl(cpuinfo, monkeypatch):
    cpuinfo(None)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(env.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": "Apple M4\n"}))
    assert env.environment()["cpu"]["name"] == "Apple M4"


def test_the_commit_of_a_checkout_is_shown_if_git_is_installed(monkeypatch):
    done = type("Done", (), {"stdout": "0123456789ab\n"})
    monkeypatch.setattr(env.subprocess, "run", lambda *_, **__: done)
    assert env._commit() == "0123456789ab"

    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(env.subprocess, "run", missing)
    assert env._commit() is None


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        (None, "from an index"),
        ({"url": "file:///private", "dir_info": {"editable": True}}, "editable"),
        ({"url": "file:///private", "dir_info": {}}, "from a file or folder"),
        (
            {"url": "https://private", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}},
            "commit 0123456789ab",
        ),
    ],
)
def test_how_it_was_installed_is_shown_without_private_paths(monkeypatch, origin, shown):
    class Distribution:
        def read_text(self, name):
            return None if origin is None else json.dumps(origin)

    replace_distribution(monkeypatch, Distribution())
    installed = env.environment()["minidistil"]["installed"]
    assert shown in installed
    assert "private" not in installed


def test_an_extra_is_listed_if_all_its_packages_are_installed(monkeypatch):
    class Distribution:
        requires = (
            "numpy>=1",
            "no-such-package; extra == 'missing'",
            "numpy>=999; extra == 'old'",
            "numpy>=1; extra == 'installed'",
            "minidistil[installed]; extra == 'nested'",
            "minidistil[installed,missing]; extra == 'incomplete'",
            "no-such-package; sys_platform == 'nowhere' and extra == 'elsewhere'",
        )
        metadata = type("Metadata", (), {"get_all": lambda *_: list(EXTRAS)})

    EXTRAS = ("missing", "old", "installed", "nested", "incomplete", "elsewhere")
    replace_distribution(monkeypatch, Distribution)
    assert env.environment()["extras"] == ["installed", "nested"]


def test_settings_that_matter_are_shown_and_secrets_are_not(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    report = env.environment()
    assert report["variables"]["OMP_NUM_THREADS"] == "3"
    assert "hf_secret" not in json.dumps(report)
