"""The gate passes correct implementations, and rejects wrong ones with the right reason."""

from __future__ import annotations

import collections
import dataclasses
import doctest
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minidistil import Batch, InputError, Layout, Ops, from_pretrained, ops
from minidistil.backends import int8, onednn
from minidistil.cli.main import main
from minidistil.config import DistilBertConfig
from minidistil.heads import DistilBertForSequenceClassification
from minidistil.lab import (
    Implementation,
    bench,
    fast,
    find,
    gate,
    implementation,
    implementations,
    load,
    numpy_ops,
    operations,
    registry,
    suites,
)
from minidistil.lab.cases import parse
from support.kernels import two_passes
from support.places import OURS, ROOT

sys.path.insert(0, str(Path(__file__).parent))
from wrong_kernels import WRONG

EPS = 1e-12
pytestmark = pytest.mark.usefixtures("one_thread")  # torch's and NumPy's threads would compete


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Undo registrations after each test."""
    implementations()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


# Wrong implementations


@pytest.fixture(autouse=True)
def settings_of_torch(monkeypatch):
    """Undo what wrong kernels change in this process."""
    monkeypatch.setattr(time, "perf_counter", time.perf_counter)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def expected():
    """Share expected results between tests of the same operation."""
    return collections.defaultdict(gate.Expectations)


def verdict(op, value, dtype="float32", gradients=False, **options):
    live = getattr(value, "live", True)
    tried = Implementation(op, "tried", value, dtypes=(dtype,), gradients=gradients, live=live)
    return gate.check(tried, **{"draws": 0, "seed": 0, **options})


@pytest.mark.parametrize("name", WRONG)
def test_wrong_implementations_are_rejected_with_a_reason(name, expected):
    op, value, reason, *options = WRONG[name]
    options = options[0] if options else {}
    cases = suites.CASES[op][: options.get("cases")]
    [dtype] = options.get("dtypes", ["float32"])
    gradients = options.get("gradients", False)
    result = verdict(op, value, dtype, gradients, cases=cases, stop=True, expectations=expected[op])
    assert not result.passed
    assert re.search(reason, result.findings[0].reason), result.findings
    assert next(iter(gate.show(result))).startswith("REJECTED")


def sequential_sum(x, lin):
    """Add the bias and each term to one float32 sum: the order with the largest error."""
    terms = torch.cat([lin.bias.expand(len(x), -1)[..., None], x[:, None] * lin.weight], dim=2)
    return torch.from_numpy(terms.numpy().cumsum(axis=2)[..., -1].copy())


def row_by_row(x, residual, weight, bias, eps):
    rows = [ops.add_norm(a[None], b[None], weight, bias, eps) for a, b in zip(x, residual, strict=True)]
    return torch.cat([x[:0], *rows])


class FlashSoftmax:
    """Attention with a running maximum over blocks of 16 keys."""

    def __call__(self, q, k, v, queries, keys, dropout_p=0.0):
        outputs = [q[:0]]
        parts = zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True)
        for qs, ks, vs in parts:
            if not len(ks):
                continue
            largest = torch.full((qs.shape[1], len(qs), 1), -torch.inf)
            total, weighted = torch.zeros_like(largest), torch.zeros(qs.shape[1], len(qs), qs.shape[2])
            for kb, vb in zip(ks.split(16), vs.split(16), strict=True):
                scores = torch.einsum("qhd,khd->hqk", qs.float(), kb.float()) / qs.shape[2] ** 0.5
                larger = torch.maximum(largest, scores.amax(-1, keepdim=True))
                weights, scale = (scores - larger).exp(), (largest - larger).exp()
                total = total * scale + weights.sum(-1, keepdim=True)
                weighted = weighted * scale + torch.einsum("hqk,khd->hqd", weights, vb.float())
                largest = larger
            outputs.append((weighted / total).transpose(0, 1).to(q.dtype))
        return torch.cat(outputs)


RIGHT = {
    "a sequential sum over K": ("linear", sequential_sum, "float32"),
    "a sequential sum over rows": ("add_norm", two_passes, "float32"),
    "a sequential sum over rows, bfloat16": ("add_norm", two_passes, "bfloat16"),
    "row by row": ("add_norm", row_by_row, "float32"),
    "a running maximum": ("attention", FlashSoftmax(), "float32"),
    "a running maximum, float16": ("attention", FlashSoftmax(), "float16"),
    "float64 inside": (
        "linear_gelu",
        lambda x, lin: F.gelu(F.linear(x.double(), lin.weight.double(), lin.bias.double())).to(x.dtype),
        "bfloat16",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_implementations_pass(name, expected):
    op, value, dtype = RIGHT[name]
    result = verdict(op, value, dtype, quick=True, draws=1, expectations=expected[op])
    assert result.passed, "\n".join(gate.show(result))


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_right_implementations_pass_with_a_hundred_seeds(name, expected):
    op, value, dtype = RIGHT[name]
    for seed in range(100):
        result = verdict(op, value, dtype, quick=True, draws=1, seed=seed, expectations=expected[op])
        assert result.passed, "\n".join(gate.show(result))


def test_a_random_case_that_fails_is_shrunk_and_can_be_repeated():
    def wrong_for_seven_rows(x, *rest):
        return ops.add_norm(x, *rest) * (1 + (len(x) >= 7))

    tried = Implementation("add_norm", "tried", wrong_for_seven_rows, dtypes=("float32",))
    result = gate.check(tried, cases=[], seed=3, draws=1)
    assert result.passed  # cases are given: no random ones
    drawn = suites.draw("add_norm", 3)
    verdict = gate.check(tried, quick=True, seed=3, stop=False)
    random = [finding for finding in verdict.findings if finding.replay]
    assert any(finding.case.startswith("rows=7 ") for finding in random) or drawn.shape["rows"] < 7
    for finding in random:
        again = parse("add_norm", finding.case)
        assert not gate.check(tried, cases=[again]).passed
    assert "drawn with --seed 3; repeat with --dtype float32 --case" in "\n".join(gate.show(verdict))


@pytest.mark.parametrize("op", operations.ALL)
def test_the_name_of_a_case_is_read_back(op):
    for case in [*suites.CASES[op], *(suites.draw(op, seed) for seed in range(5))]:
        assert parse(op, case.name).name == case.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows=3 banana=4", "'banana=4' is neither a shape nor a layout: expected such as rows=33"),
        ("rows=3", "case 'rows=3' of add_norm has invalid shapes"),
        ("rows=3 width=4 y:offset", "unknown input 'y', expected one of x, residual, weight, bias"),
    ],
)
def test_an_invalid_case_is_refused(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse("add_norm", text)


@pytest.mark.full
@pytest.mark.parametrize("op", ["qkv", "linear", "linear_gelu"])
def test_8_bit_implementations_are_compared_with_8_bit_rounding(op):
    def judged(value):
        live = getattr(value, "live", True)
        each = Implementation(op, "tried", value, dtypes=("float32",), precision="int8", live=live)
        return gate.check(each, quick=True, draws=0)

    def in_7_bits(lin):
        def rounded(x):
            scale = x.abs().amax(1, keepdim=True) / 63
            return (x / scale).round() * scale

        return lambda x: F.linear(rounded(x), rounded(lin.weight), lin.bias)

    def of_7_bits(x, *lins):
        outputs = [in_7_bits(lin)(x) for lin in lins]
        return {"qkv": tuple(outputs), "linear": outputs[0], "linear_gelu": F.gelu(outputs[0])}[op]

    assert judged(int8.quantized()[op]).passed
    assert judged(getattr(ops, op)).passed  # more precise than required
    assert " has a relative error of " in judged(of_7_bits).findings[0].reason


def test_a_tolerance_that_zeros_would_pass_is_refused(monkeypatch):
    blind = dataclasses.replace(operations.ADD_NORM, k=1e9)
    monkeypatch.setitem(operations.ALL, "add_norm", blind)
    with pytest.raises(gate.GateError, match="zeros would pass"):
        verdict("add_norm", ops.add_norm)


# Built-in implementations


HERE = [each for each in implementations() if each.lacks() is None]


@pytest.mark.full
@pytest.mark.parametrize(
    "each", [each for each in HERE if "compiler" not in each.needs], ids=lambda each: each.title
)
def test_built_in_implementations_pass(each, expected):
    """Without float16, and few cases in Triton's interpreter; the slow test below skips nothing."""
    cases = suites.quick_cases(each.op)
    cases = cases[:2] if each.interpreted else cases
    result = gate.check(each, cases=cases, dtypes=["float32", "bfloat16"], expectations=expected[each.op])
    assert result.passed, "\n".join(gate.show(result))


