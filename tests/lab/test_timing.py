"""Cost model, timer and reports; wrong implementations are not timed. No test asserts a time."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import time

import pytest
import torch
import torch.nn.functional as F

from minidistil import Batch, InputError, ops
from minidistil.backends.prepared import Prepared
from minidistil.benchmarks import measure
from minidistil.lab import bench as lab_bench
from minidistil.lab import (
    classifier,
    cost,
    implementation,
    implementations,
    in_model,
    operations,
    registry,
    state,
    timer,
    workloads,
)
from minidistil.lab.cases import case
from minidistil.layout import Layout
from support.places import OURS, ROOT
from support.twins import twins

DATA = str(ROOT / "tests" / "data" / "mnli_dev_matched_128.jsonl")
INTERPRETED = "it runs in Triton's interpreter, whose speed does not predict a GPU's"
pytestmark = pytest.mark.usefixtures("small_shapes")
TITLES = ["1 text of 3 tokens", "2 texts of 2 to 5 tokens, 7 in all"]


def bench(op="add_norm", names=("torch",), **options):
    return lab_bench.bench(op, names=names, seconds=0, **options)


# Cost model


def inputs_of(each):
    return each.make(0)


def counted(op, inputs):
    outputs = operations.ALL[op].run(operations.ALL[op].plain, inputs)
    return cost.bytes_of(op, inputs, outputs), cost.operations_of(op, inputs, outputs)


def test_a_norm_reads_two_tensors_and_writes_one():
    assert counted("add_norm", inputs_of(case("add_norm", rows=5, width=24))) == (
        8 * (3 * 5 * 24 + 2 * 24),
        8 * 5 * 24,
    )


def test_a_lookup_reads_each_row_once():
    inputs = inputs_of(case("embed", tokens=5, width=24))
    inputs["ids"] = torch.tensor([3, 3, 3, 7, 8])
    inputs["position_ids"] = torch.tensor([0, 1, 0, 1, 2])
    read, written, weights, ids = (3 + 3) * 24, 5 * 24, 2 * 24, 2 * 5
    assert counted("embed", inputs) == (8 * (read + written + weights + ids), 8 * 5 * 24)


@pytest.mark.parametrize(("op", "parts"), [("linear", 1), ("linear_gelu", 1), ("qkv", 3)])
def test_a_linear_layer_reads_its_input_once_and_every_weight(op, parts):
    inputs = inputs_of(case(op, rows=5, inputs=24, outputs=48))
    moved = 5 * 24 + parts * (24 * 48 + 48 + 5 * 48)
    assert counted(op, inputs) == (8 * moved, parts * 2 * 5 * 24 * 48)


def test_attention_is_counted_by_sequence():
    inputs = inputs_of(case("attention", lengths=[2, 5], heads=2, head_dim=12))
    assert counted("attention", inputs) == (8 * 4 * 7 * 24, 4 * 24 * (2 * 2 + 5 * 5))
    inputs |= {"queries": Layout.from_lengths([2, 5]).first_tokens()}
    inputs["q"] = inputs["queries"].select(inputs["q"])
    assert counted("attention", inputs) == (8 * (2 * 2 + 2 * 7) * 24, 4 * 24 * (2 + 5))


def test_a_feed_forward_does_not_count_the_hidden_activations():
    inputs = inputs_of(case("feed_forward", rows=5, width=24, hidden=48))
    assert counted("feed_forward", inputs) == (8 * (2 * 5 * 24 + 2 * 24 * 48 + 24 + 48), 2 * 2 * 5 * 24 * 48)


def test_a_block_counts_its_linear_layers_and_its_attention():
    inputs = inputs_of(case("block", lengths=[2, 5], width=24, heads=2, hidden=48))
    weights, matmuls = 4 * 24 * 24 + 2 * 24 * 48, 2 * 7 * (4 * 24 * 24 + 2 * 24 * 48)
    vectors = 4 * 24 + 48 + 24 + 4 * 24  # biases, and the weights of two norms
    attention = 4 * 24 * (2 * 2 + 5 * 5)
    assert counted("block", inputs) == (8 * (2 * 7 * 24 + weights + vectors), matmuls + attention)


def test_the_largest_batch_has_2048_tokens(monkeypatch):
    monkeypatch.undo()
    bulk = "47 texts of 15 to 115 tokens, 2,048 in all"
    titles = {op: [*workloads.timed_cases(op)] for op in operations.ALL}
    assert titles["embed"] == titles["add_norm"] == ["1 text of 16 tokens", "1 text of 128 tokens", bulk]
    assert titles["attention"] == [*titles["embed"], "16 texts of 128 tokens, 2,048 in all"]
    assert titles["qkv"][-1] == f"{bulk}; 768 to 2304"
    assert titles["linear"][-2:] == [f"{bulk}; 768 to 768", f"{bulk}; 3072 to 768"]


@pytest.mark.parametrize("dtype", registry.DTYPES)
def test_ceilings_are_positive(dtype):
    assert min(cost.ceilings(dtype).values()) > 0


# Report


@pytest.mark.full
@pytest.mark.parametrize("op", operations.ALL)
def test_the_report_has_every_case_with_its_bound(op, capsys):
    report = lab_bench.bench(op, names=[each.name for each in implementations(op) if not each.needs], seconds=0)
    assert json.loads(json.dumps(report)) == report
    assert list(report["cases"]) == [*workloads.timed_cases(op)]
    for timing in report["cases"].values():
        bounds = [timing["bytes"] / report["ceilings"]["copy rate"]]
        bounds += [timing["operations"] / report["ceilings"]["matmul rate"]]
        assert timing["bound"] == max(bounds) == bounds[timing["bound by"] == "compute"]
        for row in timing["rows"].values():
            for cache in ("cold", "warm"):
                timed, plain = row[cache], timing["rows"]["torch"][cache]
                assert timed["runs"] >= measure.MIN_ROUNDS
                assert timed["share"] == timing["bound"] / timed["seconds"]
                assert timed["speed"] == plain["seconds"] / timed["seconds"]
    out = capsys.readouterr().out
    assert re.search(r"^ceilings: copy [\d.]+ GB/s, matmul [\d,]+ GFLOP/s$", out, re.MULTILINE)
    assert re.search(
        r"^\n1 text of 3 tokens.*: [\d.]+ MB, [\d.]+ MFLOP, at least [\d.]+ ms, bound by", out, re.MULTILINE
    )
    assert len(re.findall(r"^  torch +[\d.]+ +[\d.]+ +\d+% +1\.00[x?]", out, re.MULTILINE)) == len(report["cases"])


@pytest.mark.full
def test_implementations_that_are_not_timed_are_listed_with_a_reason(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(registry.NEEDS, "triton", lambda dtype: None)
    implementation("add_norm", "interpreted", needs=("triton",))(ops.add_norm)
    implementation("add_norm", "for GPUs", needs=("cuda",))(ops.add_norm)
    implementation("add_norm", "narrow", dtypes=("bfloat16",))(ops.add_norm)
    implementation("add_norm", "wrong", dtypes=("float32",))(lambda x, *rest: x)
    report = lab_bench.bench("add_norm", seconds=0)
    assert report["skipped"]["interpreted"] == INTERPRETED
    assert report["skipped"]["for GPUs"] == "cannot run here: no CUDA device is available"
    assert report["skipped"]["narrow"] == "it is not registered for float32"
    assert "wrong" in report["rejected"]
    assert {*report["cases"][TITLES[0]]["rows"]} >= {"torch", "steps"}
    assert not {"interpreted", "for GPUs", "narrow", "wrong"} & {*report["cases"][TITLES[0]]["rows"]}
    out = capsys.readouterr().out
    assert re.search(
        r"wrong +not timed: rejected by the gate: .*\(float32\): the output shares its memory with its input x",
        out,
    )
    assert re.search(f"interpreted +skipped: {INTERPRETED}", out)


NO_BFLOAT16 = r"cannot run here in bfloat16: oneDNN has no bfloat16 matmul for this processor \(.*\): use float32"


@pytest.mark.full
@pytest.mark.usefixtures("no_bfloat16")
def test_a_dtype_that_the_processor_lacks_is_skipped(capsys):
    report = lab_bench.bench("linear", dtype="bfloat16", names=["torch", "prepacked"], seconds=0)
    assert re.fullmatch(NO_BFLOAT16, report["skipped"]["prepacked"])
    assert all({*case["rows"]} == {"torch"} for case in report["cases"].values())
    assert re.search(f"^  prepacked  skipped: {NO_BFLOAT16}$", capsys.readouterr().out, re.MULTILINE)
    with pytest.raises(InputError, match=f"linear prepacked is not timed: {NO_BFLOAT16}"):
        bench_model("linear", "prepacked", dtype="bfloat16")


def test_with_a_gpu_cpu_implementations_are_skipped(monkeypatch):
    implementation("add_norm", "only for CPUs", needs=("cpu",))(ops.add_norm)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "it runs on CPU only" in lab_bench.why_not_timed(registry.find("add_norm", "only for CPUs"), "float32")


@pytest.mark.full
def test_nothing_to_time_is_not_an_error(tmp_path):
    implementation("add_norm", "wrong", dtypes=("float32",))(lambda x, *rest: x)
    report = bench(names=["wrong"], plot=str(tmp_path / "nothing.png"))
    assert (report["cases"], [*report["rejected"]]) == ({}, ["wrong"])


def test_without_torch_no_speed_is_reported(capsys):
    report = bench(names=["steps"])
    assert report["cases"][TITLES[0]]["rows"]["steps"]["cold"]["speed"] is None
    assert re.search(r"^  steps .*%  ", capsys.readouterr().out, re.MULTILINE)


def caches_its_result(x, residual, weight, bias, eps):
    """Correct on the gate's shapes, none of which has 7 rows."""
    fresh = ops.add_norm(x, residual, weight, bias, eps)
    return CACHE.setdefault(x.shape, fresh) if len(x) == 7 else fresh


