"""A prompt as a function that returns a pydantic model: decoding is constrained, so what comes back always fits.

Needs `pip install 'foreword[structured]'`.
"""

from typing import Literal

from pydantic import BaseModel, Field

import foreword as fw


class Ticket(BaseModel):
    team: Literal["billing", "technical"]
    summary: str = Field(max_length=60)
    euros: int = Field(ge=0, le=5000)


ask = fw.Prompt(
    "read-ticket",
    "{{ user() }}Read the ticket and answer in JSON with team, summary and euros. Ticket: {{ text }}",
)
read = fw.Program(ask, fw.Backbone.load("smollm2-135m"), returns=Ticket)

result = read(text="I was charged twice, please give 40 euros back!")
ticket = result.value  # raises where the answer was cut off; `result.parsed` is None then
print(f"{ticket.team}, {ticket.euros} euros: {ticket.summary}")
print(result.usage, f"{result.seconds:.1f} s")
