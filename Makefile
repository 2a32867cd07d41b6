# Requires Python 3.11+ and make. The real servers also require java, mvn and go.

# The first interpreter of this list that is new enough creates .venv. PYTHON=... selects another.
PYTHON ?= $(or $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done),python3)
PORT ?= 3000
RATE ?= 20
WORKERS ?= 3
# More than two: many tests wait and use little CPU.
JOBS ?= 3
BIN := .venv/bin
LOCAL := $(BIN)/python -m analytics_defs.devstack

.DEFAULT_GOAL := help
.PHONY: help venv test test-real test-fleet servers servers-stop dev dev-celery bench lint format dist constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

venv: .venv/dev ## Create .venv with all dependencies of development and tests

# .venv/run: what `make dev` needs. .venv/dev: everything. The script writes both, and uses `uv` if it is installed.
.venv/run .venv/dev: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: Python 3.11 or newer is required; $(PYTHON) is $$($(PYTHON) -V 2>&1). Select another with PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot create virtual environments (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@$(PYTHON) analytics_defs/devstack/venv.py $(@F)

test: venv ## Run the tests that need no external server
	$(BIN)/pytest -n $(JOBS) --dist worksteal

test-real: venv ## Run the tests on real servers: those in the environment, those of `make servers`, or temporary ones
	$(LOCAL) with-servers -- $(BIN)/pytest -m "real and not fleet"

test-fleet: venv ## Run the tests of Celery workers on real servers (requires redis-server and Postgres; 15 minutes)
	$(LOCAL) with-servers -- $(BIN)/pytest -m fleet

servers: venv ## Start Apache Kafka, DynamoDB Local and MinIO natively; write their settings to .servers/env
	@$(LOCAL) servers

servers-stop: venv ## Stop the servers of `make servers` and delete their data
	@$(LOCAL) servers-stop

dev: .venv/run ## Run the platform with embedded servers and a simulated shop: UI on PORT (3000), RATE (20) events/s
	@$(BIN)/analytics dev --port $(PORT) --rate $(RATE)

dev-celery: venv ## Run the same with Redis and WORKERS (3) Celery workers for LANES (2 per worker) lanes
	@$(LOCAL) dev-celery --port $(PORT) --rate $(RATE) --workers $(WORKERS)

bench: venv ## Measure speed, latency and memory on real servers (half an hour)
	$(BIN)/python -m bench --save .bench/results.md --pictures .bench/pictures

lint: venv ## Check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: venv ## Format the code and apply safe fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

dist: ## Build the wheel and the source archive in dist, and check them
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder" build analytics_defs.egg-info' EXIT && rm -rf dist && \
	$(PYTHON) -m venv "$$folder" && "$$folder/bin/pip" install --quiet --disable-pip-version-check build twine && \
	"$$folder/bin/python" -m build --outdir dist . >"$$folder/log" 2>&1 || { tail -20 "$$folder/log"; exit 1; } && \
	"$$folder/bin/twine" check --strict dist/*

constraints: ## Pin the newest versions that pyproject.toml allows in constraints.txt
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv "$$folder" && \
	"$$folder/bin/pip" install --quiet --disable-pip-version-check '.[dev,celery,kubernetes,production]' && \
	{ echo '# Versions of all packages of development, tests and the container image. Written by `make constraints`.'; \
	  "$$folder/bin/pip" freeze --disable-pip-version-check --exclude analytics-defs; } > "$$folder/constraints.txt" && \
	cp "$$folder/constraints.txt" constraints.txt && \
	rm -rf build analytics_defs.egg-info && \
	echo "constraints.txt pins $$(grep -c == constraints.txt) packages"

clean: ## Stop the servers; delete .venv and all generated files
	@if [ -x $(BIN)/python ]; then $(LOCAL) servers-stop; fi
	rm -rf .venv .dev .servers .bench .dagster_home .tmp_dagster_home_* .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
