"""Tokens, their ids and their text, with the names of transformers' tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import tokenizers

from .checkpoint.arguments import TOKENIZER_ATTRIBUTES, missing_attribute
from .checks import is_int, plain
from .errors import CheckpointError, InputError

SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
NAMED_TOKENS = ("bos_token", "eos_token", *SPECIAL_TOKENS)  # in the order of transformers
CLEANED = (
    " .",
    " ?",
    " !",
    " ,",
    " ' ",
    " n't",
    " 'm",
    " 's",
    " 've",
    " 're",
)  # spaces to strip from decoded text, in this order


def _special_token(role: str) -> Any:
    """Return a property: the special token of a role, or None."""
    return property(lambda vocabulary: special_token(vocabulary.settings, role))


def _special_id(role: str) -> Any:
    """Return a property: the id of the special token of a role, None if the vocabulary has none."""
    return property(lambda vocabulary: vocabulary.special_tokens().get(role))


class Vocabulary:
    """The tokens of a tokenizer of the tokenizers library, and the keys of tokenizer_config.json."""

    __slots__ = ("backend", "settings")  # so that setting another attribute, without effect, is an error

    backend: tokenizers.Tokenizer
    settings: dict[str, Any]
    is_fast = property(lambda self: True, doc="True: the tokenizers library is transformers' fast tokenizer.")
    padding_side = property(lambda self: "right", doc='"right": where `padded` of a batch pads.')
    unk_token, unk_token_id = _special_token("unk_token"), _special_id("unk_token")
    sep_token, sep_token_id = _special_token("sep_token"), _special_id("sep_token")
    pad_token, pad_token_id = _special_token("pad_token"), _special_id("pad_token")
    cls_token, cls_token_id = _special_token("cls_token"), _special_id("cls_token")
    mask_token, mask_token_id = _special_token("mask_token"), _special_id("mask_token")

    if not TYPE_CHECKING:  # type checkers know the attributes

        def __getattr__(self, name):
            """Raise AttributeError, which names what replaces an attribute of transformers' tokenizers."""
            raise missing_attribute(self, name, TOKENIZER_ATTRIBUTES)

    def __len__(self) -> int:
        """Return the number of tokens, added tokens included."""
        return self.backend.get_vocab_size()

    @property
    def vocab_size(self) -> int:
        """The number of tokens without added tokens."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    @property
    def vocab(self) -> dict[str, int]:
        """The id of each token, added tokens included."""
        return self.get_vocab()

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token, added tokens included."""
        return self.backend.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """Return the id of each added token; special tokens are among them."""
        added = self.backend.get_added_tokens_decoder()
        return {added[index].content: index for index in sorted(added)}

    def add_tokens(self, tokens: str | Sequence[str], special_tokens: bool = False) -> int:
        """Add tokens that are never split, and return how many are new; see `resize_token_embeddings`."""
        added = [tokens] if isinstance(tokens, str) else list(tokens)
        return self.backend.add_special_tokens(added) if special_tokens else self.backend.add_tokens(added)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens by role, such as "mask_token"."""
        tokens = {role: special_token(self.settings, role) for role in NAMED_TOKENS}
        return {role: token for role, token in tokens.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens: those with a role, and others that the files name."""
        others = map(token_content, other_special_tokens(self.settings))
        return list(dict.fromkeys([*self.special_tokens_map.values(), *others]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of the special tokens."""
        ids: list[int] = self.convert_tokens_to_ids(self.all_special_tokens)
        return ids

    def special_tokens(self) -> dict[str, int]:
        """Return the ids of the special tokens that the vocabulary has, by role, such as "mask_token"."""
        ids = {role: self.backend.token_to_id(token) for role, token in self.special_tokens_map.items()}
        return {role: index for role, index in ids.items() if index is not None}

    def id_of(self, role: str) -> int:
        """Return the id of a special token, such as "mask_token". Raises CheckpointError if it is missing."""
        token = special_token(self.settings, role)
        index = None if token is None else self.backend.token_to_id(token)
        if index is None:
            raise CheckpointError(f"the tokenizer has no {role}: its vocabulary lacks {token}")
        return index

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the id of a token, or a list of ids of tokens; that of the unknown token for any other text."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self.backend.token_to_id(tokens)
        return self.unk_token_id if index is None else index

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or a list of tokens; None for an id beyond the vocabulary."""
        if is_int(plain(ids)):
            return self.backend.id_to_token(_checked_ids(ids)[0])
        special = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.backend.id_to_token(i) for i in _checked_ids(ids) if i not in special]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""
        decoder = self.backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """Return the text of token ids: a list, an array or a tensor. Return a list of texts for a list of those.

        clean_up_tokenization_spaces: remove spaces before punctuation; None: as tokenizer_config.json sets it.
        """
        if _is_nested(ids):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        text = self.backend.decode(_checked_ids(ids), skip_special_tokens=skip_special_tokens)
        clean = clean_up_tokenization_spaces
        if self.settings.get("clean_up_tokenization_spaces") if clean is None else clean:
            for mark in CLEANED:
                text = text.replace(mark, mark.strip())
        return text

    def batch_decode(self, ids: Any, *options: Any, **named: Any) -> list[str]:
        """Return the text of each list of token ids; see `decode`."""
        return [self.decode(row, *options, **named) for row in ids]


def special_token(settings: dict[str, Any], role: str) -> Any:
    """Return the token of a role, such as "mask_token"; None if the settings have none."""
    return token_content(settings.get(role, SPECIAL_TOKENS.get(role)))


def other_special_tokens(settings: dict[str, Any]) -> list[Any]:
    """Return the special tokens without a role that the settings list."""
    others = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    return list(others.values() if isinstance(others, dict) else others)


def token_content(token: Any) -> Any:
    """Return a special token as a string; it is stored as a string, or as an object with flags."""
    return token.get("content") if isinstance(token, dict) else token


def _is_nested(ids: Any) -> bool:
    """Return whether ids are several lists of token ids."""
    if hasattr(ids, "ndim"):
        return bool(ids.ndim > 1)
    return isinstance(ids, list | tuple) and len(ids) > 0 and isinstance(ids[0], list | tuple)


def _checked_ids(ids: Any) -> list[int]:
    """Return token ids as a list. Raises InputError for anything else."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    values = [*map(plain, values)] if isinstance(values, Iterable) else [values]
    if not all(is_int(i) and 0 <= i < 2**32 for i in values):
        raise InputError(f"ids is {ids!r:.60}: expected token ids", subject="ids")
    return values
