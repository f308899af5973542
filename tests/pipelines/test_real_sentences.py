"""Answers of a real checkpoint for real sentences match transformers."""

from __future__ import annotations

import gzip
import itertools
import json

import pytest

from support.pipelines import (
    CLASSIFY,
    ZERO_SHOT,
    ours,
    theirs,
)
from support.places import OURS, SHARED
from support.twins import assert_same

TREC = SHARED / "data/classify/trec_test.jsonl.gz"
MNLI = SHARED / "data/nli/mnli_dev_matched.jsonl.gz"
needs_data = pytest.mark.skipif(
    not (TREC.exists() and MNLI.exists()), reason=f"the real sentences are not at {SHARED / 'data'}"
)
pytestmark = pytest.mark.usefixtures("one_thread")


def read(path, count):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, count)]


@pytest.fixture(scope="module")
def real_questions():
    texts = [row["text"] for row in read(TREC, 200)]
    options = {"candidate_labels": ["location", "person", "number"], "hypothesis_template": "It asks for a {}."}
    return texts, options, theirs(ZERO_SHOT, OURS)(texts, batch_size=32, **options)


@pytest.fixture(scope="module")
def real_pairs():
    pairs = [{"text": row["premise"], "text_pair": row["hypothesis"]} for row in read(MNLI, 200)]
    return pairs, theirs(CLASSIFY, OURS)(pairs, batch_size=32, truncation=True, top_k=None)


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.txt"])
def real_folder(request, tmp_path_factory):
    """The checkpoint with tokenizer.json, and with vocab.txt as in older repositories."""
    if request.param == "tokenizer.json":
        return OURS
    folder = tmp_path_factory.mktemp("older")
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(OURS / name)
    words = json.loads((OURS / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n", encoding="utf-8")
    return folder


@pytest.mark.full
@needs_data
def test_two_hundred_real_questions_get_the_zero_shot_answers_of_transformers(real_folder, real_questions):
    texts, options, expected = real_questions
    assert_same(ours(ZERO_SHOT, real_folder)(texts, **options), expected)


@pytest.mark.full
@needs_data
def test_two_hundred_real_pairs_are_classified_as_by_transformers(real_folder, real_pairs):
    pairs, expected = real_pairs
    assert_same(ours(CLASSIFY, real_folder)(pairs, top_k=None), expected)


@pytest.mark.full
@needs_data
def test_transformers_reads_the_folder_that_the_tokenizer_saved(real_folder, real_questions):
    texts, options, expected = real_questions
    assert_same(theirs(ZERO_SHOT, real_folder)(texts[:3], **options), expected[:3])
