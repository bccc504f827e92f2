"""Asks a language model for other wordings of a prompt.

Knows how to ask and how to read the answer; knows no scores. A proposal cannot be trusted, so `candidate` checks it. A
model behind an API reads the template and rows that it gets wrong, and writes another template. The small local model
is asked for less: to rephrase the instruction in one line, which may hold no template language.
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
"""The share of the wordings that a local model proposes."""
MISTAKES = 6
"""The most wrongly answered rows that a model is shown."""

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
    """Asks `model` for wordings and keeps them in the journal, so that a resumed search gets the same ones."""

    def __init__(self, model: LanguageModel, task: Task, journal: Journal, seed: int) -> None:
        self.asked = 0
        self._model, self._task, self._journal, self._seed = model, task, journal, seed

    @property
    def share(self) -> float:
        """Return the share of wordings to ask for. The others are built-in edits: a small local model is no better."""
        return LOCAL_SHARE if isinstance(self._model, Backbone) else 1.0

    def propose(self, body: str, mistakes: Sequence[Mapping[str, object]]) -> str:
        """Return another body. Raises RefusedError if the answer holds none."""
        if isinstance(self._model, Backbone):
            return self._rephrase(body)
        rows = "\n".join(
            f"- {row['inputs']}: answered {row['answer']!r}, right is {row['target']!r}" for row in mistakes
        )
        text = self._ask(ASK, {"answers": self._answer_names, "template": body, "mistakes": rows}, TEMPLATE_TOKENS)
        fenced = re.search(r"```[a-z]*\n(.*?)\n?```", text, re.DOTALL)
        return fenced[1] if fenced else text.strip()

    def _rephrase(self, body: str) -> str:
        parts = frame(body)
        if parts is None:
            raise RefusedError("the template shows no row")
        noun = parts.noun or self._task.inputs[0]
        default_intro = (INTROS if self._task.choices else FREE_INTROS)[1].format(noun=noun, choices=self._answer_names)
        try:
            answer = self._ask(REPHRASE, {"instruction": parts.intro.strip() or default_intro.strip()}, LINE_TOKENS)
        except ForewordError as error:  # the only way to fail here: the question is too long for the model
            raise RefusedError(str(error)) from error
        line = answer.strip().partition("\n")[0].strip()
        if not 3 <= len(line.split()) <= 40 or re.search(r"[{}]", line):
            raise RefusedError(f"{line!r:.80} is no instruction")
        return type(parts)(parts.before, line + "\n\n", parts.label, parts.row, parts.cue, parts.after).body

    @property
    def _answer_names(self) -> str:
        return "the right text" if self._task.choices is None else " or ".join(self._task.choices)

    def _ask(self, prompt: Prompt, inputs: Mapping[str, object], tokens: int) -> str:
        self.asked += 1
        question = hashlib.sha256(repr((prompt.digest, sorted(inputs.items()))).encode()).hexdigest()
        key = f"proposal {self.asked} {question}"
        if not isinstance(answer := self._journal.get(key), str):
            sampling = Sampling(tokens, TEMPERATURE, seed=self._seed + self.asked)
            answer = self._model.answer(prompt, [inputs], sampling)[0].text
            self._journal.put({key: answer})
        return answer
