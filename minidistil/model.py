"""DistilBERT: embeddings, six transformer blocks, and the base class of every model that is built from them.

Every parameter has its Hub name: `distilbert.transformer.layer.0.attention.q_lin.weight` is the path through the
modules below. Tokens of all sequences are packed into one (T, D) tensor; a `Layout` marks the sequence boundaries,
and `Ops` does the arithmetic. Sanh et al. 2019, https://arxiv.org/abs/1910.01108.

Shapes: T tokens, D model width, F feed-forward width, H heads, d = D / H, n sequences, L padded length. Tq tokens
are computed in the last block where only some outputs are needed: a classifier reads one token per sequence.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DistilBertConfig
from .errors import InputError
from .layout import Batch, Layout, enter
from .ops import Ops

EPS = 1e-12  # of every LayerNorm
M = TypeVar("M", bound="Model")


class Embeddings(nn.Module):
    """Word and position embeddings."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.word_embeddings = Table(config.vocab_size, config.dim)
        self.position_embeddings = Table(config.max_position_embeddings, config.dim)
        self.LayerNorm = layer_norm(config.dim)
        self.dropout = config.dropout

    def forward(self, ids: Tensor, layout: Layout, ops: Ops) -> Tensor:
        """Embed: (T,) -> (T, D)."""
        word, position, norm = self.word_embeddings.weight, self.position_embeddings.weight, self.LayerNorm
        x = ops.embed(ids, layout.position_ids, word, position, norm.weight, norm.bias, norm.eps)
        return F.dropout(x, self.dropout, self.training)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.q_lin = linear_layer(config.dim, config.dim)
        self.k_lin = linear_layer(config.dim, config.dim)
        self.v_lin = linear_layer(config.dim, config.dim)
        self.out_lin = linear_layer(config.dim, config.dim)

    def forward(self, x: Tensor, layout: Layout, queries: Layout, ops: Ops) -> Tensor:
        """Attend from the tokens of `queries` to all tokens of their sequence: (T, D) -> (Tq, D)."""
        projections = ops.qkv(x, self.q_lin, self.k_lin, self.v_lin)
        q, k, v = (y.unflatten(1, (self.n_heads, -1)) for y in projections)  # three of (T, H, d)
        dropout_p = self.dropout if self.training else 0.0
        context = ops.attention(queries.select(q), k, v, queries, layout, dropout_p)  # (Tq, H, d)
        return ops.linear(context.flatten(1), self.out_lin)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.activation = config.activation
        self.dropout = config.dropout
        self.lin1 = linear_layer(config.dim, config.hidden_dim)
        self.lin2 = linear_layer(config.hidden_dim, config.dim)

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        """Apply to each token: (T, D) -> (T, F) -> (T, D)."""
        if self.activation == "relu":
            x = ops.linear(F.relu(ops.linear(x, self.lin1)), self.lin2)
        else:
            x = ops.feed_forward(x, self.lin1, self.lin2, ops=ops)
        return F.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual connection and LayerNorm."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.attention = Attention(config)
        self.sa_layer_norm = layer_norm(config.dim)
        self.ffn = FeedForward(config)
        self.output_layer_norm = layer_norm(config.dim)

    def forward(self, x: Tensor, layout: Layout, queries: Layout, ops: Ops) -> Tensor:
        """Return the new hidden states of the tokens of `queries`: (T, D) -> (Tq, D)."""
        attended, norm = self.attention(x, layout, queries, ops), self.sa_layer_norm
        x = ops.add_norm(attended, queries.select(x), norm.weight, norm.bias, norm.eps)
        fed, norm = self.ffn(x, ops), self.output_layer_norm
        return ops.add_norm(fed, x, norm.weight, norm.bias, norm.eps)


