"""Prepared weights are never stale, however the weights of the model were changed."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref

import pytest
import torch

from minidistil import Batch, InputError, Prepared, ops
from minidistil.backends import int8, onednn
from support.twins import inputs, ours, theirs, twins

BATCH = Batch.from_padded(*inputs("ragged", 17, 1000))


def copy_weights(lin):
    return lin.weight.detach().clone(), lin.bias.detach().clone()


def multiply(x, state):
    return torch.nn.functional.linear(x, *state)


def fuse(q, k, v):
    return torch.cat([q.weight, k.weight, v.weight]), torch.cat([q.bias, k.bias, v.bias])


def multiply_fused(x, state):
    return multiply(x, state).chunk(3, dim=1)


def copied():
    """Return operations on exact copies of the weights."""
    return {"linear": Prepared(copy_weights, multiply), "qkv": Prepared(fuse, multiply_fused)}


def prepared_models():
    """Return a model, and views with each kind of prepared operations that runs on this machine."""
    model = ours(theirs({}))
    kinds = [copied(), int8.quantized()]
    if onednn.works(model.device, model.dtype):
        kinds.append(onednn.prepacked())
    return model, [model.with_ops(**kind) for kind in kinds]


def answer(model):
    with torch.inference_mode():
        return model(BATCH)


def assert_fresh(model, views):
    """Check that each view has the logits of a new view, which has not prepared anything yet."""
    model.eval()
    for view in views:
        fresh = model.with_ops(
            **{name: copy.copy(op) for name, op in vars(view.ops).items() if op_is_prepared(op)}
        )
        assert torch.equal(answer(view), answer(fresh))


def op_is_prepared(op):
    return isinstance(op, Prepared)


def step(optimizer_class, **options):
    def change(model, through):
        optimizer = optimizer_class(model.parameters(), lr=0.1, **options)
        model.train()
        model(BATCH).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()

    return change


class LoRA(torch.nn.Linear):
    """A subclass of nn.Linear, as in adapter libraries."""


def replace_linear(model, through):
    attention = through.distilbert.transformer.layer[0].attention
    torch.manual_seed(1)
    attention.v_lin = torch.nn.Linear(64, 64)
    through.eval()


def load(model, through):
    torch.manual_seed(2)
    through.load_state_dict({name: torch.randn_like(tensor) for name, tensor in through.state_dict().items()})


def load_and_assign(model, through):
    torch.manual_seed(3)
    tensors = {name: torch.randn_like(tensor) for name, tensor in through.state_dict().items()}
    through.load_state_dict(tensors, assign=True)


@torch.no_grad()
def in_place(model, through):
    through.distilbert.transformer.layer[1].attention.out_lin.weight.mul_(2)


@torch.no_grad()
def in_place_bias(model, through):
    through.distilbert.transformer.layer[0].ffn.lin2.bias.add_(1)


def data_of_another(model, through):
    parameter = through.distilbert.transformer.layer[0].ffn.lin1.weight
    parameter.data = parameter.data * 3


CHANGES = {
    "sgd": step(torch.optim.SGD),
    "adamw": step(torch.optim.AdamW, foreach=False, fused=False),
    "foreach adamw": step(torch.optim.AdamW, foreach=True),
    "fused adamw": step(torch.optim.AdamW, fused=True),
    "fused sgd": step(torch.optim.SGD, fused=True),
    "load_state_dict": load,
    "load_state_dict(assign=True)": load_and_assign,
    "a new linear layer": replace_linear,
    "in place": in_place,
    "a bias in place": in_place_bias,
    "reset_parameters": lambda model, through: through.reset_parameters(),
    "other data": data_of_another,
    "train and back": lambda model, through: through.train().eval(),
    "float64 and back": lambda model, through: through.to(torch.float64).to(torch.float32),
}


@pytest.mark.parametrize("through", ["the model", "a view", "another view"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_view_notices_a_change_of_the_weights(change, through):
    model, views = prepared_models()
    before = [answer(view) for view in views]  # prepares
    assert all(torch.equal(answer(view), expected) for view, expected in zip(views, before, strict=True))
    changed = {"the model": model, "a view": views[0], "another view": model.with_ops(embed=ops.embed)}[through]
    CHANGES[change](model, changed)
    assert_fresh(model, views)
    if change not in ("train and back", "float64 and back"):
        assert not any(torch.equal(answer(view), old) for view, old in zip(views, before, strict=True))


def test_weights_are_prepared_again_after_a_change_of_dtype():
    model = ours(theirs({}))
    view = model.with_ops(**copied())
    answer(view)
    torch.testing.assert_close(answer(view.to(torch.float64)), answer(model), atol=1e-12, rtol=1e-12)
    assert answer(view).dtype == torch.float64


@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("prepare_first", [True, False])
def test_copies_and_pickles_exclude_the_prepared_weights(duplicate, prepare_first):
    _, views = prepared_models()
    for view in views:
        expected = answer(view)
        if duplicate == "deepcopy":
            twin = copy.deepcopy(view)
        elif duplicate == "pickle":
            twin = pickle.loads(pickle.dumps(view))
        else:
            file = io.BytesIO()
            torch.save(view, file)
            twin = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        for name, op in vars(twin.ops).items():
            if op_is_prepared(op):
                assert op is not getattr(view.ops, name)
                assert not op._entries
        if prepare_first:
            assert torch.equal(answer(twin), expected)
        in_place(twin, twin)
        assert torch.equal(answer(view), expected)
        assert not torch.equal(answer(twin), expected)


def test_prepared_weights_do_not_make_a_pickle_larger():
    model = ours(theirs({}))
    view = model.with_ops(**copied())
    size = len(pickle.dumps(view))
    answer(view)
    assert len(pickle.dumps(view)) == size


@pytest.mark.full
def test_prepared_weights_are_freed_with_the_modules_and_with_the_operation():
    model = ours(theirs({}))
    operations = copied()
    view = model.with_ops(**operations)
    answer(view)
    states = [weakref.ref(entry.state[0]) for op in operations.values() for entry in op._entries.values()]
    assert len(states) == 6
    assert all(state() is not None for state in states)
    del view, model
    gc.collect()
    assert all(state() is None for state in states)
    view = ours(theirs({})).with_ops(**operations)
    answer(view)
    states = [weakref.ref(entry.state[0]) for op in operations.values() for entry in op._entries.values()]
    keep = view.distilbert.transformer
    del view, operations
    gc.collect()
    assert all(state() is None for state in states)
    del keep


def test_training_mode_and_forward_hooks_are_refused():
    model, views = prepared_models()
    for view in views:
        model.train()
        with pytest.raises(InputError, match=r"in training mode.* call eval\(\)"):
            answer(view)
        model.eval()
        model.distilbert.transformer.layer[0].attention.q_lin.train()
        with pytest.raises(InputError, match=r"in training mode.* call eval\(\)"):
            answer(view)
        model.eval()
        layer = model.distilbert.transformer.layer[0].attention.k_lin
        hooks = (layer.register_forward_hook, layer.register_forward_pre_hook)
        for register in hooks:
            hook = register(lambda *_: None)
            with pytest.raises(InputError, match="a Linear has forward hooks"):
                answer(view)
            hook.remove()
        answer(view)


def test_a_view_for_inference_has_no_dropout():
    """The model checks the mode, so that the operation does not have to."""

    def attention(*args):
        return ops.attention(*args)

    attention.live = False
    model = ours(theirs({"dropout": 0.5, "attention_dropout": 0.5}))
    view = model.with_ops(attention=attention)
    assert torch.equal(answer(view), answer(model))
    with pytest.raises(InputError, match="in training mode, but its operations are for inference"):
        answer(view.train())


@pytest.mark.parametrize("frozen", [True, False])
def test_a_wrapper_without_live_loses_no_gradient_silently(frozen):
    """With frozen embeddings, the input of the first layer requires no gradient, but its weights do."""
    inner = Prepared(copy_weights, multiply)
    model = ours(theirs({}))
    model.distilbert.embeddings.requires_grad_(not frozen)
    view = model.with_ops(linear=lambda x, lin: inner(x, lin))
    assert view.ops.live
    with pytest.raises(InputError, match=r"prepared weights have no gradients.*inference_mode\(\)"):
        view(BATCH)
    assert torch.equal(answer(view), answer(model))


def test_no_gradients_flow_where_an_operation_is_not_live():
    model = ours(theirs({}))
    assert not model.with_ops(**copied()).distilbert(BATCH).requires_grad
    assert model.distilbert(BATCH).requires_grad


def adapters(lin):
    """Yield layers that compute something else with the same tensors."""
    yield torch.nn.Sequential(lin, torch.nn.ReLU())
    yield torch.nn.utils.parametrize.register_parametrization(copy.deepcopy(lin), "weight", torch.nn.Identity())
    yield LoRA(*lin.weight.T.shape)
    same = LoRA(*lin.weight.T.shape)
    same.weight, same.bias = lin.weight, lin.bias
    yield same


@pytest.mark.parametrize(
    "name", ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"]
)
@pytest.mark.parametrize("used_before", [False, True])
def test_adapters_inside_a_prepared_layer_are_refused(name, used_before):
    model, (_, quantized, *rest) = prepared_models()
    block = model.distilbert.transformer.layer[0]
    lin = block.get_submodule(name)
    for view in (quantized, *rest):
        for adapter in adapters(lin):
            if used_before:
                answer(view)
            block.set_submodule(name, adapter.eval())
            with pytest.raises(InputError, match=r"only nn\.Linear can be (quantized|prepacked).*merge it"):
                answer(view)
            block.set_submodule(name, lin)


@pytest.mark.parametrize("name", ["forward", "weight", "bias"])
def test_attributes_that_replace_a_part_of_a_layer_are_refused(name):
    model, views = prepared_models()
    lin = model.distilbert.transformer.layer[1].ffn.lin2
    for view in views:
        answer(view)
    value = torch.nn.functional.relu if name == "forward" else getattr(lin, name).detach().clone()
    lin._parameters.pop(name, None)
    setattr(lin, name, value)
    for view in views:
        with pytest.raises(InputError, match=f"the {name} of a Linear was replaced by an attribute"):
            answer(view)


def test_a_layer_of_another_class_with_the_same_tensors_is_noticed():
    model, (_, quantized, *rest) = prepared_models()
    for view in (quantized, *rest):
        answer(view)
    model.distilbert.transformer.layer[0].attention.v_lin.__class__ = LoRA
    for view in (quantized, *rest):
        with pytest.raises(InputError, match="merge it"):
            answer(view)


def test_global_forward_hooks_are_refused():
    _, views = prepared_models()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    try:
        for view in views:
            with pytest.raises(InputError, match="global forward hooks"):
                answer(view)
    finally:
        handle.remove()


def test_a_prepared_model_loads_under_swapped_parameters():
    """The views hold no weak references to parameters, which PyTorch could not swap."""
    model, views = prepared_models()
    for view in views:
        answer(view)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.load_state_dict(state)
        model.to(torch.float32)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert_fresh(model, views)


def test_a_layer_without_bias_is_refused():
    model, (_, quantized, *rest) = prepared_models()
    model.distilbert.transformer.layer[0].ffn.lin1.bias = None
    for view in (quantized, *rest):
        with pytest.raises(InputError, match="has no bias"):
            answer(view)


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = ours(theirs({}))
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        lin = torch.nn.Linear(4, 4).eval()
        with pytest.raises(InputError, match="cannot be prepared: load the model outside it"):
            Prepared(copy_weights, multiply)(torch.zeros(1, 4), lin)


def test_changes_of_a_layer_without_bias_are_noticed():
    lin = torch.nn.Linear(4, 4, bias=False).eval()
    op = Prepared(lambda lin: (lin.weight.detach().clone(),), multiply)
    x = torch.ones(1, 4)
    with torch.inference_mode():
        assert torch.equal(op(x, lin), lin(x))
    bias = torch.nn.Parameter(torch.ones(4))
    with torch.no_grad():
        lin.weight.add_(1)
    with torch.inference_mode():
        assert torch.equal(op(x, lin), lin(x))
        op.prepare = copy_weights
        lin.bias = bias
        assert torch.equal(op(x, lin), lin(x))


def test_eight_threads_prepare_once():
    prepared = []

    def prepare(lin):
        prepared.append(lin)
        return copy_weights(lin)

    model = ours(theirs({}))
    view = model.with_ops(linear=Prepared(prepare, multiply))
    expected, barrier, wrong = answer(model), threading.Barrier(8), []

    def run():
        barrier.wait()
        if not torch.equal(answer(view), expected):
            wrong.append(1)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(prepared) == len(set(map(id, prepared))) == 4  # out_lin and lin2 of two layers


def test_a_fused_step_increments_versions_as_other_steps_do():
    lin = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(lin.parameters(), fused=True)
    lin(torch.ones(1, 4)).sum().backward()
    version = lin.weight._version
    optimizer.step()
    assert lin.weight._version > version


def test_a_fused_step_is_noticed_when_a_hook_clears_the_gradients():
    model, views = prepared_models()
    for view in views:
        answer(view)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    optimizer.register_step_post_hook(lambda optimizer, args, kwargs: optimizer.zero_grad())
    model(BATCH).square().sum().backward()
    optimizer.step()
    assert_fresh(model, views)


@pytest.mark.full
def test_one_compilation_serves_a_prepared_view():
    import torch._dynamo.testing

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    view = ours(theirs({})).with_ops(**copied())
    batches = [Batch.from_lists([[1 + i] * n for i in range(2 + n % 3)]) for n in range(3, 23)]
    with torch.inference_mode():
        expected = [view(batch) for batch in batches]
        compiled = torch.compile(view, fullgraph=True, dynamic=True, backend=counter)
        for batch, logits in zip(batches, expected, strict=True):
            torch.testing.assert_close(compiled(batch), logits, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_a_step_of_distributed_data_parallel_is_noticed(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, views = prepared_models()
        before = [answer(view) for view in views]
        parallel = torch.nn.parallel.DistributedDataParallel(model.train())
        optimizer = torch.optim.AdamW(parallel.parameters(), lr=0.1, fused=True)
        parallel(*BATCH.padded()).square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        assert_fresh(model, views)
        assert not any(torch.equal(answer(view), old) for view, old in zip(views, before, strict=True))
    finally:
        torch.distributed.destroy_process_group()


def test_functional_call_uses_the_given_parameters():
    model = ours(theirs({}))
    changed = {name: tensor * 1.5 for name, tensor in model.named_parameters()}
    view = model.with_ops(**copied())
    with torch.inference_mode():
        expected = torch.func.functional_call(model, changed, (BATCH,))
        assert torch.equal(torch.func.functional_call(view, changed, (BATCH,)), expected)
        assert torch.equal(view(BATCH), model(BATCH))


def test_the_shared_twins_were_not_changed():
    assert not twins()[0].training
