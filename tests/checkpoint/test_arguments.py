"""Arguments of transformers that `from_pretrained` takes, and those that it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import minidistil
from minidistil import InputError, Tokenizer
from support.places import OURS


def test_torch_dtype_is_dtype_and_arguments_without_effect_are_accepted():
    model = minidistil.from_pretrained(OURS, torch_dtype=torch.float64, trust_remote_code=False, device_map="auto")
    assert model.dtype == torch.float64
    assert minidistil.DistilBertModel.from_pretrained(OURS, torch_dtype="float64").dtype == torch.float64
    assert Tokenizer.from_pretrained(OURS, use_fast=True).encode(["a"]).ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float32", "torch_dtype": "float64"}, "dtype is passed twice"),
        ({"device_map": {"encoder": 0}}, "device_map is .*: pass device="),
        ({"device_map": {"": 99}}, "device is 'cuda:99'"),
        ({"dropout": 0.2}, "dropout is 0.2.*edit config.json"),
        ({"ignore_mismatched_sizes": True}, "new_head=True"),
        ({"quantization_config": object()}, 'quantization_config is .*: pass dtype="int8"'),
        ({"attn_implementation": "eager"}, "attn_implementation is 'eager'"),
    ],
)
def test_an_argument_without_meaning_names_its_replacement(arguments, message):
    for load in (minidistil.from_pretrained, minidistil.DistilBertModel.from_pretrained):
        with pytest.raises(InputError, match=message):
            load(OURS, **arguments)


def test_an_unknown_argument_is_an_error():
    for load in (
        minidistil.from_pretrained,
        minidistil.DistilBertModel.from_pretrained,
        Tokenizer.from_pretrained,
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument 'mystery'"):
            load(OURS, mystery=1)


def test_the_number_of_labels_may_be_an_integer_of_numpy():
    model = minidistil.from_pretrained(OURS, new_head=True, num_labels=np.int64(5))
    assert type(model.config.num_labels) is int
    assert model.classifier.out_features == 5
