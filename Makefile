# `make reproduce` and `make test` each set everything up by themselves: only make and Python 3.11 or newer are needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test test-random lint bench docs lock clean

help:
	@echo "make reproduce  set up, run every quick experiment, draw the figures, write figures/report.html"
	@echo "make test       set up, run the tests"
	@echo "make test-random  the same with random examples of the property tests"
	@echo "make lint       ruff and mypy --strict"
	@echo "make bench      set up, print the benchmark ratios"
	@echo "make docs       the documentation, its gallery executed, to build/docs"
	@echo "make lock       pin what is installed now in constraints.txt"

$(VENV)/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

setup: $(VENV)/.complete

reproduce: setup
	$(BIN)/python -m experiments run all --scale quick --jobs $(JOBS)
	$(BIN)/python -m figures make all
	$(BIN)/python -m figures report

test: setup
	$(BIN)/python -m pytest -n $(JOBS)

test-random: setup
	HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest -n $(JOBS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	OMP_NUM_THREADS=2 $(BIN)/python -m experiments.benchmarks

docs: setup
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs

lock: setup
	$(BIN)/python -m pip freeze --exclude-editable --exclude fenchel | sort -f > constraints.txt

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
