# The environment lives in .venv. It is made from scratch when pyproject.toml says something new, and
# detectron2 is looked at again when its installer changes.

PYTHON ?= python3
ARGS ?=
OMP_NUM_THREADS ?= 2

export OMP_NUM_THREADS
export NO_ALBUMENTATIONS_UPDATE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := .venv/bin
PACKAGES := .venv/.packages
READY := .venv/.ready
INSTALLER := tools/install_detectron2.py tools/detectron2_operators.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test check clean

help:  ## list what can be made
	@echo "make TARGET [PYTHON=python3.12] [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## make the environment in .venv (once; PyTorch is 6 GB)

demo: $(READY)  ## fine-tune, evaluate and draw on a small generated smear set
	@$(BIN)/python tools/demo.py $(ARGS)

test: check  ## run the checks, then the tests (ARGS='-k name' picks some)
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY)  ## formatting, lint and types
	@$(BIN)/ruff format --check --quiet . \
		|| { echo "Not formatted, see: $(BIN)/ruff format --diff ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

clean:  ## remove the environment and caches; keeps output/ and datasets/
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is a copy of the pyproject.toml that was installed: a new date alone remakes nothing.
$(PACKAGES): pyproject.toml
	@if cmp -s pyproject.toml $@; then touch $@; else $(MAKE) --no-print-directory environment; fi

.PHONY: environment
environment:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "Python 3.10 or later is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make PYTHON=/path/to/python3.12 setup" >&2; \
		exit 1; }
	@echo "Making .venv: PyTorch and about 100 packages, 6 GB. 2 to 15 minutes, by the network ..."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@start=$$(date +%s); \
		$(BIN)/python -m pip install --quiet -e '.[detection,train,dev]' \
		&& echo "Packages installed in $$(( $$(date +%s) - start )) s."
	@cp pyproject.toml $(PACKAGES)

$(READY): $(PACKAGES) $(INSTALLER)
	@$(BIN)/python tools/install_detectron2.py
	@touch $@
