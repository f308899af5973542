"""Implementations with configurations: each is checked, and timing chooses one for each shape."""

from __future__ import annotations

import pytest
import torch

from minidistil import InputError
from minidistil.backends.prepared import Prepared
from minidistil.cli.main import main
from minidistil.lab import configs, find, implementation
from minidistil.lab.configs import Tuned
from minidistil.layout import Layout

pytestmark = pytest.mark.usefixtures("small_lab")


def test_each_configuration_is_an_implementation():
    @implementation("linear", "mine", configs=[{"parts": 1}, {"parts": 2}], gradients=True)
    def linear(x, lin, parts):
        """In parts."""
        return torch.cat([lin(rows) for rows in x.chunk(parts)])

    names = [find("linear", name) for name in ("mine", "mine parts=1", "mine parts=2")]
    assert [each.config_of for each in names] == ["", "mine", "mine"]
    assert {each.about for each in names} == {"In parts"}
    x, lin = torch.randn(5, 3), torch.nn.Linear(3, 2)
    assert all(torch.allclose(each.value(x, lin), lin(x)) for each in names)


def test_the_fastest_configuration_is_chosen_once_for_each_shape(monkeypatch):
    seconds = {"slow": 2.0, "fast": 1.0}
    calls = []

    def variant(name):
        return lambda x, *rest: calls.append(name) or name

    monkeypatch.setattr(configs, "seconds_of", lambda run, device: seconds[run()])
    tuned = Tuned({name: variant(name) for name in seconds})
    assert tuned(torch.zeros(5, 3)) == "fast" == tuned.last
    assert len(calls) == 2 * (configs.ROUNDS + 1) + 1
    seconds["slow"] = 0.5
    assert tuned(torch.zeros(7, 3)) == "fast"  # both have at most 8 rows
    assert tuned(torch.zeros(5, 3), Layout.from_lengths([5])) == "slow"
    assert tuned(torch.zeros(9, 3)) == "slow"


def test_prepared_weights_have_configurations():
    def run(x, state, scale):
        return x @ state.t() * scale

    implementation("linear", "mine", configs=[{"scale": 1.0}])(Prepared(lambda lin: lin.weight, run))
    x, lin = torch.randn(5, 3), torch.nn.Linear(3, 2).eval()
    with torch.inference_mode():
        assert torch.equal(find("linear", "mine").value(x, lin), x @ lin.weight.t())
    assert not find("linear", "mine").live


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([3], r'configs of linear mine: 3 is not a dict such as {"rows": 4}'),
        ([{}], "configs of linear mine: {} is not a dict"),
        ([{"banana": 3}], "configs of linear mine: it has no parameter 'banana'"),
        ([{"parts": 1}, {"parts": 1}], "configs of linear mine: two are equal, expected different ones"),
    ],
)
def test_invalid_configurations_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        implementation("linear", "mine", configs=given)(lambda x, lin, parts=1: lin(x))


def test_a_value_that_is_not_a_function_is_refused_with_configurations_too():
    with pytest.raises(InputError, match="linear mine is int: expected a function"):
        implementation("linear", "mine", configs=[{"parts": 1}])(3)


def test_each_configuration_is_checked_by_itself(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        """
import torch.nn.functional as F
from minidistil.lab import implementation

@implementation("add_norm", "mine", dtypes=("float32",), configs=[{"scale": 1.0}, {"scale": 2.0}])
def add_norm(x, residual, weight, bias, eps, scale):
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps) * scale
""",
        encoding="utf-8",
    )
    assert main(["lab", "check", str(tmp_path / "mine.py"), "--case", "rows=9 width=100", "--quiet"]) == 1
    first, second, _ = [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert first.startswith("passed    add_norm mine scale=1.0: ")
    assert second.startswith("REJECTED  add_norm mine scale=2.0: ")
