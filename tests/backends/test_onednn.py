"""Packed products give the plain ones' answers, and refuse what would leave their copy of the weights behind."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

import minidistil
from minidistil import Batch, InputError, Ops, Tokenizer, pipeline
from minidistil.backends import onednn as packed
from support.places import OURS
from support.twins import CONFIGS, FORMS, LENGTHS, inputs, labels, ours, theirs, twins

pytestmark = pytest.mark.skipif(
    not packed.works(torch.device("cpu"), torch.float32), reason="this torch has no oneDNN, which packs"
)
CLASSES = ["DistilBertModel", "DistilBertForTokenClassification", "DistilBertForMaskedLM"]
CLASSES += ["DistilBertForQuestionAnswering", "DistilBertForSequenceClassification"]


@pytest.mark.full
@pytest.mark.parametrize("name", CONFIGS)
def test_every_logit_is_the_plain_models(name):
    plain = twins(name)[0]
    fast = plain.with_ops(**packed.prepacked())
    for form in FORMS:
        for length in LENGTHS:
            batch = Batch.from_padded(*inputs(form, length, plain.config.vocab_size))
            with torch.inference_mode():
                expected, found = plain(batch), fast(batch)
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", CLASSES)
def test_every_head_stands_on_a_packed_encoder(name):
    plain = ours(theirs(labels(2), name))
    fast = plain.with_ops(**packed.prepacked())
    batch = Batch.from_lists([[1, 2, 3], [4], [5, 6]])
    with torch.inference_mode():
        expected, found = plain(batch), fast(batch)
    if name == "DistilBertForQuestionAnswering":
        expected, found = torch.cat([*expected]), torch.cat([*found])
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.skipif(not packed.works(torch.device("cpu"), torch.bfloat16), reason="no bfloat16 products here")
@pytest.mark.parametrize("amx", [True, False])
def test_bfloat16_errs_no_more_than_plain_bfloat16(amx, monkeypatch):
    plain, exact = twins("plain", torch.bfloat16)[0], twins("plain", torch.float64)[0]
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    fast = plain.with_ops(**packed.prepacked())
    errors = []
    for form in FORMS:
        for length in LENGTHS:  # those of 512 are cut into parts where a product narrows, on AMX
            batch = Batch.from_padded(*inputs(form, length, 1000))
            with torch.inference_mode():
                truth = exact(batch)
                errors.append(torch.stack([(model(batch).double() - truth).flatten() for model in (plain, fast)]))
    theirs_, ours_ = torch.cat(errors, 1).square().mean(1).sqrt()
    assert ours_ <= 1.5 * theirs_


def test_a_batch_without_a_token_is_answered():
    fast = twins()[0].with_ops(**packed.prepacked())
    with torch.inference_mode():
        assert fast(Batch.from_lists([[], []])).isfinite().all()


def test_no_gradient_is_lost_in_silence():
    fast = twins()[0].with_ops(**packed.prepacked())
    hidden = fast.distilbert(Batch.from_lists([[1, 2]]))
    assert not hidden.requires_grad
    with pytest.raises(InputError, match="in training mode, but its operations are for inference"):
        ours(theirs({})).train().with_ops(**packed.prepacked())(Batch.from_lists([[1, 2]]))


def test_what_oneDNN_has_no_product_for_is_refused():
    model = twins("plain", torch.float64)[0].with_ops(**packed.prepacked())
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
def test_what_cannot_be_prepacked_is_refused(dtype, device, message):
    with pytest.raises(InputError, match=f"the weights cannot be prepacked: {message}"):
        packed.pack(torch.nn.Linear(4, 4, device=device, dtype=dtype))
    assert not packed.works(torch.device(device), dtype)


def test_without_oneDNN_nothing_is_prepacked(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    reason = packed.lacks(torch.device("cpu"), torch.float32)
    assert reason == "this torch has no oneDNN: use PyTorch's own operations"


@pytest.mark.full
@pytest.mark.usefixtures("no_bfloat16")
def test_a_pipeline_in_bfloat16_does_without_where_the_processor_lacks_it():
    pipe = pipeline("text-classification", model=OURS, device="cpu", dtype="bfloat16")
    answers = [pipe("One text.") for _ in range(3)]
    assert packed.packable(pipe.model.ops)
    assert answers[0] == answers[1] == answers[2]


def test_adapters_are_not_prepacked():
    with pytest.raises(InputError, match=r"only nn\.Linear can be prepacked, found Sequential"):
        packed.pack(torch.nn.Sequential())


def test_products_of_the_users_own_are_not_replaced():
    assert packed.packable(Ops())
    assert not packed.packable(Ops(linear=packed.prepacked()["linear"]))


@pytest.mark.full
def test_a_pipeline_packs_what_it_loaded_before_its_second_batch():
    pipe = pipeline("text-classification", model=OURS, device="cpu")
    first = pipe("One text.")
    assert packed.packable(pipe.model.ops)
    again = pipe("One text.")
    assert pipe.model.ops.linear.run is packed.linear
    assert again[0]["score"] == pytest.approx(first[0]["score"], abs=1e-6)


def test_a_pipeline_leaves_a_model_that_others_have_as_it_is():
    model = minidistil.from_pretrained(OURS)
    pipe = pipeline("text-classification", model=model, tokenizer=Tokenizer.from_pretrained(OURS))
    for _ in range(3):
        pipe("One text.")
    assert pipe.model is model


@pytest.mark.full
def test_a_stream_runs_in_few_sizes_and_answers_as_one_text_does(monkeypatch):
    pipe = pipeline("text-classification", OURS)
    texts = [f"{'many words ' * (i % 17)}and {i}." for i in range(300)]
    seen = []
    run = packed._matmul
    monkeypatch.setattr(packed, "_matmul", lambda x, *rest: seen.append(len(x)) or run(x, *rest))
    found = pipe(texts)
    assert len({rows for rows in seen if rows > packed.FEW}) < 8
    for i in (0, 16, 150, 299):
        assert found[i]["score"] == pytest.approx(pipe(texts[i])[0]["score"], abs=1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator, which is left as it is")
def test_freed_memory_is_used_again():
    packed.keep_memory()

    def four_results() -> int:
        """Of 16 MB each, freed together; how many pages came anew."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        results = [torch.ones(1 << 22) for _ in range(4)]
        del results
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert min(four_results() for _ in range(5)) < 8192  # of 16,384; what else is freed may move them at first
