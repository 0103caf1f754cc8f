# Works on any machine with make and Python >= 3.10: everything else is installed, pinned, into .venv and the cache.
# The cache is $AI_OTEL_CACHE, or ai-otel under $XDG_CACHE_HOME or ~/.cache.

PYTHON ?= python3
RUN := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint generate lock bench wheel collector clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv, the development environment (1 min the first time)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is older than Python 3.10: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) tools/environments.py setup

# Everything below sets itself up first, and again whenever what it is set up from has changed.
.venv/ready: requirements.lock pyproject.toml tools/environments.py
	@$(MAKE) --no-print-directory setup

demo: .venv/ready ## see it: a small model server on this machine, and its telemetry (20 s)
	@.venv/bin/ai-otel demo

test: .venv/ready ## everything that needs no large install, on every Python found here (3 min)
	@$(RUN) tools/check.py

test-all: .venv/ready ## the same with everything fetched that is missing (10 min the first time)
	@$(RUN) tools/check.py --all

lint: .venv/ready ## format, then ruff, mypy, import rules and generated files (20 s)
	@.venv/bin/ruff check --quiet --select I --fix; .venv/bin/ruff format --quiet
	@$(RUN) tools/check.py --lint

generate: .venv/ready ## write every generated file from the contract (5 s)
	@$(RUN) tools/generate.py
	@$(RUN) collector-config/dashboards/src/build.py

lock: .venv/ready ## resolve every requirement again (30 s)
	@$(RUN) tools/environments.py lock

bench: .venv/ready ## what it costs: the benchmarks (2 min, on a quiet machine)
	@$(RUN) benchmarks/run.py

wheel: .venv/ready ## build the wheel into dist/ (2 s)
	@$(RUN) tools/environments.py wheel

collector: .venv/ready ## build our distribution of the OpenTelemetry Collector (7 min the first time)
	@$(RUN) tools/parts.py collector
	@echo "$$($(RUN) tools/parts.py collector --path)/ai-otel-collector"

clean: ## remove what was made in this checkout; the cache stays
	@rm -rf .venv build dist reports .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