CACHE: dict[torch.Size, torch.Tensor] = {}


def test_an_implementation_that_caches_while_timed_is_rejected(capsys):
    CACHE.clear()
    implementation("add_norm", "cheat", dtypes=("float32",))(caches_its_result)
    report = bench(names=["torch", "cheat"])
    assert [[*case["rows"]] for case in report["cases"].values()] == [["torch"]] * 2
    assert re.match(
        f"time withdrawn: {TITLES[1]}: the output shares its memory with an earlier output",
        report["rejected"]["cheat"],
    )
    assert "cheat  time withdrawn: " in capsys.readouterr().out


@pytest.mark.full
def test_a_linear_layer_that_caches_while_timed_is_rejected():
    def run(x, lin):
        fresh = lin(x)
        return cache.setdefault(x.shape, fresh).clone() if len(x) == 7 else fresh

    cache: dict[torch.Size, torch.Tensor] = {}
    implementation("linear", "cheat", dtypes=("float32",))(run)
    assert "the output has a relative error of" in bench("linear", ["torch", "cheat"])["rejected"]["cheat"]


@pytest.mark.full
def test_a_linear_layer_that_keeps_old_weights_is_rejected():
    def run(x, lin):
        return F.linear(x, copies.setdefault(lin, lin.weight.clone()), lin.bias)

    copies: dict[torch.nn.Linear, torch.Tensor] = {}
    implementation("linear", "stale", dtypes=("float32",))(run)
    rejected = bench("linear", ["torch", "stale"])["rejected"]
    assert re.match("not timed: rejected by the gate: .* after its inputs changed in place", rejected["stale"])


