# Two commands matter: `make demo` and `make test`. Both set everything up first; the second time that takes no time.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test soak lint format docs bench lock clean

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3 python,$(if $(shell command -v $(name)),$(name))))
BIN := .venv/bin
# Set-up is done once for each state of these files.
VENV := .venv/.complete
JARS := .jars/.complete

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(VENV) $(JARS)  ## .venv with the locked packages and .jars with Delta

demo: setup  ## MovieLens-100k from raw files to recommendations; SOURCE=DIR for your own copy
	@$(BIN)/python -m scripts.demo $(if $(SOURCE),--source "$(SOURCE)")

test: lint  ## every check but the soak
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

soak: setup  ## what takes long: faults, load, browser
	$(BIN)/python -m pytest -m soak || [ $$? -eq 5 ]

lint: setup  ## ruff, mypy, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## write docs/config.md, tables.md and api.md from the code
	$(BIN)/python -m scripts.make_docs

bench: setup  ## measured times, see benchmarks/; FULL=1 for all of them
	$(BIN)/python -m benchmarks

lock: setup  ## write requirements.lock from .venv
	$(BIN)/python -m scripts.lock

clean:  ## remove set-up, caches, and what jobs wrote
	rm -rf .venv .jars build dist data lake spark-warehouse metastore_db derby.log
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV): requirements.lock
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: Python 3.11 or newer is needed, found $$($(or $(PYTHON),false) --version 2>/dev/null || echo none): install it (Debian/Ubuntu: apt-get install python3.11 python3.11-venv) or name one, make PYTHON=/path/to/python3.11" >&2; exit 6; }
	@$(PYTHON) -m scripts.check_host
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "error: $(PYTHON) cannot make a virtual environment: install its venv package (Debian/Ubuntu: apt-get install python3-venv)" >&2; exit 6; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

$(JARS): scripts/jars.sha256 $(VENV)
	$(BIN)/python -m scripts.fetch_jars
	@touch $@
