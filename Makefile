# Two commands to know: `make demo` and `make test`. Both set up .venv by themselves on their first run.
SHELL := /bin/bash
# Tests start some thousand processes: without the compiled files each would compile all of DelayBox again.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help setup check check-install check-deploy check-release release site bench-report format lint types layout proto proto-check docs docs-check test test-faults soak bench demo demo-kafka lock clean

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.setup-done
GEN := src/delaybox/wire/gen
# Tests wait more than they compute, so there may be more of them than cores.
WORKERS ?= 3
PEERS := benchmarks/peers/python

help:
	@echo 'make demo         start a node with its own Valkey and watch tasks fire; KEEP=1: it stays up for a look around'
	@echo 'make demo-kafka   records through a real Kafka broker and back at their time (Java 17 and Maven, or a container)'
	@echo 'make test         unit, integration, property and short fault tests'
	@echo 'make test-faults  the fault tests at full size, row by row, and a table; goes on where it was stopped'
	@echo 'make soak         a random mix of faults for an hour; S=86400: for a day'
	@echo 'make bench        benchmarks: a table, and JSON under benchmarks/results/'
	@echo 'make check        lint, format, types, import layers, generated code and tables are current'
	@echo 'make check-install  what users get: built, installed with the newest and the lowest versions, used'
	@echo 'make check-deploy   image, compose, chart, units, alerts and boards under deploy/'
	@echo 'make check-release  the same files as make release but the image, made and looked at'
	@echo 'make release      the files of a release, in dist/: wheel, sdist, image, bill of materials, notes, checksums'
	@echo 'make bench-report  the pictures of docs/benchmarks.md from the kept results'
	@echo 'make site         the documents as a site, in build/site'
	@echo 'make format       let ruff rewrite what it can'
	@echo 'make proto        regenerate $(GEN) from proto/'
	@echo 'make docs         fill the tables in docs/ from the code'
	@echo 'make lock         compile the hashed requirements again (needs uv)'
	@echo 'make setup        only make .venv'

setup: $(STAMP)

# An old .venv that still runs is brought up to date in place. The editable install needs no build isolation: hatchling
# itself is in the hashed requirements.
$(STAMP): requirements/dev.txt
	@set -e; $(PY) -c 'import pip' 2>/dev/null && exit 0; \
	python=$$(scripts/find-python); echo "Setting up $(VENV) with $$python"; \
	"$$python" -m venv --clear $(VENV)
	@echo 'Installing what DelayBox and its tests need (hashes are checked)'
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

check: lint types layout proto-check docs-check

# On each Python that the machine has; the network is asked for packages only, where pip is set up to take them from.
check-install: $(STAMP)
	$(PY) scripts/check_install.py

# Its tools have an environment of their own. What is not there is named, and that check left out.
DEPLOY_STAMP := .tools/.setup-done
$(DEPLOY_STAMP): requirements/deploy.txt
	@set -e; python=$$(scripts/find-python); "$$python" -m venv --clear .tools/venv
	@.tools/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/deploy.txt
	@touch $@

check-deploy: $(DEPLOY_STAMP)
	.tools/venv/bin/python scripts/check_deploy.py

# A release without its consequences: nothing is kept.
check-release: $(STAMP) $(DEPLOY_STAMP)
	$(PY) -m scripts.release --check

release: $(STAMP) $(DEPLOY_STAMP)
	$(PY) -m scripts.release

site: $(DEPLOY_STAMP)
	NO_MKDOCS_2_WARNING=1 .tools/venv/bin/python scripts/site.py

bench-report: $(DEPLOY_STAMP)
	.tools/venv/bin/python scripts/bench_report.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layout: $(STAMP)
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(STAMP)
	$(PY) scripts/generate_proto.py $(GEN)

proto-check: $(STAMP)
	$(PY) scripts/generate_proto.py --check $(GEN)

docs: $(STAMP)
	$(PY) scripts/generate_docs.py

docs-check: $(STAMP)
	$(PY) scripts/generate_docs.py --check

# pytest's own exit code is make's: nothing is piped behind it.
# TESTS_FORK: processes of DelayBox are forked, not started anew (tests/quick_start.py). TESTS_FORK= : started anew.
TESTS_FORK ?= 1
test: $(STAMP)
	$(if $(TESTS_FORK),TESTS_FORK=1 )$(PY) -m pytest -n $(WORKERS) -m 'not slow'

# ROWS='T6 T7': only these. What has passed on this commit is not run again, so it can be stopped; AGAIN=1: all of it.
test-faults: $(STAMP)
	$(PY) -m tests.faults.suite $(ROWS) $(if $(AGAIN),--again)

# S: for how many seconds.
S ?= 3600
soak: $(STAMP)
	DELAYBOX_SOAK_S=$(S) $(PY) -m tests.faults.suite T29 --again

bench: $(STAMP)
	$(PY) -m benchmarks

demo-kafka: $(STAMP)
	@$(PY) examples/demo_kafka.py

demo: $(STAMP)
	@$(PY) examples/demo.py

# Hashes, and no address of an index: where packages come from is the installing machine's business.
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate

lock:
	@command -v uv >/dev/null || { echo 'make lock needs uv on the PATH' >&2; exit 1; }
	uv pip compile $(LOCK) --extra all pyproject.toml requirements/dev.in --output-file requirements/dev.txt
	uv pip compile $(LOCK) --extra all pyproject.toml --constraint requirements/dev.txt --output-file requirements/runtime.txt
	uv pip compile $(LOCK) requirements/deploy.in --output-file requirements/deploy.txt
	uv pip compile $(LOCK) $(PEERS)/requirements.in --output-file $(PEERS)/requirements.txt
	uv pip compile $(LOCK) $(PEERS)/more.in --output-file $(PEERS)/more.txt
clean:
	rm -rf $(VENV) .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
