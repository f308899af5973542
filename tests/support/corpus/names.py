"""Names that the tables share: classes, tensors, forms of files, and changes that several cases make."""

from __future__ import annotations

from typing import Any

import torch

from support.corpus.draft import config, legacy, rename, safetensors, shards, shards_by_transformers, zipped

ENCODER = "DistilBertModel"
CLASSIFIER = "DistilBertForSequenceClassification"
TOKEN_CLASSIFIER = "DistilBertForTokenClassification"
QUESTION_ANSWERING = "DistilBertForQuestionAnswering"
MASKED_LM = "DistilBertForMaskedLM"
MULTIPLE_CHOICE = "DistilBertForMultipleChoice"
HEADS = (CLASSIFIER, TOKEN_CLASSIFIER, QUESTION_ANSWERING, MASKED_LM, MULTIPLE_CHOICE)
LOAD_AS: dict[str, dict[str, Any]] = {  # arguments that select each class
    ENCODER: {"task": "feature-extraction"},
    CLASSIFIER: {"task": "text-classification"},
    TOKEN_CLASSIFIER: {"task": "token-classification"},
    QUESTION_ANSWERING: {"task": "question-answering"},
    MASKED_LM: {"task": "fill-mask"},
    MULTIPLE_CHOICE: {"cls": MULTIPLE_CHOICE},
}
FIRST_TENSOR = {  # of each head
    CLASSIFIER: r"pre_classifier\.weight",
    TOKEN_CLASSIFIER: r"classifier\.weight",
    QUESTION_ANSWERING: r"qa_outputs\.weight",
    MASKED_LM: r"vocab_transform\.weight",
    MULTIPLE_CHOICE: r"pre_classifier\.weight",
}
BERT = "BertModel"
BERT_MASKED_LM = "BertForMaskedLM"
BERT_TOKEN_CLASSIFIER = "BertForTokenClassification"
BERTS = (BERT, BERT_MASKED_LM, BERT_TOKEN_CLASSIFIER)
NOT_CONVERTIBLE = {  # class -> why it cannot be converted to DistilBERT
    "BertForSequenceClassification": "its classifier reads a pooler",
    "BertForMultipleChoice": "its classifier reads a pooler",
    "BertForNextSentencePrediction": "its classifier reads a pooler",
    "BertForQuestionAnswering": "it marks the context as a second segment",
}
FILE = {safetensors: "safetensors", zipped: ".bin", legacy: "legacy .bin"}
FORMS = {
    "model.safetensors": safetensors,
    "shards by transformers": shards_by_transformers,
    "shards of safetensors": shards("safetensors"),
    "pytorch_model.bin": zipped,
    "pytorch_model.bin of torch 1.5": legacy,
    "shards of .bin": shards("bin"),
}
PROJECTOR = "vocab_projector.weight"
BERT_WORDS = "bert.embeddings.word_embeddings.weight"
BERT_PROJECTOR = "cls.predictions.decoder.weight"
BIAS = "cls.predictions.bias"
OTHER_BIAS = "cls.predictions.decoder.bias"
NO_LABELS = config(id2label=..., label2id=...)
NO_PREFIX = rename(r"^(distil)?bert\.", "")
GAMMA = (
    rename(r"(LayerNorm|layer_norm)\.weight$", r"\1.gamma"),
    rename(r"(LayerNorm|layer_norm)\.bias$", r"\1.beta"),
)
LABEL_N = {str(i): f"LABEL_{i}" for i in range(3)}
UNTIED = {"tie_word_embeddings": False}
TIED = config(tie_word_embeddings=True)
SINUSOIDAL = {"sinusoidal_pos_embds": True}
POSITIONS = torch.arange(16)[None]
POOLER = {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
