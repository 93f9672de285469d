# anomalib_lite: one command each for what people do most. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NAME ?= calibration
JOBS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
RUNS ?= runs

.PHONY: help install demo test test-slow lint audit docs bench reproduce reproduce-all sync clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(INSTALLED) ## a virtual environment in .venv with everything (about 3 minutes, 8 GB)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## from rendered photographs of panels to a trained detector, and say where the report is
	$(BIN)/anomalib-lite demo
	$(BIN)/anomalib-lite train data=folder data.manifest=demo/labels.csv data.template=demo/template.png experiment_name=demo tracking=csv $(ARGS)

test: install ## the test suite (ARGS='tests/metrics -x' narrows it; JOBS=1 runs it in one process)
	$(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --durations=10 -rs $(ARGS)

test-slow: install ## the tests that take half a minute or more each
	$(BIN)/python -m pytest -q -m slow $(ARGS)

lint: install ## ruff: errors and format; mypy: types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: install ## known vulnerabilities of what is installed (asks pypi.org, so it is not part of the gate)
	$(BIN)/pip-audit --local --skip-editable --progress-spinner off $(ARGS)

docs: install ## the documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo site/index.html

bench: install ## speed, as ratios within one run; peer.py, predict.py, annotate_load.py, serve.py and large_images.py want arguments or an hour
	@for file in $(filter-out %/peer.py %/annotate_load.py %/predict.py %/serve.py %/large_images.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

reproduce: install ## run an experiment, compare with its committed table: NAME=backbones, with ANOMALIB_LITE_DATASETS=DIR where it needs real data
	$(BIN)/python experiments/reproduce.py $(NAME) $(ARGS)

reproduce-all: install ## all experiments whose data are there (ANOMALIB_LITE_DATASETS=DIR); hours
	$(BIN)/python experiments/reproduce.py --all $(ARGS)

sync: install ## upload the W&B runs below runs/ that were tracked offline (RUNS=folder; needs `wandb login`)
	@found=$$(find $(RUNS) -type d -name 'offline-run-*' 2>/dev/null); \
	if [ -z "$$found" ]; then echo "no offline runs below $(RUNS)/: train with tracking=wandb"; exit 0; fi; \
	echo "$$found" | tr '\n' '\0' | xargs -0 $(BIN)/wandb sync $(ARGS)

clean: ## remove the environment and caches; runs and artifacts stay
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
