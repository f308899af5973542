"""The model class and the pipeline of each task, as names, so that this table imports neither."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """One task."""

    model_class: str  # the name in config.json's `architectures`
    pipeline: str  # module and class in `pipelines/`
    default_model: str | None = None  # a checkpoint that ships with the project


_CLASSIFIER = "DistilBertForSequenceClassification"
_TOKEN_CLASSIFIER = Task("DistilBertForTokenClassification", "token_classification.TokenClassification")

TASKS = {
    "text-classification": Task(_CLASSIFIER, "classification.TextClassification"),
    "sentiment-analysis": Task(_CLASSIFIER, "classification.TextClassification"),
    "zero-shot-classification": Task(_CLASSIFIER, "classification.ZeroShotClassification", "minidistil-mnli"),
    "token-classification": _TOKEN_CLASSIFIER,
    "ner": _TOKEN_CLASSIFIER,
    "question-answering": Task("DistilBertForQuestionAnswering", "question_answering.QuestionAnswering"),
    "fill-mask": Task("DistilBertForMaskedLM", "fill_mask.FillMask"),
    "feature-extraction": Task("DistilBertModel", "embedding.FeatureExtraction"),
    "sentence-embedding": Task("DistilBertModel", "embedding.SentenceEmbedding"),
}
