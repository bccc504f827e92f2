"""The frozen model: load it, embed, read rows behind a shared prefix, score, generate."""

from foreword.backbone import flex, probe
from foreword.backbone.answer import Answer, LanguageModel, Sampling
from foreword.backbone.attention import attention_scores
from foreword.backbone.backbone import Backbone, Scores
from foreword.backbone.batch import Example, Part, PrefixCache, batches
from foreword.backbone.encode import Ids, shared_prefix_length, text_places
from foreword.backbone.generate import end_tokens
from foreword.backbone.layout import NEVER, OwnLayout, additive
from foreword.backbone.lint import lint_tokens
from foreword.backbone.load import BUILT_IN_BACKBONES, best_dtype, built_in_folder, built_in_path
from foreword.backbone.remote import RemoteBackbone
from foreword.backbone.sentence_embedder import EMBEDDING_BATCH, SentenceEmbedder
from foreword.backbone.structured import Constraint, Grammars, json_grammar
from foreword.backbone.vectors import NO_VECTORS, LayerCache, Vectors

__all__ = [
    "BUILT_IN_BACKBONES",
    "EMBEDDING_BATCH",
    "NEVER",
    "NO_VECTORS",
    "Answer",
    "Backbone",
    "Constraint",
    "Example",
    "Grammars",
    "Ids",
    "LanguageModel",
    "LayerCache",
    "OwnLayout",
    "Part",
    "PrefixCache",
    "RemoteBackbone",
    "Sampling",
    "Scores",
    "SentenceEmbedder",
    "Vectors",
    "additive",
    "attention_scores",
    "batches",
    "best_dtype",
    "built_in_folder",
    "built_in_path",
    "end_tokens",
    "flex",
    "json_grammar",
    "lint_tokens",
    "probe",
    "shared_prefix_length",
    "text_places",
]
