"""Load and save a tokenizer's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from ..checks import is_int
from ..config import DistilBertConfig, is_number, is_text, read_json
from ..errors import CheckpointError
from ..tokenizer import NO_LIMIT, Tokenizer, is_library_failure
from ..vocabulary import NAMED_TOKENS, SPECIAL_TOKENS, other_special_tokens, special_token, token_content
from .arguments import LOADING, refuse_arguments
from .files import Files, find_files, write_files, write_json, write_text
from .tokenizer_limits import check_added, check_tokenizer, check_vocabulary, read_text

NORMALIZER = {  # keys of tokenizer_config.json -> names in the library, and defaults
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that use tokenizer.json unchanged
UNKNOWN = "\ua66e \u2603 qzxjkv"  # words that hardly any vocabulary has


def load_tokenizer(
    name: str | Path | Files,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **other: Any,
) -> Tokenizer:
    """Load a tokenizer; see `Tokenizer.from_pretrained`."""
    refuse_arguments("from_pretrained", other, LOADING)
    files = find_files(name, revision, token, local_files_only)
    files.find("config.json")  # first, since every checkpoint has one: on the Hub it determines the commit
    settings = _settings(files)
    path = files.get("tokenizer.json", "vocab.txt")
    backend, growth = (_from_json if path.name == "tokenizer.json" else _from_vocab)(path, settings)
    backend.add_tokens(_added_tokens(files, backend, settings, growth))
    special = _special_ids(path, backend)
    limits = [settings.get("model_max_length", settings.get("max_len"))]
    if config := files.find("config.json"):
        values = read_json(config)
        limits.append(values.get("max_position_embeddings", DistilBertConfig.max_position_embeddings))
        size = values.get("vocab_size", DistilBertConfig.vocab_size)
        if is_int(size) and max(special, default=-1) >= size:
            raise CheckpointError(
                f"{path} adds the token id {max(special)} to each text, but vocab_size in {config.name} is {size}"
            )
    return Tokenizer(backend, _max_length(files, limits), settings)


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, as transformers reads them."""
    settings = {key: token_content(v) if key in NAMED_TOKENS else v for key, v in tokenizer.settings.items()}
    settings |= {"model_max_length": tokenizer.max_length, "tokenizer_class": GENERIC[0]}
    content = tokenizer.to_json()
    write_files(
        folder,
        {
            "tokenizer.json": lambda path: write_text(path, content),
            "tokenizer_config.json": lambda path: write_json(path, settings),
        },
    )


