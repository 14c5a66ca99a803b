# Every target makes the environment first, if it is not there or pyproject.toml changed.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/lora-cl

.PHONY: run mnist wordnet tune-smoke tuned verify test test-commands lint bench soak soak-ray slow published studies reports clean

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

# What `lr: tuned` stands for: values for every method with their traces, then the tables of these;
# hours, most of them for WordNet.
TUNED := split_mnist split_mnist_domain split_mnist_class permuted_mnist_task permuted_mnist permuted_mnist_class \
         wordnet wordnet_class split_fashion_lite0 split_fashion_lite0_class
tuned: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text,images]'
	for name in $(TUNED); do \
	  $(RUN) tune configs/$$name.yaml --output configs/tuned/$$name.yaml || exit 1; \
	  $(RUN) run configs/tuned/$$name.yaml || exit 1; \
	  folder=results/runs/$$(echo $$name | tr _ -)-tuned; \
	  $(RUN) compare $$folder --format markdown --output results/published/$${name}_tuned.md || exit 1; \
	  $(RUN) compare $$folder --format json --output results/published/$${name}_tuned.json || exit 1; \
	done

# Published numbers beside ours: 190 runs, over an hour; fails where a cell is too far apart.
SCENARIOS := task domain class
verify: .venv/installed
	for scenario in $(SCENARIOS); do \
	  name=van_de_ven_2022_$$scenario; \
	  $(RUN) verify $$name --format markdown --output results/published/$$name.md; \
	  $(RUN) verify $$name --format json --output results/published/$$name.json || failed=1; \
	done; [ -z "$$failed" ]

# Temporary files in memory, where there is room: a record is flushed to the disk at every write.
ROOM := if df -k /dev/shm 2>/dev/null | awk '{ free = $$4 } END { exit free < 4000000 }' \
	&& [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi;
ORDINARY := not slow and not soak and not bench
PYTEST := $(BIN)/python -m pytest -q -n 3 --dist worksteal
test: .venv/installed
	$(ROOM) $(PYTEST) -m '$(ORDINARY) and not commands'

# What starts commands of its own: every line of the documents, kills, plug-ins in a package.
test-commands: .venv/installed
	$(ROOM) $(PYTEST) -m '$(ORDINARY) and commands'

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
PUBLISHED := split_digits split_mnist split_mnist_domain split_mnist_class permuted_mnist_task permuted_mnist permuted_mnist_class lora_ranks
published: .venv/installed
	for name in $(PUBLISHED); do \
	  $(RUN) run configs/$$name.yaml || exit 1; \
	  folder=results/runs/$$(echo $$name | tr _ -); \
	  $(RUN) compare $$folder --format markdown --details --output results/published/$$name.md || exit 1; \
	  $(RUN) compare $$folder --format json --output results/published/$$name.json || exit 1; \
	done

# What adapters are worth merged, of what rank full fine-tuning is, and where adapters belong.
ANSWERING := lora, linear, cat, svd, ties, dare_ties, magnitude_prune, sum, frozen, full, joint
ANALYZED := analysis-mnist/full analysis-mnist/independent analysis-minilm/full
studies: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text]'
	$(RUN) run configs/merging.yaml
	$(RUN) run configs/merging.yaml -o name=merging-domain -o scenario=domain
	$(RUN) run configs/merging.yaml -o name=merging-task -o scenario=task -o methods='[$(ANSWERING)]'
	$(RUN) run configs/routers.yaml configs/places.yaml configs/analysis_mnist.yaml configs/analysis_minilm.yaml
	for form in md json; do \
	  format=$$(echo $$form | sed s/md/markdown/); \
	  $(RUN) compare results/runs/merging results/runs/merging-domain results/runs/merging-task \
	    --format $$format --output results/published/merging.$$form || exit 1; \
	  for name in places routers; do \
	    $(RUN) compare results/runs/$$name --format $$format \
	      --output results/published/$$name.$$form || exit 1; \
	  done; \
	done
	for run in $(ANALYZED); do \
	  file=results/published/$$(echo $$run | tr /- __); \
	  $(RUN) analyze results/runs/$$run/seed0-* | sed 's/^/    /' > $$file.md; \
	  $(RUN) analyze results/runs/$$run/seed0-* --format json > $$file.json || exit 1; \
	done

# Pages of the runs that are there, which hold their plots as SVG, and these as PDF; trains nothing.
REPORTED := split-mnist-class wordnet-tuned
reports: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[report]'
	for name in $(REPORTED); do \
	  $(RUN) report results/runs/$$name -o results/published/reports/$$name.html \
	    --figures results/published/reports/$$name || exit 1; \
	  rm -f results/published/reports/$$name/*.svg results/published/reports/$$name/*.png; \
	done

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $@

clean:
	rm -rf .venv build dist
