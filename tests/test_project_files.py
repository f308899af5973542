"""The files around the package agree with it: versions, workflows, issue templates."""

from __future__ import annotations

import dataclasses
import re
import tomllib

import pytest
import yaml

import minidistil
from minidistil.ops import Ops
from support.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
YAML = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]


def load(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_a_yaml_file_can_be_read(path):
    assert load(path)


def test_the_version_is_the_same_everywhere():
    assert PROJECT["version"] == minidistil.__version__ == load("CITATION.cff")["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_runs_every_python_that_the_classifiers_name():
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert load(".github/workflows/ci.yml")["jobs"]["linux"]["strategy"]["matrix"]["python"] == versions
    assert PROJECT["requires-python"] == f">={versions[0]}"


def test_ci_runs_the_oldest_torch_that_is_allowed():
    (oldest,) = re.findall(r"^torch>=([\d.]+)", "\n".join(PROJECT["dependencies"]), re.MULTILINE)
    rows = load(".github/workflows/ci.yml")["jobs"]["torch"]["strategy"]["matrix"]["include"]
    assert rows[0] == {"torch": "oldest", "install": f"'torch=={oldest}.*'"}


def test_the_kernel_template_lists_every_operation():
    (operation,) = [row for row in load(".github/ISSUE_TEMPLATE/kernel.yml")["body"] if row["type"] == "dropdown"]
    assert {*operation["attributes"]["options"]} == {field.name for field in dataclasses.fields(Ops)}


def test_the_bug_template_asks_for_the_environment():
    body = load(".github/ISSUE_TEMPLATE/bug.yml")["body"]
    (field,) = [row for row in body if row["id"] == "env"]
    assert field["attributes"]["label"] == "Output of `minidistil env`"
