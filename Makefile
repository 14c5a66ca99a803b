# Every target makes the environment first, if it is not there or pyproject.toml changed.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/lora-cl

.PHONY: run mnist test lint bench soak slow tables clean

run: .venv/installed
	$(RUN) run configs/split_digits.yaml
	$(RUN) compare results/runs/split-digits

mnist: .venv/installed
	$(RUN) run configs/split_mnist.yaml configs/permuted_mnist.yaml
	$(RUN) compare results/runs/split-mnist results/runs/permuted-mnist

test: .venv/installed
	$(BIN)/python -m pytest -q

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed
	$(BIN)/python -m tests.bench

soak: .venv/installed
	$(BIN)/python -m pytest -q -s -o addopts= -m soak tests/soak --timeout 7200

slow: .venv/installed
	$(BIN)/python -m pytest -q -o addopts= -m slow tests

tables: .venv/installed
	$(BIN)/python results/published/make_tables.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $@

clean:
	rm -rf .venv build dist
