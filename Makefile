# make demo    train SGD and gRDA on scikit-learn's digits, end with a table and an HTML report
# make test    lint, types, tests
# make help    this list and the long targets
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo test lint types unit clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(STAMP)
	$(BIN)/dirprune train digits

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[all,dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
