"""What is likely wrong with a prompt on one backbone: its answers as tokens, and what the context holds."""

import warnings
from collections.abc import Iterator, Mapping, Sequence

from foreword.backbone.backbone import Backbone
from foreword.backbone.encode import Encoded, encode, encode_answer, spans
from foreword.errors import ForewordError
from foreword.prompts import ANY_INPUT, SAMPLE_TEXT, Finding, Prompt, Text, beginnings, fit_budgets, sample

WRITTEN = 64
"""Tokens that an answer of free text is given room for."""
LONGEST = 200
"""Rows of a task that are tried: those with the most characters."""


def lint_tokens(prompt: Prompt, backbone: Backbone, rows: Sequence[Mapping[str, object]] = ()) -> list[Finding]:
    """What was found, the lines left open. `rows` are a task's, and are tried from the longest down."""
    try:
        backbone.check(prompt)
        encoded = _encode(
            prompt, backbone, {name: sample(prompt.specs.get(name, ANY_INPUT)) for name in prompt.variables}
        )
    except ForewordError as error:
        return [_refused(error)]
    findings = [*_special(prompt, backbone), *_answers(prompt, backbone, encoded)]
    for check in (_lengths(prompt, backbone), _rows(prompt, backbone, rows)):
        try:
            findings += check
        except ForewordError as error:  # a row that the prompt does not take
            findings.append(_refused(error))
    return findings


def _refused(error: ForewordError) -> Finding:
    what, _, todo = str(error).rpartition("; ")
    return Finding("error", None, what or str(error), todo if what else "mend it, or try another backbone")


def _encode(prompt: Prompt, backbone: Backbone, row: Mapping[str, object]) -> Encoded:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sample that is cut says nothing about the prompt
        values, cuts = fit_budgets(prompt, row, lambda text: spans(text, backbone.tokenizer))
    pieces = prompt.place(values, lambda text: len(spans(text, backbone.tokenizer)))
    apart = backbone.architecture.answers_apart
    found = encode(pieces, backbone.tokenizer, prompt.data(values), prompt.written, apart=apart)
    return Encoded(found.ids, found.tail, cuts)


def _special(prompt: Prompt, backbone: Backbone) -> Iterator[Finding]:
    text = prompt.place({name: sample(prompt.specs.get(name, ANY_INPUT)) for name in prompt.variables})
    for token in backbone.tokenizer.all_special_tokens:
        if any(isinstance(piece, Text) and token in piece.text for piece in text):
            what = f"the text spells {token!r}, a special token of {backbone.name!r}"
            yield Finding("warning", None, what, "open turns with {{ system() }}, {{ user() }} and {{ assistant() }}")


def _answers(prompt: Prompt, backbone: Backbone, encoded: Encoded) -> Iterator[Finding]:
    choices, tokenizer, tail = prompt.output.choices or (), backbone.tokenizer, encoded.tail
    ids = {choice: encode_answer(choice, tail, tokenizer) for choice in choices}
    for choice, tokens in ids.items():
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens:
            yield Finding(
                "error", None, f"the answer {choice!r} has signs that the tokenizer lacks", "spell it otherwise"
            )
        if tail:
            text = choice if tail[-1].isspace() else f" {choice}"
            before = tokenizer.encode(tail, add_special_tokens=False)
            if tokenizer.encode(tail + text, add_special_tokens=False)[: len(before)] != before:
                what = f"the answer {choice!r} grows together with the end of the prompt, {tail!r}"
                yield Finding("warning", None, what, "end the prompt in a word or a colon")
    for choice, other in beginnings(ids) if tail is not None else ():
        what = f"the tokens of the answer {choice!r} are the first ones of {other!r}: they cannot be told apart"
        yield Finding("error", None, what, "choose answers that differ from their first word on")
    firsts: dict[int, list[str]] = {}
    for choice, tokens in ids.items():
        firsts.setdefault(tokens[0], []).append(choice)
    for token, same in firsts.items():
        if len(same) > 1 and tail is not None:
            what = (
                f"the answers {', '.join(map(repr, same))} have the first token {tokenizer.decode([token])!r} in common"
            )
            yield Finding("note", None, what, "answers whose first tokens differ are told apart sooner")
    if len({len(tokens) for tokens in ids.values()}) > 1:
        shown = ", ".join(f"{choice!r} {len(tokens)}" for choice, tokens in ids.items())
        what = f"the answers differ in their number of tokens ({shown}): they are compared per token"
        yield Finding("note", None, what, "answers of one length are compared as they are")


def _lengths(prompt: Prompt, backbone: Backbone) -> Iterator[Finding]:
    row, limits = {}, []
    for name in prompt.variables:
        spec = prompt.specs.get(name, ANY_INPUT)
        row[name] = sample(spec)
        if spec.type == "string" and spec.enum is None and (spec.maxTokens or spec.maxLength):
            row[name] = _longest(spec.maxLength, spec.maxTokens, backbone)
            limits.append(name)
        elif spec.type == "array" and (spec.maxItems or spec.maxLength):
            row[name] = sample(spec, 10**4)
    tokens = _span(prompt, backbone, _encode(prompt, backbone, row))
    if tokens > backbone.context:
        given = f"with {', '.join(map(repr, limits))} as long as allowed " if limits else ""
        what = f"{given}a row takes {tokens:,} tokens, and the context of {backbone.name!r} holds {backbone.context:,}"
        yield Finding(
            "error", None, what, "lower maxLength, or give maxTokens with truncate" if limits else "shorten it"
        )


def _longest(characters: int | None, tokens: int | None, backbone: Backbone) -> str:
    """Plain text of at most so many characters and tokens, and no more than overfills any context."""
    most = min(characters or 10**6, 8 * (tokens or 10**6), 8 * backbone.context)
    text = (SAMPLE_TEXT * (most // len(SAMPLE_TEXT) + 1))[:most]
    places = spans(text, backbone.tokenizer)
    return text[: places[tokens - 1][1]] if tokens and len(places) > tokens else text


def _span(prompt: Prompt, backbone: Backbone, encoded: Encoded) -> int:
    """Places in the context that a row takes with its answer."""
    choices = prompt.output.choices
    answer = max(len(encode_answer(c, encoded.tail, backbone.tokenizer)) for c in choices) if choices else WRITTEN
    return backbone.architecture.span(len(encoded.ids), answer, backbone.vectors(prompt).prefix)


def _rows(prompt: Prompt, backbone: Backbone, rows: Sequence[Mapping[str, object]]) -> Iterator[Finding]:
    tried = sorted(rows, key=lambda row: -sum(len(str(value)) for value in row.values()))[:LONGEST]
    encoded = [_encode(prompt, backbone, prompt.take_texts(row, "a row of the task")) for row in tried]
    over = sum(_span(prompt, backbone, one) > backbone.context for one in encoded)
    if over:
        more = " or more" if over == LONGEST else ""
        what = f"{over:,}{more} of the task's {len(rows):,} rows do not fit in the context of {backbone.name!r}"
        yield Finding("error", None, what, "give the longest input 'maxTokens' and 'truncate'")
    for name in prompt.variables:
        if cut := sum(any(c.input == name for c in one.cuts) for one in encoded):
            more = " or more" if cut == LONGEST else ""
            what = f"{cut:,}{more} of the task's {len(rows):,} rows are cut to the budget of {name!r}"
            yield Finding("note", None, what, "raise 'maxTokens' if what is cut matters")
