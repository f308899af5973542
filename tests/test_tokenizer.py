import json
import pickle
import sys
import threading
import unicodedata

import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minidistil import CheckpointError, InputError, Tokenizer
from support.places import OURS

TRUNCATIONS = ("longest_first", "only_first", "only_second", "error")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(code) for code in range(33, 127)]
OTHER = [*"éàüñßİ\u0131\u017f\u0301\u200d\u2019", "e\u0301", *"中文字日本のカ한я😀"]
WORDS = ["the", "team", "won", "café", "cafe", "resume", "##ing", "##ed", "un", "##able", "naïve", "The"]
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{c}" for c in [*LETTERS, *OTHER]), *OTHER, *WORDS]
NEW = "<new>"  # a token that no vocabulary here has

thorough = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Folders of the two forms that the Hub holds


def write_json(path, values):
    path.write_text(json.dumps(values), encoding="utf-8")


def write_config(folder, positions=512):
    write_json(folder / "config.json", {"model_type": "distilbert", "max_position_embeddings": positions})


def write_vocab(folder, vocabulary=VOCABULARY, **settings):
    """vocab.txt and tokenizer_config.json, as old checkpoints have them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "DistilBertTokenizer", **settings})
    return folder


def write_tokenizer_json(folder, vocabulary=VOCABULARY, added=(), **settings):
    """tokenizer.json and tokenizer_config.json, with a truncation and a padding that someone left in it."""
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
    """The ids of tokens with spaces between."""
    return [VOCABULARY.index(token) for token in tokens.split()]


def content(token):
    return token["content"] if isinstance(token, dict) else token


FORMS = {"vocab.txt": write_vocab, "tokenizer.json": write_tokenizer_json}
SETTINGS = {
    "defaults": {},
    "lower case": {"do_lower_case": True},
    "as it is": {"do_lower_case": False},
    "lower case, accents kept": {"do_lower_case": True, "strip_accents": False},
    "as it is, accents stripped": {"do_lower_case": False, "strip_accents": True},
    "Chinese words whole": {"do_lower_case": True, "tokenize_chinese_chars": False},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder for each form and each setting."""
    root = tmp_path_factory.mktemp("tokenizers")
    return {
        (form, name): write(root / form / name.replace(" ", "-"), **values)
        for form, write in FORMS.items()
        for name, values in SETTINGS.items()
    }


@pytest.fixture(scope="module", params=[(f, s) for f in FORMS for s in SETTINGS], ids=lambda p: f"{p[0]}-{p[1]}")
def both(request, folders):
    """Our tokenizer and transformers', of one folder."""
    return load_both(folders[request.param])


@pytest.fixture(scope="module", params=FORMS)
def tokenizer(request, folders):
    """Our tokenizer, of either form."""
    return Tokenizer.from_pretrained(folders[request.param, "defaults"])


def load_both(folder):
    from transformers import AutoTokenizer

    return Tokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


# Any text

AWKWARD = st.sampled_from(
    [
        *SPECIAL,
        *("[mask]", "[ MASK ]", "[MASK", NEW, "<NEW>", "[CLS][SEP]", "##s", "a" * 101, "the" * 40, "é" * 200),
        *("the", "team", "The TEAM won", "cafe\u0301", "café", "unable", "日本語の文", "中", "naïve", "résumé"),
        *("😀", "👩\u200d👩\u200d👧", "🇫🇷", "\u0301", "a\u0301\u0301", "ﬁ", "İstanbul", "\u017f", "ß", "\u1e9e"),
        *"\0\x01\x7f\x85\ufffd\u200b\u00ad\ufeff\u2028\u00a0\u3000\t",
        *("\ue000", "\U0010ffff", "\U00020000", "...", "$5.00", "don't", "e.g."),
    ]
)
ANY = st.text(max_size=12)
TEXTS = st.one_of(
    ANY, st.lists(AWKWARD | ANY, max_size=12).map("".join), st.lists(AWKWARD, max_size=12).map(" ".join)
)
LIMITS = st.sampled_from([3, 4, 5, 8, 16, 64, 512])


