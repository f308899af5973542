"""Tokenizer folders of the two forms that the Hub holds, with ordinary and unusual special tokens."""

from __future__ import annotations

import json

import tokenizers
from hypothesis import HealthCheck, settings

from minidistil import Tokenizer

TRUNCATIONS = ("longest_first", "only_first", "only_second", "error")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(code) for code in range(33, 127)]
OTHER = [*"éàüñßİ\u0131\u017f\u0301\u200d\u2019", "e\u0301", *"中文字日本のカ한я😀"]
WORDS = ["the", "team", "won", "café", "cafe", "resume", "##ing", "##ed", "un", "##able", "naïve", "The"]
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{c}" for c in [*LETTERS, *OTHER]), *OTHER, *WORDS]
NEW = "<new>"  # a token that no vocabulary here has
thorough = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write_json(path, values):
    path.write_text(json.dumps(values), encoding="utf-8")


def write_config(folder, positions=512):
    write_json(folder / "config.json", {"model_type": "distilbert", "max_position_embeddings": positions})


def write_vocab(folder, vocabulary=VOCABULARY, **settings):
    """Write vocab.txt and tokenizer_config.json, as in old checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "DistilBertTokenizer", **settings})
    return folder


def write_tokenizer_json(folder, vocabulary=VOCABULARY, added=(), **settings):
    """Write tokenizer.json, with stored truncation and padding, and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder)
    ids = {token: i for i, token in enumerate(vocabulary)}
    cls, sep = (
        content(settings.get(key, token)) for key, token in (("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
    )
    model = tokenizers.models.WordPiece(ids, unk_token=content(settings.get("unk_token", "[UNK]")))
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    backend.add_tokens(list(added))
    flagged = {token.content for token in added}
    backend.add_special_tokens([token for token in SPECIAL if token in ids and token not in flagged])
    backend.enable_truncation(8)
    backend.enable_padding(length=16)
    backend.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "DistilBertTokenizer", **settings})
    return folder


def ids_of(tokens):
    """Return the ids of tokens that are separated by spaces."""
    return [VOCABULARY.index(token) for token in tokens.split()]


def content(token):
    return token["content"] if isinstance(token, dict) else token


FORMS = {"vocab.txt": write_vocab, "tokenizer.json": write_tokenizer_json}
SETTINGS = {
    "defaults": {},
    "lower case": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "lower case, accents kept": {"do_lower_case": True, "strip_accents": False},
    "cased, accents stripped": {"do_lower_case": False, "strip_accents": True},
    "Chinese characters not split": {"do_lower_case": True, "tokenize_chinese_chars": False},
}


def load_both(folder):
    from transformers import AutoTokenizer

    return Tokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def load_ids(folder, texts, pairs=None):
    return Tokenizer.from_pretrained(folder).encode(texts, pairs).ids


RENAMED = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", *VOCABULARY[len(SPECIAL) :]]
NAMES = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], RENAMED, strict=False))


def as_map(token, **flags):
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"content": token, **plain, **flags}


def with_added_tokens(form, folder, maps):
    """Write added tokens with flags to tokenizer_config.json and, if there is one, to tokenizer.json."""
    if form == "vocab.txt":
        return write_vocab(folder, added_tokens_decoder=maps)
    added = [tokenizers.AddedToken(**map_) for map_ in maps.values()]
    return write_tokenizer_json(folder, added=added, added_tokens_decoder=maps)


def added_tokens_decoder(form, folder):
    end = len(VOCABULARY)
    maps = {str(i): as_map(token, special=True) for i, token in enumerate(SPECIAL)}
    maps[str(end)] = as_map(NEW, normalized=True, special=False)
    maps[str(end + 1)] = as_map("<e>", special=True)
    return with_added_tokens(form, folder, maps)


def added_tokens_flags(form, folder):
    maps = {
        "4": as_map("[MASK]", single_word=True, lstrip=True, special=True),
        str(VOCABULARY.index("x")): as_map("x", single_word=True, normalized=True, special=False),
        str(len(VOCABULARY)): as_map(NEW, rstrip=True, special=False),
    }
    return with_added_tokens(form, folder, maps)


def added_tokens_json(form, folder):
    FORMS[form](folder, additional_special_tokens=["<e>"])
    end = len(VOCABULARY)
    write_json(folder / "added_tokens.json", {NEW: end + 1, "<e>": end})
    return folder


def additional_special_tokens(form, folder):
    return FORMS[form](folder, additional_special_tokens=[NEW, "x"])


def extra_special_tokens(form, folder):
    return FORMS[form](folder, extra_special_tokens=[NEW, "x"])


def named_extra_special_tokens(form, folder):
    return FORMS[form](folder, extra_special_tokens={"x": NEW})


def begin_and_end_tokens(form, folder):
    return FORMS[form](folder, bos_token="<bos>", eos_token={"__type": "AddedToken", **as_map("<eos>")})


def special_tokens_that_are_split(form, folder):
    return FORMS[form](folder, split_special_tokens=True)


def renamed(form, folder):
    return FORMS[form](folder, vocabulary=RENAMED, **NAMES)


def renamed_by_special_tokens_map(form, folder):
    FORMS[form](folder, vocabulary=RENAMED, **NAMES)
    write_json(folder / "tokenizer_config.json", {})
    write_json(folder / "special_tokens_map.json", NAMES)
    return folder


def renamed_by_maps(form, folder):
    """Write special tokens with their flags."""
    FORMS[form](folder, vocabulary=RENAMED, **NAMES)
    write_json(folder / "tokenizer_config.json", {})
    write_json(folder / "special_tokens_map.json", {key: as_map(token) for key, token in NAMES.items()})
    return folder


def typed_maps(form, folder):
    """Write special tokens to tokenizer_config.json as old slow tokenizers did."""
    tokens = {key: {"__type": "AddedToken", **as_map(token, normalized=True)} for key, token in NAMES.items()}
    return FORMS[form](folder, vocabulary=RENAMED, **tokens)


def no_mask_token_in_the_vocabulary(form, folder):
    return FORMS[form](folder, vocabulary=[token for token in VOCABULARY if token != "[MASK]"])


def special_tokens_that_are_null(form, folder):
    return FORMS[form](folder, mask_token=None, pad_token=None)


def no_tokenizer_config(form, folder):
    FORMS[form](folder)
    (folder / "tokenizer_config.json").unlink()
    return folder
