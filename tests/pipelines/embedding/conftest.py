"""A tiny encoder, and sentence-transformers repositories that hold it."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import transformers

from support.embedding import LETTERS, POSITIONS, WORDS, age

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def library():
    """Import sentence-transformers, whose dependencies may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sentence_transformers
    return sentence_transformers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Save a tiny encoder with transformers, once for each set of options."""

    @functools.cache
    def make(cased=False):
        folder = tmp_path_factory.mktemp("encoder")
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?-'[]", *LETTERS]
        vocab = dict.fromkeys([*vocab, *(f"##{letter}" for letter in LETTERS), *WORDS.split()])
        torch.manual_seed(0)
        transformers.DistilBertModel(
            transformers.DistilBertConfig(
                vocab_size=len(vocab),
                max_position_embeddings=POSITIONS,
                n_layers=2,
                n_heads=2,
                dim=16,
                hidden_dim=32,
                initializer_range=0.5,
            )
        ).save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
        options = {"model_max_length": POSITIONS, "tokenizer_class": "DistilBertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased, **options}))
        return folder

    return make


@pytest.fixture(scope="module")
def repository(tmp_path_factory, checkpoint, library):
    """Save a sentence-transformers repository, once for each set of options; tests must not modify it."""
    modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")

    @functools.cache
    def make(
        pooling="mean",
        normalize=False,
        max_seq_length=None,
        cased=False,
        old=False,
        lower=False,
        include_prompt=True,
        dense=(),  # names of activations
        **options,  # of Dense modules
    ):
        folder = tmp_path_factory.mktemp("repository")
        parts = [modules.Transformer(str(checkpoint(cased)), max_seq_length=max_seq_length)]
        parts.append(modules.Pooling(16, pooling, include_prompt=include_prompt))
        torch.manual_seed(0)
        for name in dense:
            width = parts[-1].get_embedding_dimension()
            parts.append(
                modules.Dense(
                    width, **{"out_features": 8, "activation_function": getattr(torch.nn, name)(), **options}
                )
            )
        parts += [modules.Normalize()] * normalize
        library.SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)
        if old or lower:
            age(folder, max_seq_length=max_seq_length, do_lower_case=lower)
        return folder

    return make


@pytest.fixture
def copied(repository, tmp_path):
    return Path(shutil.copytree(repository("mean", True), tmp_path / "copied"))


@pytest.fixture(scope="module")
def their_encode(library):
    @functools.cache
    def load(folder):
        return functools.partial(
            library.SentenceTransformer(str(folder), device="cpu").encode, show_progress_bar=False
        )

    return load
