# Everything a newcomer needs: `make demo` and `make test` set themselves up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test slow lint types data-check clean

setup: $(STAMP)

# torch comes first and alone: a range, or another package's wish, would fetch a CUDA build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (PYTHON=python3.12 make ...)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" python examples/demo.py

# One process per core, each with one thread; a file stays in one process, since its tests share what they build.
test: setup data-check lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses auto --dist loadfile

slow: setup
	$(BIN)/pytest -q -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

data-check: setup
	@$(BIN)/python examples/check_data.py

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache
