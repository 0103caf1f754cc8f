# Works on any machine with make and Python >= 3.10: everything else is installed, pinned, into .venv and the cache.
# The cache is $AI_OTEL_CACHE, or ai-otel under $XDG_CACHE_HOME or ~/.cache.

PYTHON ?= python3
RUN := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint generate lock bench wheel collector clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## create .venv, the development environment (1 min the first time)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is older than Python 3.10: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) tools/environments.py setup

# The targets below depend on .venv, which is set up again when its inputs change.
.venv/ready: requirements.lock pyproject.toml tools/environments.py
	@$(MAKE) --no-print-directory setup

demo: .venv/ready ## see it: a small model server on this machine, and its telemetry (20 s)
	@.venv/bin/ai-otel demo

test: .venv/ready ## run all tests without large dependencies, portable ones also on the oldest and newest Python (8 min)
	@$(RUN) tools/check.py

test-all: .venv/ready ## run all tests, on every installed Python, fetching missing dependencies (25 min, 50 the first time)
	@$(RUN) tools/check.py --all

lint: .venv/ready ## format; run ruff, mypy, import-linter; check generated files (20 s)
	@.venv/bin/ruff check --quiet --select I --fix; .venv/bin/ruff format --quiet
	@$(RUN) tools/check.py --lint

generate: .venv/ready ## write every generated file from the contract (5 s)
	@$(RUN) tools/generate.py
	@$(RUN) collector-config/dashboards/src/build.py

lock: .venv/ready ## resolve every requirement again (30 s)
	@$(RUN) tools/environments.py lock

bench: .venv/ready ## run the benchmarks, write the tables and chart of docs/overhead.md (5 min, idle machine)
	@$(RUN) benchmarks/run.py --json benchmarks/results/overhead.json
	@$(RUN) benchmarks/report.py

wheel: .venv/ready ## build the wheel into dist/ (2 s)
	@$(RUN) tools/environments.py wheel

collector: .venv/ready ## build the ai-otel distribution of the OpenTelemetry Collector (7 min the first time)
	@$(RUN) tools/parts.py collector
	@echo "$$($(RUN) tools/parts.py collector --path)/ai-otel-collector"

clean: ## remove build outputs of this checkout; keep the cache
	@rm -rf .venv build dist reports .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