def same_ids_or_both_refuse(both, texts, pairs, max_length, truncation):
    """Hold our ids against transformers', where both encode the texts and their pairs."""
    ours, theirs = both
    special = 2 if pairs is None else 3
    expected, error = None, max_length <= special or (pairs is None and truncation == "only_second")
    if not error:
        how = False if truncation == "error" else truncation
        try:
            expected = theirs(texts, pairs, truncation=how, max_length=max_length, verbose=False)["input_ids"]
        except Exception:  # a text that is too short to be cut as asked
            error = True
    if error or (truncation == "error" and max(map(len, expected)) > max_length):
        with pytest.raises(InputError):
            ours(texts, pairs, max_length=max_length, truncation=truncation)
        return
    batch = ours(texts, pairs, max_length=max_length, truncation=truncation)
    assert batch.ids.tolist() == [i for ids in expected for i in ids]
    assert batch.layout.lengths == [len(ids) for ids in expected]
    whole = theirs(texts, pairs, verbose=False, truncation=False)["input_ids"]
    assert batch.truncated == sum(len(ids) > max_length for ids in whole)


@thorough
@given(st.lists(TEXTS, min_size=1, max_size=4), LIMITS, st.sampled_from(TRUNCATIONS))
@example(["[CLS] a [SEP] b [MASK]", "", "\0", "a" * 101], 512, "error")
def test_ids_of_any_texts_are_those_of_transformers(both, texts, max_length, truncation):
    same_ids_or_both_refuse(both, texts, None, max_length, truncation)


@thorough
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), LIMITS, st.sampled_from(TRUNCATIONS))
@example([("", ""), ("the team", ""), ("", "[SEP]")], 512, "longest_first")
def test_ids_of_any_pairs_are_those_of_transformers(both, pairs, max_length, truncation):
    first, second = (list(side) for side in zip(*pairs, strict=True))
    same_ids_or_both_refuse(both, first, second, max_length, truncation)


def test_the_settings_make_a_difference(folders):
    # otherwise the tests above would compare nothing
    text = ["The café 日本語"]
    ids = {name: tuple(load_ids(folders["vocab.txt", name], text)[0]) for name in SETTINGS}
    assert ids.pop("defaults") == ids["lower case"]
    assert len(set(ids.values())) == len(ids)


def load_ids(folder, texts, pairs=None):
    return Tokenizer.from_pretrained(folder).encode(texts, pairs).ids


@pytest.mark.parametrize("name", SETTINGS)
def test_both_forms_of_files_give_the_same_ids(folders, name):
    texts = ["The team WON, unable", "日本語の文 cafe\u0301 [MASK]", "a" * 101, ""]
    assert load_ids(folders["vocab.txt", name], texts) == load_ids(folders["tokenizer.json", name], texts)


@thorough
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), LIMITS, st.sampled_from(TRUNCATIONS))
def test_ids_of_a_real_vocabulary_are_those_of_transformers(real, pairs, max_length, truncation):
    first, second = (list(side) for side in zip(*pairs, strict=True))
    same_ids_or_both_refuse(real, first, None, max_length, truncation)
    same_ids_or_both_refuse(real, first, second, max_length, truncation)


@pytest.fixture(scope="module")
def real():
    return load_both(OURS)


def test_every_character_has_the_ids_of_transformers(real):
    ours, theirs = real
    characters = [chr(code) for code in range(0x3400) if unicodedata.category(chr(code)) != "Cs"]
    texts = [f"a{character}b {character}" for character in characters]
    assert ours.encode(texts).ids == theirs(texts)["input_ids"]


# What tokenizer.json says


def test_a_stored_truncation_and_padding_never_leak(folders):
    tokenizer = Tokenizer.from_pretrained(folders["tokenizer.json", "defaults"])
    batch = tokenizer(["a", "a b c d e f g h i j"])
    assert batch.layout.lengths == [3, 12]
    assert batch.truncated == 0
    assert tokenizer.encode(["a", "b b"]).ids == [ids_of("[CLS] a [SEP]"), ids_of("[CLS] b b [SEP]")]


def test_lower_casing_in_tokenizer_json_is_honoured_where_no_setting_overrules_it(tmp_path):
    # transformers lower-cases here, whatever the file says
    write_tokenizer_json(tmp_path, do_lower_case=False)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "DistilBertTokenizer"})
    assert load_ids(tmp_path, ["The A"]) == [ids_of("[CLS] The A [SEP]")]


def test_a_setting_overrules_tokenizer_json_as_in_transformers(tmp_path):
    write_tokenizer_json(tmp_path, do_lower_case=False)
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": True})
    ours, theirs = load_both(tmp_path)
    assert ours.encode(["The A"]).ids == theirs(["The A"])["input_ids"] == [ids_of("[CLS] the a [SEP]")]


def test_a_generic_tokenizer_class_takes_tokenizer_json_as_it_is(tmp_path):
    write_tokenizer_json(tmp_path, do_lower_case=False)
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}
    write_json(tmp_path / "tokenizer_config.json", values)
    ours, theirs = load_both(tmp_path)
    texts = ["The A", "Café [SEP]"]
    assert ours.encode(texts).ids == theirs(texts)["input_ids"]
    assert ours.encode(["A"]).ids == [ids_of("[CLS] A [SEP]")]


def test_tokenizer_json_without_a_template_gets_one(tmp_path):
    write_tokenizer_json(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    write_json(tmp_path / "tokenizer.json", {**stored, "post_processor": None})
    assert load_ids(tmp_path, ["a"], ["b"]) == [ids_of("[CLS] a [SEP] b [SEP]")]


# Added tokens and special tokens under other names

RENAMED = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", *VOCABULARY[len(SPECIAL) :]]
NAMES = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], RENAMED, strict=False))
AROUND = st.sampled_from(["a", "the", " ", "  ", "A", "é", ".", NEW, "<NEW>", "[MASK]", "[SEP]", "x"])


def as_map(token, **flags):
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"content": token, **plain, **flags}


def with_added_tokens(form, folder, maps):
    """Added tokens with flags: in tokenizer_config.json and, if there is one, in tokenizer.json too."""
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
    """Special tokens stored with their flags."""
    FORMS[form](folder, vocabulary=RENAMED, **NAMES)
    write_json(folder / "tokenizer_config.json", {})
    write_json(folder / "special_tokens_map.json", {key: as_map(token) for key, token in NAMES.items()})
    return folder


def typed_maps(form, folder):
    """Special tokens as slow tokenizers once wrote them into tokenizer_config.json."""
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


@pytest.fixture(
    scope="module",
    params=[
        (form, write)
        for form in FORMS
        for write in (
            added_tokens_decoder,
            added_tokens_flags,
            added_tokens_json,
            additional_special_tokens,
            extra_special_tokens,
            named_extra_special_tokens,
            begin_and_end_tokens,
            special_tokens_that_are_split,
            renamed,
            renamed_by_special_tokens_map,
            renamed_by_maps,
            typed_maps,
            no_mask_token_in_the_vocabulary,
            special_tokens_that_are_null,
            no_tokenizer_config,
        )
    ],
    ids=lambda p: f"{p[0]}-{p[1].__name__}",
)
def unusual(request, tmp_path_factory):
    """A folder with tokens of its own."""
    form, write = request.param
    return write(form, tmp_path_factory.mktemp("unusual") / "folder")


@pytest.fixture(scope="module")
def unusual_both(unusual):
    return load_both(unusual)


@thorough
@given(st.lists(st.lists(AROUND, max_size=8).map("".join), min_size=1, max_size=4))
@example(
    [
        *SPECIAL,
        *NAMES.values(),
        "<e>",
        "<bos>a<eos>",
        f"a {NEW} b",
        f"a{NEW}b",
        "[mask]",
        "x axb x",
        "  [MASK]  ",
        f" {NEW}  .",
    ]
)
def test_tokens_of_a_folder_s_own_are_found_as_in_transformers(unusual_both, texts):
    ours, theirs = unusual_both
    assert ours.encode(texts).ids == theirs(texts, truncation=False)["input_ids"]
    pairs = texts[::-1]
    assert ours.encode(texts, pairs).ids == theirs(texts, pairs, truncation=False)["input_ids"]