def test_an_implementation_that_fails_on_a_timed_shape_is_rejected():
    def raises(x, *rest):
        if len(x) == 7:
            raise RuntimeError("not seven")
        return ops.add_norm(x, *rest)

    def writes(x, *rest):
        if len(x) == 7:
            x.as_strided((x.numel() + 1,), (1,), x.storage_offset())[-1] = 0
        return ops.add_norm(x, *rest)

    for function in (raises, writes):
        implementation("add_norm", function.__name__, dtypes=("float32",))(function)
    rejected = bench(names=["torch", "raises", "writes"])["rejected"]
    assert rejected["raises"] == f"not timed: {TITLES[1]}: it raises RuntimeError: not seven"
    assert "it writes out of bounds, before or after the input x" in rejected["writes"]


def test_inputs_change_before_each_timed_call():
    seen = []

    def records(x, *rest):
        if len(x) == 7:
            seen.append(float(x[0, 0]))
        return ops.add_norm(x, *rest)

    implementation("add_norm", "records", dtypes=("float32",))(records)
    bench(names=["records"])
    assert len({*seen}) == len(seen) >= 2 * measure.MIN_ROUNDS


def test_two_results_cached_by_content_are_rejected():
    """The trick against a timer that alternates between two inputs."""
    cache: dict[float, torch.Tensor] = {}

    def cheat(x, *rest):
        if len(x) != 7:
            return ops.add_norm(x, *rest)
        if len(cache) < 2:
            cache[float(x[0, 0])] = ops.add_norm(x, *rest)
        return cache.get(float(x[0, 0]), next(iter(cache.values()))).clone()

    implementation("add_norm", "cheat", dtypes=("float32",))(cheat)
    assert "has a relative error of" in bench(names=["torch", "cheat"])["rejected"]["cheat"]


