# Every developer command. All of them make .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types fix docs wheel bench clean

demo: .venv/demo
	$(BIN)/foreword demo

test: lint types
	$(BIN)/pytest --durations=10

lint: .venv/dev
	$(BIN)/ruff check src tests benchmarks scripts examples
	$(BIN)/ruff format --check src tests benchmarks scripts examples

types: .venv/dev
	$(BIN)/mypy

fix: .venv/dev
	$(BIN)/ruff check --fix src tests benchmarks scripts examples
	$(BIN)/ruff format src tests benchmarks scripts examples

# Every warning is an error: a link that leads nowhere, a name that the reference cannot find.
docs: .venv/dev
	$(BIN)/python scripts/pages.py
	$(BIN)/zensical build --strict --clean
	@echo "Open site/index.html."

wheel: .venv/dev
	$(BIN)/python -m build --wheel

bench: .venv/dev
	$(BIN)/python benchmarks/train_vs_peft.py
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/serve.py

clean:
	rm -rf .venv site dist

.venv/pip:
	@echo "Installing into .venv: a minute or two, and about 2 GB."
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev: .venv/pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ .venv/demo
