"""The frozen model: load it, embed, read rows behind a shared prefix, score, generate."""

from foreword.backbone.answer import Answer, LanguageModel, Sampling
from foreword.backbone.backbone import Backbone, Scores
from foreword.backbone.batch import Example
from foreword.backbone.remote import RemoteBackbone
from foreword.backbone.sentence_embedder import SentenceEmbedder
from foreword.backbone.vectors import Vectors

__all__ = [
    "Answer",
    "Backbone",
    "Example",
    "LanguageModel",
    "RemoteBackbone",
    "Sampling",
    "Scores",
    "SentenceEmbedder",
    "Vectors",
]