def test_zeros_during_timing_are_rejected():
    def zeros(x, *rest):
        frames = {frame.function for frame in inspect.stack(0)}
        return torch.zeros_like(x) if "time_case" in frames else ops.add_norm(x, *rest)

    implementation("add_norm", "zeros", dtypes=("float32",))(zeros)
    assert "has a relative error of" in bench(names=["torch", "zeros"])["rejected"]["zeros"]


def test_a_clock_that_hides_time_is_noticed(monkeypatch):
    """The worker's clock is in the process of the implementation; the judge compares it with its own."""

    def slow(x, *rest):
        time.sleep(0.005 if len(x) == 7 else 0)
        return ops.add_norm(x, *rest)

    implementation("add_norm", "slow", dtypes=("float32",))(slow)
    assert not bench(names=["torch", "slow"])["rejected"]
    ticks = itertools.count()
    monkeypatch.setattr(state, "clock", lambda: 1e-6 * next(ticks))
    assert "but by the judge's clock the call takes up to" in bench(names=["torch", "slow"])["rejected"]["slow"]


def test_a_time_beyond_the_ceiling_is_withdrawn(monkeypatch):
    monkeypatch.setattr(timer, "CEILING", 0.0)
    report = bench(names=["steps"])
    assert "is faster than this machine's ceilings allow" in report["rejected"]["steps"]


def test_compiled_implementations_are_recompiled_after_the_gate(monkeypatch):
    resets = []
    monkeypatch.setitem(registry.NEEDS, "compiler", lambda dtype: None)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    implementation("add_norm", "compiled", needs=("compiler",))(ops.add_norm)
    bench(names=["torch", "compiled"])
    assert resets == [1]


