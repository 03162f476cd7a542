# make demo: install everything and run the main job.  make test: install and run every test.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
UV := $(BIN)/uv
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup demo test suite check lint unit bench migrate lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ ·/' | column -t -s '·'

$(VENV)/.installed: requirements.lock pyproject.toml
	@python=; \
	for candidate in python3.12 $$( (command -v pyenv >/dev/null && ls -d "$$(pyenv root)"/versions/3.12*/bin/python) 2>/dev/null | sort -rV); do \
	  if "$$candidate" --version >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "Python 3.12 is needed: install it (say, 'pyenv install 3.12') and run make again." >&2; exit 1; fi; \
	echo "· environment: $(VENV), from $$python"; \
	[ -x $(PYTHON) ] || "$$python" -m venv $(VENV); \
	[ -x $(UV) ] || $(PYTHON) -m pip install --quiet uv; \
	echo "· packages: $$(grep -c == requirements.lock) from requirements.lock; about 4 GB to download if this machine has none of them (torch and CUDA's libraries are most of it), 12 GB installed, compiled so that every process starts quickly"; \
	$(UV) pip sync --quiet --compile-bytecode --python $(PYTHON) requirements.lock & pid=$$!; \
	trap 'kill $$pid 2>/dev/null || true' EXIT; SECONDS=0; \
	while kill -0 $$pid 2>/dev/null; do sleep 1; \
	  [ $$((SECONDS % 15)) -ne 0 ] || echo "  … $${SECONDS}s, $$(du -sh $(VENV) 2>/dev/null | cut -f1) in place"; done; \
	wait $$pid; trap - EXIT
	@$(UV) pip install --quiet --python $(PYTHON) --no-deps --editable .
	@touch $@; echo "· installed"

setup: $(VENV)/.installed ## install into .venv

demo: setup ## train a small model end to end on this machine, and talk to it
	@$(PYTHON) -m examples.quickstart.demo

test: setup ## everything: lint, types, unit, contract, service and end-to-end tests
	@$(MAKE) --no-print-directory --jobs 2 lint suite

suite: setup
	@$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

# The longest first, so that the short ones fill the end. A worker may hold an engine, some 4 GiB.
WORKERS ?= 2
TESTS := $(addprefix tests/,e2e service contract unit)

check: setup lint unit ## the quick ones: format, lint, types, rooms, unit tests

lint: setup
	@$(BIN)/ruff format --check --quiet . || { echo "run: ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pyright

unit: setup
	@$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile tests/unit

bench: setup ## print figures against bare baselines
	@for script in benchmarks/*.py; do echo "== $$script"; $(PYTHON) $$script; done

migrate: setup ## bring the database at ROLLWAY_DATABASE_URL up to date
	@$(PYTHON) -m controlplane.db

lock: ## write requirements.lock anew from pyproject.toml
	@$(UV) pip compile pyproject.toml --group dev --python $(PYTHON) --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet --upgrade -o requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