@pytest.mark.slow
@pytest.mark.parametrize("each", HERE, ids=lambda each: each.title)
def test_built_in_implementations_pass_every_case(each):
    result = gate.check(each)
    assert result.passed, "\n".join(gate.show(result))


@pytest.mark.full
def test_a_compiled_implementation_stays_compiled_for_many_shapes(monkeypatch):
    import torch._dynamo.config

    monkeypatch.setitem(registry.NEEDS, "compiler", lambda dtype: None)
    graphs = []
    run = torch.compile(
        ops.add_norm, backend=lambda graph, inputs: graphs.append(graph) or graph.forward, dynamic=False
    )
    tried = Implementation("add_norm", "tried", run, needs=("compiler",), dtypes=("float32",))
    cases = [parse("add_norm", f"rows={rows} width=8") for rows in range(2, 13)]
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        assert gate.check(tried, cases=cases).passed
    assert len(graphs) == len(cases)  # one each: after 8, torch would call the function itself


@pytest.mark.full
@pytest.mark.parametrize("op", operations.ALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_reference_and_its_gradients_match_torch_in_float64(op, seed):
    operation = operations.ALL[op]
    for case in suites.quick_cases(op):
        if case.shape.get("values") in ("nan", "inf"):
            continue
        inputs = case.make(seed)
        arrays = {name: numpy_ops.as_array(x) for name, x in inputs.items()}
        references = operation.forward(arrays)
        weights = [np.random.default_rng(seed).standard_normal(y.shape) for y in references]
        names = [n for n, x in inputs.items() if isinstance(x, torch.Tensor) and x.is_floating_point()]
        leaves = {name: torch.nn.Parameter(inputs[name]) for name in names}
        outputs = operation.run(operation.plain, {**inputs, **leaves})
        for output, expected in zip(outputs, references, strict=True):
            assert np.allclose(output.detach().numpy(), expected, rtol=1e-9, atol=1e-9)
        if case.gradients and all(len(output) for output in outputs):
            gradients = torch.autograd.grad(
                outputs, [leaves[n] for n in names], [torch.from_numpy(w) for w in weights]
            )
            references = operation.backward(arrays, weights)
            for name, gradient in zip(names, gradients, strict=True):
                assert np.allclose(references[name], gradient.numpy(), rtol=1e-8, atol=1e-8), (case.name, name)


# The reference


@pytest.mark.parametrize("op", registry.OPERATIONS)
def test_the_first_implementation_is_the_reference_and_runs_in_a_model(op):
    first = implementations(op)[0]
    model = from_pretrained(OURS)
    batch = Batch.from_lists([[101, 2009, 17, 102], [101, 102], [101, 5, 6, 7, 8, 9, 102]])
    with torch.inference_mode():
        torch.testing.assert_close(model.with_ops(**{op: first.value})(batch), model(batch), atol=1e-5, rtol=0)
    assert (first.name, first.lacking) == ("reference", {})
    assert bench.why_not_timed(first, "float32").startswith("it is the NumPy reference")


def test_the_reference_of_a_block_supports_relu():
    config = DistilBertConfig(dim=32, hidden_dim=64, n_heads=4, n_layers=2, activation="relu")
    model, batch = DistilBertForSequenceClassification(config).eval(), Batch.from_lists([[3, 7, 9], [5]])
    with torch.inference_mode():
        logits = model.with_ops(block=find("block", "reference").value)(batch)
        torch.testing.assert_close(logits, model(batch), atol=1e-6, rtol=0)


@pytest.mark.full
@pytest.mark.parametrize("op", ["qkv", "linear", "block"])
def test_the_reference_does_not_read_8_bits(op):
    model = from_pretrained(OURS, dtype="int8").with_ops(feed_forward=ops.feed_forward)
    view, batch = model.with_ops(**{op: find(op, "reference").value}), Batch.from_lists([[101, 102]])
    message = "the reference implementation cannot read 8-bit weights: load the checkpoint in another dtype"
    with torch.inference_mode(), pytest.raises(InputError, match=message):
        view(batch)


def test_unsupported_arguments_of_the_reference_are_refused():
    attention, linear = find("attention", "reference").value, find("linear", "reference").value
    with pytest.raises(InputError, match=r"attention reference does not support dropout: dropout_p is 0\.1, exp"):
        attention(*heads(2, 32), dropout_p=0.1)
    with pytest.raises(InputError, match=r"linear reference has no backward pass: call it under torch\.inf"):
        linear(torch.randn(2, 3, requires_grad=True), torch.nn.Linear(3, 4).requires_grad_(False))
    with pytest.raises(InputError, match=r"linear reference has no backward pass: call it under torch\.inf"):
        linear(torch.randn(2, 3), torch.nn.Linear(3, 4))


# Triton, in its interpreter


@pytest.mark.full
@pytest.mark.parametrize(
    "before", ["torch._dynamo", pytest.param("transformers.modeling_utils", marks=pytest.mark.slow)]
)
def test_triton_runs_if_another_module_imported_it_before(before):
    code = f"import {before}, sys; assert 'triton' in sys.modules; import torch; from minidistil import ops\n"
    code += "from minidistil.lab import find; x = torch.randn(2, 3, 8), torch.ones(8), torch.zeros(8), 1e-12\n"
    code += "inputs = *x[0], *x[1:]; y = find('add_norm', 'triton').value(*inputs)\n"
    code += "torch.testing.assert_close(y, ops.add_norm(*inputs))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def heads(*shape):
    layout = Layout.from_lengths([7, 3])
    return [*(torch.randn(10, *shape) for _ in range(3)), layout, layout]


def test_triton_attention_takes_any_strides():
    q, *others = heads(2, 32)
    q = q.transpose(1, 2).contiguous().transpose(1, 2)  # head is the outer dimension in memory
    torch.testing.assert_close(find("attention", "triton").value(q, *others), ops.attention(q, *others))


def test_triton_add_norm_promotes_mixed_dtypes_like_plain_pytorch():
    x, residual = torch.randn(5, 96).bfloat16().requires_grad_(), torch.randn(5, 96)
    inputs = x, residual, torch.ones(96), torch.zeros(96), EPS
    result, expected = find("add_norm", "triton").value(*inputs), ops.add_norm(*inputs)
    torch.testing.assert_close(result, expected)
    weights = torch.randn(5, 96)
    torch.testing.assert_close(
        *(torch.autograd.grad(y, x, weights)[0] for y in (result, expected)), rtol=1e-2, atol=1e-2
    )


def test_unsupported_arguments_of_triton_are_refused():
    attention, embed = find("attention", "triton").value, find("embed", "triton").value
    with pytest.raises(
        InputError, match=r"attention triton does not support dropout: dropout_p is 0\.1, expected"
    ):
        attention(*heads(2, 32), dropout_p=0.1)
    with pytest.raises(InputError, match="attention triton does not support heads of 24: expected 16, 32, 64 or"):
        attention(*heads(2, 24))
    q, *others = heads(2, 32)
    with pytest.raises(InputError, match=r"attention triton has no backward pass: call it under torch\.inf"):
        attention(q.requires_grad_(), *others)
    ids, table = torch.tensor([1, 2]), torch.randn(4, 8, requires_grad=True)
    with pytest.raises(InputError, match="embed triton has no backward pass"):
        embed(ids, ids, table, table, torch.ones(8), torch.zeros(8), EPS)


# The registry and the command

MINE = '''
import torch.nn.functional as F
from minidistil.lab import implementation

@implementation("add_norm", "mine", dtypes=("float32",))
def add_norm(x, residual, weight, bias, eps):
    """A first try."""
    return F.layer_norm(x + residual, weight.shape, weight, bias, EPS)
'''


@pytest.mark.full
@pytest.mark.parametrize(("eps", "code"), [("eps", 0), ("1e-5", 1)])
def test_a_users_file_is_checked(tmp_path, capsys, eps, code):
    (tmp_path / "mine.py").write_text(MINE.replace("EPS", eps), encoding="utf-8")
    assert main(["lab", "check", str(tmp_path / "mine.py"), "--quick", "--quiet"]) == code
    out = capsys.readouterr().out
    assert out.startswith("passed    add_norm mine" if code == 0 else "REJECTED  add_norm mine")
    options = ["--json", "--case", "rows=9 width=100 values=small", "--seed", "1"]
    assert main(["lab", "check", str(tmp_path / "mine.py"), *options]) == code
    [row] = json.loads(capsys.readouterr().out)
    assert (row["op"], row["name"], row["passed"]) == ("add_norm", "mine", code == 0)


def test_the_list_shows_why_an_implementation_cannot_run(monkeypatch, capsys):
    implementation("attention", "for GPUs", needs=("cuda",), about="Fast.")(ops.attention)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["lab", "list", "attention"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"for GPUs +cannot run: no CUDA device is available +Fast\.", out)
    assert re.search(r"dense +cpu +", out)
    assert main(["lab", "list", "--json"]) == 0
    assert {row["op"] for row in json.loads(capsys.readouterr().out)} == set(registry.OPERATIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "banana"], "unknown operation 'banana': expected one of embed"),
        (
            ["check", "add_norm", "banana"],
            "add_norm has no implementation 'banana': expected one of reference, torch",
        ),
        (["check", "nothing.py"], "cannot read nothing.py: expected a Python file"),
        (["check", "banana"], "unknown operation 'banana'"),
        (["check", "empty.py"], "empty.py registers nothing: expected @implementation"),
        (["check", "broken.py"], "broken.py raises ZeroDivisionError: division by zero"),
    ],
)
def test_unknown_names_and_unusable_files_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("1 / 0")
    assert main(["lab", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_implementation_that_cannot_run_raises(monkeypatch):
    implementation("attention", "for GPUs", needs=("cuda",))(ops.attention)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="attention for GPUs cannot run here: no CUDA device is available"):
        find("attention", "for GPUs")


@pytest.mark.parametrize(
    ("op", "options", "message"),
    [
        ("banana", {}, "op of banana mine: unknown 'banana', expected one of embed"),
        ("embed", {"needs": ["wings"]}, "needs of embed mine: unknown 'wings', expected one of cpu"),
        ("linear", {"precision": "int4"}, "precision of linear mine: unknown 'int4', expected one of int8"),
        ("embed", {"dtypes": ["int4"]}, "dtypes of embed mine: unknown 'int4', expected one of float32"),
    ],
)
def test_unknown_arguments_of_a_registration_are_refused(op, options, message):
    with pytest.raises(InputError, match=message):
        implementation(op, "mine", **options)


def test_a_registered_name_is_not_overwritten(tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace('"mine"', '"torch"'), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"add_norm torch is already registered in .*ops\.py: choose another name"
    ):
        load(str(tmp_path / "mine.py"))


def test_an_implementation_is_passed_to_a_model():
    from support.twins import twins

    model = twins()[0]
    assert model.with_ops(add_norm=find("add_norm", "steps").value).ops.add_norm is not ops.add_norm


@pytest.mark.parametrize("dtype", registry.DTYPES)
def test_the_fastest_operations_return_the_same_logits(dtype):
    from support.twins import FORMS, inputs, twins

    model = twins("plain", getattr(torch, dtype))[0]
    quick = model.with_ops(**vars(fast("cpu", model.dtype)))
    # oneDNN has float16 and bfloat16 matmuls on some processors only
    prepacked = dtype != "float16" and onednn.works(torch.device("cpu"), model.dtype)
    assert getattr(quick.ops.qkv, "run", None) is (onednn.qkv if prepacked else None)
    for form in FORMS:
        batch = Batch.from_padded(*inputs(form, 17, 1000))
        with torch.inference_mode():
            tolerance = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0}[dtype]
            torch.testing.assert_close(quick(batch), model(batch), atol=tolerance, rtol=tolerance)