class Transformer(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.layer = nn.ModuleList(Block(config) for _ in range(config.n_layers))

    def forward(self, x: Tensor, layout: Layout, queries: Layout, ops: Ops) -> Tensor:
        """Run all blocks: (T, D) -> (Tq, D). Only the last may skip tokens: every other output is read in full."""
        *lower, last = self.layer
        for block in lower:
            x = ops.block(x, block, layout=layout, queries=layout, ops=ops)
        return ops.block(x, last, layout=layout, queries=queries, ops=ops)


class Model(nn.Module):
    """Base of the encoder and of every head."""

    ops: Ops  # of the encoder; a head uses those of its encoder

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.config = config

    # nn.Module stores the mode in each module. Views must share it, so it is read from a submodule of both.
    training = property(lambda self: next(self.children()).training, lambda self, mode: None)

    def with_ops(self: M, **changes: Any) -> M:
        """Return a view of this model with some operations replaced: `model.with_ops(attention=mine)`.

        A view shares the modules, so changes of parameters, train() and eval() apply to both. Raises TypeError
        for a name that is not an operation, InputError for an operation that would not be called.
        """
        unused = {"feed_forward", "linear_gelu"} & changes.keys()
        if unused and self.config.activation != "gelu" and not {"linear", "block"} & changes.keys():
            raise InputError(
                f"activation is {self.config.activation}, so {min(unused)} is not called: replace linear"
            )
        view = copy.copy(self)
        view._modules = {
            name: module.with_ops(**changes) if isinstance(module, Model) else module  # a head's encoder
            for name, module in self._modules.items()
        }
        if "ops" in vars(self):
            view.ops = self.ops.replace(**changes)
        return view

    def initialize(self, device: torch.device | str) -> None:
        """Allocate the parameters on a device and draw random weights; leave them without storage on "meta"."""
        if torch.device(device).type != "meta":
            self.to_empty(device=device)
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights as transformers does: normal with `initializer_range`, biases 0, LayerNorm weights 1."""
        draw(self, self.config.initializer_range)
        for module in self.modules():
            if isinstance(module, Embeddings) and self.config.pad_token_id is not None:
                module.word_embeddings.weight[self.config.pad_token_id] = 0
            if isinstance(module, Embeddings) and self.config.sinusoidal_pos_embds:
                module.position_embeddings.weight.copy_(sinusoids(*module.position_embeddings.weight.shape))

    def get_input_embeddings(self) -> Table:
        """Return the module of the word embeddings."""
        return next(module for module in self.modules() if isinstance(module, Embeddings)).word_embeddings

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters, in which the model computes."""
        return next(self.parameters()).dtype

    @classmethod
    def from_pretrained(cls: type[M], name: str | Path, **options: Any) -> M:
        """Load this class from a folder, a Hub id or weights/; see `minidistil.from_pretrained`."""
        from .checkpoint.load import load

        return load(cls, name, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into a folder, as transformers reads them."""
        from .checkpoint.save import save

        save(self, folder)


class DistilBertModel(Model):
    """The encoder: one vector per token. It holds the operations of the whole model."""

    def __init__(self, config: DistilBertConfig, device: torch.device | str = "cpu"):
        """Create the encoder with random weights, or without storage on "meta"."""
        super().__init__(config)
        self.ops = Ops()
        self.embeddings = Embeddings(config)
        self.transformer = Transformer(config)
        self.initialize(device)

    def encode(self, batch: Batch, queries: Layout | None = None) -> Tensor:
        """Return the last hidden states of all tokens, or of a `Subset`: (T,) -> (Tq, D)."""
        layout, ops = batch.layout, self.ops
        if (self.embeddings.training or self.transformer.training) and not ops.live:
            raise InputError("the model is in training mode, but its operations are for inference: call eval()")
        with torch.set_grad_enabled(torch.is_grad_enabled() and ops.live):  # else gradients would be incomplete
            x = self.embeddings(batch.ids, layout, ops)
            return self.transformer(x, layout, layout if queries is None else queries, ops)

    def forward(self, input_ids: Batch | Tensor, attention_mask: Tensor | None = None, **other: Any) -> Tensor:
        """Encode a Batch: (T, D); or padded ids and mask, both (n, L): (n, L, D), 0 at padding."""
        batch, leave = enter(input_ids, attention_mask, self.config, **other)
        return leave(self.encode(batch))


class Table(nn.Module):
    """An embedding table. nn.Embedding on the meta device would import torch._dynamo, which takes a second."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, device="meta"))


def linear_layer(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer without storage, which `Model.initialize` or a checkpoint fills."""
    return nn.Linear(inputs, outputs, device="meta")


def layer_norm(width: int) -> nn.LayerNorm:
    """Return a LayerNorm without storage."""
    return nn.LayerNorm(width, eps=EPS, device="meta")


def draw(parent: nn.Module, std: float) -> None:
    """Draw the weights of a module and its submodules with torch's generator."""
    for module in parent.modules():
        if isinstance(module, nn.Linear | Table):
            module.weight.normal_(0.0, std)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def sinusoids(positions: int, width: int) -> Tensor:
    """Return the position table of Attention Is All You Need, section 3.5: (positions, width)."""
    columns = torch.arange(width, dtype=torch.float64)
    rates = 10000.0 ** (-2 * (columns // 2) / width)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * rates
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).to(torch.float32)
