"""The gate passes correct implementations, and rejects wrong ones with the right reason."""

from __future__ import annotations

import dataclasses
import doctest
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from minidistil import Batch, InputError, Layout, Ops, from_pretrained, ops
from minidistil.backends import int8, onednn
from minidistil.backends.prepared import Prepared
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
)
from support.places import OURS, ROOT

EPS = 1e-12
pytestmark = pytest.mark.usefixtures("one_thread")  # torch's and NumPy's threads would compete


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Undo registrations after each test."""
    implementations()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


# Wrong implementations


def ignores_boundaries(q, k, v, queries, keys, dropout_p=0.0):
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(0, 1)


def by_sequence(attend):
    """Return an attention that calls a function with q, k, v of one sequence, each (L, H, d)."""

    def attention(q, k, v, queries, keys, dropout_p=0.0):
        parts = zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True)
        return torch.cat([q[:0], *(attend(*part) for part in parts)])

    return attention


def with_scores(change):
    """Return an attention with changed scores."""

    def attend(q, k, v):
        scores = torch.einsum("qhd,khd->hqk", q.float(), k.float())
        return torch.einsum("hqk,khd->qhd", change(scores, q.shape[-1]).softmax(-1).to(v.dtype), v)

    return by_sequence(attend)


def causal(scores, d):
    lower = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
    return (scores / math.sqrt(d)).masked_fill(~lower, -math.inf)


def off_by_one_in_the_last_block(q, k, v):
    last = 128 * (len(k) // 128) + 127 if len(k) > 128 else len(k)  # skips the last key of a second block
    q, k, v = (x.transpose(0, 1) for x in (q, k[:last] if last < len(k) else k[: len(k) - (len(k) > 128)], v))
    return F.scaled_dot_product_attention(q, k, v[:, : k.shape[1]]).transpose(0, 1)


def layer_norm_with(eps=EPS, one_pass=False):
    def add_norm(x, residual, weight, bias, _):
        x = x + residual
        mean = x.mean(-1, keepdim=True)
        if one_pass:
            variance = (x.square().mean(-1, keepdim=True) - mean.square()).clamp(min=0)
        else:
            variance = (x - mean).square().mean(-1, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + eps) * weight + bias

    return add_norm


def low_precision_statistics(x, residual, weight, bias, eps):
    x = x + residual
    centered = x - x.mean(-1, keepdim=True)
    total = torch.zeros_like(x[:, :1])
    for column in centered.square().split(1, dim=1):
        total = total + column  # in bfloat16, 256 + 1 is 256
    return centered * torch.rsqrt(total / x.shape[1] + eps) * weight + bias


def uninitialized(x, residual, weight, bias, eps):
    return torch.empty_like(x)


def zeros(x, residual, weight, bias, eps):
    return torch.zeros_like(x)


def modifies_its_inputs(x, residual, weight, bias, eps):
    return F.layer_norm(x.add_(residual), weight.shape, weight, bias, eps)


def only_multiples_of_64(x, residual, weight, bias, eps):
    out, rows = torch.empty_like(x), len(x) // 64 * 64
    out[:rows] = ops.add_norm(x[:rows], residual[:rows], weight, bias, eps)
    return out


def caches_its_last_result():
    answers = {}

    def add_norm(x, residual, weight, bias, eps):
        return answers.setdefault(x.shape, ops.add_norm(x, residual, weight, bias, eps))

    return add_norm


def caches_after_some_calls():
    answers, calls = {}, {}

    def add_norm(x, residual, weight, bias, eps):
        calls[x.shape] = calls.get(x.shape, 0) + 1
        fresh = ops.add_norm(x, residual, weight, bias, eps)
        return answers.setdefault(x.shape, fresh) if calls[x.shape] > 5 else fresh

    return add_norm


def writes_past_the_end(x, residual, weight, bias, eps):
    out = torch.empty_like(x)
    out.copy_(ops.add_norm(x, residual, weight, bias, eps))
    out.as_strided((out.numel() + 8,), (1,), out.storage_offset())[-8:] = 0
    return out


def reads_past_the_end(x, residual, weight, bias, eps):
    beyond = x.as_strided((x.numel() + 8,), (1,), x.storage_offset())[-8:]
    return ops.add_norm(x, residual, weight, bias, eps) + 0 * beyond.sum()


def not_deterministic(x, residual, weight, bias, eps):
    return ops.add_norm(x, residual, weight, bias, eps) * (1 + 1e-7 * torch.randn(1))


def returns_float32(x, residual, weight, bias, eps):
    return ops.add_norm(x.float(), residual.float(), weight.float(), bias.float(), eps)


def raises_for_few_rows(x, residual, weight, bias, eps):
    return x.view(-1, 127, x.shape[1]).flatten(0, 1)


def ignores_positions(ids, positions, word, position, weight, bias, eps):
    return F.layer_norm(word[ids], weight.shape, weight, bias, eps)


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, weight, bias, eps):
        ctx.save_for_backward(x + residual, weight)
        ctx.eps = eps
        return ops.add_norm(x, residual, weight, bias, eps)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        deviation = ((x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + ctx.eps).sqrt()
        dx = dy * weight / deviation  # ignores that mean and variance depend on x
        return dx, dx, (dy * (x - x.mean(-1, keepdim=True)) / deviation).sum(0), dy.sum(0), None


def in_7_bits(lin):
    def rounded(x):
        scale = x.abs().amax(1, keepdim=True) / 63
        return (x / scale).round() * scale

    return lambda x: F.linear(rounded(x), rounded(lin.weight), lin.bias)


HAS_ERROR = r"the output has a relative error of [\d.e+-]+ \((L2 norm|largest element)\)"
WRONG = {
    "ignores sequence boundaries": ("attention", ignores_boundaries, f"{HAS_ERROR}|raises|has dtype"),
    "causal": ("attention", with_scores(causal), HAS_ERROR),
    "off by one in the last block": ("attention", by_sequence(off_by_one_in_the_last_block), HAS_ERROR),
    "no scale": ("attention", with_scores(lambda scores, d: scores), HAS_ERROR),
    "tanh GELU": ("linear_gelu", lambda x, lin: F.gelu(lin(x), approximate="tanh"), HAS_ERROR),
    "ignores the bias": ("linear", lambda x, lin: x @ lin.weight.T, HAS_ERROR),
    "prepares without the bias": (
        "linear",
        Prepared(lambda lin: lin.weight, lambda x, weight: x @ weight.T),
        HAS_ERROR,
    ),
    "key and value swapped": (
        "qkv",
        lambda x, q_lin, k_lin, v_lin: (q_lin(x), v_lin(x), k_lin(x)),
        "output 1 has a relative error",
    ),
    "ignores positions": ("embed", ignores_positions, HAS_ERROR),
    "eps of 1e-5": ("add_norm", layer_norm_with(eps=1e-5), HAS_ERROR),
    "E[x²] - E[x]²": ("add_norm", layer_norm_with(one_pass=True), HAS_ERROR),
    "low-precision statistics": ("add_norm", low_precision_statistics, HAS_ERROR),
    "uninitialized memory": ("add_norm", uninitialized, "NaN or inf: it reads uninitialized"),
    "zeros": ("add_norm", zeros, HAS_ERROR),
    "modifies its inputs": ("add_norm", modifies_its_inputs, "it modifies its input x"),
    "only multiples of 64": ("add_norm", only_multiples_of_64, "NaN or inf: it reads uninitialized"),
    "caches its last result": ("add_norm", caches_its_last_result(), HAS_ERROR),
    "caches after some calls": ("add_norm", caches_after_some_calls(), HAS_ERROR),
    "writes past the end": ("add_norm", writes_past_the_end, "it writes out of bounds, before or after an output"),
    "reads past the end": (
        "add_norm",
        reads_past_the_end,
        "NaN or inf: it reads uninitialized or out-of-bounds memory",
    ),
    "not deterministic": ("add_norm", not_deterministic, "a second call with the same inputs returns a different"),
    "wrong dtype": ("add_norm", returns_float32, "the output has dtype torch.float32 .* expected torch.bfloat16"),
    "raises": ("add_norm", raises_for_few_rows, "it raises RuntimeError: shape"),
}


def verdict(op, value, dtype="float32", gradients=False):
    return gate.check(Implementation(op, "tried", value, dtypes=(dtype,), gradients=gradients))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_implementations_are_rejected_with_a_reason(name):
    op, value, reason = WRONG[name]
    low = name in ("low-precision statistics", "wrong dtype")
    result = verdict(op, value, "bfloat16" if low else "float32")
    assert not result.passed
    assert any(re.search(reason, finding.reason) for finding in result.findings), result.findings
    assert next(iter(gate.show(result))).startswith("REJECTED")


def sequential_sum(x, lin):
    """Add the bias and each term to one float32 sum: the order with the largest error."""
    terms = torch.cat([lin.bias.expand(len(x), -1)[..., None], x[:, None] * lin.weight], dim=2)
    return torch.from_numpy(terms.numpy().cumsum(axis=2)[..., -1].copy())


def three_bfloat16_matmuls(x, lin):
    """Approximate a float32 matmul by three in bfloat16: 16 of 24 significant bits."""
    high, upper = x.bfloat16().float(), lin.weight.bfloat16().float()
    return high @ upper.T + (x - high) @ upper.T + high @ (lin.weight - upper).T + lin.bias


def test_terms_may_be_summed_sequentially(monkeypatch):
    few = [case for case in operations.LINEAR.cases if case.name.startswith(("1 x 768 ", "2 x 96 "))]
    monkeypatch.setitem(operations.ALL, "linear", dataclasses.replace(operations.LINEAR, cases=few))
    monkeypatch.setattr(gate, "SEEDS", range(10))
    assert verdict("linear", sequential_sum).passed
    assert len(verdict("linear", three_bfloat16_matmuls).findings) == len(few) == 2


@pytest.mark.full
@pytest.mark.parametrize("op", ["qkv", "linear", "linear_gelu"])
def test_8_bit_implementations_are_compared_with_8_bit_rounding(op):
    def judged(value):
        return gate.check(Implementation(op, "tried", value, dtypes=("float32",), precision="int8"))

    def of_7_bits(x, *lins):
        outputs = [in_7_bits(lin)(x) for lin in lins]
        return {"qkv": tuple(outputs), "linear": outputs[0], "linear_gelu": F.gelu(outputs[0])}[op]

    assert judged(int8.quantized()[op]).passed
    assert judged(getattr(ops, op)).passed  # more precise than required
    result = judged(of_7_bits)
    assert all(" has a relative error of " in finding.reason for finding in result.findings), result.findings
    assert len(result.findings) > result.checks / 2


def test_8_bits_are_for_linear_layers_only():
    rounded = Implementation("add_norm", "tried", ops.add_norm, precision="int8")
    with pytest.raises(
        InputError, match="add_norm has no int8 baseline, which precision='int8' requires: omit precision"
    ):
        gate.check(rounded)


@pytest.mark.full
def test_a_wrong_backward_is_rejected_and_its_forward_is_not():
    result = verdict("add_norm", WrongBackward.apply, gradients=True)
    assert result.findings
    assert all(finding.gradients for finding in result.findings)
    assert all("the gradient of x has a relative error" in finding.reason for finding in result.findings)
    assert verdict("add_norm", WrongBackward.apply).passed


@pytest.mark.full
def test_missing_gradients_are_reported():
    result = verdict("add_norm", lambda *arguments: ops.add_norm(*arguments).detach(), gradients=True)
    reason = "it is registered with gradients=True, but its output does not require gradients"
    assert {finding.reason for finding in result.findings} == {reason}


@pytest.mark.full
def test_gradients_of_layer_weights_are_checked():
    result = verdict("linear", lambda x, lin: F.linear(x, lin.weight.detach(), lin.bias), gradients=True)
    assert result.findings
    assert all("the gradient of lin.weight has a relative error" in each.reason for each in result.findings)
    result = verdict("linear", onednn.prepacked()["linear"], gradients=True)
    assert all("raises InputError: prepared weights" in each.reason for each in result.findings)
    assert len(result.findings) == sum(case.gradients for case in operations.LINEAR.cases)


@pytest.mark.full
def test_a_slow_correct_implementation_passes():
    def row_by_row(x, residual, weight, bias, eps):
        rows = [ops.add_norm(a[None], b[None], weight, bias, eps) for a, b in zip(x, residual, strict=True)]
        return torch.cat([x[:0], *rows])

    assert verdict("add_norm", row_by_row).passed


def test_a_tolerance_that_zeros_would_pass_is_refused(monkeypatch):
    blind = dataclasses.replace(operations.ADD_NORM, k=1e9)
    monkeypatch.setitem(operations.ALL, "add_norm", blind)
    with pytest.raises(gate.GateError, match="zeros would pass"):
        verdict("add_norm", ops.add_norm)


# Built-in implementations


HERE = [each for each in implementations() if each.lacks() is None]


def takes_long(each, case):
    """A thousand sequences, or many blocks in Triton's interpreter."""
    many = each.title == "attention triton" and each.device == "cpu" and case.name not in INTERPRETED
    return many or case.name == "a thousand sequences"


