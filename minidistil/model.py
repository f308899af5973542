"""DistilBERT: embeddings, six transformer blocks, and the heads that stand on them. Logits, no loss.

Every parameter has the Hub's name: `distilbert.transformer.layer.0.attention.q_lin.weight` is the path
through the modules below. Tokens come in a flat list, and a `Layout` that says where sequences begin and
end travels beside them, with the `Ops` that do the work. Where `queries` are named, only their tokens ask: the
last block of a classifier need not compute what nobody reads. Sanh et al. 2019, https://arxiv.org/abs/1910.01108.

Letters in shapes: T tokens, D width of the model, F width of the feed-forward, H heads, d = D / H,
n sequences, L padded length, C labels, V words of the vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DistilBertConfig
from .errors import CheckpointError, InputError
from .layout import Batch, Layout, enter, enter_choices, first_tokens
from .ops import PARTS, Ops, Product

EPS = 1e-12  # of every LayerNorm
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}
M = TypeVar("M", bound="Model")


class Table(nn.Module):
    """Rows to look up. As nn.Embedding, which takes over a second to import its way to the meta device."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, device="meta"))


def norm(width: int) -> nn.LayerNorm:
    """Make the weight and bias of a LayerNorm."""
    return nn.LayerNorm(width, eps=EPS, device="meta")


def lin(inputs: int, outputs: int) -> nn.Linear:
    """Make the weight and bias of a product."""
    return nn.Linear(inputs, outputs, device="meta")


class Embeddings(nn.Module):
    """What each token is, plus where it stands."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.word_embeddings = Table(config.vocab_size, config.dim)
        self.position_embeddings = Table(config.max_position_embeddings, config.dim)
        self.LayerNorm = norm(config.dim)
        self.dropout = config.dropout

    def forward(self, ids: Tensor, layout: Layout, ops: Ops) -> Tensor:
        """Embed: (T,) -> (T, D)."""
        tables = self.word_embeddings.weight, self.position_embeddings.weight
        x = ops.embed(ids, layout.positions, *tables, self.LayerNorm.weight, self.LayerNorm.bias, EPS)
        return F.dropout(x, self.dropout, self.training)


class Attention(nn.Module):
    """Multi-head self-attention: each token gathers from the tokens of its sequence."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.states: Any = None  # a tuple that `prepare` made; None for live products
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.q_lin = lin(config.dim, config.dim)
        self.k_lin = lin(config.dim, config.dim)
        self.v_lin = lin(config.dim, config.dim)
        self.out_lin = lin(config.dim, config.dim)

    def prepare(self, ops: Ops) -> Any:
        """Let the products lay these weights out as they like."""
        return ops.qkv.prepare(self.q_lin, self.k_lin, self.v_lin), ops.linear.prepare(self.out_lin)

    def forward(self, x: Tensor, layout: Layout, ops: Ops, queries: Layout) -> Tensor:
        """Let the queries' tokens gather from all: (T, D) -> (Tq, D)."""
        qkv, out = self.prepare(ops) if self.states is None else self.states
        q, k, v = (y.unflatten(1, (self.n_heads, -1)) for y in ops.qkv.run(x, qkv))  # 3 of (T, H, d)
        dropout_p = self.dropout if self.training else 0.0
        context = ops.attention(queries.pick(q), k, v, queries, layout, dropout_p)  # (Tq, H, d)
        return ops.linear.run(context.flatten(1), out)


