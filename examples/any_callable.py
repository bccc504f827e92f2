"""A prompt, a chain and a Python function in one comparison: same rows, paired tests, one verdict."""

import foreword as fw

model = fw.Backbone.load("smollm2-135m")
task = fw.Task.load("tickets.yaml")


def keywords(text: str) -> str:
    """Two lists of words, and no model."""
    money = ("charged", "invoice", "refund", "price", "bill")
    return "billing" if any(word in text for word in money) else "technical"


result = fw.compare(model, task, [fw.Prompt.load("tickets.prompt"), fw.Chain.load("chain.yaml"), keywords])
for strategy in result.strategies:
    print(f"{strategy.kind:8} {strategy.name:30} {result.intervals[strategy.name].value:.3f}")
print(result.verdict)
