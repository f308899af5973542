"""Long texts are truncated in linear time and memory, with the same tokens as by the tokenizers library."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel, Metaspace

from minidistil import InputError, Tokenizer
from support.places import ROOT

WORDS = [
    "a",
    "Word",
    "the ",
    "ΟΔΟΣ",
    "Σ",
    "中",
    "文字",
    "한국어",
    "слово",
    "🙂",
    "supercalifragilistic",
    "x" * 101,
]
ODD = [" ", "\n", "\t", ".", "...", "-", "。", "\u0301", "e\u0301", "\u00a0", "\u2003", "\x00", "\u200b", "\u3000"]
PIECES = st.sampled_from([*WORDS, *ODD, "[MASK]", "[mask]", "[SEP]", "[MA", "SK]"])
TEXTS = st.lists(PIECES, max_size=60).map(lambda pieces: "".join(pieces) * 20)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained("minidistil-mnli")


def encode_whole(tokenizer, texts, pairs, limit, strategy):
    """Encode with the tokenizers library."""
    tokenizer.backend.enable_truncation(limit, strategy=strategy)
    return tokenizer.backend.encode(texts, pairs)


@pytest.fixture(scope="module")
def with_added_tokens(tmp_path_factory):
    """Return a tokenizer with added tokens that overlap, that contain others, and that have spaces."""
    folder = tmp_path_factory.mktemp("added")
    tokenizer = Tokenizer.from_pretrained("minidistil-mnli")
    own = [AddedToken(token, normalized=False) for token in ("-a-", "a-a", "[MASK]a", "the  ")]
    tokenizer.backend.add_tokens([*own, AddedToken("Word", normalized=True), AddedToken(".word", normalized=True)])
    tokenizer.save_pretrained(folder)
    return Tokenizer.from_pretrained(folder)


@settings(max_examples=150, deadline=None)
@given(
    TEXTS
    | st.lists(st.sampled_from(["-", "a", "[MASK]", "word", ".", " ", "the "])).map(lambda p: "".join(p) * 20)
)
def test_tokens_match_with_added_tokens_that_overlap(with_added_tokens, text):
    for limit in (4, 9):
        expected = encode_whole(with_added_tokens, text, None, limit, "longest_first")
        assert with_added_tokens.encode([text], max_length=limit).ids == [expected.ids]


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.none() | TEXTS, st.integers(4, 12), st.sampled_from(["longest_first", "only_first"]))
def test_tokens_match_those_of_the_whole_text(tokenizer, text, pair, limit, strategy):
    pairs = None if pair is None else [pair]
    try:
        expected = encode_whole(tokenizer, text, pair, limit, strategy)
    except Exception:
        with pytest.raises(ValueError, match="cannot be truncated"):
            tokenizer.encode([text], pairs, max_length=limit, truncation=strategy)
        return
    encoded = tokenizer.encode([text], pairs, max_length=limit, truncation=strategy)
    assert encoded.ids == [expected.ids]
    assert encoded.truncated == bool(expected.overflowing)


def test_a_pair_that_cannot_be_cut_is_refused_before_the_library_combines_its_parts(with_added_tokens):
    text = "-a-a" * 2_000
    with pytest.raises(InputError, match="cannot be cut: shorten its texts"):
        with_added_tokens.encode([text], [text], max_length=8)


LONG = {
    "a letter": "a" * 300_000,
    "letters": "abc" * 100_000,
    "accents": "e" + "\u0301" * 300_000,
    "spaces without width": "a" + "\u200b" * 300_000 + "b",
    "spaces": "a" + " " * 300_000 + "b",
    "rare Chinese": "\u3400" * 200_000,
    "ideographic full stops": "\u3002" * 200_000,
    "runs and words": ("x" * 3_000 + "\u0301" * 2_500 + "yz" * 900 + "-") * 40,
    "a run beside others": "ab" * 999 + "c" * 200_000 + " word",
    "Cyrillic": "\u0434\u0430" * 100_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_long_words_and_runs_of_a_character_have_the_tokens_of_the_whole_text(tokenizer, text):
    for first, second in ((text, None), (text, "a word " * 3), ("a word " * 3, text)):
        expected = encode_whole(tokenizer, first, second, 17, "longest_first").ids
        pairs = None if second is None else [second]
        assert tokenizer.encode([first], pairs, max_length=17).ids == [expected]
    [encoding] = tokenizer.encodings([text], max_length=17)
    assert encoding.offsets == encode_whole(tokenizer, text, None, 17, "longest_first").offsets


@pytest.fixture(scope="module", params=["left", "bytes", "words"])
def another(request):
    """Return a tokenizer that truncates on the left, or with another tokenization than BERT's."""
    tokenizer = Tokenizer.from_pretrained("minidistil-mnli")
    if request.param == "left":
        return Tokenizer(tokenizer.backend, 512, {"truncation_side": "left"})
    if request.param == "bytes":
        tokenizer.backend.pre_tokenizer = ByteLevel()
    else:
        tokenizer.backend.pre_tokenizer, tokenizer.backend.normalizer = Metaspace(), Lowercase()
    return tokenizer


