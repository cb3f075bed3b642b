# Few verbs. Everything runs inside .venv, which the first of them makes.
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down test check bench soak lock clean

PY := .venv/bin/python
# pytest processes; each has servers of its own, so more than cores does not pay. A file's tests share what they made, so
# they stay together; files go in their order: the long ones are not at the end.
WORKERS ?= 2
PYTEST_ARGS ?=
# Absolute, for the processes that tests start elsewhere.
export PYTHONPATH := $(CURDIR)/plugins:$(CURDIR)

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv and install the Debian packages that tests and checks need
	@scripts/setup.sh dev

demo: ## a ledger database, backed up, shipped, restored and proven by Airflow; Ctrl-C ends it
	@scripts/setup.sh demo
	@exec $(PY) -m demo up

demo-down: ## remove everything the demo made
	@scripts/setup.sh demo
	@$(PY) -m demo down

test: ## run all tests (WORKERS=2, PYTEST_ARGS="-k name")
	@scripts/setup.sh dev
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: ## lint, format, types, layers, locks, secrets: no test is run
	@scripts/setup.sh dev
	@scripts/check.sh

bench: ## side by side with pgBackRest and restic; writes the report in benchmarks/
	@scripts/setup.sh bench
	$(PY) -m benchmarks

soak: ## the long tests that `make test` leaves out
	@scripts/setup.sh dev
	$(PY) -m pytest -m soak $(PYTEST_ARGS)

lock: ## resolve requirements*.in again and write the hash-pinned locks
	@scripts/lock.sh

clean: ## remove .venv and caches (not the demo: make demo-down)
	rm -rf .venv .setup.lock .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