@pytest.mark.usefixtures("no_bfloat16")
def test_the_fastest_operations_exclude_those_the_processor_lacks():
    assert fast("cpu", "bfloat16") == Ops()


def test_all_fastest_operations_are_registered():
    known = {(each.op, each.name) for each in implementations()}
    assert known >= {item for fastest in registry.FASTEST.values() for item in fastest.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mps",), "device is 'mps': expected one of cpu, cuda"),
        (("cpu", torch.float64), "dtype is 'float64': expected one of float32"),
        (("cuda:0",), "device is 'cuda:0': no CUDA device is available"),
    ],
)
def test_the_fastest_operations_for_unknown_devices_are_refused(monkeypatch, arguments, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        fast(*arguments)


@pytest.mark.full
def test_importing_the_lab_loads_no_compiler():
    code = "import sys, minidistil.lab; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


PAGE = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def masked(text):
    """Return a report without its numbers, which depend on the processor."""
    return re.sub(r"\d+(\.\d+e[+-]\d+|%)", "N", text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the page shows the list of a machine without a GPU")
def test_the_page_shows_the_list_of_implementations(capsys):
    command, _, output = blocks("text")[1].removeprefix("$ minidistil ").partition("\n")
    assert main(command.split()) == 0
    assert capsys.readouterr().out == output


@pytest.mark.full
def test_the_page_shows_real_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for code, console in zip(blocks("python"), blocks("console"), strict=True):
        (tmp_path / "my_add_norm.py").write_text(code, encoding="utf-8")
        command, _, output = console.removeprefix("$ minidistil ").partition("\n")
        assert main(command.split()) == int(output.startswith("REJECTED"))
        assert masked(capsys.readouterr().out) == masked(output)
    session = doctest.DocTestParser().get_doctest("\n".join(blocks("pycon")), {}, "kernels.md", None, 0)
    assert doctest.DocTestRunner().run(session).failed == 0


@pytest.mark.full
@pytest.mark.usefixtures("small_lab")
def test_a_users_file_is_timed_next_to_plain_pytorch(tmp_path, capsys):
    path = tmp_path / "my_add_norm.py"
    path.write_text(blocks("python")[1], encoding="utf-8")
    assert main(["lab", "bench", str(path), "--seconds", "0.01", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all({*case["rows"]} == {"torch", "mine"} for case in report["cases"].values())
    pairs = ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl"
    in_model = ["--model", "minidistil-mnli", "--data", str(pairs), "--examples", "8", "--seconds", "0.01"]
    assert main(["lab", "bench", str(path), *in_model]) == 0
    assert labels(capsys.readouterr().out) <= labels(blocks("text")[0])


def labels(text):
    """Return the first column of each line of a report, if it has no numbers."""
    first = (re.split("  +", line.strip())[0] for line in text.splitlines())
    return {label for label in first if not re.search(r"[\d\[]", label)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add_norm", "--model", "m"], "--model requires --data; --data and --examples require --model"),
        (["add_norm", "--examples", "3"], "--model requires --data; --data and --examples require --model"),
        (
            ["add_norm", "--model", "m", "--data", "d"],
            "this is for one implementation: add its name, one of reference, torch, steps, triton",
        ),
        (["both.py"], "both.py registers implementations of add_norm, embed: expected one operation"),
    ],
)
def test_wrong_arguments_of_bench_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    second = '\nfrom minidistil import ops\nimplementation("embed", "mine")(ops.embed)\n'
    (tmp_path / "both.py").write_text(MINE.replace("EPS", "eps") + second)
    assert main(["lab", "bench", *arguments]) == 2
    assert message in capsys.readouterr().err


NO_BFLOAT16 = r"oneDNN has no bfloat16 matmul for this processor \(.*\): use float32"


@pytest.mark.usefixtures("no_bfloat16")
def test_a_dtype_that_the_processor_lacks_is_reported_not_failed(monkeypatch, capsys):
    prepacked, quick = find("linear", "prepacked"), ["--case", "rows=2 inputs=96 outputs=33", "--quiet"]
    assert (prepacked.lacks(), prepacked.lacks("float32"), [*prepacked.lacking]) == (None, None, ["bfloat16"])
    assert main(["lab", "check", "linear", "prepacked", *quick]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(
        rf"passed    linear prepacked: 2 checks, .*\n  cannot run here in bfloat16: {NO_BFLOAT16}\n", out
    )
    assert main(["lab", "check", "linear", "prepacked", "--json", *quick]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["passed"], row["checks"], row["lacking"]) == (True, 2, prepacked.lacking)
    assert main(["lab", "list", "linear"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  prepacked +cpu, not in bfloat16  ", out, re.MULTILINE)
    assert re.search(r"^  torch +cpu  ", out, re.MULTILINE)


NARROW = """
from minidistil import ops
from minidistil.lab import implementation

implementation("linear", "narrow", needs=("onednn",), dtypes=("bfloat16",))(ops.linear)
"""


@pytest.mark.usefixtures("no_bfloat16")
def test_an_implementation_that_runs_in_no_dtype_is_skipped(tmp_path, capsys):
    (tmp_path / "narrow.py").write_text(NARROW, encoding="utf-8")
    [narrow] = load(str(tmp_path / "narrow.py"))
    [first, second] = gate.show(gate.check(narrow))
    assert first == "skipped   linear narrow"
    assert re.fullmatch(f"  cannot run here in bfloat16: {NO_BFLOAT16}", second)
    with pytest.raises(InputError, match=f"linear narrow cannot run here: {NO_BFLOAT16}"):
        find("linear", "narrow")
    assert main(["lab", "check", str(tmp_path / "narrow.py")]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(f"skipped   linear narrow: cannot run here: {NO_BFLOAT16}\n", printed.err)
    assert main(["lab", "list", "linear"]) == 0
    assert re.search(f"^  narrow +cannot run: {NO_BFLOAT16}", capsys.readouterr().out, re.MULTILINE)
