"""Prepacked linear layers: the same logits as the default ones, and the cases that they refuse."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

import minidistil
from minidistil import Batch, InputError, Ops, Tokenizer, pipeline
from minidistil.backends import onednn
from support.places import OURS
from support.twins import CONFIGS, FORMS, LENGTHS, inputs, labels, ours, theirs, twins

pytestmark = pytest.mark.skipif(
    not onednn.works(torch.device("cpu"), torch.float32), reason="needs a torch with oneDNN"
)
CLASSES = ["DistilBertModel", "DistilBertForTokenClassification", "DistilBertForMaskedLM"]
CLASSES += ["DistilBertForQuestionAnswering", "DistilBertForSequenceClassification"]


@pytest.mark.full
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_match_the_default_operations(name):
    plain = twins(name)[0]
    fast = plain.with_ops(**onednn.prepacked())
    for form in FORMS:
        for length in LENGTHS:
            batch = Batch.from_padded(*inputs(form, length, plain.config.vocab_size))
            with torch.inference_mode():
                expected, logits = plain(batch), fast(batch)
            assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", CLASSES)
def test_every_head_works_with_a_prepacked_encoder(name):
    plain = ours(theirs(labels(2), name))
    fast = plain.with_ops(**onednn.prepacked())
    batch = Batch.from_lists([[1, 2, 3], [4], [5, 6]])
    with torch.inference_mode():
        expected, logits = plain(batch), fast(batch)
    if name == "DistilBertForQuestionAnswering":
        expected, logits = torch.cat([*expected]), torch.cat([*logits])
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.skipif(
    not onednn.works(torch.device("cpu"), torch.bfloat16), reason="needs a CPU with bfloat16 matmuls in oneDNN"
)
@pytest.mark.parametrize("amx", [True, False])
def test_the_bfloat16_error_is_at_most_1_5_times_that_of_the_default(amx, monkeypatch):
    plain, plain64 = twins("plain", torch.bfloat16)[0], twins("plain", torch.float64)[0]
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    fast = plain.with_ops(**onednn.prepacked())
    errors = []
    for form in FORMS:
        for length in LENGTHS:  # on AMX, narrowing matmuls of 512 tokens are split
            batch = Batch.from_padded(*inputs(form, length, 1000))
            with torch.inference_mode():
                reference = plain64(batch)
                logits = torch.stack([model(batch).double() for model in (plain, fast)])
                errors.append((logits - reference).flatten(1))
    plain_error, fast_error = torch.cat(errors, 1).square().mean(1).sqrt()
    assert fast_error <= 1.5 * plain_error


def test_a_batch_without_tokens_has_finite_logits():
    fast = twins()[0].with_ops(**onednn.prepacked())
    with torch.inference_mode():
        assert fast(Batch.from_lists([[], []])).isfinite().all()


def test_no_gradient_is_lost_silently():
    fast = twins()[0].with_ops(**onednn.prepacked())
    hidden = fast.distilbert(Batch.from_lists([[1, 2]]))
    assert not hidden.requires_grad
    with pytest.raises(InputError, match="in training mode, but its operations are for inference"):
        ours(theirs({})).train().with_ops(**onednn.prepacked())(Batch.from_lists([[1, 2]]))


def test_a_model_in_a_dtype_without_oneDNN_matmuls_is_refused():
    model = twins("plain", torch.float64)[0].with_ops(**onednn.prepacked())
    with pytest.raises(InputError, match="weights are prepacked in float32 or bfloat16, not in float64"):
        model(Batch.from_lists([[1, 2]]))


@pytest.mark.parametrize(
    ("dtype", "device", "message"),
    [
        (torch.float64, "cpu", "weights are prepacked in float32 or bfloat16, not in float64: use float32"),
        (torch.bfloat16, "cpu", r"oneDNN has no bfloat16 matmul for this processor \(.*\): use float32"),
        (torch.float32, "meta", "oneDNN runs on a CPU, not on meta: use PyTorch's own operations"),
    ],
)
@pytest.mark.usefixtures("no_bfloat16")
def test_weights_that_cannot_be_prepacked_are_refused(dtype, device, message):
    with pytest.raises(InputError, match=f"the weights cannot be prepacked: {message}"):
        onednn.prepack(torch.nn.Linear(4, 4, device=device, dtype=dtype))
    assert not onednn.works(torch.device(device), dtype)


def test_without_oneDNN_nothing_is_prepacked(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    reason = onednn.lacks(torch.device("cpu"), torch.float32)
    assert reason == "this torch has no oneDNN: use PyTorch's own operations"


@pytest.mark.full
@pytest.mark.usefixtures("no_bfloat16")
def test_a_bfloat16_pipeline_runs_without_prepacking_on_other_cpus():
    pipe = pipeline("text-classification", model=OURS, device="cpu", dtype="bfloat16")
    answers = [pipe("One text.") for _ in range(3)]
    assert onednn.prepackable(pipe.model.ops)
    assert answers[0] == answers[1] == answers[2]


def test_a_prepacked_block_runs_the_attention_and_the_add_norm_of_the_view():
    calls = []

    def record(name):
        def operation(*args, **options):
            calls.append(name)
            return getattr(Ops, name)(*args, **options)

        return operation

    plain, batch = twins()[0], Batch.from_lists([[1, 2, 3], [4]])
    mine = {name: record(name) for name in ("attention", "add_norm")}
    with torch.inference_mode():
        expected, logits = plain(batch), plain.with_ops(**onednn.prepacked(), **mine)(batch)
    layers = plain.config.n_layers
    assert (calls.count("attention"), calls.count("add_norm")) == (layers, 2 * layers)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_prepacked_linear_layers_run_in_another_block():
    plain, batch = twins()[0], Batch.from_lists([[1, 2, 3], [4]])
    fast = plain.with_ops(**onednn.prepacked()).with_ops(block=Ops.block)
    with torch.inference_mode():
        expected, logits = plain(batch), fast(batch)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("part", ["attention", "ffn", "sa_layer_norm"])
def test_a_block_with_a_module_of_another_class_is_not_prepacked(part):
    model = ours(theirs({}))
    block = model.distilbert.transformer.layer[0]
    kind = type(getattr(block, part))
    getattr(block, part).__class__ = type("Mine", (kind,), {})
    with (
        torch.inference_mode(),
        pytest.raises(InputError, match=f"a Mine cannot be prepacked: expected {kind.__name__}"),
    ):
        model.with_ops(**onednn.prepacked())(Batch.from_lists([[1, 2]]))


def test_adapters_are_not_prepacked():
    with pytest.raises(
        InputError, match=r"only nn\.Linear can be prepacked, found torch\.nn\.modules\.container\.Sequential"
    ):
        onednn.prepack(torch.nn.Sequential())


def test_linear_layers_that_the_user_replaced_are_not_prepacked():
    assert onednn.prepackable(Ops())
    assert not onednn.prepackable(Ops(linear=onednn.prepacked()["linear"]))


@pytest.fixture
def packs(monkeypatch):
    """The layers that were prepacked."""
    packed, prepack = [], onednn.prepack
    monkeypatch.setattr(onednn, "prepack", lambda *lins: packed.extend(lins) or prepack(*lins))
    return packed


def test_a_pipeline_prepacks_a_model_that_it_loaded_before_the_second_batch(packs):
    pipe = pipeline("text-classification", model=OURS, device="cpu")
    first = pipe("One text.")
    assert not packs
    again = pipe("One text.")
    assert len(packs) == 6 * 6
    assert again[0]["score"] == pytest.approx(first[0]["score"], abs=1e-6)


def scale(pipe):
    pipe.model.distilbert.transformer.layer[2].ffn.lin2.weight.data.mul_(2)
    pipe.model.distilbert.transformer.layer[2].ffn.lin2.weight = torch.nn.Parameter(
        pipe.model.distilbert.transformer.layer[2].ffn.lin2.weight.detach().clone()
    )


def hook(pipe):
    pipe.model.distilbert.transformer.layer[2].ffn.lin2.register_forward_hook(lambda lin, args, output: 2 * output)


def adapt(pipe):
    ffn = pipe.model.distilbert.transformer.layer[2].ffn
    ffn.lin2 = torch.nn.Sequential(ffn.lin2, torch.nn.ReLU())


def replace_head(pipe):
    torch.manual_seed(0)
    pipe.model.classifier = torch.nn.Linear(384, 3)


@pytest.mark.parametrize("change", [scale, hook, adapt, replace_head, lambda pipe: pipe.model.double()])
def test_a_pipeline_computes_with_the_model_as_it_is_now(change):
    used, new = (pipeline("text-classification", model=OURS, device="cpu", top_k=None) for _ in range(2))
    for _ in range(3):
        used("One text.")
    for pipe in (used, new):
        change(pipe)
    (expected,) = new("Another text.")
    for _ in range(2):
        (answers,) = used("Another text.")
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
        for answer, other in zip(answers, expected, strict=True):
            assert answer["score"] == pytest.approx(other["score"], abs=1e-5)


def test_a_pipeline_of_a_model_loaded_in_inference_mode_answers():
    with torch.inference_mode():
        pipe = pipeline("text-classification", model=OURS, device="cpu")
        answers = [pipe("One text.")[0]["score"] for _ in range(3)]
    assert answers == pytest.approx([answers[0]] * 3, abs=1e-6)


def test_a_pipeline_does_not_change_a_model_that_it_was_given():
    model = minidistil.from_pretrained(OURS)
    pipe = pipeline("text-classification", model=model, tokenizer=Tokenizer.from_pretrained(OURS))
    for _ in range(3):
        pipe("One text.")
    assert pipe.model is model


@pytest.mark.full
def test_many_texts_run_in_few_sizes_with_the_results_of_single_texts(monkeypatch):
    pipe = pipeline("text-classification", OURS)
    texts = [f"{'many words ' * (i % 17)}and {i}." for i in range(300)]
    seen = []
    run = onednn._matmul
    monkeypatch.setattr(onednn, "_matmul", lambda x, *rest: seen.append(len(x)) or run(x, *rest))
    answers = pipe(texts)
    assert len({rows for rows in seen if rows > onednn.FEW}) < 8
    for i in (0, 16, 150, 299):
        assert answers[i]["score"] == pytest.approx(pipe(texts[i])[0]["score"], abs=1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the allocator of glibc")
def test_freed_memory_is_reused():
    onednn.keep_memory()

    def four_results() -> int:
        """Allocate 4 × 16 MB, free them together, and return the number of page faults."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        results = [torch.ones(1 << 22) for _ in range(4)]
        del results
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert min(four_results() for _ in range(5)) < 8192  # of 16,384 pages; the first rounds may need new ones
