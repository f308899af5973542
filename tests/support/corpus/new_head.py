"""Checkpoints that get a new, randomly initialized head. `loaded.py` explains the columns of the table."""

from __future__ import annotations

import torch

from support.corpus.draft import case, cast, config, form, legacy, rounded, safetensors, zipped
from support.corpus.names import (
    BERT,
    BERTS,
    CLASSIFIER,
    ENCODER,
    FILE,
    HEADS,
    LOAD_AS,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NO_LABELS,
    NOT_CONVERTIBLE,
    QUESTION_ANSWERING,
    TIED,
    TOKEN_CLASSIFIER,
    UNTIED,
)

DRAWN = [
    *(
        case(f"{cls} on an encoder in {FILE[it]}", ENCODER, NO_LABELS, form(it), **LOAD_AS[cls], new_head=True)
        for it in (safetensors, zipped)
        for cls in HEADS
    ),
    *(case(f"{cls} with a new head", cls, **LOAD_AS[cls], new_head=True) for cls in HEADS),
    *(
        case(f"{new} on {old}, num_labels {count}", old, **LOAD_AS[new], new_head=True, num_labels=count)
        for new, count, old in (
            (CLASSIFIER, None, MASKED_LM),
            (CLASSIFIER, 7, CLASSIFIER),
            (CLASSIFIER, 1, CLASSIFIER),
            (CLASSIFIER, None, TOKEN_CLASSIFIER),
            (TOKEN_CLASSIFIER, 9, CLASSIFIER),
            (QUESTION_ANSWERING, 2, CLASSIFIER),
            (MULTIPLE_CHOICE, None, CLASSIFIER),
            (MASKED_LM, None, CLASSIFIER),
        )
    ),
    case("untied masked LM", MASKED_LM, shape=UNTIED, new_head=True),
    case("tied masked LM config with a different projector", MASKED_LM, TIED, shape=UNTIED, new_head=True),
    case("classifier with an untied config", CLASSIFIER, shape=UNTIED, new_head=True, num_labels=5),
    case("classifier on an untied masked LM", MASKED_LM, shape=UNTIED, **LOAD_AS[CLASSIFIER], new_head=True),
    case("larger initializer_range", ENCODER, config(initializer_range=0.5), **LOAD_AS[CLASSIFIER], new_head=True),
    case(
        "float16 encoder",
        ENCODER,
        cast(torch.float16),
        **LOAD_AS[CLASSIFIER],
        new_head=True,
        like=rounded(torch.float16),
    ),
    case("encoder loaded in float64", ENCODER, **LOAD_AS[CLASSIFIER], new_head=True, dtype="float64"),
    *(
        case(f"{cls} on a BERT in {FILE[it]}", BERT, form(it), NO_LABELS, **LOAD_AS[cls], new_head=True)
        for it in (safetensors, legacy)
        for cls in HEADS
    ),
    *(
        case(f"classifier on {cls}", cls, **LOAD_AS[CLASSIFIER], new_head=True, num_labels=4)
        for cls in (*BERTS[1:], "BertForPreTraining", *NOT_CONVERTIBLE)
    ),
]