def test_a_token_may_be_added_to_the_end_of_the_vocabulary(tmp_path):
    added_tokens_json("vocab.txt", tmp_path)
    end = len(VOCABULARY)
    assert load_ids(tmp_path, [f"a {NEW}<e>"]) == [[*ids_of("[CLS] a"), end + 1, end, *ids_of("[SEP]")]]


def test_special_tokens_under_other_names_surround_a_text(tmp_path):
    renamed("vocab.txt", tmp_path)
    ids = [RENAMED.index(token) for token in ("<s>", "a", "</s>", "<unk>", "</s>")]
    assert load_ids(tmp_path, ["a"], ["\u2603"]) == [ids]


# How long a text may be


@pytest.mark.parametrize(
    ("model_max_length", "positions", "limit"),
    [
        (512, 512, 512),
        (128, 512, 128),
        (512, 64, 64),
        (1e30, 64, 64),
        (int(1e30), 64, 64),
        (None, 64, 64),
        (16.0, 64, 16),
    ],
)
def test_the_maximum_is_the_smaller_of_the_tokenizer_s_and_the_model_s(
    tmp_path, model_max_length, positions, limit
):
    write_vocab(tmp_path, **({} if model_max_length is None else {"model_max_length": model_max_length}))
    write_config(tmp_path, positions)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.max_length == limit
    assert tokenizer("a " * 1000).layout.lengths == [limit]


def test_a_config_without_positions_has_as_many_as_the_default(tmp_path):
    write_vocab(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "distilbert"})
    assert Tokenizer.from_pretrained(tmp_path).max_length == 512


def test_max_len_is_the_old_name_of_model_max_length(tmp_path):
    assert Tokenizer.from_pretrained(write_vocab(tmp_path, max_len=32)).max_length == 32


def test_without_a_config_the_tokenizer_s_maximum_counts(tmp_path):
    write_vocab(tmp_path, model_max_length=32)
    (tmp_path / "config.json").unlink()
    assert Tokenizer.from_pretrained(tmp_path).max_length == 32


@pytest.mark.parametrize("limit", [1e30, int(1e30), float("inf")])
def test_a_tokenizer_without_any_maximum_cuts_nothing(tmp_path, limit):
    write_vocab(tmp_path, model_max_length=limit)
    (tmp_path / "config.json").unlink()
    assert Tokenizer.from_pretrained(tmp_path)("a " * 1000).layout.lengths == [1002]


@pytest.mark.parametrize("limit", ["512", 0, -1, [512], {"a": 1}])
def test_a_maximum_that_is_no_length_is_an_error(tmp_path, limit):
    write_vocab(tmp_path, model_max_length=limit)
    with pytest.raises(CheckpointError, match="model_max_length"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_call_s_max_length_goes_before_the_tokenizer_s(tokenizer):
    assert tokenizer("a " * 1000, max_length=600).layout.lengths == [600]
    assert tokenizer("a " * 1000, max_length=10**9).layout.lengths == [1002]
    assert tokenizer("a " * 1000, max_length=10**30).layout.lengths == [1002]
    assert tokenizer("a " * 1000).layout.lengths == [512]


def test_truncated_counts_the_texts_that_lost_something(tokenizer):
    texts = ["a", "a b c", "a b c d", "", "a b c d e f"]
    assert tokenizer(texts).truncated == 0
    assert tokenizer(texts, max_length=5).truncated == 2
    assert tokenizer(texts, ["a"] * 5, max_length=6).truncated == 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("truncation", TRUNCATIONS[:3])
def test_the_side_that_is_cut_is_the_one_that_the_files_name(tmp_path, form, truncation):
    ours, theirs = load_both(FORMS[form](tmp_path, truncation_side="left"))
    texts, pairs = ["a b c d e f", "a b c d e"], ["g h i j k", "k l m n o p"]
    expected = theirs(texts, pairs, max_length=11, truncation=truncation)["input_ids"]
    assert ours.encode(texts, pairs, max_length=11, truncation=truncation).ids == expected


def test_a_side_that_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="truncation_side is 'up'"):
        Tokenizer.from_pretrained(write_vocab(tmp_path, truncation_side="up"))


