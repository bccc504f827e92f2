"""Prompts called one after the other, each with what the one before it has said: chain.yaml, called as a function."""

import foreword as fw

model = fw.Backbone.load("smollm2-135m")
chain = fw.Program(fw.Chain.load("chain.yaml"), model)

with fw.trace() as trace:
    result = chain(text="Since the update I cannot log in for my second account.")

for name, step in result.steps.items():
    print(f"{name}: {step.text!r}")
print("answer:", result.value)
print(f"{len(trace.calls)} calls, {trace.usage}, {trace.seconds:.1f} s")
