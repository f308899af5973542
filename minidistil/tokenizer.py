"""Text → Batch, over the tokenizers library, as a checkpoint's files say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from .checkpoint.files import Files, find_files, write_files, write_json, write_text
from .checks import check_text, is_int
from .config import DistilBertConfig, read_json
from .errors import CheckpointError, InputError
from .layout import Batch

LONGEST_WORD = 1000  # of a WordPiece: the library's time grows with the cube of a word's length
NO_LIMIT = 2**62  # as much as the library can count to
TRUNCATIONS = ("longest_first", "only_first", "only_second", "error")
SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
NAMED = ("bos_token", "eos_token", *SPECIAL)  # in transformers' order
NORMALIZER = {  # tokenizer_config.json's keys, and the library's names and defaults for them
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that take tokenizer.json as it is
LOCK = threading.Lock()  # the library keeps truncation as state of a tokenizer


class Encoded(NamedTuple):
    """Token ids of each text or pair, special tokens included, and how many of them were cut."""

    ids: list[list[int]]
    truncated: int


class Tokenizer:
    """Turns texts, or pairs of texts, into a `Batch` of token ids."""

    def __init__(self, backend: tokenizers.Tokenizer, max_length: int, settings: dict[str, Any] | None = None):
        """Wrap a tokenizer of the tokenizers library.

        max_length: what texts are cut to, in tokens, special ones included. settings: the keys of
        tokenizer_config.json, kept for saving.
        """
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.max_length = max_length
        self.settings = settings or {}
        pad = _special(self.settings, "pad_token")
        backend.encode_special_tokens = bool(self.settings.get("split_special_tokens"))
        self.pad_id = 0 if pad is None else backend.token_to_id(pad) or 0

    @classmethod
    def from_pretrained(cls, name: str | Path | Files, revision: str | None = None) -> Tokenizer:
        """Load tokenizer.json, or vocab.txt, with tokenizer_config.json and its older companions.

        name, revision: as for `minidistil.from_pretrained`. `CheckpointError` names the file at fault.
        """
        files = find_files(name, revision)
        files.find("config.json")  # first, since every checkpoint has it: on the Hub it settles the commit
        settings = _settings(files)
        path = files.get("tokenizer.json", "vocab.txt")
        backend = (_from_json if path.name == "tokenizer.json" else _from_vocab)(path, settings)
        backend.add_tokens(_added_tokens(files, backend, settings))
        return cls(backend, _max_length(files, settings), settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them."""
        settings = {key: _content(value) if key in NAMED else value for key, value in self.settings.items()}
        settings |= {"model_max_length": self.max_length, "tokenizer_class": GENERIC[0]}
        with LOCK:
            self.backend.no_truncation()
            content = self.backend.to_str(pretty=True)
        write_files(
            folder,
            {
                "tokenizer.json": lambda path: write_text(path, content),
                "tokenizer_config.json": lambda path: write_json(path, settings),
            },
        )

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: str = "longest_first",
    ) -> Batch:
        """Encode a text or n texts, each with its pair where `pairs` are given, as one Batch.

        max_length: tokens a text or pair may have, special ones included; None: as many as the model takes.
        truncation: what is cut to fit: "longest_first", "only_first", "only_second", or "error" for nothing.
        `InputError` says which text cannot be encoded, or cut to fit. `batch.truncated` counts what was cut.
        """
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
        """Encode as `__call__` does, to lists of token ids. names: what errors call the texts."""
        found = self.encodings(
            texts, pairs, max_length=max_length, truncation=truncation, names=names, offsets=False
        )
        return Encoded([encoding.ids for encoding in found], sum(bool(encoding.overflowing) for encoding in found))

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
        """Encode as `__call__` does, to the library's own encodings, with all that they know of each token.

        stride: how many tokens the parts of a text that was cut share; the later ones are in `overflowing`.
        names: what errors call the texts. offsets: whether to find each token's place in its text. words: each
        text is a list of words.
        """
        if isinstance(texts, str) and pairs == "":
            pairs = None  # of a single text, as in transformers; in a list of pairs it stays one
        texts = _listed(texts, "texts")
        pairs = None if pairs is None else _listed(pairs, "pairs")
        limit = self._limit(max_length, pairs is not None, stride)
        if truncation not in TRUNCATIONS:
            raise InputError(f"truncation is {truncation!r}: expected one of {', '.join(TRUNCATIONS)}")
        if truncation == "only_second" and pairs is None:
            raise InputError("truncation is 'only_second' but there are no pairs to cut")
        inputs = _checked_words(texts) if words else _checked(texts, pairs)
        names = names or [f"texts[{i}]" for i in range(len(inputs))]
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        with LOCK:
            if truncation == "error":
                self.backend.no_truncation()
            else:
                side = self.settings.get("truncation_side", "right")
                self.backend.enable_truncation(limit, stride=stride, strategy=truncation, direction=side)
            found = _all(lambda some: encode(some, is_pretokenized=words), inputs, names)
        for name, encoding in zip(names, found, strict=True):
            if len(encoding) > limit:
                raise InputError(f"{name} has {len(encoding)} tokens, more than {limit}, and may not be cut")
        return found

    def _limit(self, max_length: int | None, paired: bool, stride: int) -> int:
        """Give how many tokens a sequence may have; there must be room for some text, and for a stride."""
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
        """Give the id of a special token by its role, such as "mask_token"; `CheckpointError` if there is none."""
        token = _special(self.settings, role)
        index = None if token is None else self.backend.token_to_id(token)
        if index is None:
            raise CheckpointError(f"the tokenizer has no {role}: its vocabulary lacks {token}")
        return index


