# A fresh machine needs Python 3.11 or newer and a package index. `make` installs the rest to .venv,
# in the versions and with the hashes of requirements/dev.txt.
PYTHON ?= python3
PRESET ?= cpu
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help run worker test lint docs train bench lock licenses sbom clean
.DEFAULT_GOAL := run

$(STAMP): pyproject.toml unclip_client/pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, \
	this is " + sys.version.split()[0] + ". Choose another: make PYTHON=python3.12")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation \
		--editable ./unclip_client --editable .
	touch $@

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(STAMP)  ## Run Redis, a worker and the service on port 8000; Ctrl-C stops them
	@$(BIN)/python -m devtools.launch

worker: $(STAMP)  ## Run one more worker beside `make run`
	@$(BIN)/python -m devtools.launch worker

test: $(STAMP) lint  ## Run the linters and all tests
	$(BIN)/python -m pytest

lint: $(STAMP)  ## Run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## Build the documentation site into site/
	$(BIN)/mkdocs build --strict

train: $(STAMP)  ## Train the default checkpoint again; PRESET=gpu on a GPU
	$(BIN)/python -m training $(PRESET) --out runs/$(PRESET)

bench: $(STAMP)  ## Measure the latency of an image and the overhead of serving
	$(BIN)/python -m benchmarks

lock: $(STAMP)  ## Lock requirements/ after a change; UPGRADE=all, or UPGRADE="name name"
	$(BIN)/python -m devtools.lock $(if $(UPGRADE),--upgrade $(UPGRADE))

licenses: $(STAMP)  ## List the licences of what the images install
	$(BIN)/python -m devtools.licenses

sbom: $(STAMP)  ## Write what the images install to build/sbom, as CycloneDX
	mkdir -p build/sbom
	$(BIN)/cyclonedx-py requirements --output-reproducible --output-file build/sbom/service.cdx.json \
		requirements/service.txt
	cat requirements/torch.txt requirements/worker.txt | $(BIN)/cyclonedx-py requirements \
		--output-reproducible --output-file build/sbom/worker.cdx.json -

clean:  ## Remove the virtual environment, the data of `make run` and build outputs
	rm -rf .venv .run build site *.egg-info unclip_client/build unclip_client/*.egg-info
