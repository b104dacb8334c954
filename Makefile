# Everything a newcomer needs: `make predict FORMULA=SrTiO3`, `make test`. Needs Python 3.11 or newer, nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
FORMULA ?=
ARGS ?=

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
# pip writes a stamp, so that nothing is installed again until one of these changes
MANIFESTS = pyproject.toml constraints.txt

.PHONY: help predict install test lint check-science clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | column -t -s '|'

predict: $(VENV)/.core ## Predict crystals: make predict FORMULA=SrTiO3 [ARGS="--samples 50"]
	@$(VENV)/bin/dao predict $(if $(FORMULA),"$(FORMULA)") $(ARGS)

install: $(VENV)/.core ## Install the package into .venv

# two processes, each with whole files: half the time on two cores
test: $(VENV)/.test lint ## Run the linters, the type checker and the tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test ## Run the linters and the type checker only
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

check-science: $(VENV)/.test ## Run the long checks of what the software claims (data in $DAO_DATA or ../shared/data)
	$(VENV)/bin/python -m pytest -m science

clean: ## Remove the environment, caches and build products (never results or weights)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(MANIFESTS) | $(VENV)/bin/python
	@echo "Installing into $(VENV) (a few minutes the first time)" >&2
	@$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(MANIFESTS) | $(VENV)/bin/python
	@echo "Installing into $(VENV) with what the tests need" >&2
	@$(PIP) --editable '.[train,test]'
	@touch $@ $(VENV)/.core
