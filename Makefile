# `make quickstart` and `make test` do all their own set-up; nothing else needs installing first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export JAX_PLATFORMS ?= cpu
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install quickstart aitw test lint types imports notebooks help

help:
	@echo "make quickstart  the whole method on the embedded phone, with a table and a report at the end"
	@echo "make test        the tests"
	@echo "make lint types imports notebooks   what CI checks besides"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
# torch comes first and pinned: an open range would pull the CUDA build and its gigabytes.
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

quickstart: install
	$(BIN)/digiq run configs/quickstart.yaml

AITW ?= ../shared/data/aitw_sample
aitw: install
	$(BIN)/digiq run configs/aitw_sample.yaml --episodes.source $(AITW)

test: install
	$(BIN)/pytest -n 2 tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: install
	$(BIN)/lint-imports

notebooks: install
	$(BIN)/python notebooks/execute.py
