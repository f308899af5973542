"""Linear layers in 8-bit integers: a quarter of the memory, and faster matmuls where the CPU has them.

A number x becomes the integer q = round(x / scale), from -127 to 127, so that x ≈ q · scale. The
largest number of a group determines its scale, so smaller numbers lose precision. Here each output of a layer has
its own scale for its weights (per channel), and each token its own for its activations (per token, dynamic):

    x ≈ q_x · s_x  (one scale per row)            W ≈ q_W · s_W  (one scale per row)
    x Wᵀ + b ≈ (q_x q_Wᵀ) · s_x · s_W + b         an exact matmul of integers, in brackets

No scale is shared between tokens, so the result for a token does not depend on the other tokens of the batch.
Each device has a kernel of its own for the matmul of integers (`processor.py`). All are exact.
Attention, GELU, LayerNorm and the head's linear layers stay in floating point: they are a small part of the work.
The word embeddings, a third of a base model, are stored in 8 bits too, with one scale per word, and read as
float32.

Shapes: T tokens, R rows, K and N input and output width of a linear layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..ops import Ops
from . import fbgemm, onednn, processor
from .prepared import Prepared, refuse_adapters

LEVELS = 127  # -128 is not used, so that the range is symmetric
SMALLEST = 1e-30  # the scale of a row of zeros
ROWS = 512  # number of rows that are computed at a time on AMX
EXACT = 2.0**16  # a scale keeps 16 binary digits, so that q · scale is exact in float32, and q can be recovered


def scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers from -127 to 127, not rounded, and one scale per row: (R, K) -> float32 (R, K), (R, 1)."""
    scale = x.abs().amax(1, keepdim=True).float().div_(LEVELS).clamp_(min=SMALLEST)
    return torch.div(x, scale).float(), scale


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers and one scale per row, x ≈ q · scale: (R, K) -> int8 (R, K), float32 (R, 1)."""
    quotients, scale = scaled(x)
    return quotients.round_().to(torch.int8), scale


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize weights to be stored: int8 (R, K), float32 (R, 1). Quantizing q · scale returns the same two."""
    if weight.is_meta:  # nothing to compute, and computing on meta would import large parts of torch's compiler
        return torch.empty_like(weight, dtype=torch.int8), torch.empty_like(weight[:, :1])
    weight = weight.float()
    scale = (weight.abs().amax(1, keepdim=True) / LEVELS).clamp_(min=SMALLEST)
    digits, exponent = torch.frexp(scale)
    scale = torch.ldexp((digits * EXACT).ceil() / EXACT, exponent)
    return (weight / scale).round_().to(torch.int8), scale


