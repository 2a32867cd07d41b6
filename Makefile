# Python 3.11+ and make are enough for everything but the real servers, which also need java, mvn and go.

# The first interpreter of this list that is new enough makes the environment; PYTHON=... names another.
PYTHON ?= $(or $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done),python3)
PORT ?= 3000
RATE ?= 20
WORKERS ?= 3
# Many tests wait rather than compute.
JOBS ?= 3
BIN := .venv/bin
LOCAL := $(BIN)/python -m analytics_defs.devstack

.DEFAULT_GOAL := help
.PHONY: help venv test test-real test-fleet servers servers-stop dev dev-celery bench lint format constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

venv: .venv/ready ## Create .venv with everything that development and tests need

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). PYTHON=/path/to/python names another." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments here (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@echo "creating .venv with $$($(PYTHON) -V); this takes 1 to 5 minutes, once"
	@$(PYTHON) -m venv .venv
	@echo "installing about 180 packages, 1.2 GB on the disk; pip says nothing meanwhile"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,celery,kubernetes,production]'
	@touch $@

test: venv ## Run every test that needs no outside server
	$(BIN)/pytest -n $(JOBS) --dist worksteal

test-real: venv ## Run the tests on real servers: those named in the environment, those of `make servers`, or its own
	$(LOCAL) with-servers -- $(BIN)/pytest -m "real and not fleet"

test-fleet: venv ## Run the tests of Celery workers on real servers (needs redis-server and Postgres; a quarter of an hour)
	$(LOCAL) with-servers -- $(BIN)/pytest -m fleet

servers: venv ## Start Apache Kafka, DynamoDB Local and MinIO natively; their settings go to .servers/env
	@$(LOCAL) servers

servers-stop: venv ## End what `make servers` started, and remove its data
	@$(LOCAL) servers-stop

dev: venv ## Run the whole platform with embedded servers and a simulated shop; the UI is on PORT (3000), RATE events/s (20)
	@$(LOCAL) dev --port $(PORT) --rate $(RATE)

dev-celery: venv ## The same with a Redis and WORKERS (3) Celery workers that execute the runs, LANES (2 a worker) at a time
	@$(LOCAL) dev-celery --port $(PORT) --rate $(RATE) --workers $(WORKERS)

bench: venv ## Measure speed, latency and memory on real servers, beside what these give at most (half an hour)
	$(BIN)/python -m bench --save .bench/results.md --pictures .bench/pictures

lint: venv ## Check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: venv ## Write the format and the safe fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

constraints: ## Choose the newest versions that fit pyproject.toml and pin them all in constraints.txt
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv "$$folder" && \
	"$$folder/bin/pip" install --quiet --disable-pip-version-check '.[dev,celery,kubernetes,production]' && \
	{ echo '# Every version that development, tests and the container image use. Written by `make constraints`.'; \
	  "$$folder/bin/pip" freeze --disable-pip-version-check --exclude analytics-defs; } > "$$folder/constraints.txt" && \
	cp "$$folder/constraints.txt" constraints.txt && \
	rm -rf build analytics_defs.egg-info && \
	echo "constraints.txt pins $$(grep -c == constraints.txt) packages"

clean: ## Remove the environment and what tools and runs leave here; running servers are ended first
	@if [ -x $(BIN)/python ]; then $(LOCAL) servers-stop; fi
	rm -rf .venv .dev .servers .bench .dagster_home .tmp_dagster_home_* .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
