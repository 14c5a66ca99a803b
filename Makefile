# Every target makes the environment first, if it is not there or pyproject.toml changed.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/lora-cl

.PHONY: run mnist wordnet tune-smoke test lint bench soak soak-ray slow published clean

run: .venv/installed
	$(RUN) run configs/split_digits.yaml
	$(RUN) compare results/runs/split-digits

mnist: .venv/installed
	$(RUN) run configs/split_mnist.yaml configs/permuted_mnist.yaml
	$(RUN) compare results/runs/split-mnist results/runs/permuted-mnist

wordnet: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text]'
	$(RUN) run configs/wordnet.yaml -o seeds=1 -o methods='[frozen, lora, full]'
	$(RUN) compare results/runs/wordnet

tune-smoke: .venv/installed
	smoke=$$(mktemp -d) && trap 'rm -rf "$$smoke"' EXIT && \
	$(RUN) tune configs/smoke.yaml -o tune.trials=2 --results $$smoke/runs --output $$smoke/tuned.yaml && \
	$(RUN) validate $$smoke/tuned.yaml

test: .venv/installed
	$(BIN)/python -m pytest -q -n 3 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed
	$(BIN)/python -m tests.bench

soak: .venv/installed
	$(BIN)/python -m pytest -q -s -o addopts= -m soak tests/soak --timeout 7200

soak-ray: .venv/installed
	$(BIN)/python -m pytest -q -s -o addopts= -m soak tests/soak/test_soak_ray.py --timeout 7200

slow: .venv/installed
	$(BIN)/python -m pytest -q -o addopts= -m slow tests

# The tables we stand behind: hours of work in well under one; see results/published/README.md.
PUBLISHED := split_digits split_mnist split_mnist_class permuted_mnist permuted_mnist_task lora_ranks
published: .venv/installed
	for name in $(PUBLISHED); do \
	  $(RUN) run configs/$$name.yaml || exit 1; \
	  folder=results/runs/$$(echo $$name | tr _ -); \
	  $(RUN) compare $$folder --format markdown --details --output results/published/$$name.md || exit 1; \
	  $(RUN) compare $$folder --format json --output results/published/$$name.json || exit 1; \
	done

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $@

clean:
	rm -rf .venv build dist
