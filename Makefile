# `make run` and `make test` are all that a fresh machine needs besides Python 3.11+ and the package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: run worker test lint train bench clean
.DEFAULT_GOAL := run

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

run: $(STAMP)  ## Redis, a worker and the service on port 8000; Ctrl-C stops all of it
	@$(BIN)/python -m devtools.launch

worker: $(STAMP)  ## one more worker for a running `make run`
	@$(BIN)/python -m devtools.launch worker

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) lint  ## everything the tests need, then the tests
	$(BIN)/python -m pytest

train: $(STAMP)  ## the default checkpoint anew; PRESET=gpu where there is one
	$(BIN)/python -m training $(or $(PRESET),cpu) --out runs/$(or $(PRESET),cpu)

bench: $(STAMP)  ## seconds a picture, by size, on this machine
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .run build *.egg-info
