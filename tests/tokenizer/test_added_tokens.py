"""Added tokens, and special tokens under other names, have the ids of transformers."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.tokenizer_files import (
    NAMES,
    NEW,
    RENAMED,
    SPECIAL,
    VOCABULARY,
    added_tokens_json,
    ids_of,
    load_ids,
    renamed,
    thorough,
)

AROUND = st.sampled_from(["a", "the", " ", "  ", "A", "é", ".", NEW, "<NEW>", "[MASK]", "[SEP]", "x"])


@pytest.mark.full
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
def test_added_tokens_have_the_ids_of_transformers(unusual_both, texts):
    ours, theirs = unusual_both
    assert ours.encode(texts).ids == theirs(texts, truncation=False)["input_ids"]
    pairs = texts[::-1]
    assert ours.encode(texts, pairs).ids == theirs(texts, pairs, truncation=False)["input_ids"]


def test_a_token_may_be_added_to_the_end_of_the_vocabulary(tmp_path):
    added_tokens_json("vocab.txt", tmp_path)
    end = len(VOCABULARY)
    assert load_ids(tmp_path, [f"a {NEW}<e>"]) == [[*ids_of("[CLS] a"), end + 1, end, *ids_of("[SEP]")]]


def test_renamed_special_tokens_are_added_to_a_text(tmp_path):
    renamed("vocab.txt", tmp_path)
    ids = [RENAMED.index(token) for token in ("<s>", "a", "</s>", "<unk>", "</s>")]
    assert load_ids(tmp_path, ["a"], ["\u2603"]) == [ids]
