#!/usr/bin/env bash
# In a pipeline: store the prompt of this commit, and let `prod` move to it only if it is not worse.
# Exit code 3 means that the gate refused, and that nothing has moved.
set -euo pipefail
table="${TABLE:-prompts.db}"

# A first version is live already; in earnest this was done by an earlier commit.
foreword prompts add tickets.prompt --table "$table" --alias prod -m "first version"

# What this commit would ship: the same question, with words that make little sense.
cat > candidate.prompt <<'END'
---
name: tickets
output: {choices: [billing, technical]}
---
{{ text }} Not
END
stored=$(foreword prompts add candidate.prompt --table "$table" -m "commit ${COMMIT:-unknown}" --json |
  python -c 'import json, sys; print(json.load(sys.stdin)["version"])')

code=0
foreword prompts alias tickets prod "$stored" --gate tickets.yaml --table "$table" -m "by the pipeline" || code=$?
echo "the gate ended with exit code $code"
foreword prompts list tickets --table "$table"
test "$code" = 0 -o "$code" = 3
