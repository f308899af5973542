"""A tiny classifier, and pipelines of minidistil and transformers for it."""

from __future__ import annotations

import functools
import json

import pytest
import torch
import transformers

from support.pipelines import CLASSIFY, LABELS, NLI, POSITIONS, WORDS, ZERO_SHOT, ours, theirs

ROWS = {"entailment": 0, "neutral": 1, "contradiction": 2, "not_entailment": 2, "non-entailment": 2}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Save a tiny classifier with transformers, once for each set of options."""

    @functools.cache
    def make(labels=NLI, scale=1.0, model_class=transformers.DistilBertForSequenceClassification, **options):
        folder = tmp_path_factory.mktemp("checkpoint")
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?-'{}", *LETTERS]
        vocab = dict.fromkeys([*vocab, *(f"##{letter}" for letter in LETTERS), *WORDS.split()])
        config = transformers.DistilBertConfig(
            vocab_size=len(vocab),
            max_position_embeddings=POSITIONS,
            n_layers=2,
            n_heads=2,
            dim=16,
            hidden_dim=32,
            initializer_range=0.5,  # large, so that the scores of labels differ
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            **options,
        )
        torch.manual_seed(0)
        model = model_class(config)
        if hasattr(
            model, "classifier"
        ):  # rows follow the label names, so that permuted labels do not change the model
            rows = [ROWS.get(label.lower(), i) for i, label in enumerate(labels)]
            torch.manual_seed(1)
            model.classifier.weight.data = torch.randn(8, config.dim)[rows] * scale
            model.classifier.bias.data = torch.randn(8)[rows] * scale
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
        settings = {"do_lower_case": True, "model_max_length": POSITIONS, "tokenizer_class": "DistilBertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    return make


@pytest.fixture(scope="session")
def zero_shot(checkpoint):
    pipe = ours(ZERO_SHOT, checkpoint())
    pipe("a", LABELS)  # later batches use prepacked weights, which may change the last bits
    return pipe


@pytest.fixture(scope="session")
def their_zero_shot(checkpoint):
    return theirs(ZERO_SHOT, checkpoint())


@pytest.fixture(scope="session")
def classify(checkpoint):
    pipe = ours(CLASSIFY, checkpoint())
    pipe("a")  # later batches use prepacked weights, which may change the last bits
    return pipe


@pytest.fixture(scope="session")
def their_classify(checkpoint):
    return theirs(CLASSIFY, checkpoint())