class Linear8(nn.Module):
    """A linear layer whose weight is stored in 8 bits."""

    weight: Tensor  # (N, K) int8
    weight_scale: Tensor  # (N, 1) float32
    bias: Tensor  # (N,) float32

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)

    @classmethod
    def from_linear(cls, lin: nn.Linear) -> Linear8:
        """Quantize a layer."""
        return cls(*quantize_weight(lin.weight.detach()), lin.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """Raise InputError: only the operations of this module read 8-bit layers."""
        raise InputError(
            "this layer is stored in 8 bits, which only the operations of backends.int8 read: "
            "load the checkpoint in another dtype"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linear8:
        _refuse_conversion(fn)
        return super()._apply(fn, recurse)


class Table8(nn.Module):
    """An embedding table in float32, rounded to values that 8 bits and one scale per row represent exactly."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Table8:
        _refuse_conversion(fn)  # raises before any other module is converted
        return super()._apply(fn, recurse)


def _refuse_conversion(fn: Callable[[Tensor], Tensor]) -> None:
    """Raise InputError if a conversion, such as half(), would change the dtype of the scales."""
    dtype = str(fn(torch.empty(0)).dtype).removeprefix("torch.")
    if dtype != "float32":
        raise InputError(f"an int8 model cannot be converted to {dtype}: load the checkpoint with dtype='{dtype}'")


Layer: TypeAlias = nn.Linear | Linear8


class State(NamedTuple):
    """The weights of one matmul: one layer, or query, key and value together, whose input is quantized once."""

    kernel: str  # "onednn", "fbgemm", "int_mm" or "float32"
    weight: Any  # (N, K), as the kernel reads it
    scale: Tensor  # (N,)
    zeros: Tensor  # (N,) zero points, which are 0
    bias: Tensor  # (N,)


def prepare(*layers: Layer) -> State:
    """Quantize linear layers unless they are already, and concatenate them. Raises InputError for other layers."""
    refuse_adapters("quantized", *layers, kinds=(nn.Linear, Linear8))
    parts = [layer if isinstance(layer, Linear8) else Linear8.from_linear(layer) for layer in layers]
    weight: Any = torch.cat([part.weight for part in parts])
    scale = torch.cat([part.weight_scale for part in parts]).flatten()
    bias = torch.cat([part.bias for part in parts])
    kernel = processor.int8_kernel(weight.device)
    if kernel == "onednn":
        weight = torch.ops.onednn.qlinear_prepack(weight, None)
    elif kernel == "fbgemm":
        weight = fbgemm.prepack(*fbgemm.fit(weight, scale))
    elif kernel == "float32":
        weight = _dequantized(weight, scale, bias)
    return State(kernel, weight, scale, torch.zeros_like(scale, dtype=torch.int32), bias)


def _dequantized(weight: Tensor, scale: Tensor, bias: Tensor) -> onednn.Prepacked | nn.Linear:
    """Return a layer in float32, prepacked if possible, for devices where 8-bit matmuls are slower."""
    lin = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    lin.weight = nn.Parameter(weight * scale[:, None], requires_grad=False)
    lin.bias = nn.Parameter(bias, requires_grad=False)
    return onednn.prepack(lin) if onednn.works(weight.device, torch.float32) else lin


def prepare_each(*layers: Layer) -> tuple[State, ...]:
    """Quantize linear layers, each for a matmul of its own."""
    return tuple(map(prepare, layers))


def linear(x: Tensor, state: State) -> Tensor:
    """x Wᵀ + b: (T, K) -> (T, N)."""
    return _by_rows(x, state)


def linear_gelu(x: Tensor, state: State) -> Tensor:
    """GELU(x Wᵀ + b): (T, K) -> (T, N)."""
    return _by_rows(x, state, gelu=True)


def qkv(x: Tensor, state: State) -> tuple[Tensor, ...]:
    """Project each token to query, key and value: (T, D) -> three of (T, D), columns of one result."""
    return _by_rows(x, state).chunk(3, dim=1)


def feed_forward(x: Tensor, states: tuple[State, State], *, ops: Ops | None = None) -> Tensor:
    """Apply two linear layers with GELU between them, to `_rows_at_a_time` tokens at once: (T, D) -> (T, D)."""
    state1, state2 = states
    parts = [linear(linear_gelu(rows, state1), state2) for rows in x.split(_rows_at_a_time(x))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rows_at_a_time(x: Tensor) -> int:
    """Return the number of rows that are computed at a time.

    With AMX, matmuls are so fast that intermediate results should stay in the cache: for 2,048 tokens that saves a
    fifth of the feed-forward's time. Without, fewer and larger matmuls make the whole model 5 % faster.
    """
    return ROWS if x.is_cpu and torch.cpu._is_amx_tile_supported() else max(1, len(x))


def _by_rows(x: Tensor, state: State, gelu: bool = False) -> Tensor:
    if state.kernel == "float32":
        return _in_float32(x.float(), state.weight, gelu).to(x.dtype)
    rows = _rows_at_a_time(x)
    if len(x) <= rows:
        return _matmul(x, state, gelu).to(x.dtype)
    out = x.new_empty(len(x), len(state.bias), dtype=torch.float32)
    for x_rows, out_rows in zip(x.split(rows), out.split(rows), strict=True):
        _matmul(x_rows, state, gelu, out_rows)
    return out.to(x.dtype)


def _matmul(x: Tensor, state: State, gelu: bool, out: Tensor | None = None) -> Tensor:
    quotients, scale = scaled(x)
    y = multiply(quotients, state)  # (R, N) float32
    out = y if out is None else out
    torch.addcmul(state.bias, y, scale, out=y if gelu else out)
    return torch.ops.aten.gelu.out(y, out=out) if gelu else out


def _in_float32(x: Tensor, layer: onednn.Prepacked | nn.Linear, gelu: bool) -> Tensor:
    if isinstance(layer, onednn.Prepacked):
        return onednn.linear_gelu(x, layer) if gelu else onednn.linear(x, layer)
    return F.gelu(layer(x)) if gelu else layer(x)


def multiply(quotients: Tensor, state: State) -> Tensor:
    """Round x / s_x to integers, in place, and multiply: (q_x q_Wᵀ) · s_W, float32 (R, K) -> (R, N)."""
    if state.kernel == "fbgemm":
        return fbgemm.multiply(quotients, state.weight)
    integers = quotients.round_().to(torch.int8)
    return by_onednn(integers, state) if state.kernel == "onednn" else by_int_mm(integers, state)


def by_onednn(integers: Tensor, state: State) -> Tensor:
    """(q_x q_Wᵀ) · s_W: int8 (R, K) -> float32 (R, N). oneDNN can apply s_x too, but only one for all rows.

    AMX multiplies signed by signed integers. AVX-512 VNNI multiplies unsigned by signed; for signed by signed,
    oneDNN would fall back to a loop a thousand times slower. There the zero point is 128, which is exact too.
    """
    zero_point = 0 if torch.cpu._is_amx_tile_supported() else 128
    if zero_point:
        integers = integers.view(torch.uint8) + zero_point  # modulo 256
    return torch.ops.onednn.qlinear_pointwise(
        *(integers, 1.0, zero_point, state.weight, state.scale, state.zeros, None),
        *(1.0, 0, torch.float32, "none", [], "none"),
    )


def by_int_mm(integers: Tensor, state: State) -> Tensor:
    """Compute the same as `by_onednn` on CUDA, whose integer matmul needs at least 17 rows."""
    missing = max(0, 17 - len(integers)) if integers.is_cuda else 0
    out = torch._int_mm(F.pad(integers, (0, 0, 0, missing)), state.weight.t())
    return out[: len(integers)] * state.scale


def quantized() -> dict[str, Prepared]:
    """Return the operations, for `with_ops`. They keep a quantized copy of the weights of each model."""
    return {
        "qkv": Prepared(prepare, qkv),
        "linear": Prepared(prepare, linear),
        "linear_gelu": Prepared(prepare, linear_gelu),
        "feed_forward": Prepared(prepare_each, feed_forward),
    }


def compose(ops: Ops | None) -> Ops:
    """Return operations with 8-bit linear layers. Raises InputError if `ops` replaces linear layers already."""
    ops, operations = ops or Ops(), quantized()
    taken = [name for name in (*operations, "block") if getattr(ops, name) is not getattr(Ops, name)]
    if taken:
        raise InputError(
            f"dtype='int8' cannot be combined with ops that replace {', '.join(taken)}: pass one or the other"
        )
    return dataclasses.replace(ops, **operations)


def layers(model: nn.Module) -> dict[str, Layer]:
    """Return the linear layers of the blocks, which are stored in 8 bits, by name."""
    named = {name: module for name, module in model.named_modules() if isinstance(module, Layer)}
    return {name: module for name, module in named.items() if ".layer." in f".{name}"}


@torch.no_grad()
def quantize_model(model: nn.Module) -> None:
    """Store the blocks' linear layers in 8 bits, and round the word embeddings to 8 bits, in place."""
    for name, lin in layers(model).items():
        model.set_submodule(name, Linear8.from_linear(lin).train(lin.training))  # type: ignore[arg-type]
    name = _word_embeddings(model)
    words: nn.Parameter = model.get_parameter(name)
    integers, scale = quantize_weight(words)
    if not words.is_meta:
        words.data = integers * scale
    model.set_submodule(name.removesuffix(".weight"), Table8(words).train(model.training))


def _word_embeddings(model: nn.Module) -> str:
    return next(name for name, _ in model.named_parameters() if name.endswith("word_embeddings.weight"))


@torch.no_grad()
def to_stored(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a quantized model's file, by name, with the word embeddings in 8 bits."""
    tensors: dict[str, Any] = dict(model.named_parameters()) | dict(model.named_buffers())
    name = _word_embeddings(model)
    tensors[name], tensors[f"{name}_scale"] = quantize_weight(tensors[name])
    return tensors


def from_stored(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a quantized model, by name, from those of its file."""
    name = _word_embeddings(model)
    scale = tensors[f"{name}_scale"]
    others = {key: tensor for key, tensor in tensors.items() if key != f"{name}_scale"}
    return {**others, name: tensors[name] * scale}
