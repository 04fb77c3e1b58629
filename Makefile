# make demo: from an empty machine to live answers. Everything else is for those who change rta.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
UV := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench sim faults services clean

help:
	@echo "make setup   install rta and what it needs into $(VENV)"
	@echo "make demo    start rta with the Wikipedia edits of one day and a generated web shop"
	@echo "make test    run every test, in two lanes; TEST='-k quota' picks some"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make format  let ruff rewrite what it can"
	@echo "make bench   measure this machine; BENCH='edge http' picks some"
	@echo "make sim     10,000 simulated schedules of crashes and zombies; SIM='--seed 7 --schedules 1' for one"
	@echo "make faults  half an hour of real faults on a real Kafka and bucket; FAULTS='--minutes 5 --seed 7'"
	@echo "make services fetch what the tests run against: Kafka's jars, versitygw; says if Java or Redis is missing"
	@echo "make clean   remove $(VENV), caches and build output; data folders stay"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1)' 2>/dev/null || { \
	  echo "rta needs Python 3.11 or newer; '$(PYTHON)' is $$({ $(PYTHON) -V 2>&1 || echo missing; } | tail -n 1)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@[ ! -d $(VENV) ] || $(BIN)/python -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1)' 2>/dev/null || rm -rf $(VENV)
ifneq ($(UV),)
	@[ -x $(BIN)/python ] || uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
else
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
	@echo "installing into $(VENV) with pip: some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
endif
	@$(BIN)/python -c 'import rta.launch; rta.launch.prepare()'
	@touch $(STAMP)

demo: setup
	$(BIN)/rta demo

test: setup services
	$(BIN)/python -m tests $(TEST)

lint: setup
	$(BIN)/ruff check rta tests benchmarks
	$(BIN)/ruff format --check rta tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix rta tests benchmarks
	$(BIN)/ruff format rta tests benchmarks

bench: setup
	$(BIN)/python -m benchmarks $(BENCH)

sim: setup
	POLARS_MAX_THREADS=1 $(BIN)/python -m tests.sim $(SIM)

faults: setup services
	$(BIN)/python -m tests.faults $(FAULTS)

services: setup
	@$(BIN)/python -m tests.services

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find rta tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