INTERPRETED = (
    "mixed lengths",
    "queries are first tokens",
    "an empty sequence between others",
    "large scores: one key gets all the weight",
    "mixed lengths, q k v non-contiguous",
)


@pytest.mark.full
@pytest.mark.parametrize(
    "each", [each for each in HERE if "compiler" not in each.needs], ids=lambda each: each.title
)
def test_built_in_implementations_pass(each, monkeypatch):
    """Skips long cases, float16 and repeated seeds; the slow test below skips nothing."""
    monkeypatch.setattr(gate, "SEEDS", (0,))
    monkeypatch.setattr(gate, "WARM_UP_CALLS", 1)
    few = [case for case in operations.ALL[each.op].cases if not takes_long(each, case)]
    monkeypatch.setitem(operations.ALL, each.op, dataclasses.replace(operations.ALL[each.op], cases=few))
    result = gate.check(dataclasses.replace(each, dtypes=each.dtypes[:2]))
    assert result.passed, "\n".join(gate.show(result))


@pytest.mark.slow
@pytest.mark.parametrize("each", HERE, ids=lambda each: each.title)
def test_built_in_implementations_pass_every_case(each):
    result = gate.check(each)
    assert result.passed, "\n".join(gate.show(result))


@pytest.mark.full
@pytest.mark.parametrize("op", operations.ALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_reference_and_its_gradients_match_torch_in_float64(op, seed):
    operation = operations.ALL[op]
    for case in operation.cases:
        inputs = case.make(torch.Generator().manual_seed(seed))
        arrays = {name: numpy_ops.as_array(x) for name, x in inputs.items()}
        references = operation.forward(arrays)
        weights = [gate.loss_weights(reference, seed) for reference in references]
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


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8), st.floats(0, 1))
@settings(max_examples=50)
def test_errors_are_relative_to_the_reference(values, part):
    values = np.array(values)
    if np.abs(values).max() > 1e-3:
        errors = gate.errors_of(values * (1 + part), values)
        assert errors.norm == pytest.approx(part, abs=1e-9)
        assert errors.largest == pytest.approx(part, abs=1e-9)


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
@pytest.mark.parametrize("before", ["torch._dynamo", "transformers.modeling_utils"])
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
    assert main(["lab", "check", str(tmp_path / "mine.py")]) == code
    out = capsys.readouterr().out
    assert out.startswith("passed    add_norm mine" if code == 0 else "REJECTED  add_norm mine")
    assert main(["lab", "check", str(tmp_path / "mine.py"), "--json"]) == code
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
    command, _, output = blocks("text")[2].removeprefix("$ minidistil ").partition("\n")
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


