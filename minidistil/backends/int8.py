"""The products again, in integers of 8 bits: a quarter of the memory, and products several times as fast.

A number x becomes the integer q = round(x / scale), from -127 to 127, so that x is about q · scale. Which
numbers share a scale decides everything: a scale must reach the largest of them, and the others get what steps
are left. Here each output of a layer has its own scale for its weights, and each token its own scale for what it
brings, measured as it comes:

    x ≈ q_x · s_x  (a scale for each row)         W ≈ q_W · s_W  (a scale for each row)
    x Wᵀ + b ≈ (q_x q_Wᵀ) · s_x · s_W + b         the product in brackets is of integers, and exact

No token's answer hangs on its neighbours, since no scale is shared between tokens. Attention, GELU, LayerNorm and
the head's two small layers stay as they are: they are a small part of the work. The table of words, a third of a
base model, is stored in 8 bits too, with a scale for each word, and looked up as float32.

Letters in shapes: T tokens, K and N a product's input and output width.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..ops import Ops, Product

LEVELS = 127  # -128 is left out: then -x is as exact as x
SMALLEST = 1e-30  # a scale for rows of zeros
ROWS = 512  # how many tokens are worked on at once where AMX multiplies
EXACT = 2.0**16  # a scale keeps 16 binary digits, so that q · scale is exact in float32, and found again


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Give integers and a scale a row, x ≈ whole · scale: (R, K) -> int8 (R, K), float32 (R, 1)."""
    scale = x.abs().amax(1, keepdim=True).float().div_(LEVELS).clamp_(min=SMALLEST)
    return torch.div(x, scale).round_().to(torch.int8), scale


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize what is stored: int8 (R, K), float32 (R, 1). Quantizing whole · scale gives the same two again."""
    if weight.is_meta:  # there is nothing to compute, and trying to would import half of torch's compiler
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
    def of(cls, lin: nn.Linear) -> Linear8:
        """Quantize a layer."""
        return cls(*quantize_weight(lin.weight.detach()), lin.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """Refuse: plain products read other layers."""
        raise InputError("this layer is stored in 8 bits, which only int8.PRODUCTS read: load it in another dtype")


Layer: TypeAlias = nn.Linear | Linear8


class State(NamedTuple):
    """One product's weights, or three side by side: query, key and value share what is quantized for them."""

    weight: Tensor  # (N, K) int8; on a CPU with fast 8-bit products as oneDNN lays it out, for `by_onednn` only
    scale: Tensor  # (N,)
    zeros: Tensor  # (N,): where oneDNN lets a scale's zero lie elsewhere, ours lies at 0
    bias: Tensor  # (N,)
    onednn: bool


def prepare(*layers: Layer) -> State:
    """Quantize linear layers, if they are not, and put them side by side."""
    parts = [layer if isinstance(layer, Linear8) else Linear8.of(layer) for layer in layers]
    weight = torch.cat([part.weight for part in parts])
    scale = torch.cat([part.weight_scale for part in parts]).flatten()
    bias = torch.cat([part.bias for part in parts])
    onednn = weight.is_cpu and torch.cpu._is_vnni_supported() and torch.backends.mkldnn.is_available()
    if onednn:
        weight = torch.ops.onednn.qlinear_prepack(weight, None)
    return State(weight, scale, torch.zeros_like(scale, dtype=torch.int32), bias, onednn)


def linear(x: Tensor, state: State) -> Tensor:
    """x Wᵀ + b: (T, K) -> (T, N)."""
    return _by_rows(x, state)


def linear_gelu(x: Tensor, state: State) -> Tensor:
    """GELU(x Wᵀ + b): (T, K) -> (T, N)."""
    return _by_rows(x, state, gelu=True)


def qkv(x: Tensor, state: State) -> tuple[Tensor, ...]:
    """Query, key and value of each token: (T, D) -> three of (T, D), columns of one result."""
    return _by_rows(x, state).chunk(3, dim=1)