def _settings(files: Files) -> dict[str, Any]:
    """Read special tokens and normalization. tokenizer_config.json overrides special_tokens_map.json."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings |= _read_if_present(files, name)
    if settings.get("truncation_side", "right") not in ("left", "right"):
        raise CheckpointError(
            f"{files}: truncation_side is {settings['truncation_side']!r}: expected left or right"
        )
    for key, (_, default) in NORMALIZER.items():
        if not isinstance(settings.get(key, default), bool) and settings.get(key, default) is not default:
            raise CheckpointError(
                f"{files}: {key} in tokenizer_config.json is {settings[key]!r}: expected true or false"
            )
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if not isinstance(settings.get(key), list | dict | None):
            raise CheckpointError(
                f"{files}: {key} in tokenizer_config.json is {settings[key]!r}: expected a list of tokens"
            )
    for key, token in SPECIAL_TOKENS.items():
        if settings.get("tokenizer_class") not in GENERIC:
            settings.setdefault(key, token)
        content = token_content(settings.get(key))
        if content is not None and not (isinstance(content, str) and is_text(content)):
            raise CheckpointError(
                f"{files}: {key} in tokenizer_config.json is {settings[key]!r}: expected a string"
            )
    return settings


def _read_if_present(files: Files, name: str) -> dict[str, Any]:
    path = files.find(name)
    return {} if path is None else read_json(path)


def _from_json(path: Path, settings: dict[str, Any]) -> tuple[tokenizers.Tokenizer, int]:
    """Return the tokenizer of a tokenizer.json, and what its normalizer makes of one character."""
    try:
        content = read_text(path)
        growth = check_tokenizer(content)
        backend = tokenizers.Tokenizer.from_str(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except BaseException as error:
        if not is_library_failure(error):
            raise
        raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
    normalizer = backend.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer) and settings.get("tokenizer_class") not in GENERIC:
        for key, (name, _) in NORMALIZER.items():
            if key in settings:
                setattr(normalizer, name, settings[key])
        backend.normalizer = normalizer
    if backend.post_processor is None:
        backend.post_processor = _template(path, backend, settings)
    return backend, growth


def _from_vocab(path: Path, settings: dict[str, Any]) -> tuple[tokenizers.Tokenizer, int]:
    """Return the same for BERT's WordPiece: each word is split greedily into the longest tokens of vocab.txt."""
    try:
        check_vocabulary("it", read_text(path).splitlines())
        model = models.WordPiece.from_file(str(path), unk_token=special_token(settings, "unk_token"))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable vocabulary: {error}") from error
    backend = tokenizers.Tokenizer(model)
    options: dict[str, Any] = {name: settings.get(key, default) for key, (name, default) in NORMALIZER.items()}
    backend.normalizer = normalizers.BertNormalizer(clean_text=True, **options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = _template(path, backend, settings)
    return backend, 1


def _template(path: Path, backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> Any:
    """Return the post-processor: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""
    unk, cls, sep = (special_token(settings, key) for key in ("unk_token", "cls_token", "sep_token"))
    for token in (unk, cls, sep):
        if token is None or backend.token_to_id(token) is None:
            raise CheckpointError(f"{path} has no {token}, which is needed for every text")
    return processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, "$B", sep],
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )


def _special_ids(path: Path, backend: tokenizers.Tokenizer) -> list[int]:
    """Return the ids that are added to each text. Raises CheckpointError if unknown words cannot be encoded."""
    backend.no_truncation()
    backend.no_padding()
    try:
        encoding = backend.encode(UNKNOWN, UNKNOWN)
    except BaseException as error:
        if not is_library_failure(error):
            raise
        raise CheckpointError(f"{path} cannot encode a word that is not in its vocabulary: {error}") from error
    return [i for i, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if special]


def _added_tokens(
    files: Files, backend: tokenizers.Tokenizer, settings: dict[str, Any], growth: int
) -> list[AddedToken]:
    """Return the tokens that the files add to the vocabulary. They are never split."""
    try:
        decoder = settings.get("added_tokens_decoder")
        by_content = {} if decoder else _read_if_present(files, "added_tokens.json")
        tokens = [*decoder.items()] if decoder else [(index, content) for content, index in by_content.items()]
        added = [_token(token, special=False) for _, token in sorted(tokens, key=lambda item: int(item[0]))]
        special = [settings.get(key) for key in NAMED_TOKENS] + other_special_tokens(settings)
        listed = {token.content for token in added}
        unlisted = [token for token in special if token is not None and token_content(token) not in listed]
        added += [_token(token, special=True) for token in unlisted]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{files}: the added tokens of its tokenizer are not readable: {error}") from error
    try:
        check_added((token.content for token in added), growth)
    except CheckpointError as error:
        raise CheckpointError(f"{files}: the tokenizer has too long or too many added tokens: {error}") from error
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    return [token for token in added if token.content not in known]


def _token(token: str | dict[str, Any], *, special: bool) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=not special)
    flags = {key: token[key] for key in ("single_word", "lstrip", "rstrip", "normalized") if key in token}
    return AddedToken(token["content"], special=token.get("special", special), **flags)


def _max_length(files: Files, limits: list[Any]) -> int:
    """Return the smaller of the tokenizer's maximum length and the model's number of positions."""
    known = [limit for limit in limits if limit is not None]
    if not known or not all(is_number(limit) and limit >= 1 for limit in known):
        raise CheckpointError(
            f"{files}: model_max_length, or max_position_embeddings, is {limits}: expected numbers of at least 1"
        )
    return int(min(*known, NO_LIMIT))