def words(lines):
    """Return the sorted lines of a report, without numbers and the name of the machine."""
    return sorted(" ".join(re.sub(r"[\d.,]+([x?%]|e[+-]\d+)?", "", line.split("; ")[0]).split()) for line in lines)


@pytest.mark.full
def test_a_users_file_is_timed_next_to_plain_pytorch(tmp_path, capsys):
    path = tmp_path / "my_add_norm.py"
    path.write_text(blocks("python")[1], encoding="utf-8")
    assert main(["lab", "bench", str(path), "--seconds", "0.01", "--json"]) == 0
    *printed, last = capsys.readouterr().out.splitlines()
    assert words(printed) == words(blocks("text")[0].splitlines()[1:])
    report = json.loads(last)
    assert all({*case["rows"]} == {"torch", "mine"} for case in report["cases"].values())
    pairs = ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl"
    in_model = ["--model", "minidistil-mnli", "--data", str(pairs), "--examples", "8", "--seconds", "0.01"]
    assert main(["lab", "bench", str(path), *in_model]) == 0
    assert words(capsys.readouterr().out.splitlines()) == words(blocks("text")[1].splitlines()[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add_norm", "--model", "m"], "--model requires --data; --data and --examples require --model"),
        (["add_norm", "--examples", "3"], "--model requires --data; --data and --examples require --model"),
        (
            ["add_norm", "--model", "m", "--data", "d"],
            "--model requires the name of one implementation, and cannot be combined with --plot",
        ),
        (["both.py"], "both.py registers implementations of add_norm, embed: expected one operation"),
    ],
)
def test_wrong_arguments_of_bench_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    second = MINE.replace("EPS", "eps").replace('"add_norm", "mine"', '"embed", "mine"')
    (tmp_path / "both.py").write_text(MINE.replace("EPS", "eps") + second)
    assert main(["lab", "bench", *arguments]) == 2
    assert message in capsys.readouterr().err


NO_BFLOAT16 = r"oneDNN has no bfloat16 matmul for this processor \(.*\): use float32"


@pytest.mark.usefixtures("no_bfloat16")
def test_a_dtype_that_the_processor_lacks_is_reported_not_failed(monkeypatch, capsys):
    monkeypatch.setattr(gate, "SEEDS", (0,))
    few = dataclasses.replace(operations.LINEAR, cases=operations.LINEAR.cases[:2])
    monkeypatch.setitem(operations.ALL, "linear", few)
    prepacked = find("linear", "prepacked")
    assert (prepacked.lacks(), prepacked.lacks("float32"), [*prepacked.lacking]) == (None, None, ["bfloat16"])
    assert main(["lab", "check", "linear", "prepacked"]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(
        rf"passed    linear prepacked: 2 checks, .*\n  cannot run here in bfloat16: {NO_BFLOAT16}\n", out
    )
    assert main(["lab", "check", "linear", "prepacked", "--json"]) == 0
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