@pytest.mark.parametrize("max_length", ["5", 5.5, True])
def test_a_max_length_that_is_no_number_is_refused(tokenizer, max_length):
    with pytest.raises(InputError, match="max_length is"):
        tokenizer("a", max_length=max_length)


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_pair_of_one_text_is_none_and_of_a_list_is_one(tmp_path, form):
    ours, theirs = load_both(FORMS[form](tmp_path))
    assert ours("a", "").ids.tolist() == theirs("a", "")["input_ids"] == ids_of("[CLS] a [SEP]")
    assert ours(["a"], [""]).ids.tolist() == theirs(["a"], [""])["input_ids"][0] == ids_of("[CLS] a [SEP] [SEP]")


def test_a_tokenizer_can_be_sent_to_another_process(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode(["a b"]).ids == tokenizer.encode(["a b"]).ids


@pytest.mark.parametrize("normalizer", [None, tokenizers.normalizers.NFC()], ids=["none", "NFC"])
def test_a_normalizer_that_is_not_berts_is_saved_as_it_is(tmp_path, normalizer):
    folder = write_tokenizer_json(tmp_path / "from", tokenizer_class="PreTrainedTokenizerFast")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = normalizer
    backend.save(str(folder / "tokenizer.json"))
    write_config(tmp_path)
    before = load_ids(folder, ["The Cafe\u0301 THE"])
    Tokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    ours, theirs = load_both(tmp_path)
    assert ours.encode(["The Cafe\u0301 THE"]).ids == theirs(["The Cafe\u0301 THE"])["input_ids"] == before


def test_each_truncation_cuts_its_side(tokenizer):
    def cut(**options):
        return tokenizer.encode(["a b c d"], ["w x y"], max_length=8, **options).ids[0]

    assert cut() == cut(truncation="longest_first") == ids_of("[CLS] a b c [SEP] w x [SEP]")
    assert cut(truncation="only_first") == ids_of("[CLS] a b [SEP] w x y [SEP]")
    assert cut(truncation="only_second") == ids_of("[CLS] a b c d [SEP] w [SEP]")


# Refusals


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["nested"], 1.5])
def test_what_is_not_a_string_is_refused_by_its_place(tokenizer, text):
    kind = type(text).__name__
    with pytest.raises(InputError, match=rf"texts\[1\] is {kind}"):
        tokenizer(["a", text])
    with pytest.raises(InputError, match=rf"pairs\[1\] is {kind}"):
        tokenizer(["a", "b"], ["a", text])


@pytest.mark.parametrize("texts", [None, 5, b"bytes"])
def test_what_is_no_list_of_texts_is_refused(tokenizer, texts):
    with pytest.raises(InputError, match="texts"):
        tokenizer(texts)


def test_a_lone_surrogate_is_refused_by_its_place(tokenizer):
    with pytest.raises(InputError, match=r"texts\[1\]: character 3 is a lone surrogate"):
        tokenizer(["fine", "abc\ud800"])
    with pytest.raises(InputError, match=r"pairs\[0\]: character 0 is a lone surrogate"):
        tokenizer("fine", "\udfff")


def test_pairs_of_another_number_are_refused(tokenizer):
    with pytest.raises(InputError, match="there are 2 texts but 1 pairs"):
        tokenizer(["a", "b"], ["c"])
    with pytest.raises(InputError, match="there are 2 texts but 1 pairs"):
        tokenizer(["a", "b"], "c")
    with pytest.raises(InputError, match="there are 1 texts but 0 pairs"):
        tokenizer("a", [])


