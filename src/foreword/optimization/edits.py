"""Wordings and demonstrations that need no model to be thought of. Knows a task's words; measures nothing.

Small models follow form more than meaning, so most of what is tried is form: how the answer is led up to, in what
order the choices are named, what stands between the row and the answer, which solved rows stand in front.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from foreword.optimization.frame import Frame
from foreword.tasks import Row, Task

MAX_DEMONSTRATIONS = 16
NAMED = 8
"""Choices that are named in a sentence at most."""

INTROS = (
    "",
    "Decide whether the {noun} is {choices}.\n\n",
    "Classify the {noun} as {choices}.\n\n",
    "Is this {noun} {choices}?\n\n",
    "Answer with one word: {choices}.\n\n",
    "Every {noun} is {choices}.\n\n",
    "Read the {noun} and say whether it is {choices}.\n\n",
)
CUES = (
    "\nAnswer:", "\nLabel:", "\nThe {noun} is", "\nThis {noun} is", "\nOverall, this {noun} is",
    "\nIn one word, the {noun} is", "\nIs the {noun} {choices}? It is", "\nIs it {choices}?\nAnswer:",
    "\nQuestion: Is the {noun} {choices}?\nAnswer:", "\nThe best word for this {noun} is", "\nAll in all, it is",
    "\nThe tone of this {noun} is", "\nThe topic of this {noun} is", "\nThe opinion in this {noun} is",
    "\nThe writer of this {noun} feels", "\nClearly, this {noun} is", "\n({choices}):", " =>", " ->",
)  # fmt: skip
FREE_INTROS = (
    "", "Answer briefly.\n\n", "Read the {noun}, then answer.\n\n", "Give the answer and nothing else.\n\n",
    "Answer in the way of the examples.\n\n",
)  # fmt: skip
FREE_CUES = ("\nAnswer:", "\nA:", "\nThe answer is", "\nShort answer:", "\nOutput:", "\nIn short,", " =>", " ->")
LABELS = ("{Noun}: ", "The {noun}: ", "", "Text: ", "Input: ", "{Noun}:\n", "Here is a {noun}: ")
BREAKS = ("\n", "\n\n", " ")
JOINTS = (" or ", "/", ", ")


def reword(frame: Frame, task: Task, rng: random.Random) -> Frame:
    """`frame` with other words in one or two places, drawn from `rng`; its variables, roles and includes untouched."""
    noun = frame.noun or task.inputs[0].replace("_", " ")
    words = {"noun": noun, "Noun": noun[:1].upper() + noun[1:], "choices": _named(task.choices, rng)}
    named = task.choices is not None and len(task.choices) <= NAMED
    intro = rng.choice(INTROS if named else FREE_INTROS).format(**words)
    cue = rng.choice(CUES if named else FREE_CUES).format(**words)
    match rng.choices(("cue", "intro", "both", "label", "break"), (4, 2, 2, 1, 1))[0]:
        case "cue":
            return replace(frame, cue=cue)
        case "intro":
            return replace(frame, intro=intro)
        case "both":
            return replace(frame, intro=intro, cue=cue)
        case "label":
            return replace(frame, label=rng.choice(LABELS).format(**words))
        case _:
            return replace(frame, cue=rng.choice(BREAKS) + frame.cue.lstrip())


def _named(choices: Sequence[str] | None, rng: random.Random) -> str:
    """`positive or negative`, in either order: the one named last is the likelier answer of many a small model."""
    order = rng.sample(choices or (), len(choices or ()))
    return rng.choice(JOINTS).join(order)


def reshow(shown: Sequence[str], pool: Sequence[Row], wrong: Sequence[Row], rng: random.Random) -> tuple[str, ...]:
    """Other demonstrations, as row ids: more, fewer, one for another, another order, or a row answered wrongly now."""
    kinds = {"more": 3, "mistake": 3 if wrong else 0}
    if shown:
        kinds |= {"fewer": 1, "swap": 2, "order": 2}
    ids = list(shown)
    match rng.choices(list(kinds), list(kinds.values()))[0]:
        case "more":
            for _ in range(rng.choice((1, 2, 4, 8))):
                ids += _next(ids, pool, rng)
        case "mistake":
            ids += [row.id for row in rng.sample(list(wrong), min(len(wrong), rng.choice((1, 2)))) if row.id not in ids]
        case "fewer":
            ids = rng.sample(ids, len(ids) // 2)
        case "swap":
            out = ids.pop(rng.randrange(len(ids)))
            ids += _next(ids, [row for row in pool if row.id != out], rng)
        case _:
            rng.shuffle(ids)
    return tuple(ids[-MAX_DEMONSTRATIONS:])


def _next(ids: Sequence[str], pool: Sequence[Row], rng: random.Random) -> list[str]:
    """One more row, of a target that is shown least; none where all are shown."""
    left = [row for row in pool if row.id not in ids]
    if not left:
        return []
    shown = [row.target for row in pool if row.id in ids]
    fewest = min(shown.count(row.target) for row in left)
    return [rng.choice([row for row in left if shown.count(row.target) == fewest]).id]
