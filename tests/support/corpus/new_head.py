"""Checkpoints that get a new, randomly initialized head. The key to the table is in `loaded.py`."""

from __future__ import annotations

import torch

from support.corpus.draft import case, cast, config, form, legacy, rounded, safetensors, zipped
from support.corpus.names import (
    BERT,
    BERTS,
    CLASSIFIER,
    ENCODER,
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
        case(f"{cls} on an encoder in {it.__name__}", ENCODER, NO_LABELS, form(it), **LOAD_AS[cls], new_head=True)
        for it in (safetensors, zipped)
        for cls in HEADS
    ),
    *(case(f"{cls} in place of itself", cls, **LOAD_AS[cls], new_head=True) for cls in HEADS),
    *(
        case(f"{new} of {count} in place of {old}", old, **LOAD_AS[new], new_head=True, num_labels=count)
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
    case("an untied guesser", MASKED_LM, shape=UNTIED, new_head=True),
    case("a guesser, where the two differed", MASKED_LM, TIED, shape=UNTIED, new_head=True),
    case("a classifier of an untied config", CLASSIFIER, shape=UNTIED, new_head=True, num_labels=5),
    case(
        "a classifier in place of an untied guesser", MASKED_LM, shape=UNTIED, **LOAD_AS[CLASSIFIER], new_head=True
    ),
    case("wider", ENCODER, config(initializer_range=0.5), **LOAD_AS[CLASSIFIER], new_head=True),
    case(
        "on halves",
        ENCODER,
        cast(torch.float16),
        **LOAD_AS[CLASSIFIER],
        new_head=True,
        like=rounded(torch.float16),
    ),
    case("in float64", ENCODER, **LOAD_AS[CLASSIFIER], new_head=True, dtype="float64"),
    *(
        case(f"{cls} on a BERT in {it.__name__}", BERT, form(it), NO_LABELS, **LOAD_AS[cls], new_head=True)
        for it in (safetensors, legacy)
        for cls in HEADS
    ),
    *(
        case(f"a classifier in place of {cls}", cls, **LOAD_AS[CLASSIFIER], new_head=True, num_labels=4)
        for cls in (*BERTS[1:], "BertForPreTraining", *NOT_CONVERTIBLE)
    ),
]