@pytest.mark.parametrize("truncation", ["longest", "", None, True, "do_not_truncate"])
def test_an_unknown_truncation_is_refused_with_the_known_ones(tokenizer, truncation):
    with pytest.raises(InputError, match=r"truncation is .*longest_first, only_first, only_second, error"):
        tokenizer("a", truncation=truncation)


def test_only_second_needs_pairs(tokenizer):
    with pytest.raises(InputError, match="only_second"):
        tokenizer("a", truncation="only_second")


@pytest.mark.parametrize("max_length", [-1, 0, 1, 2])
def test_a_maximum_without_room_for_text_is_refused(tokenizer, max_length):
    with pytest.raises(InputError, match=f"max_length is {max_length}"):
        tokenizer("a", max_length=max_length)


def test_a_pair_needs_room_for_one_more_special_token(tokenizer):
    assert tokenizer("a", max_length=3).layout.lengths == [3]
    with pytest.raises(InputError, match="max_length is 3"):
        tokenizer("a", "b", max_length=3)


def test_a_long_text_that_may_not_be_cut_is_named(tokenizer):
    with pytest.raises(InputError, match=r"texts\[1\] has 6 tokens, more than 5"):
        tokenizer(["a b c", "a b c d"], max_length=5, truncation="error")
    assert tokenizer("a b c", max_length=5, truncation="error").layout.lengths == [5]


def test_a_pair_that_cannot_be_cut_as_asked_is_named(tokenizer):
    with pytest.raises(InputError, match=r"texts\[1\] cannot be cut"):
        tokenizer(["a b c d", "a"], ["b", "a b c d e f"], max_length=6, truncation="only_first")


def test_a_refusal_leaves_the_tokenizer_as_it_was(tokenizer):
    with pytest.raises(InputError):
        tokenizer("a", "a b c d e f", max_length=6, truncation="only_first")
    assert tokenizer("a " * 10).layout.lengths == [12]


def test_a_folder_without_a_tokenizer_says_what_was_expected(tmp_path):
    write_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json or vocab\.txt") as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


BROKEN = {
    "vocab.txt": {
        "empty": b"",
        "invalid UTF-8": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xff\xfe\n",
        "no [CLS]": b"[PAD]\n[UNK]\n[SEP]\na\n",
        "no [SEP]": b"[PAD]\n[UNK]\n[CLS]\na\n",
        "no [UNK]": b"[PAD]\n[CLS]\n[SEP]\na\n",
    },
    "tokenizer.json": {
        "empty": b"",
        "not JSON": b"{",
        "invalid UTF-8": b'{"version": "\xff"}',
        "another object": b"{}",
        "a list": b"[]",
        "no model": b'{"version": "1.0", "added_tokens": []}',
    },
    "tokenizer_config.json": {
        "not JSON": b"{",
        "a list": b"[]",
        "do_lower_case": b'{"do_lower_case": "yes"}',
        "strip_accents": b'{"strip_accents": 1}',
        "cls_token": b'{"cls_token": 5}',
        "cls_token with flags": b'{"cls_token": {"lstrip": true}}',
        "null unk_token": b'{"unk_token": null}',
        "added_tokens_decoder": b'{"added_tokens_decoder": {"x": {"content": "y"}}}',
        "added_tokens_decoder without content": b'{"added_tokens_decoder": {"9": {}}}',
        "added_tokens_decoder is a list": b'{"added_tokens_decoder": ["y"]}',
        "additional_special_tokens": b'{"additional_special_tokens": [5]}',
    },
    "special_tokens_map.json": {"not JSON": b"{", "unk_token": b'{"unk_token": ["[UNK]"]}'},
    "added_tokens.json": {
        "not JSON": b"{",
        "a list": b'["x"]',
        "an id": b'{"x": "y"}',
        "an id list": b'{"x": [1]}',
    },
    "config.json": {"not JSON": b"{", "positions": b'{"max_position_embeddings": "many"}'},
}


