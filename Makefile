# The environment lives in .venv. A changed pyproject.toml makes it anew; a changed installer looks at
# detectron2 again.

PYTHON ?= python3
ARGS ?=
OMP_NUM_THREADS ?= 2
# Processes that run the tests, each with one thread
WORKERS ?= 2

export OMP_NUM_THREADS
export NO_ALBUMENTATIONS_UPDATE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := .venv/bin
# LOCKED=1 installs exactly tools/requirements.lock (Python 3.11, Linux on x86-64)
ifdef LOCKED
INSTALL = $(BIN)/python -m pip install --quiet --require-hashes -r tools/requirements.lock \
	&& $(BIN)/python -m pip install --quiet --no-deps -e .
else
INSTALL = $(BIN)/python -m pip install --quiet -e '.[detection,train,dev]'
endif
PACKAGES := .venv/.packages
READY := .venv/.ready
# A second environment, with the lowest versions that pyproject.toml allows
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready
INSTALLER := $(wildcard wbcnets/cli/install_detectron2/*.py)

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: demo test test-all lowest check soak mutants faults signals audit lock setup clean help

demo: $(READY)  ## fine-tune a detector on a few generated smears, evaluate it, draw its boxes (minutes)
	@$(BIN)/python tools/demo.py $(ARGS)

test: check  ## run the checks and the tests but the long ones (ARGS='-k name' selects some)
	@$(PYTEST) -n $(WORKERS) -m 'not long' $(ARGS)

test-all: test  ## run the long tests, too, and the others with the lowest dependencies
	@$(PYTEST) -n $(WORKERS) -m long $(ARGS)
	@$(MAKE) --no-print-directory lowest

# The tests of the code that calls the dependencies; the others tell the same there
LOWEST_TESTS := $(addprefix tests/,test_lowest_versions.py test_front_door.py data/cells data/detection \
	cli engine evaluation io layers losses mfds_detr models ops train)

lowest: $(LOWEST_READY)  ## run the tests with the lowest versions of the dependencies (7 GB)
	@WBCNETS_LOWEST=1 OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) -m 'not long' \
		$(LOWEST_TESTS) $(ARGS)

check: $(READY)  ## check formatting, lint, types and security
	@$(BIN)/ruff format --check --quiet . \
		|| { echo "Not formatted, see: $(BIN)/ruff format --diff ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/bandit --quiet --recursive --severity-level medium wbcnets projects tools datasets

soak: $(READY)  ## kill trainings, fuzz readers and commands, read thousands of images (hours)
	@$(BIN)/python -m pip install --quiet -e '.[soak]'
	@WBCNETS_SOAK=1 $(PYTEST) -s tests/stress/soak tests/stress/commands tests/io/test_atomic_files.py \
		tests/train/test_failures.py tests/mfds_detr/engine/test_failures.py $(ARGS)

mutants: $(READY)  ## change single operators and numbers, and see the tests fail (hours)
	@$(BIN)/python -m pip install --quiet -e '.[mutants]'
	@OMP_NUM_THREADS=1 $(BIN)/python tests/stress/mutants/run.py $(ARGS)

faults: $(READY)  ## write tests/stress/faults/README.md: answers to faulty data, here and in peers
	@$(BIN)/python tests/stress/faults/report.py --output tests/stress/faults/README.md

signals: $(READY)  ## write tests/stress/signals/README.md: commands under signals and limits (minutes)
	@$(BIN)/python tests/stress/signals/report.py --output tests/stress/signals/README.md

audit: $(READY)  ## look for known vulnerabilities in the installed packages (needs the network)
	@$(BIN)/python -m pip install --quiet pip-audit
	@$(BIN)/pip-audit --skip-editable

lock: $(READY)  ## write tools/requirements.lock (needs the network)
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra detection --extra train --extra dev \
		--generate-hashes --no-header --no-annotate --python $(BIN)/python \
		--output-file tools/requirements.lock

setup: $(READY)  ## make the environment in .venv; the other targets do it when needed (6 GB)

clean:  ## remove the environment and caches; keep output/ and datasets/
	rm -rf .venv $(LOWEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## list the targets
	@echo "make TARGET [PYTHON=python3.12] [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' Makefile

# The stamp is a copy of the installed pyproject.toml: a new date alone makes nothing anew.
$(PACKAGES): pyproject.toml
	@if cmp -s pyproject.toml $@; then touch $@; else $(MAKE) --no-print-directory environment; fi

.PHONY: environment
environment:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make PYTHON=/path/to/python3.12 setup" >&2; \
		exit 1; }
	@echo "Making .venv: PyTorch and about 100 packages, 6 GB. 2 to 15 minutes, depending on the network ..."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@start=$$(date +%s); \
		$(INSTALL) && echo "Packages installed in $$(( $$(date +%s) - start )) s."
	@cp pyproject.toml $(PACKAGES)

$(READY): $(PACKAGES) $(INSTALLER)
	@$(BIN)/python tools/install_detectron2.py
	@touch $@

# uv reads the lowest versions from pyproject.toml; what these need themselves comes in its newest version
$(LOWEST_READY): $(READY) pyproject.toml
	@if cmp -s pyproject.toml $@; then touch $@; else $(MAKE) --no-print-directory lowest-environment; fi

.PHONY: lowest-environment
lowest-environment:
	@echo "Making $(LOWEST) with the lowest versions of the dependencies, 7 GB ..."
	@rm -rf $(LOWEST)
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/python -m venv $(LOWEST)
	@$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		-e '.[detection,train,test]'
	@$(LOWEST)/bin/python tools/install_detectron2.py
	@cp pyproject.toml $(LOWEST_READY)
