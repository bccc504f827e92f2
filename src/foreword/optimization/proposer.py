"""Wordings thought of by a language model. Knows how to ask and how to read the answer; what comes of it is checked
elsewhere (`candidate`), as nobody can trust it.

A model that follows instructions is shown the template and what it gets wrong, and writes another template. The small
local model is asked for less: the instruction in other words, one line, in which no template language can stand.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

from foreword.backbone import Backbone, LanguageModel, Sampling
from foreword.errors import ForewordError
from foreword.optimization.candidate import RefusedError
from foreword.optimization.edits import FREE_INTROS, INTROS
from foreword.optimization.frame import frame
from foreword.optimization.journal import Journal
from foreword.prompts import Prompt
from foreword.tasks import Task

TEMPERATURE = 0.9
TEMPLATE_TOKENS, LINE_TOKENS = 600, 30
LOCAL_SHARE = 0.5
MISTAKES = 6
"""Rows that a model is shown."""

ASK = Prompt("proposer", """\
You write the prompt of another language model, which is given a row and must answer {{ answers }}.

The present template:
```
{{ template }}
```

It answered these rows wrongly:
{{ mistakes }}

Write a better template. Keep every {% raw %}{{ … }}{% endraw %} in it exactly as it is, and keep their order; change \
the words around them. Explain what distinguishes the answers, or lead up to the answer more clearly. Reply with the \
template alone, between two lines of ```.
""")  # fmt: skip
REPHRASE = Prompt("rephraser", """\
Instruction: Is the sentence true or false?
In other words: Say whether the sentence below is true or false.

Instruction: Decide whether the email is spam or not spam.
In other words: Classify this email as spam or not spam.

Instruction: {{ instruction }}
In other words:""")  # fmt: skip


class Proposer:
    """Asks `model`; what it said is kept in the journal, so that the same search meets it again."""

    def __init__(self, model: LanguageModel, task: Task, journal: Journal, seed: int) -> None:
        self.asked = 0
        self._model, self._task, self._journal, self._seed = model, task, journal, seed

    @property
    def share(self) -> float:
        """Of the wordings that it is to think of. The others are edits: a small local model is no better."""
        return LOCAL_SHARE if isinstance(self._model, Backbone) else 1.0

    def propose(self, body: str, mistakes: Sequence[Mapping[str, object]]) -> str:
        """Another body. Raises RefusedError where the answer holds none."""
        if isinstance(self._model, Backbone):
            return self._rephrased(body)
        rows = "\n".join(
            f"- {row['inputs']}: answered {row['answer']!r}, right is {row['target']!r}" for row in mistakes
        )
        text = self._say(ASK, {"answers": self._answers, "template": body, "mistakes": rows}, TEMPLATE_TOKENS)
        fenced = re.search(r"```[a-z]*\n(.*?)\n?```", text, re.DOTALL)
        return fenced[1] if fenced else text.strip()

    def _rephrased(self, body: str) -> str:
        parts = frame(body)
        if parts is None:
            raise RefusedError("the template shows no row")
        noun = parts.noun or self._task.inputs[0]
        stock = (INTROS if self._task.choices else FREE_INTROS)[1].format(noun=noun, choices=self._answers)
        try:
            said = self._say(REPHRASE, {"instruction": parts.intro.strip() or stock.strip()}, LINE_TOKENS)
        except ForewordError as error:  # nothing can fail here but that the question is too long for it
            raise RefusedError(str(error)) from error
        line = said.strip().partition("\n")[0].strip()
        if not 3 <= len(line.split()) <= 40 or re.search(r"[{}]", line):
            raise RefusedError(f"{line!r:.80} is no instruction")
        return type(parts)(parts.before, line + "\n\n", parts.label, parts.row, parts.cue, parts.after).body

    @property
    def _answers(self) -> str:
        return "the right text" if self._task.choices is None else " or ".join(self._task.choices)

    def _say(self, prompt: Prompt, inputs: Mapping[str, object], tokens: int) -> str:
        self.asked += 1
        question = hashlib.sha256(repr((prompt.digest, sorted(inputs.items()))).encode()).hexdigest()
        key = f"proposal {self.asked} {question}"
        if not isinstance(said := self._journal.get(key), str):
            sampling = Sampling(tokens, TEMPERATURE, seed=self._seed + self.asked)
            said = self._model.answer(prompt, [inputs], sampling)[0].text
            self._journal.put({key: said})
        return said
