"""Text → lists of token ids, or a `Batch`. A wrapper around the tokenizers library that does not import torch."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tokenizers
from tokenizers import normalizers, pre_tokenizers

from .checkpoint.arguments import TOKENIZING, refuse_arguments
from .checks import check_text, is_int, plain
from .errors import CheckpointError, InputError
from .forks import fork_safe_lock
from .vocabulary import Vocabulary, special_token

if TYPE_CHECKING:
    from .layout import Batch

NO_LIMIT = 2**62  # the largest length that the library accepts
TRUNCATIONS = ("longest_first", "only_first", "only_second", "error")
BOUNDARY = re.compile(r"[\s!-/:-@\[-`{-~]")  # a word ends before each of these in BERT's tokenization
CHINESE_BOUNDARY = re.compile(r"[\s!-/:-@\[-`{-~\u3001-\u3003\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
LONG_WORD = re.compile(r"(?<![0-9A-Za-z])[0-9A-Za-z]{1000,}")
LONGEST_WORD = 1000  # characters that are kept of a word: WordPiece does not know words of more than about 100
CHARACTERS = 4  # per token: longer texts are shortened before they are encoded
CHUNK = 1 << 16  # characters
MANY_PARTS = 16  # of both texts of a pair: the library combines them
MANY_ADDED = 1000  # characters of all added tokens; with more, texts are not cut beside one
ATTEMPTS = 100_000  # added tokens that are searched for around the places of one cut
LOCK = fork_safe_lock()  # truncation is a setting of the library's tokenizer, not an argument


class Encoded(NamedTuple):
    """Token ids of each text or pair, special tokens included."""

    ids: list[list[int]]
    truncated: int  # number of texts that were truncated


class Tokenizer(Vocabulary):
    """Converts texts, or pairs of texts, to token ids."""

    __slots__ = ("max_length", "pad_id")

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

    @property
    def model_max_length(self) -> int:
        """Tokens to which texts are truncated, special tokens included: `max_length`, as transformers calls it."""
        return self.max_length

    @model_max_length.setter
    def model_max_length(self, value: int) -> None:
        self.max_length = plain(value)

    @property
    def truncation_side(self) -> str:
        """The side on which texts are truncated: "right", or "left"."""
        side: str = self.settings.get("truncation_side", "right")
        return side

    @truncation_side.setter
    def truncation_side(self, side: str) -> None:
        if side not in ("left", "right"):
            raise InputError(f"truncation_side is {side!r}: expected left or right", subject="truncation_side")
        self.settings["truncation_side"] = side

    def __repr__(self) -> str:
        """Return the kind of the tokenizer, its number of tokens and its maximum length."""
        kind = type(self.backend.model).__name__
        return f"Tokenizer({kind}, {len(self)} tokens, max_length={self.max_length})"

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None, **options: Any) -> Tokenizer:
        """Load tokenizer.json, or vocab.txt, with tokenizer_config.json and the files of older versions.

        name, revision, and the options token and local_files_only: as for `minidistil.from_pretrained`. Raises
        CheckpointError, which names the file.
        """
        from .checkpoint.tokenizer import load_tokenizer

        return load_tokenizer(name, revision, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them."""
        from .checkpoint.tokenizer import save_tokenizer

        save_tokenizer(self, folder)

    def to_json(self) -> str:
        """Return the content of tokenizer.json."""
        with _own_truncation(self.backend):
            self.backend.no_truncation()
            return self.backend.to_str(pretty=True)

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool | str = True,
        **others: Any,
    ) -> Batch:
        """Encode a text, n texts, or n pairs of texts, as one Batch.

        Args:
            texts: a text, or a list of texts.
            pairs: the second text of each pair, if there are pairs.
            max_length: maximum tokens of a text or pair, special tokens included; None: the maximum of the model.
            truncation: which text is truncated to fit: "longest_first", which is True, "only_first" or
                "only_second"; "error", which is False: raise InputError for a longer text.
            others: arguments of transformers' tokenizers: values that hold anyway are accepted, and others raise
                InputError with their replacement.

        Raises InputError for a text that cannot be encoded or truncated to fit. `batch.truncated` is the number of
        texts that were truncated.
        """
        refuse_arguments("Tokenizer", others, TOKENIZING)
        from .layout import Batch  # imports torch

        encoded = self.encode(texts, pairs, max_length=max_length, truncation=truncation)
        return Batch.from_lists(encoded.ids, truncated=encoded.truncated, pad_id=self.pad_id)

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool | str = True,
        names: Sequence[str] | None = None,
        **others: Any,
    ) -> Encoded:
        """Encode to lists of token ids; see `__call__`. names: of the texts, for error messages."""
        refuse_arguments("encode", others, TOKENIZING)
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
        truncation: bool | str = True,
        stride: int | None = None,
        names: Sequence[str] | None = None,
        offsets: bool = True,
        words: bool = False,
    ) -> list[tokenizers.Encoding]:
        """Encode to `Encoding` objects of the tokenizers library: ids, offsets and word ids; see `__call__`.

        Args:
            texts, pairs, max_length, truncation: as for `__call__`.
            stride: tokens that adjacent parts of a truncated text share. All parts are in `overflowing`; with None
                it may have fewer, and a long text is not read to its end.
            names: of the texts, for error messages.
            offsets: whether to compute the offsets of each token in its text.
            words: each text is a list of words.
        """
        if isinstance(texts, str) and pairs == "":
            pairs = None  # as in transformers, a single text with an empty pair has no pair
        texts = _listed(texts, "texts")
        pairs = None if pairs is None else _listed(pairs, "pairs")
        limit = self._limit(plain(max_length), pairs is not None, plain(stride))
        truncation = truncation_strategy(truncation)
        if truncation not in TRUNCATIONS:
            raise InputError(f"truncation is {truncation!r}: expected one of {', '.join(TRUNCATIONS)}")
        if truncation == "only_second" and pairs is None:
            raise InputError("truncation is 'only_second' but there are no pairs to truncate")
        inputs = _checked_words(texts) if words else _checked(texts, pairs)
        names = names or [f"texts[{i}]" for i in range(len(inputs))]
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        with _own_truncation(self.backend):
            side = self.truncation_side

            def encode_batch(batch: list[Any]) -> list[tokenizers.Encoding]:
                if stride is None and not words:
                    compare = truncation == "longest_first"
                    batch = _shortened(self.backend, batch, limit, compare=compare, offsets=offsets, side=side)
                if truncation == "error":
                    self.backend.no_truncation()
                else:
                    self.backend.enable_truncation(limit, stride=stride or 0, strategy=truncation, direction=side)
                return encode(batch, is_pretokenized=words)

            encodings = _encode_all(encode_batch, inputs, names)
        for name, encoding in zip(names, encodings, strict=True):
            if len(encoding) > limit:
                raise InputError(
                    f"{name} has more than {limit} tokens: truncate it, with another truncation than 'error'",
                    subject=name,
                )
        return encodings

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Return the tokens of a text, or of a pair, without truncation."""
        check_text(text, "text")
        with _own_truncation(self.backend):
            self.backend.no_truncation()
            return self.backend.encode(text, pair, add_special_tokens=add_special_tokens).tokens

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return the number of special tokens of a text, or of a pair."""
        return self.backend.num_special_tokens_to_add(pair)

    def _limit(self, max_length: int | None, paired: bool, stride: int | None) -> int:
        """Return the maximum tokens of a sequence. Raises InputError if text and stride do not fit."""
        for name, value in (("max_length", max_length), ("stride", stride)):
            if value is not None and (not is_int(value) or value < 0):
                raise InputError(f"{name} is {value!r}: expected an integer of at least 0", subject=name)
        limit = min(self.max_length if max_length is None else max_length, NO_LIMIT)
        special = self.backend.num_special_tokens_to_add(paired)
        if limit <= special:
            raise InputError(
                f"max_length is {limit}: {special} special tokens leave no room for text", subject="max_length"
            )
        if limit <= special + (stride or 0):
            raise InputError(
                f"stride is {stride}: expected less than {limit - special} for this max_length", subject="stride"
            )
        return limit