@pytest.mark.parametrize(
    ("name", "content"),
    [pytest.param(n, c, id=f"{n}-{what}") for n, kinds in BROKEN.items() for what, c in kinds.items()],
)
def test_a_broken_file_is_an_error_that_names_the_folder(tmp_path, name, content):
    write_vocab(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


# What comes out


def test_a_batch_holds_the_ids_end_to_end(tokenizer):
    batch = tokenizer(["a b", "", "c"])
    first, second, third = ids_of("[CLS] a b [SEP]"), ids_of("[CLS] [SEP]"), ids_of("[CLS] c [SEP]")
    assert batch.ids.tolist() == first + second + third
    assert batch.layout.lengths == [4, 2, 3]
    assert batch.ids.dtype == torch.int64
    assert len(batch) == 3


def test_encode_gives_the_ids_of_the_batch_as_lists(tokenizer):
    texts, pairs = ["a b", "", "the team"], ["c", "d", ""]
    encoded = tokenizer.encode(texts, pairs)
    assert [i for ids in encoded.ids for i in ids] == tokenizer(texts, pairs).ids.tolist()


def test_padded_rows_are_those_of_transformers(folders):
    ours, theirs = load_both(folders["vocab.txt", "defaults"])
    texts = ["the team won", "", "a [MASK] b c"]
    input_ids, attention_mask = ours(texts).padded()
    expected = theirs(texts, padding=True, return_tensors="pt")
    assert torch.equal(input_ids, expected["input_ids"])
    assert torch.equal(attention_mask, expected["attention_mask"])


def test_padded_rows_are_filled_with_the_padding_token(tmp_path):
    vocabulary = [*VOCABULARY[1:], "[PAD]"]
    for form, write in FORMS.items():
        batch = Tokenizer.from_pretrained(write(tmp_path / form, vocabulary=vocabulary))(["a b", ""])
        input_ids, attention_mask = batch.padded()
        assert input_ids[1, 2:].tolist() == [vocabulary.index("[PAD]")] * 2
        assert attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_a_padding_token_of_another_name_fills_too(tmp_path):
    vocabulary = [*RENAMED[1:], "<pad>"]
    tokenizer = Tokenizer.from_pretrained(write_vocab(tmp_path, vocabulary=vocabulary, **NAMES))
    assert tokenizer(["a b", ""]).padded()[0][1, 2:].tolist() == [vocabulary.index("<pad>")] * 2


def test_one_text_is_a_batch_of_one(tokenizer):
    assert tokenizer("a b").ids.tolist() == tokenizer(["a b"]).ids.tolist()
    assert tokenizer("a", "b").layout.lengths == [5]
    assert tokenizer.encode("a b").ids == tokenizer.encode(["a b"]).ids


def test_no_texts_are_an_empty_batch(tokenizer):
    assert len(tokenizer([])) == 0
    assert tokenizer([], []).ids.shape == (0,)
    assert tokenizer.encode([]).ids == []


def test_any_iterable_of_texts_is_read_or_refused_but_never_lost(tokenizer):
    texts = ["a b", "c"]
    expected = tokenizer(texts).ids.tolist()
    assert tokenizer(tuple(texts)).ids.tolist() == expected
    assert tokenizer(text for text in texts).ids.tolist() == expected


# Saving


@pytest.mark.parametrize("key", [(f, s) for f in FORMS for s in SETTINGS], ids=lambda key: f"{key[0]}-{key[1]}")
def test_what_is_saved_gives_the_same_ids_here_and_in_transformers(folders, tmp_path, key):
    saved_gives_the_same_ids(folders[key], tmp_path)


def test_what_is_saved_keeps_the_tokens_of_a_folder_s_own(unusual, tmp_path):
    saved_gives_the_same_ids(unusual, tmp_path)


def saved_gives_the_same_ids(folder, target):
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(target)
    write_config(target)  # for transformers' AutoTokenizer; a model writes it
    texts = [
        *SPECIAL,
        *NAMES.values(),
        "The café 日本語 é",
        f"{NEW} a{NEW}b <NEW> <e>",
        "x axb x[MASK]x",
        "a\0b",
        "",
    ]
    expected = tokenizer.encode(texts, texts[::-1]).ids
    ours, theirs = load_both(target)
    assert ours.encode(texts, texts[::-1]).ids == expected
    assert theirs(texts, texts[::-1], truncation=False)["input_ids"] == expected
    assert ours.max_length == tokenizer.max_length == theirs.model_max_length
    assert ours.pad_id == tokenizer.pad_id


def test_lower_casing_that_only_tokenizer_json_knew_of_is_saved_for_transformers(tmp_path):
    write_tokenizer_json(tmp_path / "a", do_lower_case=False)
    write_json(tmp_path / "a" / "tokenizer_config.json", {})
    saved_gives_the_same_ids(tmp_path / "a", tmp_path / "b")


def test_saving_stores_no_truncation_of_an_earlier_call(tokenizer, tmp_path):
    tokenizer("a b c d", max_length=4)
    tokenizer.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    assert stored["truncation"] is None
    assert stored["padding"] is None


def test_saving_over_the_folder_that_was_loaded_is_safe(tmp_path):
    tokenizer = Tokenizer.from_pretrained(write_vocab(tmp_path, do_lower_case=False))
    tokenizer.save_pretrained(tmp_path)
    assert load_ids(tmp_path, ["The A é"]) == tokenizer.encode(["The A é"]).ids


def test_settings_that_mean_nothing_here_survive_saving(tmp_path):
    write_vocab(tmp_path, never_split=["a"], model_max_length=256)
    Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert stored["never_split"] == ["a"]
    assert stored["model_max_length"] == 256


# Threads


@pytest.fixture
def restless():
    """Threads that take turns as often as Python lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_threads_with_other_limits_do_not_disturb_each_other(tokenizer, restless):
    wrong = []

    def run(limit):
        for _ in range(500):
            batch = tokenizer("a b c d e f g h", max_length=limit)
            if (batch.layout.lengths, batch.truncated) != ([limit], 1):
                wrong.append(limit)

    threads = [threading.Thread(target=run, args=[limit]) for limit in (4, 5, 6, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# A tokenizer.json on which the library's own code breaks down


def with_charsmap(folder, charsmap):
    """A tokenizer.json whose normalizer has this table, which the library trusts."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def saved_json(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    return tmp_path


def test_a_panic_while_reading_is_an_error_that_names_the_file(saved_json):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a readable tokenizer"):
        Tokenizer.from_pretrained(with_charsmap(saved_json, ""))


def test_a_panic_while_encoding_is_an_error_that_names_the_text(saved_json):
    tokenizer = Tokenizer.from_pretrained(with_charsmap(saved_json, "CAAAAAAAAAAAAAAAAAAA"))
    with pytest.raises(CheckpointError, match=r"the tokenizer is broken: texts\[0\] makes it panic"):
        tokenizer(["a good film"])


def test_words_longer_than_can_be_split_in_time_are_refused(saved_json):
    content = json.loads((saved_json / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["max_input_chars_per_word"] = 10**6
    (saved_json / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="max_input_chars_per_word is 1000000: expected at most 1000"):
        Tokenizer.from_pretrained(saved_json)


@pytest.mark.parametrize(
    ("key", "value"), [("do_lower_case", None), ("strip_accents", 1), ("cls_token", "\ud800"), ("sep_token", 5)]
)
def test_settings_that_cannot_be_are_named(saved_json, key, value):
    (saved_json / "tokenizer.json").unlink()
    (saved_json / "tokenizer_config.json").write_text(json.dumps({key: value}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{key} in tokenizer_config.json is"):
        Tokenizer.from_pretrained(saved_json)


def test_an_interruption_is_no_failure_of_the_library(saved_json, monkeypatch):
    tokenizer = Tokenizer.from_pretrained(saved_json)

    class Interrupted:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "backend", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        tokenizer(["a"])