@settings(max_examples=20, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from([5, 8, 13]), st.sampled_from(["longest_first", "only_first"]))
def test_tokens_of_pairs_match_with_every_tokenization_and_side(another, text, pair, limit, strategy):
    side = another.settings.get("truncation_side", "right")
    another.backend.enable_truncation(limit, strategy=strategy, direction=side)
    try:
        expected = another.backend.encode(text, pair)
    except Exception:
        with pytest.raises(ValueError, match="cannot be truncated"):
            another.encode([text], [pair], max_length=limit, truncation=strategy)
        return
    encoded = another.encode([text], [pair], max_length=limit, truncation=strategy)
    assert encoded.ids == [expected.ids]
    assert encoded.truncated == bool(expected.overflowing)
    if side == "right":
        [encoding] = another.encodings([text], [pair], max_length=limit, truncation=strategy)
        assert encoding.offsets == expected.offsets


def test_a_long_pair_of_another_tokenization_takes_little_memory(another):
    encoded = another.encode(["the team " * 30_000], ["a game " * 30_000], max_length=32)
    assert len(encoded.ids[0]) == 32


def test_a_long_pair_whose_offsets_would_change_is_refused():
    tokenizer = Tokenizer.from_pretrained("minidistil-mnli")
    tokenizer.settings["truncation_side"] = "left"
    with pytest.raises(InputError, match="the pair is too long, and cannot be cut: shorten its texts"):
        tokenizer.encodings(["the team " * 500], ["a game " * 500], max_length=32)


def test_offsets_match_those_of_the_whole_text(tokenizer):
    text = "Ada lives in London. " * 1_000
    [encoding] = tokenizer.encodings([text], max_length=16)
    assert encoding.offsets == encode_whole(tokenizer, text, None, 16, "longest_first").offsets
    assert encoding.overflowing


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("'the ' * 60_000", "'team ' * 60_000"),
        ("'the quick ' * 1_000_000", None),
        ("'[MASK]' * 40_000", "'a[MASK]' * 40_000"),
        ("'x[mask]' * 40_000", "'x[mask] ' * 40_000"),
        ("'中文' * 500_000", "'слово\\n' * 60_000"),
    ],
    ids=["pair", "10 MB", "special tokens", "brackets", "without spaces"],
)
@pytest.mark.parametrize("truncation", ["longest_first", "error"])
def test_memory_stays_small(text, pair, truncation):
    program = f"""
import resource
from minidistil import InputError, Tokenizer
tokenizer = Tokenizer.from_pretrained("minidistil-mnli")
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    tokenizer.encode([{text}], {pair and [pair]}, truncation={truncation!r})
except InputError:
    assert {truncation!r} == "error"
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)
""".replace(repr([pair]), f"[{pair}]")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300  # MB