def truncation_strategy(truncation: bool | str) -> str:
    """Convert a `truncation` argument of transformers to one of `TRUNCATIONS`."""
    if isinstance(truncation, bool):
        return "longest_first" if truncation else "error"
    return "error" if truncation == "do_not_truncate" else truncation


def is_library_failure(error: BaseException) -> bool:
    """Return whether the library failed. A panic in its Rust code is not an Exception; neither is Ctrl-C."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextlib.contextmanager
def _own_truncation(backend: tokenizers.Tokenizer) -> Iterator[None]:
    """Lock the truncation of a tokenizer, and restore it: a signal handler may have interrupted another call."""
    with LOCK:
        before = backend.truncation
        try:
            yield
        finally:
            backend.no_truncation() if before is None else backend.enable_truncation(**before)


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
            except BaseException as error:
                if not is_library_failure(error):
                    raise
                if isinstance(error, InputError) or str(error).startswith("Truncation error"):
                    raise InputError(f"{name} cannot be truncated to fit: {error}", subject=name) from error
                raise CheckpointError(
                    f"the tokenizer, which is broken, cannot encode {name}: {error}", subject=name
                ) from error
        raise


def _shortened(
    backend: tokenizers.Tokenizer, inputs: list[Any], limit: int, *, compare: bool, offsets: bool, side: str
) -> list[str | tuple[str, str]]:
    """Return texts, or pairs, without the ends that truncation to `limit` tokens removes anyway.

    The library first computes all tokens of a text, and all combinations of the parts of a pair: gigabytes for
    100 kB. Texts are cut between words where tokens depend only on their word, as in BERT's tokenization, and
    truncation is on the right. Otherwise only pairs are cut, after all tokens of both have been computed.

    Args:
        backend: the library's tokenizer.
        inputs: texts, or pairs.
        limit: tokens of a text or pair.
        compare: preserve which text of a pair has more tokens; if the limit is odd, one more token of it is kept.
        offsets: whether the offsets of tokens are needed.
        side: of the text that is truncated, "right" or "left".
    """
    normalizer = backend.normalizer
    long = [_longest(item) > CHARACTERS * limit for item in inputs]
    if not any(long):
        return inputs
    words: _Words
    if (
        side == "right"
        and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and (normalizer is None or isinstance(normalizer, normalizers.BertNormalizer))
    ):
        words = _Words(backend, offsets)
    elif isinstance(inputs[0], tuple):
        words = _WholeTexts(backend, offsets, side)
    else:
        return inputs
    backend.no_truncation()
    return [
        words.shortened(item, limit, compare) if is_long else item
        for item, is_long in zip(inputs, long, strict=True)
    ]


def _longest(item: str | tuple[str, str]) -> int:
    """Return the characters of a text, or of the longer text of a pair."""
    return len(item) if isinstance(item, str) else max(map(len, item))


class _Words:
    """Cuts long texts between words, as BERT's tokenization does. Disable truncation of the library first."""

    def __init__(self, backend: tokenizers.Tokenizer, offsets: bool):
        self.backend = backend
        self.offsets = offsets
        self.added = [token.content.lower() for token in backend.get_added_tokens_decoder().values()]
        chinese = getattr(backend.normalizer, "handle_chinese_chars", False)
        self.boundary = CHINESE_BOUNDARY if chinese else BOUNDARY
        # added tokens that have a boundary inside, so that a cut could split them
        added = [t for t in backend.get_added_tokens_decoder().values() if self.boundary.search(t.content, 1)]
        self.exact = {t.content for t in added if not t.normalized}
        self.normalized = {t.content.lower() for t in added if t.normalized}
        self.margin = max((len(t.content) for t in added), default=0)
        contents = self.exact | self.normalized
        compared = self.exact if sum(map(len, contents)) <= MANY_ADDED else ()
        self.separate = tuple(token for token in compared if not _overlaps(token, contents))

    def shortened(self, item: str | tuple[str, str], limit: int, compare: bool) -> str | tuple[str, str]:
        """Return a text or a pair without its end; see `_shortened`."""
        if isinstance(item, str):
            return self.beginning(item, limit)[0]
        (text, n), (pair, m) = (self.beginning(text, limit) for text in item)
        if compare and (text, pair) != item and min(n, m) > limit // 2:
            if not self.has_more_tokens(*item):
                pair = pair if n <= m else self.beginning(item[1], n)[0]
            elif n <= m:
                text = self.beginning(item[0], m)[0]
        if min(n, m) > MANY_PARTS * limit:
            raise InputError("the pair is too long, and cannot be cut: shorten its texts")
        return text, pair

    def count(self, text: str) -> int:
        """Return the number of tokens, without special tokens."""
        return len(self.backend.encode_batch_fast([text], add_special_tokens=False)[0])

    def collapsed(self, text: str) -> str:
        """Return a text of the same tokens, in which long words and runs of a character are shorter."""
        longest = getattr(self.backend.model, "max_input_chars_per_word", LONGEST_WORD)
        if len(text) <= 2 * CHUNK or longest >= LONGEST_WORD:
            return text
        parts, start = [], 0
        for i in range(0, len(text), LONGEST_WORD):
            character = text[i]
            if i < start or not text.startswith(character * LONGEST_WORD, i):
                continue
            run = re.compile(f"{re.escape(character)}*+").match(text, i)
            is_token = any(set(token) == {character.lower()} for token in self.added)
            if run and not is_token and self.count(character * LONGEST_WORD) <= 1:  # an unknown word, or nothing
                parts.append(text[start : i + LONGEST_WORD])
                start = run.end()
        text = "".join([*parts, text[start:]])
        if any(token.isascii() and token.isalnum() for token in self.added):
            return text
        return LONG_WORD.sub(lambda match: match[0][:LONGEST_WORD], text)

    def cut(self, text: str, start: int) -> int:
        """Return the first position from `start` on at which the text can be cut, or its length."""
        attempts = ATTEMPTS // (1 + len(self.exact) + len(self.normalized))
        for match in itertools.islice(self.boundary.finditer(text, start), 1 + attempts):
            at = match.start()
            if text.startswith(self.separate, at) or text.endswith(self.separate, 0, at):
                return at
            around = text[max(0, at - self.margin) : at + self.margin]
            lower = around.lower()
            if not any(token in around for token in self.exact) and not any(t in lower for t in self.normalized):
                return at
        return len(text)

    def beginning(self, text: str, tokens: int) -> tuple[str, int]:
        """Return a beginning of the text with more than `tokens` tokens, or all of it, and its token count."""
        length = 2 * (tokens + self.margin)
        while True:
            end = self.cut(text, length)
            part = self.collapsed(text[:end])
            count = self.count(part)
            if count > tokens + self.margin or end == len(text):
                return text[:end] if self.offsets else part, count
            length = 2 * end

    def has_more_tokens(self, text: str, other: str) -> bool:
        """Return whether a text has more tokens than another. Reads little more than the shorter of them."""
        texts, counts, starts = (text, other), [0, 0], [0, 0]
        while text != other:
            i = int(counts[1] < counts[0])
            if starts[i] >= len(texts[i]):  # the text with fewer tokens so far, or as many, has ended
                return i == 1
            end = self.cut(texts[i], starts[i] + CHUNK)
            counts[i] += self.count(self.collapsed(texts[i][starts[i] : end]))
            starts[i] = end
        return False


