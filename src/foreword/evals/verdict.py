"""The verdict of a comparison in one plain statement, whichever way it goes. Knows scores; knows no models.

When several soft prompts, or several rivals, were tried, each claim about one rests on its Holm-adjusted p-value, so
that trying more of them does not make a false win likelier.
"""

from foreword.evals.result import ResultData, StrategyResult
from foreword.evals.statistics import holm, paired_difference
from foreword.evals.wording import count, p_text

LEVEL = 0.05
"""The significance level: a difference counts as shown if its (adjusted) p-value is below this."""


def verdict(result: ResultData) -> str:
    """Say in one statement how the best soft prompt does beside the reference, then name what beats that prompt."""
    scale, n = result.scale, len(result.rows)
    base = result.strategy(result.reference)
    softs = [s for s in result.strategies if s.kind == "soft" and s is not base]
    if not softs:
        interval = result.intervals[base.name]
        text = f"{base.name} {scale.claim(interval.value, n)} (95 % interval {scale.span(interval.low, interval.high)})"
        return text + ("." if base.kind == "soft" else "; no soft prompt was compared.") + _rivals(result, base)

    against = {s.name: c for s in softs if (c := result.comparison(s.name))}
    adjusted = dict(zip(against, holm([c.p_value for c in against.values()]), strict=True))
    significant = [s for s in softs if adjusted[s.name] < LEVEL]
    better = [s for s in significant if against[s.name].difference > 0]
    lead = max(better or softs, key=lambda s: s.mean)
    gap, p = against[lead.name], p_text(adjusted[lead.name])
    if len(softs) > 1:
        p = f"Holm-adjusted {p}"
    other = f"{_role(result)}, {base.name}"
    level = "95 % interval" if len(softs) == 1 else "unadjusted 95 % interval"
    evidence = f"{level} {scale.span(gap.low, gap.high)}, {p}"
    if better:
        text = f"{lead.name} {scale.claim(lead.mean, n)}, {scale.gap(gap.difference)} more than {other} ({evidence})."
    elif lead in significant:
        text = f"{lead.name} {scale.claim(lead.mean, n)}, {scale.gap(gap.difference)} less than {other} ({evidence})"
        text += f"; {_keep(base)}."
    else:
        difference = scale.signed(gap.difference) + ("" if scale.graded else " points")
        if len(softs) == 1:
            text = f"{lead.name} is not distinguishable from {other}: the difference is {difference}"
        else:
            state = "shown to be better than" if significant else "distinguishable from"
            text = f"No soft prompt is {state} {other}: the best of them, {lead.name}, differs by {difference}"
        text += f" ({evidence}); {_keep(base)}."
    return text + _rivals(result, lead)


def _role(result: ResultData) -> str:
    kinds = [s.kind for s in result.strategies]
    if result.strategy(result.reference).kind != "hard":
        return "the reference"
    return "the best hard prompt" if kinds.count("hard") > 1 else "the hard prompt"


def _keep(base: StrategyResult) -> str:
    return "keep the hard prompt, it can be read and edited" if base.kind == "hard" else f"keep {base.name}"


def _rivals(result: ResultData, lead: StrategyResult) -> str:
    """Write a sentence for each strategy, other than soft prompts, that scores at least as high as `lead`."""
    others = [s for s in result.strategies if s is not lead and s.kind != "soft" and s.name != result.reference]
    gaps = [paired_difference(s.scores, lead.scores, result.seed) for s in others]
    scale, sentences, many = result.scale, [], "Holm-adjusted " if len(others) > 1 else ""
    for s, c, p in zip(others, gaps, holm([c.p_value for c in gaps]), strict=True):
        if s.mean < lead.mean:
            continue
        name = s.name + _cost(s)
        if p < LEVEL:
            sentences.append(
                f" But {name} beats {lead.name}: {scale.value(s.mean)}, {scale.gap(c.value)} more"
                f" (95 % interval {scale.span(c.low, c.high)}, {many}{p_text(p)})."
            )
        else:
            sentences.append(
                f" {name} scores no less than {lead.name}: {scale.value(s.mean)}, not distinguishable"
                f" ({many}{p_text(p)})."
            )
    return "".join(sentences)


def _cost(rival: StrategyResult) -> str:
    """Say what a rival costs, if that is anything else than one call with a prompt."""
    if rival.kind == "flow":
        return f", which calls a model {count(rival.calls_per_request)} times a row," if rival.calls_per_request else ""
    costs = {"baseline": ", which needs no language model,", "lora": ", which needs an adapted copy of the weights,"}
    return costs.get(rival.kind, "")
