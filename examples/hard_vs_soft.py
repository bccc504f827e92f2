"""Tune a soft prompt, and measure it against the words it began from and against examples.

python hard_vs_soft.py [STEPS]
"""

import sys

import foreword as fw

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60

model = fw.Backbone.load("smollm2-135m")
task = fw.Task.load("tickets.yaml")
hard = fw.Prompt.load("tickets.prompt")

run = fw.tune(model, task, start=hard, tokens=16, steps=steps, batch=8)
print(f"{run.trained_parameters:,} numbers, {run.steps} steps, {run.seconds:.0f} s")

result = fw.compare(model, task, [hard, fw.few_shot(hard, task, 4), run])
for strategy in result.strategies:
    score = result.intervals[strategy.name]
    print(f"{strategy.name:40} {score.value:.3f}  ({score.low:.3f} to {score.high:.3f})")
print(result.verdict)
result.save("report.html")
