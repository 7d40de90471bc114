# Everything runs in .venv, which is made from requirements/dev.txt when that file, or how the project is packaged,
# has changed. All that has to be there before: Python 3.11 or newer with venv, make, git, and a package index.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements/dev.txt pyproject.toml | cksum | cut -d ' ' -f 1)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

PACKAGES := identity ledger anchoring sync api

.PHONY: help setup demo test check chaos fuzz bench docs lock clean

help:
	@echo "make demo    a story, half a minute after setup: real transactions, evidence, and five attacks that are caught"
	@echo "make test    the whole test suite"
	@echo "make check   format, lint, types, layers"
	@echo "make chaos   the faults for hours: kills, power cuts, flipped bits, changed columns; ROUNDS=500"
	@echo "make fuzz    random histories, every HTTP route, a node that is sent broken sessions; FUZZ_MINUTES=20 FUZZ_EXAMPLES=20"
	@echo "make bench   ours, the floor, and their ratio"
	@echo "make docs    write docs/reference/cli.md anew"
	@echo "make setup   only make .venv"
	@echo "make lock    resolve requirements/*.in anew"
	@echo "make clean   remove what these made"

setup: $(STAMP)

# The pinned pip comes first: an older one does not hold a requirement with an extra, as coverage[toml], to the version
# that is pinned without it, and fails on the day when a newer version is published.
$(STAMP):
	@test -n "$(PYTHON)" || { echo "holdfast needs Python 3.11 or newer, with venv: make PYTHON=/path/to/python3"; exit 1; }
	@echo "[1/3] making $(VENV) with $$($(PYTHON) --version)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/3] installing $$(grep -c '^[a-z0-9.-]*==' requirements/dev.txt) pinned packages; this takes a minute or two"
	@sed -n '/^pip==/,/^ *# via/p' requirements/dev.txt > $(VENV)/pip.txt
	@$(PIP) install --no-compile --require-hashes --requirement $(VENV)/pip.txt
	@$(PIP) install --no-compile --require-hashes --requirement requirements/dev.txt
	@echo "[3/3] installing holdfast"
	@PYTHONWARNINGS=ignore $(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)
	@$(BIN)/holdfast demo

test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	@echo "format" && $(BIN)/ruff format --quiet --check .
	@echo "lint" && $(BIN)/ruff check --quiet .
	@echo "types" && $(BIN)/mypy --strict $(addprefix --package ,$(PACKAGES))
	@echo "layers" && $(BIN)/python -m pytest --quiet --no-header tests/test_layering.py tests/test_public_names.py

ROUNDS ?= 500

chaos: $(STAMP)
	@CHAOS_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest tests/faults/medium tests/faults/test_raw_flips.py tests/faults/test_b8_tampered_store.py $(ARGS)

# Round after round, each with a seed of its own, which is printed: with SEED=... the first round is that one again.
# Then a running node is sent broken sessions for as long.
FUZZ_MINUTES ?= 20
FUZZ_EXAMPLES ?= 20
SEED ?=
FUZZED := tests/properties tests/unit/api/routes/test_schemathesis.py $(addprefix tests/unit/sync/test_,asof.py forks.py history.py membership.py undo.py)

fuzz: $(STAMP)
	@end=$$(($$(date +%s) + 60 * $(FUZZ_MINUTES))); seed=$(SEED); rounds=0; while [ $$(date +%s) -lt $$end ]; do \
		seed=$${seed:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; rounds=$$((rounds + 1)); echo "round $$rounds, seed $$seed"; \
		FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest --quiet --no-header --hypothesis-seed=$$seed $(FUZZED) $(ARGS) || \
			{ echo "to repeat it: make fuzz FUZZ_MINUTES=1 SEED=$$seed"; exit 1; }; \
		seed=; done; echo "$$rounds rounds, nothing found"
	@FUZZ_MINUTES=$(FUZZ_MINUTES) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest --quiet --no-header --capture=no \
		tests/faults/test_sync_fuzz.py $(ARGS)

bench: $(STAMP)
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(STAMP)
	@page=$$($(BIN)/python -m api.cli.reference) && printf '%s\n' "$$page" > docs/reference/cli.md

# What is pinned stays pinned; make lock UPGRADE=--upgrade takes the newest of everything. Hashes of wheels only; no
# index and no host is written into the files. One after the other: the last two must pick what the first has picked.
LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet $(UPGRADE) --generate-hashes --strip-extras \
	--allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --pip-args '--only-binary=:all:'

lock: $(STAMP)
	@echo "requirements/dev.txt (some minutes)"
	@$(LOCK) --output-file requirements/dev.txt requirements/dev.in
	@echo "requirements/runtime.txt"
	@$(LOCK) --constraint requirements/dev.txt --output-file requirements/runtime.txt requirements/runtime.in
	@echo "requirements/verify.txt"
	@$(LOCK) --constraint requirements/dev.txt --output-file requirements/verify.txt requirements/verify.in

clean:
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