class _WholeTexts(_Words):
    """Cuts long texts of any tokenization, on either side. The kept tokens are compared with those of the text."""

    def __init__(self, backend: tokenizers.Tokenizer, offsets: bool, side: str):
        super().__init__(backend, offsets)
        self.left = side == "left"

    def ids(self, text: str) -> list[int]:
        """Return the token ids, without special tokens, from the side that is kept."""
        ids = self.backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids[::-1] if self.left else ids

    def beginning(self, text: str, tokens: int) -> tuple[str, int]:
        """Return a beginning of the text, or an end, with more than `tokens` tokens, and its token count."""
        ids = self.ids(text)
        length = 2 * tokens
        while length < len(text) and not (self.left and self.offsets):  # which count from the beginning
            part = text[-length:] if self.left else text[:length]
            found = self.ids(part)
            if len(found) > tokens and found[: tokens + 1] == ids[: tokens + 1]:
                return part, len(found)
            length *= 2
        return text, len(ids)

    def has_more_tokens(self, text: str, other: str) -> bool:
        """Return whether a text has more tokens than another."""
        return len(self.ids(text)) > len(self.ids(other))


def _overlaps(token: str, others: Iterable[str]) -> bool:
    """Return whether an occurrence of a token in a text can overlap one of another token, or of its own."""
    return any(
        (token != other and (token in other or other in token))
        or any(token.endswith(other[:i]) or other.endswith(token[:i]) for i in range(1, len(other)))
        for other in others
    )


def _listed(texts: object, what: str) -> list[Any]:
    texts = plain(texts)
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise InputError(f"{what} is {type(texts).__name__}: expected a string or a list of strings")
    return list(texts)


def _checked(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Any]:
    for i, text in enumerate(texts):
        check_text(text, f"texts[{i}]")
    if pairs is None:
        return list(texts)
    for i, text in enumerate(pairs):
        check_text(text, f"pairs[{i}]")
    if len(pairs) != len(texts):
        raise InputError(f"there are {len(texts)} texts but {len(pairs)} pairs: expected a pair for each text")
    return list(zip(texts, pairs, strict=True))


def _checked_words(texts: Sequence[Sequence[str]]) -> list[Any]:
    for i, words in enumerate(texts):
        if isinstance(words, str) or not isinstance(words, Sequence):
            raise InputError(f"texts[{i}] is {type(words).__name__}: expected a list of words")
        for j, word in enumerate(words):
            check_text(word, f"texts[{i}][{j}]")
    return [list(words) for words in texts]
