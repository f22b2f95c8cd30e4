# make demo    train SGD and gRDA on scikit-learn's digits, end with a table and an HTML report
# make test    lint, types, tests
# make docs    the documentation: build/site/index.html, no server needed
# make help    this list
#
# Longer, results kept in benchmarks/results:
#
# make bench                    time and memory of a step, an epoch, cost of a bfloat16 accumulator: some minutes on a quiet machine
# make fuzz                     10,000 damaged sparse files, some minutes
# make compare DATA_DIR=DATA    all pruning methods on equal terms: an hour or two a part on two cores; can be stopped and resumed
# make page                     src/dirprune/recipes/README.md and benchmarks/README.md from the results beside them; docs/assets/published.svg
# make measure DATA_DIR=DATA    the figures of README.md, an hour or more on two cores; DATA holds the data sets as parquet
# make paper DATA_DIR=DATA      the paper's networks, as far as src/dirprune/recipes/README.md tells them: most of a day on two cores
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

DATA_DIR ?=
RESULTS  := benchmarks/results
COLLECT  := $(BIN)/python benchmarks/collect.py

PAPER := src/dirprune/recipes/results
QUICK := --crop-padding 0 --no-flip --precision bf16 --channels-last --threads 1
QUARTER = $(BIN)/dirprune train vgg16-cifar10 --width 0.25 --epochs 40 --schedule-epochs 40 $(QUICK) --data-dir $(DATA_DIR) --out runs/paper/quarter

.PHONY: help demo docs test lint types unit bench fuzz compare page measure paper clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(STAMP)
	$(BIN)/dirprune train digits

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

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

bench: $(STAMP)
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/step_scaling.py
	$(BIN)/python benchmarks/step_memory.py
	$(BIN)/python benchmarks/kept_memory.py
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/accumulator_dtype.py

fuzz: $(STAMP)
	$(BIN)/python benchmarks/fuzz_sparse_file.py --mutations 10000 --seed 0 --output $(RESULTS)/fuzz_sparse_file.json

compare: $(STAMP)
	$(BIN)/python benchmarks/compare.py $(if $(DATA_DIR),--data-dir $(DATA_DIR))

page: $(STAMP)
	$(BIN)/python benchmarks/recipes_page.py
	$(BIN)/python benchmarks/page.py
	$(BIN)/python benchmarks/published.py

measure: $(STAMP)
	@test -n "$(DATA_DIR)" || { echo "make measure needs DATA_DIR=..., a folder with fashion_mnist as parquet"; exit 2; }
	$(BIN)/dirprune train digits
	$(COLLECT) runs/digits --output $(RESULTS)/digits.json
	$(BIN)/python benchmarks/tune_greatest.py
	$(BIN)/dirprune train lenet5-fashion_mnist --data-dir $(DATA_DIR) --threads 1
	$(BIN)/dirprune train lenet5-fashion_mnist --data-dir $(DATA_DIR) --threads 1 --c 0.0055 --methods grda
	$(COLLECT) runs/lenet5-fashion_mnist --output $(RESULTS)/lenet5-fashion_mnist.json
	$(BIN)/dirprune train lenet5-fashion_mnist-l0 --data-dir $(DATA_DIR) --threads 1 --c 1.2e-4 1.8e-4
	$(BIN)/dirprune train lenet5-fashion_mnist-l0 --data-dir $(DATA_DIR) --threads 1 --methods grda --penalty l1 --mu 0.6 --c 0.0045
	$(COLLECT) runs/lenet5-fashion_mnist-l0 --output $(RESULTS)/lenet5-fashion_mnist-l0.json

paper: $(STAMP)
	@test -n "$(DATA_DIR)" || { echo "make paper needs DATA_DIR=..., a folder with cifar10 and cifar100 as parquet"; exit 2; }
	$(BIN)/python benchmarks/first_steps.py wrn28x10-cifar10 wrn28x10-cifar100 --precision bf16 --channels-last --threads 1 --data-dir $(DATA_DIR)
	$(BIN)/dirprune train vgg16-cifar10 --epochs 2 --precision no --channels-last --threads 1 --data-dir $(DATA_DIR) --out runs/paper/vgg16 --mu 0.4 0.51 0.6 0.7
	$(COLLECT) runs/paper/vgg16/* --merge --fit --data-dir $(DATA_DIR) --output $(PAPER)/vgg16-cifar10.json
	$(QUARTER) --seeds 2 --c 0.001 --mu 0.4 0.51 0.6 0.7
	$(QUARTER) --precision no --seed 2 --c 0.001 --mu 0.4 0.51 0.6 0.7 0.75
	$(QUARTER) --methods grda --c 0.002 --mu 0.6
	$(QUARTER) --methods grda --c 0.004 --mu 0.6 0.7
	$(COLLECT) runs/paper/quarter/* --merge --any-precision --fit --data-dir $(DATA_DIR) --output $(PAPER)/vgg16-width0.25-cifar10.json
	$(BIN)/dirprune train wrn10x4-cifar100 --image-size 16 --epochs 30 --schedule-epochs 30 $(QUICK) --data-dir $(DATA_DIR) --out runs/paper/wrn10x4 --c 0.004 0.008 --mu 0.7
	$(COLLECT) runs/paper/wrn10x4/* --merge --fit --data-dir $(DATA_DIR) --output $(PAPER)/wrn10x4-cifar100.json

clean:
	rm -rf $(VENV) build runs .mypy_cache .pytest_cache .ruff_cache