def feed_forward(x: Tensor, states: tuple[State, State]) -> Tensor:
    """Two products and GELU between them, for some tokens at a time: (T, D) -> (T, D)."""
    wide, narrow = states
    parts = [linear(linear_gelu(some, wide), narrow) for some in x.split(_at_once(x))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _at_once(x: Tensor) -> int:
    """Give how many rows are worked on at once.

    AMX multiplies so fast that what lies between products should not leave the processor's cache: of 2,048 tokens
    that takes a fifth of a feed-forward's time off. Elsewhere fewer and larger products win, 5 % of the whole.
    """
    return ROWS if x.is_cpu and torch.cpu._is_amx_tile_supported() else max(1, len(x))


def _by_rows(x: Tensor, state: State, gelu: bool = False) -> Tensor:
    rows = _at_once(x)
    if len(x) <= rows:
        return _of_rows(x, state, gelu).to(x.dtype)
    out = x.new_empty(len(x), len(state.bias), dtype=torch.float32)
    for some, place in zip(x.split(rows), out.split(rows), strict=True):
        _of_rows(some, state, gelu, place)
    return out.to(x.dtype)


def _of_rows(x: Tensor, state: State, gelu: bool, place: Tensor | None = None) -> Tensor:
    multiply = by_onednn if state.onednn else by_int_mm
    whole, scale = quantize(x)
    y = multiply(whole, state)  # (rows, N) float32
    place = y if place is None else place
    torch.addcmul(state.bias, y, scale, out=y if gelu else place)
    return torch.ops.aten.gelu.out(y, out=place) if gelu else place


def by_onednn(whole: Tensor, state: State) -> Tensor:
    """(q_x q_Wᵀ) · s_W: int8 (T, K) -> float32 (T, N). oneDNN could scale by x too, but by one number for all.

    AMX multiplies signed by signed numbers. AVX-512 multiplies unsigned by signed ones only, and has oneDNN take
    signed ones through a loop a thousand times as slow: so 0 moves to 128 there, which is exact too.
    """
    zero = 0 if torch.cpu._is_amx_tile_supported() else 128
    if zero:
        whole = whole.view(torch.uint8) + zero  # modulo 256
    return torch.ops.onednn.qlinear_pointwise(
        whole, 1.0, zero, state.weight, state.scale, state.zeros, None, 1.0, 0, torch.float32, "none", [], "none"
    )


def by_int_mm(whole: Tensor, state: State) -> Tensor:
    """Multiply as `by_onednn` does, on any device. CUDA's product takes 17 rows or more."""
    missing = max(0, 17 - len(whole)) if whole.is_cuda else 0
    product = torch._int_mm(F.pad(whole, (0, 0, 0, missing)), state.weight.t())
    return product[: len(whole)] * state.scale


PRODUCTS = {
    "qkv": Product(prepare, qkv),
    "linear": Product(prepare, linear),
    "linear_gelu": Product(prepare, linear_gelu),
    "feed_forward": Product(lambda *layers: tuple(map(prepare, layers)), feed_forward),
}


def compose(ops: Ops | None) -> Ops:
    """Give operations with 8-bit products; InputError where others' products are already among them."""
    ops, plain = ops or Ops(), Ops()
    taken = [name for name in (*PRODUCTS, "block") if getattr(ops, name) is not getattr(plain, name)]
    if taken:
        raise InputError(f"dtype is 'int8', but ops brings its own {', '.join(taken)}: leave out one of the two")
    return dataclasses.replace(ops, **PRODUCTS)  # type: ignore[arg-type]


def layers(model: nn.Module) -> dict[str, Layer]:
    """Find the layers that are stored in 8 bits, by name: the blocks' own."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, Layer)}
    return {name: part for name, part in found.items() if ".layer." in f".{name}"}


@torch.no_grad()
def quantize_model(model: nn.Module) -> None:
    """Store a model's layers in 8 bits, and let its table of words hold what 8 bits hold."""
    for name, lin in layers(model).items():
        model.set_submodule(name, Linear8.of(lin))  # type: ignore[arg-type]
    words = dict(model.named_parameters())[_words(model)]
    whole, scale = quantize_weight(words)
    if not words.is_meta:
        words.data = whole * scale


def _words(model: nn.Module) -> str:
    return next(name for name, _ in model.named_parameters() if name.endswith("word_embeddings.weight"))


@torch.no_grad()
def pack_up(model: nn.Module) -> dict[str, Tensor]:
    """Give what a file holds of a quantized model: its tensors by name, the table of words in 8 bits too."""
    tensors: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    words = _words(model)
    tensors[words], tensors[f"{words}_scale"] = quantize_weight(tensors[words])
    return tensors


def unpack(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give what a model holds of a file's tensors."""
    words = _words(model)
    scale = tensors[f"{words}_scale"]
    others = {name: tensor for name, tensor in tensors.items() if name != f"{words}_scale"}
    return {**others, words: tensors[words] * scale}
