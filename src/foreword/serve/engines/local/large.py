"""Choices of one request that is too large for a step, in pieces. Knows the backbone; knows no jobs and no queue."""

from collections.abc import Iterator

from foreword.backbone.backbone import Backbone
from foreword.backbone.batch import Example, Part
from foreword.backbone.model import PrefixCache
from foreword.serve.engines.prepare import Prepared

Answers = tuple[tuple[int, ...], ...]


def pieces(
    backbone: Backbone, prepared: Prepared, answers: Answers, front: PrefixCache, chunk: int
) -> Iterator[Part | None]:
    """What is to be scored, some choices after others, `chunk` tokens at most; None behind every piece of the question.

    The question is read once: all but its last token, with which every part begins, becomes a longer front. For
    backbones that pack. One choice of more than `chunk` tokens is a part of its own.
    """
    ids, vectors, last = prepared.ids, prepared.vectors, len(prepared.ids) - 1
    cache = backbone.new_cache(front.cache)
    for start in range(prepared.front, last, chunk):
        texts = int((ids[:start] >= 0).sum())
        embedded = backbone.embed_row(ids[start : min(start + chunk, last)], vectors, texts)
        backbone.architecture.fill(cache, embedded[None])
        yield None
    whole = PrefixCache(ids[:last], [(layer.keys[0], layer.values[0]) for layer in cache.layers])
    for some in _groups(answers, chunk):
        yield backbone.part([Example(ids[last:], some)], whole, vectors)


def _groups(answers: Answers, chunk: int) -> Iterator[Answers]:
    group: Answers = ()
    tokens = 1
    for answer in answers:
        if group and tokens + len(answer) - 1 > chunk:
            yield group
            group, tokens = (), 1
        group, tokens = (*group, answer), tokens + len(answer) - 1
    yield group