def _all(encode: Callable[[list[Any]], list[tokenizers.Encoding]], inputs: list[Any], names: Sequence[str]) -> Any:
    try:
        return encode(inputs)
    except BaseException as failure:
        _let_pass(failure)
        for name, text in zip(names, inputs, strict=True):  # the library does not say which one it was
            try:
                encode([text])
            except Exception as error:
                raise InputError(f"{name} cannot be cut to fit: {error}") from error
            except BaseException as error:
                _let_pass(error)
                raise CheckpointError(f"the tokenizer is broken: {name} makes it panic: {error}") from error
        raise


def _let_pass(error: BaseException) -> None:
    """Raise what is no failure of the library, such as Ctrl-C; a panic of its Rust code, no Exception, is one."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _is_text(token: str) -> bool:
    """Whether a string holds no lone surrogate."""
    return token.encode(errors="ignore").decode() == token


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


def _settings(files: Files) -> dict[str, Any]:
    """Read what the files say of special tokens and normalisation; tokenizer_config.json has the last word."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings |= _read_if_there(files, name)
    if settings.get("truncation_side", "right") not in ("left", "right"):
        raise CheckpointError(
            f"{files}: truncation_side is {settings['truncation_side']!r}: expected left or right"
        )
    for key, (_, usual) in NORMALIZER.items():
        if not isinstance(settings.get(key, usual), bool) and settings.get(key, usual) is not usual:
            raise CheckpointError(
                f"{files}: {key} in tokenizer_config.json is {settings[key]!r}: expected true or false"
            )
    for key, default in SPECIAL.items():
        if settings.get("tokenizer_class") not in GENERIC:
            settings.setdefault(key, default)
        token = _content(settings.get(key))
        if token is not None and not (isinstance(token, str) and _is_text(token)):
            raise CheckpointError(
                f"{files}: {key} in tokenizer_config.json is {settings[key]!r}: expected a token"
            )
    return settings


def _read_if_there(files: Files, name: str) -> dict[str, Any]:
    path = files.find(name)
    return {} if path is None else read_json(path)


def _from_json(path: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:
        _let_pass(error)
        raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
    longest = getattr(backend.model, "max_input_chars_per_word", 0)
    if longest > LONGEST_WORD:
        raise CheckpointError(f"{path}: max_input_chars_per_word is {longest}: expected at most {LONGEST_WORD}")
    normalizer = backend.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer) and settings.get("tokenizer_class") not in GENERIC:
        for key, (name, _) in NORMALIZER.items():
            if key in settings:
                setattr(normalizer, name, settings[key])
        backend.normalizer = normalizer
    if backend.post_processor is None:
        backend.post_processor = _template(path, backend, settings)
    return backend


def _from_vocab(path: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """Build BERT's tokenizer: words, split greedily into the longest pieces that the vocabulary has."""
    try:
        model = models.WordPiece.from_file(str(path), unk_token=_special(settings, "unk_token"))
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable vocabulary: {error}") from error
    backend = tokenizers.Tokenizer(model)
    options: dict[str, Any] = {name: settings.get(key, default) for key, (name, default) in NORMALIZER.items()}
    backend.normalizer = normalizers.BertNormalizer(clean_text=True, **options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = _template(path, backend, settings)
    return backend


def _template(path: Path, backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> Any:
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""
    unk, cls, sep = (_special(settings, key) for key in ("unk_token", "cls_token", "sep_token"))
    for token in (unk, cls, sep):
        if token is None or backend.token_to_id(token) is None:
            raise CheckpointError(f"{path} has no {token}, which every text needs")
    return processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, "$B", sep],
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )


def _added_tokens(files: Files, backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> list[AddedToken]:
    """Give the tokens that the files add to the vocabulary, and that are found whole in a text."""
    try:
        tokens = settings.get("added_tokens_decoder") or {
            index: content for content, index in _read_if_there(files, "added_tokens.json").items()
        }
        added = [
            _token(token, special=False) for _, token in sorted(tokens.items(), key=lambda item: int(item[0]))
        ]
        others = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
        others = others.values() if isinstance(others, dict) else others
        special = [settings.get(key) for key in NAMED] + list(others)
        flagged = {token.content for token in added}
        named = [token for token in special if token is not None and _content(token) not in flagged]
        added += [_token(token, special=True) for token in named]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{files}: the added tokens of its tokenizer are not readable: {error}") from error
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    return [token for token in added if token.content not in known]


def _token(token: str | dict[str, Any], *, special: bool) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=not special)
    flags = {key: token[key] for key in ("single_word", "lstrip", "rstrip", "normalized") if key in token}
    return AddedToken(token["content"], special=token.get("special", special), **flags)


def _content(token: Any) -> Any:
    """A special token is stored as a string, or as a map with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _special(settings: dict[str, Any], role: str) -> Any:
    """Give the token of a role, such as "mask_token"; None where the files say that there is none."""
    return _content(settings.get(role, SPECIAL.get(role)))


def _max_length(files: Files, settings: dict[str, Any]) -> int:
    """Give the tokenizer's own maximum or the model's positions, whichever is less."""
    config = files.find("config.json")
    limits = [settings.get("model_max_length", settings.get("max_len"))]
    if config is not None:
        limits.append(read_json(config).get("max_position_embeddings", DistilBertConfig.max_position_embeddings))
    known = [limit for limit in limits if limit is not None]
    if not known or not all(isinstance(limit, int | float) and limit >= 1 for limit in known):
        raise CheckpointError(
            f"{files}: model_max_length, or max_position_embeddings, is {limits}: expected a length"
        )
    return int(min(*known, NO_LIMIT))