@pytest.mark.full
@pytest.mark.parametrize("name", ["roof.svg", "roof.png"])
def test_a_report_is_plotted(tmp_path, name):
    bench("attention", ["torch", "loop"], plot=str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(b"<?xml" if name.endswith("svg") else b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["banana"]}, "add_norm has no implementation 'banana'"),
        ({"op": "banana"}, "unknown operation 'banana'"),
        ({"dtype": "int4"}, "dtype is 'int4': expected one of float32, bfloat16, float16"),
        ({"plot": "roof.doc"}, r"plot is roof\.doc: expected a file name ending in \.svg, \.png, \.pdf"),
        ({"plot": "nowhere/roof.svg"}, r"plot is nowhere/roof\.svg: expected a file name ending in"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        bench(**options)


# In a model


def bench_model(op="add_norm", name="torch", data=DATA, **options):
    return in_model.bench_model(str(OURS), data, op, name, **{"seconds": 0, "examples": 3, **options})


@pytest.mark.full
def test_the_same_implementation_changes_no_logit(capsys):
    report = bench_model()
    assert json.loads(json.dumps(report)) == report
    assert (report["largest change"], report["metric"]) == (0.0, "accuracy")
    assert report["score"][0] == report["score"][1]
    assert (report["examples"], report["batches"]) == (3, 1)
    out = capsys.readouterr().out
    assert re.search(r"speed of the model, if it took no time +[\d.]+x$", out, re.MULTILINE)
    assert re.search(r"^  accuracy +[\d.]+  to [\d.]+$", out, re.MULTILINE)


@pytest.mark.full
def test_the_largest_possible_speedup_follows_amdahls_law(monkeypatch):
    monkeypatch.setattr(in_model, "take_turns", lambda calls, seconds: [[8.0], [6.0]])
    monkeypatch.setattr(classifier.Classifier, "share", lambda self, op: 0.75)
    report = bench_model("linear", "torch")
    assert (report["share"], report["most"]) == (0.75, 4.0)
    assert report["speed"] == pytest.approx(8 / 6)


@pytest.mark.full
def test_another_implementation_changes_logits_little_and_examples_are_batched(monkeypatch):
    monkeypatch.setattr(in_model, "take_turns", lambda calls, seconds: [[call()] for call in calls])
    monkeypatch.setattr(classifier, "TOKENS", 110)
    report = bench_model("add_norm", "steps", examples=4)
    assert (report["examples"], report["tokens"], report["batches"]) == (4, 153, 2)
    assert 0 < report["largest change"] < 1e-4
    assert report["share"] > 0


@pytest.mark.full
def test_prepared_weights_are_timed_in_a_model():
    prepared = Prepared(lambda lin: (lin.weight.clone(), lin.bias.clone()), lambda x, state: F.linear(x, *state))
    implementation("linear", "copied", dtypes=("float32",))(prepared)
    assert bench_model("linear", "copied")["largest change"] < 1e-4
    assert not classifier.timed(prepared, "cpu", []).live
    assert classifier.timed(ops.linear, "cpu", []).live


@pytest.mark.parametrize("op", operations.ALL)
def test_every_call_of_an_operation_is_timed(op):
    model, spans = twins()[0], []
    batch = Batch.from_lists([[1, 2, 3], [4]])
    timed = model.with_ops(**{op: classifier.timed(operations.ALL[op].plain, "cpu", spans)})
    assert torch.equal(timed(batch), model(batch))
    layers = model.config.n_layers
    calls = {"embed": 1, "qkv": layers, "linear": 2 * layers, "linear_gelu": layers, "add_norm": 2 * layers}
    assert len(spans) == calls.get(op, layers)
    assert all(begin <= end for begin, end in spans)


def test_implementations_that_cannot_be_timed_are_refused_in_a_model(monkeypatch):
    implementation("add_norm", "wrong", dtypes=("float32",))(lambda x, *rest: F.relu(x))
    implementation("add_norm", "narrow", dtypes=("bfloat16",))(ops.add_norm)
    with pytest.raises(
        InputError,
        match=r"add_norm wrong is not timed: rejected by the gate: .*the output has a relative error of",
    ):
        bench_model(name="wrong")
    with pytest.raises(InputError, match="add_norm narrow is not timed: it is not registered for float32"):
        bench_model(name="narrow")
    with pytest.raises(InputError, match="examples is 0: expected an integer of at least 1"):
        bench_model(examples=0)


@pytest.mark.full
def test_unlabeled_texts_are_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text('{"text": "A text.", "label": -1}\n', encoding="utf-8")
    with pytest.raises(InputError, match="has no labeled examples: expected at least one"):
        bench_model(data=str(tmp_path / "none.jsonl"))


@pytest.mark.cuda
def test_it_runs_on_a_gpu():
    report = lab_bench.bench("attention", dtype="bfloat16", seconds=0)
    assert report["device"] == "cuda"
    assert "torch" in report["cases"][TITLES[0]]["rows"]
    assert bench_model("add_norm", "steps")["device"] == "cuda"