class FeedForward(nn.Module):
    """Two products with an activation between them, for each token alone."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.states: Any = None
        self.activation = config.activation
        self.dropout = config.dropout
        self.lin1 = lin(config.dim, config.hidden_dim)
        self.lin2 = lin(config.hidden_dim, config.dim)

    def prepare(self, ops: Ops) -> Any:
        """Let the products lay these weights out as they like."""
        if (whole := self.whole(ops)) is not None:
            return (whole.prepare(self.lin1, self.lin2),)
        return self.widen(ops).prepare(self.lin1), ops.linear.prepare(self.lin2)

    def whole(self, ops: Ops) -> Product | None:
        """Give what does all of this at once, if there is one: GELU is part of it, ReLU is not."""
        return ops.feed_forward if self.activation == "gelu" else None

    def widen(self, ops: Ops) -> Product:
        """Give the product of lin1: GELU is part of it, ReLU is not."""
        return ops.linear_gelu if self.activation == "gelu" else ops.linear

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        """Widen, activate, narrow: (T, D) -> (T, F) -> (T, D)."""
        state = self.prepare(ops) if self.states is None else self.states
        if (whole := self.whole(ops)) is not None:
            return F.dropout(whole.run(x, *state), self.dropout, self.training)
        state1, state2 = state
        hidden = self.widen(ops).run(x, state1)  # (T, F)
        hidden = F.relu(hidden) if self.activation == "relu" else hidden
        return F.dropout(ops.linear.run(hidden, state2), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then feed-forward, each added to what it read and normalised."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.states: Any = None
        self.attention = Attention(config)
        self.sa_layer_norm = norm(config.dim)
        self.ffn = FeedForward(config)
        self.output_layer_norm = norm(config.dim)

    def prepare(self, ops: Ops) -> Any:
        """Let an operation that is all of a block lay its weights out as it likes."""
        return None if ops.block is None else (ops.block.prepare(self),)

    def forward(self, x: Tensor, layout: Layout, ops: Ops, queries: Layout | None = None) -> Tensor:
        """(T, D) -> (Tq, D): every token's new value, or that of the queries' tokens only."""
        queries = layout if queries is None else queries
        if ops.block is not None:
            (state,) = self.prepare(ops) if self.states is None else self.states
            return ops.block.run(x, state, layout, queries)
        n1, n2 = self.sa_layer_norm, self.output_layer_norm
        attended = self.attention(x, layout, ops, queries)
        x = ops.add_norm(attended, queries.pick(x), n1.weight, n1.bias, EPS)
        return ops.add_norm(self.ffn(x, ops), x, n2.weight, n2.bias, EPS)


PREPARED = (Attention, FeedForward, Block)  # whose weights operations may lay out anew


class Transformer(nn.Module):
    """The blocks, one after the other."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.layer = nn.ModuleList(Block(config) for _ in range(config.n_layers))

    def forward(self, x: Tensor, layout: Layout, ops: Ops, queries: Layout | None = None) -> Tensor:
        """(T, D) -> (Tq, D). Only the last block may ask for fewer tokens: the others feed it all."""
        *lower, last = self.layer
        for block in lower:
            x = block(x, layout, ops)
        return last(x, layout, ops, queries)


