"""Text → lists of token ids, or a `Batch`. A wrapper around the tokenizers library that does not import torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tokenizers

from .checks import check_text, is_int
from .errors import CheckpointError, InputError

if TYPE_CHECKING:
    from .layout import Batch

NO_LIMIT = 2**62  # the largest length that the library takes
TRUNCATIONS = ("longest_first", "only_first", "only_second", "error")
SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
LOCK = threading.Lock()  # truncation is a setting of the library's tokenizer, not an argument


class Encoded(NamedTuple):
    """Token ids of each text or pair, special tokens included."""

    ids: list[list[int]]
    truncated: int  # number of texts that were truncated


class Tokenizer:
    """Converts texts, or pairs of texts, to token ids."""

    def __init__(self, backend: tokenizers.Tokenizer, max_length: int, settings: dict[str, Any] | None = None):
        """Wrap a tokenizer of the tokenizers library.

        Args:
            backend: the library's tokenizer.
            max_length: tokens to which texts are truncated, special tokens included.
            settings: the keys of tokenizer_config.json, kept for saving.
        """
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.max_length = max_length
        self.settings = settings or {}
        pad = special_token(self.settings, "pad_token")
        backend.encode_special_tokens = bool(self.settings.get("split_special_tokens"))
        self.pad_id = 0 if pad is None else backend.token_to_id(pad) or 0

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> Tokenizer:
        """Load tokenizer.json, or vocab.txt, with tokenizer_config.json and the files of older versions.

        name, revision: as for `minidistil.from_pretrained`. Raises CheckpointError, which names the file.
        """
        from .checkpoint.tokenizer import load_tokenizer

        return load_tokenizer(name, revision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them."""
        from .checkpoint.tokenizer import save_tokenizer

        save_tokenizer(self, folder)

    def to_json(self) -> str:
        """Return the content of tokenizer.json."""
        with LOCK:
            self.backend.no_truncation()
            return self.backend.to_str(pretty=True)

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: str = "longest_first",
    ) -> Batch:
        """Encode a text, n texts, or n pairs of texts, as one Batch.

        Args:
            texts: a text, or a list of texts.
            pairs: the second text of each pair, if there are pairs.
            max_length: most tokens of a text or pair, special tokens included; None: as many as the model takes.
            truncation: which text is truncated to fit: "longest_first", "only_first" or "only_second"; "error":
                none, longer ones raise.

        Raises InputError for a text that cannot be encoded or truncated to fit. `batch.truncated` is the number of
        texts that were truncated.
        """
        from .layout import Batch  # imports torch

        encoded = self.encode(texts, pairs, max_length=max_length, truncation=truncation)
        return Batch.from_lists(encoded.ids, truncated=encoded.truncated, pad_id=self.pad_id)

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: str = "longest_first",
        names: Sequence[str] | None = None,
    ) -> Encoded:
        """Encode to lists of token ids; see `__call__`. names: of the texts, for error messages."""
        encodings = self.encodings(
            texts, pairs, max_length=max_length, truncation=truncation, names=names, offsets=False
        )
        return Encoded([e.ids for e in encodings], sum(bool(e.overflowing) for e in encodings))

    def encodings(
        self,
        texts: Sequence[str] | Sequence[Sequence[str]],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: str = "longest_first",
        stride: int = 0,
        names: Sequence[str] | None = None,
        offsets: bool = True,
        words: bool = False,
    ) -> list[tokenizers.Encoding]:
        """Encode to encodings of the tokenizers library, which know more about each token; see `__call__`.

        Args:
            texts, pairs, max_length, truncation: as for `__call__`.
            stride: tokens that adjacent parts of a truncated text share. Further parts are in `overflowing`.
            names: of the texts, for error messages.
            offsets: whether to compute the offsets of each token in its text.
            words: each text is a list of words.
        """
        if isinstance(texts, str) and pairs == "":
            pairs = None  # as in transformers: for a single text an empty pair is no pair
        texts = _listed(texts, "texts")
        pairs = None if pairs is None else _listed(pairs, "pairs")
        limit = self._limit(max_length, pairs is not None, stride)
        if truncation not in TRUNCATIONS:
            raise InputError(f"truncation is {truncation!r}: expected one of {', '.join(TRUNCATIONS)}")
        if truncation == "only_second" and pairs is None:
            raise InputError("truncation is 'only_second' but there are no pairs to truncate")
        inputs = _checked_words(texts) if words else _checked(texts, pairs)
        names = names or [f"texts[{i}]" for i in range(len(inputs))]
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        with LOCK:
            if truncation == "error":
                self.backend.no_truncation()
            else:
                side = self.settings.get("truncation_side", "right")
                self.backend.enable_truncation(limit, stride=stride, strategy=truncation, direction=side)
            encodings = _encode_all(lambda batch: encode(batch, is_pretokenized=words), inputs, names)
        for name, encoding in zip(names, encodings, strict=True):
            if len(encoding) > limit:
                raise InputError(
                    f"{name} has {len(encoding)} tokens, more than {limit}: truncate it with another truncation "
                    "than 'error'"
                )
        return encodings

    def _limit(self, max_length: int | None, paired: bool, stride: int) -> int:
        """Return the most tokens of a sequence, after a check that it has room for text and for the stride."""
        for name, value in (("max_length", max_length), ("stride", stride)):
            if value is not None and (not is_int(value) or value < 0):
                raise InputError(f"{name} is {value!r}: expected an integer")
        limit = min(self.max_length if max_length is None else max_length, NO_LIMIT)
        special = self.backend.num_special_tokens_to_add(paired)
        if limit <= special:
            raise InputError(f"max_length is {limit}: {special} special tokens leave no room for text")
        if limit <= special + stride:
            raise InputError(f"stride is {stride}: expected less than the {limit - special} tokens of a part")
        return limit

    def id_of(self, role: str) -> int:
        """Return the id of a special token, such as "mask_token". Raises CheckpointError if there is none."""
        token = special_token(self.settings, role)
        index = None if token is None else self.backend.token_to_id(token)
        if index is None:
            raise CheckpointError(f"the tokenizer has no {role}: its vocabulary lacks {token}")
        return index


