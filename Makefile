# Every target prepares .venv by itself; nothing else needs to be installed but Python 3.10 or newer.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SOURCES := configuration_mmet.py modeling_mmet.py processing_mmet.py run_pretrain.py run_reid_eval.py mmet tests

.PHONY: help test test-slow lint format clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

test: $(READY) ## the test suite (under ten minutes on two cores)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m 'not slow'

test-slow: $(READY) ## the long tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(READY) ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean: ## remove the environment and everything the demo wrote
	rm -rf $(VENV) outputs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
