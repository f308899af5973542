"""The model compared with transformers, logit by logit, and its contracts."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
import transformers

import minidistil
from minidistil import (
    Batch,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    InputError,
    Prepared,
    ops,
)
from minidistil.ops import Ops, attention, linear
from support.twins import CONFIGS, FORMS, LENGTHS, first_difference, inputs, ours, theirs, twins

CASES = [(form, length) for form in FORMS for length in LENGTHS]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_float32_logit_is_within_1e_5_of_transformers(name):
    mine, other = twins(name)
    for form, length in CASES:
        ids, mask = inputs(form, length, mine.config.vocab_size)
        with torch.inference_mode():
            expected = other(input_ids=ids, attention_mask=mask).logits
            logits = mine(ids, mask)
        worst = ((logits - expected).abs().max() / expected.abs().max()).item()
        assert worst < 1e-5, f"{form}, {length} tokens: {first_difference(mine, other, ids, mask)}"


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_float64_error_is_at_most_1_5_times_that_of_transformers(name, dtype):
    mine, other = twins(name, dtype)
    other64 = copy.deepcopy(other).double()  # with the rounded weights, so that only the arithmetic differs
    my_errors, their_errors = [], []
    for form, length in CASES:
        ids, mask = inputs(form, length, mine.config.vocab_size)
        with torch.inference_mode():
            reference = other64(input_ids=ids, attention_mask=mask).logits
            my_errors.append((mine(ids, mask).double() - reference).flatten())
            their_errors.append((other(input_ids=ids, attention_mask=mask).logits.double() - reference).flatten())
    my_error, their_error = torch.cat(my_errors), torch.cat(their_errors)
    where = first_difference(mine, other, ids, mask)
    assert my_error.square().mean().sqrt() <= 1.5 * their_error.square().mean().sqrt(), where
    assert my_error.abs().max() <= 3 * their_error.abs().max(), where


@pytest.mark.full
@pytest.mark.parametrize("name", CONFIGS)
def test_float64_logits_match_transformers_to_1e_12(name):
    mine, other = twins(name, torch.float64)
    for form, length in CASES:
        ids, mask = inputs(form, length, mine.config.vocab_size)
        with torch.inference_mode():
            expected = other(input_ids=ids, attention_mask=mask).logits
            worst = ((mine(ids, mask) - expected).abs().max() / expected.abs().max()).item()
        assert worst < 1e-12, f"{form}, {length} tokens: {first_difference(mine, other, ids, mask)}"


def test_attention_of_the_twins_is_not_uniform():
    """With weights of the initial size, attention would be nearly uniform and hide any error."""
    mine, _ = twins()
    ids, mask = inputs("ragged", 128, mine.config.vocab_size)
    attention_map = minidistil.trace(mine, Batch.from_padded(ids, mask)).attention(layer=1, sequence=0)
    assert attention_map.max(-1).values.mean() > 10 / 128
    with torch.inference_mode():
        assert mine(ids, mask).std(0).min() > 0.1


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("form", FORMS)
def test_hidden_states_match_transformers_and_are_0_at_padding(form, length):
    mine, other = twins()
    ids, mask = inputs(form, length, mine.config.vocab_size)
    with torch.inference_mode():
        hidden = mine.distilbert(ids, mask)
        expected = other.distilbert(input_ids=ids, attention_mask=mask).last_hidden_state
    real = mask.bool()
    torch.testing.assert_close(hidden[real], expected[real], atol=2e-5, rtol=0)
    assert (hidden[~real] == 0).all()


def test_left_padding_is_allowed_for_the_encoder_and_refused_for_a_sequence_head():
    mine, other = twins()
    ids, mask = inputs("alone", 17, 1000)
    mask[:, :5] = 0
    with torch.inference_mode():
        expected = other.distilbert(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(mine.distilbert(ids, mask)[0, 5:], expected[0, 5:], atol=2e-5, rtol=0)
        with pytest.raises(InputError, match="pad on the right"):
            mine(ids, mask)


@pytest.mark.parametrize("form", FORMS)
def test_packed_and_padded_inputs_have_the_same_results(form):
    mine, _ = twins()
    batch = Batch.from_padded(*inputs(form, 17, 1000))
    ids, mask = batch.padded()
    with torch.inference_mode():
        assert torch.equal(mine(batch), mine(ids, mask))
        assert torch.equal(mine.distilbert(batch), mine.distilbert(ids, mask)[mask.bool()])


def test_logits_do_not_depend_on_order_or_batching():
    mine, _ = twins()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (30,), generator=generator).tolist()
    texts = [torch.randint(0, 1000, (length,), generator=generator).tolist() for length in lengths]
    with torch.inference_mode():
        alone = torch.cat([mine(Batch.from_lists([text])) for text in texts])
        together = mine(Batch.from_lists(texts))
        order = torch.randperm(30, generator=generator)
        shuffled = mine(Batch.from_lists([texts[i] for i in order]))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled, alone[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "op", ["embed", "qkv", "linear", "linear_gelu", "add_norm", "attention", "feed_forward", "block"]
)
def test_a_replaced_operation_is_called_in_every_layer(op):
    mine, _ = twins("12 layers")
    calls = []

    def record(implementation):
        def run(*args, **context):
            calls.append(args)
            return implementation(*args, **context)

        return run

    recording = record(getattr(mine.ops, op))
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    with torch.inference_mode():
        assert torch.equal(mine.with_ops(**{op: recording})(batch), mine(batch))
    layers = {"embed": 1, "linear": 24, "add_norm": 24}.get(op, 12)
    assert len(calls) == layers


def test_with_ops_is_another_view_of_the_same_parameters():
    model = ours(theirs({}))
    view = model.with_ops(attention=lambda q, k, v, *_: q)
    assert all(a is b for a, b in zip(model.parameters(), view.parameters(), strict=True))
    assert model.ops.attention is attention
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    assert not torch.allclose(model(batch), view(batch))
    with pytest.raises(TypeError, match="atention"):
        model.with_ops(atention=attention)


def prepared_linear():
    """Return an operation that keeps a copy of its weights, like a prepacked or quantized one."""
    return Prepared(
        prepare=lambda lin: (lin.weight.detach().clone(), lin.bias.detach().clone()),
        run=lambda x, state: torch.nn.functional.linear(x, *state),
    )


def test_views_share_train_and_eval():
    model = ours(theirs({}))
    view = model.with_ops(attention=lambda q, k, v, *_: q)
    for mode in (True, False):
        view.train(mode)
        assert model.training == view.training == model.distilbert.training == model.dropout.training == mode
        model.train(not mode)
        assert model.training == view.training == view.distilbert.training == view.dropout.training != mode


def test_the_encoder_of_a_view_uses_the_operations_of_the_view():
    model = ours(theirs({}))
    view = model.with_ops(attention=lambda q, k, v, *_: q)
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    assert view.distilbert.ops is view.ops
    assert not torch.allclose(view.distilbert(batch), model.distilbert(batch))


def whole_feed_forward(x, lin1, lin2, *, ops):
    return lin2(torch.nn.functional.gelu(lin1(x)))


def whole_block(x, block, *, layout, queries, ops):
    return block(x, layout, queries, minidistil.Ops())


WHOLES = {"feed_forward": whole_feed_forward, "block": whole_block}


def prepared_feed_forward(prepare=lambda *lins: lins):
    return Prepared(prepare, lambda x, lins, *, ops: whole_feed_forward(x, *lins, ops=ops))


def prepared_block(prepare=lambda block: block):
    return Prepared(prepare, whole_block)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("part", ["feed_forward", "block"])
def test_a_larger_operation_can_be_replaced_as_a_whole(part, live):
    calls = []

    def record(*args, **context):
        calls.append(args)
        return WHOLES[part](*args, **context)

    mine, _ = twins("12 layers")
    record.live = live
    view = mine.with_ops(**{part: record})
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    with torch.inference_mode():
        torch.testing.assert_close(view(batch), mine(batch), atol=1e-5, rtol=0)
    assert len(calls) == 12
    assert view.ops.live == live


@pytest.mark.parametrize("part", ["feed_forward", "block"])
def test_a_prepared_state_that_is_a_module_is_not_registered_in_the_model(part):
    mine, _ = twins()
    whole = {
        "feed_forward": prepared_feed_forward(lambda *lins: torch.nn.ModuleList(lins)),
        "block": prepared_block(),
    }[part]
    view = mine.with_ops(**{part: whole})
    assert view.state_dict().keys() == mine.state_dict().keys()
    others = (view, view.with_ops(embed=mine.ops.embed), copy.deepcopy(view))
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    with torch.inference_mode():
        for other in others:
            torch.testing.assert_close(other(batch), mine(batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["feed_forward", "linear_gelu"])
def test_a_relu_model_refuses_an_operation_with_gelu_which_it_would_not_call(name, tmp_path):
    mine, _ = twins("relu")
    with pytest.raises(InputError, match=f"activation is relu, so {name} is not called: replace linear"):
        mine.with_ops(**{name: whole_feed_forward})
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    mine.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"activation is relu, so {name} is not called"):
        minidistil.from_pretrained(tmp_path, ops=Ops(**{name: whole_feed_forward}))
    view = mine.with_ops(linear=lambda x, lin: 2 * lin(x), **{name: whole_feed_forward})
    assert not torch.allclose(view(batch), mine(batch))


@pytest.mark.parametrize(
    ("whole", "part"), [("feed_forward", "linear"), ("block", "attention"), ("block", "feed_forward")]
)
def test_replacing_a_part_of_a_replaced_operation_is_refused(whole, part):
    model = twins()[0]
    mine = WHOLES.get(part) or getattr(model.ops, part)
    view = model.with_ops(**{whole: WHOLES[whole]})
    message = (
        f"{whole} is already replaced as a whole and would not call {part}: pass {whole}=minidistil.ops.{whole}"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        view.with_ops(**{part: mine})
    assert view.with_ops(**{part: mine, whole: getattr(ops, whole)}).ops.block is ops.block


def test_a_model_with_a_replaced_block_cannot_be_traced():
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    with pytest.raises(InputError, match="block is already replaced as a whole"):
        minidistil.trace(twins()[0].with_ops(block=whole_block), batch)


def test_a_model_can_be_pickled():
    mine, _ = twins()
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    with torch.inference_mode():
        assert torch.equal(pickle.loads(pickle.dumps(mine))(batch), mine(batch))


def test_prepared_linear_layers_have_the_same_logits():
    mine = ours(theirs({}))
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    with torch.inference_mode():
        assert torch.equal(mine.with_ops(linear=prepared_linear())(batch), mine(batch))
        assert mine.with_ops(linear=prepared_linear()).with_ops(linear=linear).train().training


def test_a_prepared_state_is_made_once_and_never_copied():
    """The state may also be made from parameters that require gradients."""
    prepared = []

    def fuse(q, k, v):
        prepared.append(torch.cat([q.weight, k.weight, v.weight]))
        return prepared[-1], torch.cat([q.bias, k.bias, v.bias])

    fused = Prepared(fuse, lambda x, state: torch.nn.functional.linear(x, *state).chunk(3, dim=1))
    mine, _ = twins()
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    view = mine.with_ops(qkv=fused)
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(view(batch), mine(batch), atol=1e-5, rtol=0)
    assert len(prepared) == 2
    assert not any(weight.requires_grad for weight in prepared)
    assert len(minidistil.trace(view, batch).hidden) == 3
    assert len(prepared) == 2
    assert torch.equal(copy.deepcopy(view)(batch), view(batch))
    assert len(prepared) == 4


def test_a_module_that_replaces_a_linear_layer_is_used():
    """Adapters and quantizers replace layers like this."""
    model = ours(theirs({}))
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    with torch.inference_mode():
        before = model(batch)
        block = model.distilbert.transformer.layer[0]
        for parent, name in ((block.attention, "v_lin"), (block.ffn, "lin1")):
            adapted = torch.nn.Sequential(getattr(parent, name), torch.nn.Hardtanh())
            setattr(parent, name, adapted)
            after = model(batch)
            assert not torch.equal(after, before)
            before = after


def test_gradients_match_transformers():
    other = theirs({"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}).double().train()
    mine = ours(other).train()
    ids, mask = inputs("ragged", 17, 1000)
    target = torch.tensor([0, 1, 2, 0])
    torch.nn.functional.cross_entropy(mine(ids, mask), target).backward()
    torch.nn.functional.cross_entropy(other(input_ids=ids, attention_mask=mask).logits, target).backward()
    expected = dict(other.named_parameters())
    for name, parameter in mine.named_parameters():
        gradient = expected[name].grad
        if name.endswith("word_embeddings.weight"):
            gradient[0] = parameter.grad[0]  # transformers does not train the row of the padding token
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-12, rtol=1e-9, msg=name)


@pytest.mark.parametrize("key", ["dropout", "attention_dropout", "seq_classif_dropout"])
def test_each_dropout_is_applied_in_training_only(key):
    off = dict.fromkeys(["dropout", "attention_dropout", "seq_classif_dropout"], 0.0)
    model = ours(theirs({**off, key: 0.5}))
    batch = Batch.from_padded(*inputs("ragged", 17, 1000))
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def different_batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for i in range(count):
        n = 2 + i % 7
        lengths = torch.randint(2, 40, (n,), generator=generator).tolist() if i % 4 else [5 + i] * n
        batches.append(
            Batch.from_lists([torch.randint(0, 1000, (k,), generator=generator).tolist() for k in lengths])
        )
    return batches


@pytest.mark.full
@pytest.mark.parametrize("part", ["classifier", "encoder"])
def test_one_compilation_serves_twenty_batches_of_different_sizes(part):
    import torch._dynamo.testing

    mine = twins()[0] if part == "classifier" else twins()[0].distilbert
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(mine, fullgraph=True, dynamic=True, backend=counter)
    batches = different_batches(20)  # created outside inference mode, so that tensors keep track of their bases
    with torch.inference_mode():
        for batch in batches:
            torch.testing.assert_close(compiled(batch), mine(batch), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.full
def test_a_compiled_model_trains():
    mine = ours(theirs({})).train()
    torch._dynamo.reset()
    compiled = torch.compile(mine, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in different_batches(3):
        compiled(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in mine.parameters())


@pytest.mark.parametrize("keyword", ["token_type_ids", "head_mask", "banana"])
def test_an_unknown_keyword_is_refused(keyword):
    """transformers ignores these silently."""
    mine, _ = twins()
    ids, mask = inputs("equal", 2, 1000)
    for model in (mine, mine.distilbert):
        with pytest.raises(TypeError, match=f"unexpected arguments: {keyword}. A model takes input_ids and"):
            model(ids, mask, **{keyword: mask})


@pytest.mark.parametrize("form", ["alone", "ragged"])
def test_logits_of_a_row_without_tokens_are_finite_and_do_not_depend_on_other_rows(form):
    mine, _ = twins()
    ids, mask = inputs(form, 17, 1000)
    empty = torch.zeros_like(mask[:1])
    with torch.inference_mode():
        logits = mine(torch.cat([ids, ids[:1]]), torch.cat([mask, empty]))[-1]
        alone = mine(ids[:1] * 0, empty)[0]
    torch.testing.assert_close(logits, alone, atol=1e-6, rtol=1e-6)
    assert logits.isfinite().all()


def test_an_empty_batch_has_no_logits():
    mine, _ = twins()
    with torch.inference_mode():
        assert mine(Batch.from_lists([])).shape == (0, 3)
        assert mine(torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 3)
        assert mine.distilbert(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 64)


def test_random_weights_are_drawn_as_in_transformers():
    config = DistilBertConfig(dim=128, hidden_dim=256, n_layers=1, n_heads=2, vocab_size=500)
    torch.manual_seed(1)
    model = DistilBertForSequenceClassification(config)
    torch.manual_seed(1)
    again = DistilBertForSequenceClassification(config)
    for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        if name.endswith("bias"):
            assert (a == 0).all()
        elif "norm" in name.lower():
            assert (a == 1).all()
        else:
            assert 0.9 * config.initializer_range < a.std() < 1.1 * config.initializer_range
    assert (model.distilbert.embeddings.word_embeddings.weight[config.pad_token_id] == 0).all()


def test_a_new_sinusoidal_table_matches_transformers():
    values = {"sinusoidal_pos_embds": True, "dim": 64, "n_layers": 1, "n_heads": 2, "vocab_size": 100}
    other = transformers.DistilBertModel(transformers.DistilBertConfig(**values))
    mine = DistilBertModel(DistilBertConfig.from_dict(values))
    expected = other.embeddings.position_embeddings.weight
    torch.testing.assert_close(mine.embeddings.position_embeddings.weight, expected, atol=1e-6, rtol=0)


def test_parameter_names_match_the_hub():
    mine, other = twins()
    assert list(mine.state_dict()) == list(other.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_full_size_checkpoint_of_transformers(tmp_path, dtype):
    """Run the same checks at full size: 66M parameters, six layers of width 768."""
    names = {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"}
    full = {"vocab_size": 30522, "dim": 768, "hidden_dim": 3072, "n_heads": 12, "n_layers": 6, "id2label": names}
    other = theirs(full)
    other.save_pretrained(tmp_path)
    mine = minidistil.from_pretrained(tmp_path, dtype=dtype)
    assert sum(parameter.numel() for parameter in mine.parameters()) == 66_955_779
    other = other.to(dtype)
    other64 = copy.deepcopy(other).double()
    my_errors, their_errors = [], []
    for form, length in [("alone", 1), ("alone", 512), ("equal", 17), ("ragged", 128), ("holes", 128)]:
        ids, mask = inputs(form, length, 30522)
        with torch.inference_mode():
            reference = other64(input_ids=ids, attention_mask=mask).logits
            expected = other(input_ids=ids, attention_mask=mask).logits
            logits = mine(ids, mask)
        my_errors.append((logits.double() - reference).flatten())
        their_errors.append((expected.double() - reference).flatten())
        if dtype in (torch.float32, torch.float64):
            worst = ((logits - expected).abs().max() / expected.abs().max()).item()
            limit = 1e-5 if dtype == torch.float32 else 1e-12
            assert worst < limit, first_difference(mine, other, ids, mask)
    if dtype != torch.float64:
        my_error, their_error = torch.cat(my_errors), torch.cat(their_errors)
        assert my_error.square().mean().sqrt() <= 1.5 * their_error.square().mean().sqrt()
        assert my_error.abs().max() <= 3 * their_error.abs().max()