def special_token(settings: dict[str, Any], role: str) -> Any:
    """Return the token of a role, such as "mask_token"; None if the settings have none."""
    return token_content(settings.get(role, SPECIAL_TOKENS.get(role)))


def token_content(token: Any) -> Any:
    """Return a special token as a string: it is stored as one, or as a map with flags."""
    return token.get("content") if isinstance(token, dict) else token


def is_library_failure(error: BaseException) -> bool:
    """Return whether the library failed. A panic of its Rust code is not an Exception; neither is Ctrl-C."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _encode_all(
    encode: Callable[[list[Any]], list[tokenizers.Encoding]], inputs: list[Any], names: Sequence[str]
) -> list[tokenizers.Encoding]:
    try:
        return encode(inputs)
    except BaseException as failure:
        if not is_library_failure(failure):
            raise
        for name, text in zip(names, inputs, strict=True):  # the library does not report which text failed
            try:
                encode([text])
            except Exception as error:
                raise InputError(f"{name} cannot be truncated to fit: {error}") from error
            except BaseException as error:
                if not is_library_failure(error):
                    raise
                raise CheckpointError(f"the tokenizer is broken: {name} makes it panic: {error}") from error
        raise


def _listed(texts: object, what: str) -> list[Any]:
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise InputError(f"{what} is {type(texts).__name__}: expected a string or a list of them")
    return list(texts)


def _checked(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Any]:
    for i, text in enumerate(texts):
        check_text(text, f"texts[{i}]")
    if pairs is None:
        return list(texts)
    for i, text in enumerate(pairs):
        check_text(text, f"pairs[{i}]")
    if len(pairs) != len(texts):
        raise InputError(f"there are {len(texts)} texts but {len(pairs)} pairs: expected one for each")
    return list(zip(texts, pairs, strict=True))


def _checked_words(texts: Sequence[Sequence[str]]) -> list[Any]:
    for i, words in enumerate(texts):
        if isinstance(words, str) or not isinstance(words, Sequence):
            raise InputError(f"texts[{i}] is {type(words).__name__}: expected a list of words")
        for j, word in enumerate(words):
            check_text(word, f"texts[{i}][{j}]")
    return [list(words) for words in texts]
