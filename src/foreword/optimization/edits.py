"""Built-in edits of a candidate: draws wordings and demonstrations at random. Knows a task's words; knows no model.

Small models follow form more than meaning, so most edits change form: the words before the answer, the order in which
the choices are named, what separates the row from the answer, which solved rows come first.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from foreword.optimization.frame import Frame
from foreword.tasks import Row, Task

MAX_DEMONSTRATIONS = 16
"""The most demonstrations that a candidate shows."""
NAMED = 8
"""The most choices that a task may have for an edit to name them in a sentence."""

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
    """Return `frame` with other words in one or two places, drawn with `rng`; variables, roles and includes stay."""
    noun = frame.noun or task.inputs[0].replace("_", " ")
    words = {"noun": noun, "Noun": noun[:1].upper() + noun[1:], "choices": _join_choices(task.choices, rng)}
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


def _join_choices(choices: Sequence[str] | None, rng: random.Random) -> str:
    """Join the choices in random order: many small models answer the one named last more often."""
    order = rng.sample(choices or (), len(choices or ()))
    return rng.choice(JOINTS).join(order)


def reshow(shown: Sequence[str], pool: Sequence[Row], wrong: Sequence[Row], rng: random.Random) -> tuple[str, ...]:
    """Draw an edit of the row ids `shown`: add rows, drop some, swap one, reorder them, or add rows of `wrong`.

    `wrong` holds rows that the candidate answers wrongly. At most MAX_DEMONSTRATIONS ids are returned.
    """
    kinds = {"more": 3, "mistake": 3 if wrong else 0}
    if shown:
        kinds |= {"fewer": 1, "swap": 2, "order": 2}
    ids = list(shown)
    match rng.choices(list(kinds), list(kinds.values()))[0]:
        case "more":
            for _ in range(rng.choice((1, 2, 4, 8))):
                ids += _draw_row(ids, pool, rng)
        case "mistake":
            ids += [row.id for row in rng.sample(list(wrong), min(len(wrong), rng.choice((1, 2)))) if row.id not in ids]
        case "fewer":
            ids = rng.sample(ids, len(ids) // 2)
        case "swap":
            removed = ids.pop(rng.randrange(len(ids)))
            ids += _draw_row(ids, [row for row in pool if row.id != removed], rng)
        case _:
            rng.shuffle(ids)
    return tuple(ids[-MAX_DEMONSTRATIONS:])


def _draw_row(ids: Sequence[str], pool: Sequence[Row], rng: random.Random) -> list[str]:
    """Draw the id of one more row, of a target that is shown least; return none if all rows are shown."""
    unused = [row for row in pool if row.id not in ids]
    if not unused:
        return []
    targets = [row.target for row in pool if row.id in ids]
    fewest = min(targets.count(row.target) for row in unused)
    return [rng.choice([row for row in unused if targets.count(row.target) == fewest]).id]
