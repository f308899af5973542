"""Scores in NumPy match torch without overflow, and ties keep their order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minidistil.pipelines.scores import ranked, sigmoid, softmax, top

NUMBERS = st.floats(-1e4, 1e4, width=32)
EXTREMES = np.array([[-3e38, 0, 3e38], [1e4, 1e4, 1e4], [-1e4, 0, 1e4]], np.float32)
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=NUMBERS)
FEW_VALUES = arrays.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@pytest.mark.parametrize("logits", [EXTREMES], ids=["extremes"])
def test_extremes_do_not_overflow(logits):
    np.testing.assert_allclose(softmax(logits), torch.from_numpy(logits).softmax(-1), atol=1e-6)
    np.testing.assert_allclose(sigmoid(logits), torch.from_numpy(logits).sigmoid(), atol=1e-6)


@given(ROWS)
def test_scores_match_torch(logits):
    for ours, theirs in ((softmax, lambda x: x.softmax(-1)), (sigmoid, torch.sigmoid)):
        scores = ours(logits)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, theirs(torch.from_numpy(logits)), atol=1e-6)


@given(FEW_VALUES, st.integers(1, 50))
def test_top_matches_the_ranking_and_ties_keep_their_order(scores, count):
    expected = sorted(range(len(scores)), key=lambda i: -scores[i])  # Python's sort is stable
    assert ranked(scores) == expected
    assert top(scores, count) == expected[:count]