class Model(nn.Module):
    """What every DistilBERT is: a config, one set of operations, and a way from and to files."""

    _ops: Ops

    def __init__(self, config: DistilBertConfig, device: torch.device | str = "cpu"):
        """Make a model with random weights on a device; on "meta" with none, for weights to be assigned."""
        super().__init__()
        self.config = config
        self.build()
        self._use(Ops())
        if torch.device(device).type != "meta":
            self.to_empty(device=device)
            self.reset_parameters()

    def build(self) -> None:
        """Make the modules, on the meta device: each class has its own."""
        raise TypeError(f"{type(self).__name__} is not a model: use one of its subclasses")

    @torch.no_grad()
    def _use(self, ops: Ops) -> None:
        for module in self.modules():
            if isinstance(module, Model):
                module._ops = ops
            elif isinstance(module, PREPARED):
                module.states = None if ops.live else module.prepare(ops)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights as transformers does: normal with `initializer_range`, biases 0, norms 1."""
        self._refuse_unless_live("be reset")
        draw(self, self.config.initializer_range)
        for module in self.modules():
            if isinstance(module, Embeddings) and self.config.pad_token_id is not None:
                module.word_embeddings.weight[self.config.pad_token_id] = 0
            if isinstance(module, Embeddings) and self.config.sinusoidal_pos_embds:
                module.position_embeddings.weight.copy_(sinusoids(*module.position_embeddings.weight.shape))

    def tie(self) -> None:
        """Make one of the parameters that are the same; most classes have none."""

    @property
    def ops(self) -> Ops:
        """The operations in use."""
        return self._ops

    def with_ops(self: M, **ops: Any) -> M:
        """Give another view of the same parameters, with some operations replaced, by their names in `Ops`.

        Example: `model.with_ops(attention=mine)`. TypeError for a name that `Ops` does not have. Products that
        hold a copy of the weights do not see what another view does to them later, and are refused in training
        (InputError); so is a part of what is done as a whole.
        """
        changed = dataclasses.replace(self._ops, **ops)
        for whole in PARTS.keys() - ops.keys():
            if getattr(changed, whole) is not None and (unheard := [part for part in PARTS[whole] if part in ops]):
                raise InputError(
                    f"{unheard[0]} is a part of {whole}, which these operations do as one: give {whole}=None too"
                )
        if self.training and not changed.live:
            raise InputError("these operations hold a copy of the weights, for inference only: call eval() first")
        # a copy of the modules, but not of what they hold: parameters are shared, prepared states left out
        memo: dict[int, Any] = {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}
        memo |= {id(part.states): None for part in self.modules() if isinstance(part, PREPARED)}
        view = copy.deepcopy(self, memo)
        view._use(changed)
        return view

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are stored as, and the model computes in."""
        return next(self.parameters()).dtype

    @classmethod
    def from_pretrained(cls: type[M], name: str | Path, **options: Any) -> M:
        """Load this class from a folder, a Hub id or weights/; see `minidistil.from_pretrained`."""
        from .checkpoint.load import load

        return load(cls, name, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into a folder, as transformers reads them."""
        from .checkpoint.load import save

        save(self, folder)

    def train(self: M, mode: bool = True) -> M:
        """Switch dropout on or off; refused for operations that hold a copy of the weights."""
        if mode:
            self._refuse_unless_live("be trained")
        return super().train(mode)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as nn.Module does; refused for operations that hold a copy of the weights."""
        self._refuse_unless_live("load other weights")
        result = super().load_state_dict(state_dict, strict, assign)
        self.tie()
        return result

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._refuse_unless_live("be moved or converted")
        super()._apply(fn, recurse)
        self.tie()
        return self

    def _refuse_unless_live(self, what: str) -> None:
        if not self._ops.live:
            raise InputError(
                f"this model cannot {what}: its operations hold a prepared copy of the weights, which would be "
                "left behind; do that to the model first, then hand the operations in with with_ops()"
            )


class DistilBertModel(Model):
    """The encoder: one vector for each token."""

    def build(self) -> None:
        """Make the embeddings and the blocks."""
        self.embeddings = Embeddings(self.config)
        self.transformer = Transformer(self.config)

    def encode(self, batch: Batch, queries: Layout | None = None) -> Tensor:
        """Give the last hidden state of every token, or of the queries' only: (T,) -> (Tq, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.ops.live):  # a copy's gradients would be lost
            x = self.embeddings(batch.ids, batch.layout, self.ops)
            return self.transformer(x, batch.layout, self.ops, queries)

    def forward(self, input_ids: Batch | Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode a Batch: (T, D); or padded ids and mask, both (n, L): (n, L, D), 0 at padding.

        `InputError` where ids, mask or lengths are not what this model reads.
        """
        batch, leave = enter(input_ids, attention_mask, self.config)
        return leave(self.encode(batch))


class SequenceHead(Model):
    """The encoder, and a head of two layers on each sequence's first token."""

    def build_head(self, outputs: int) -> None:
        """Make the encoder and the head."""
        config = self.config
        self.distilbert = DistilBertModel(config, device="meta")
        self.pre_classifier = lin(config.dim, config.dim)
        self.classifier = lin(config.dim, outputs)
        self.dropout = config.seq_classif_dropout

    def score(self, batch: Batch) -> Tensor:
        """Score each sequence: (T,) -> (n, outputs). One without any token is scored by the biases alone."""
        queries = first_tokens(batch)
        x = self.distilbert.encode(batch, queries)
        x = queries.pad(x).flatten(0, 1)  # (n, D)
        x = F.relu(self.pre_classifier(x))
        x = F.dropout(x, self.dropout, self.training)
        return self.classifier(x)


class DistilBertForSequenceClassification(SequenceHead):
    """A classifier of texts, or of pairs of them."""

    def build(self) -> None:
        """Make one output for each label."""
        self.build_head(self.config.num_labels)

    def forward(self, input_ids: Batch | Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Classify a Batch, or padded ids and mask, both (n, L): logits (n, C).

        `InputError` as for the encoder, and where a row's first position is masked.
        """
        batch, _ = enter(input_ids, attention_mask, self.config)
        return self.score(batch)


class DistilBertForMultipleChoice(SequenceHead):
    """A chooser between texts: each choice is a sequence, with one score."""

    def build(self) -> None:
        """Make one output."""
        self.build_head(1)

    def forward(self, input_ids: Batch | Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Score padded ids and mask, both (n, choices, L): (n, choices); or a Batch of m sequences: (m,).

        `InputError` as for the classifier.
        """
        batch, leave = enter_choices(input_ids, attention_mask, self.config)
        return leave(self.score(batch).squeeze(1))


class DistilBertForTokenClassification(Model):
    """A classifier of each token: the encoder, and one product."""

    def build(self) -> None:
        """Make the encoder and the head."""
        self.distilbert = DistilBertModel(self.config, device="meta")
        self.classifier = lin(self.config.dim, self.config.num_labels)
        self.dropout = self.config.dropout

    def forward(self, input_ids: Batch | Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Classify the tokens of a Batch: (T, C); or of padded ids and mask, both (n, L): (n, L, C)."""
        batch, leave = enter(input_ids, attention_mask, self.config)
        x = F.dropout(self.distilbert.encode(batch), self.dropout, self.training)
        return leave(self.classifier(x))


class SpanLogits(NamedTuple):
    """How likely an answer starts, and ends, at each token: (T,) each, or (n, L) each, 0 at padding."""

    start: Tensor
    end: Tensor


class DistilBertForQuestionAnswering(Model):
    """A finder of answers: the encoder, and two logits for each token."""

    def build(self) -> None:
        """Make the encoder and the head."""
        if self.config.num_labels != 2:
            raise CheckpointError(
                f"num_labels is {self.config.num_labels}: question answering has 2, start and end"
            )
        self.distilbert = DistilBertModel(self.config, device="meta")
        self.qa_outputs = lin(self.config.dim, 2)
        self.dropout = self.config.qa_dropout

    def forward(self, input_ids: Batch | Tensor, attention_mask: Tensor | None = None) -> SpanLogits:
        """Score the tokens of a Batch, or of padded ids and mask, both (n, L), as an answer's start and end."""
        batch, leave = enter(input_ids, attention_mask, self.config)
        x = F.dropout(self.distilbert.encode(batch), self.dropout, self.training)
        start, end = self.qa_outputs(x).unbind(1)
        return SpanLogits(leave(start), leave(end))


class DistilBertForMaskedLM(Model):
    """A guesser of masked tokens: the encoder, and a head that scores every word of the vocabulary."""

    def build(self) -> None:
        """Make the encoder and the head; its last product is the word table again, if the config ties them."""
        self.distilbert = DistilBertModel(self.config, device="meta")
        self.vocab_transform = lin(self.config.dim, self.config.dim)
        self.vocab_layer_norm = norm(self.config.dim)
        self.vocab_projector = lin(self.config.dim, self.config.vocab_size)
        self.tie()

    def tie(self) -> None:
        """Let the projector's weight be the word table, if the config says so."""
        if self.config.tie_word_embeddings:
            self.vocab_projector.weight = self.distilbert.embeddings.word_embeddings.weight

    def forward(self, input_ids: Batch | Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Score every word at the tokens of a Batch: (T, V); or of padded ids and mask, both (n, L): (n, L, V)."""
        batch, leave = enter(input_ids, attention_mask, self.config)
        return leave(self.project(self.distilbert.encode(batch)))

    def project(self, x: Tensor) -> Tensor:
        """Score every word in place of some hidden states: (T, D) -> (T, V)."""
        x = ACTIVATIONS[self.config.activation](self.vocab_transform(x))
        return self.vocab_projector(self.vocab_layer_norm(x))


def draw(parent: nn.Module, std: float) -> None:
    """Draw the weights of a module and all in it, with torch's generator: normal, biases 0, norms 1."""
    for module in parent.modules():
        if isinstance(module, nn.Linear | Table):
            module.weight.normal_(0.0, std)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def sinusoids(positions: int, width: int) -> Tensor:
    """Give the position table of Attention Is All You Need, section 3.5: (positions, width)."""
    columns = torch.arange(width, dtype=torch.float64)
    rates = 10000.0 ** (-2 * (columns // 2) / width)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * rates
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).to(torch.float32)
