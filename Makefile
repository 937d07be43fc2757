# The environment lives in .venv. It is made from scratch when pyproject.toml says something new, and
# detectron2 is looked at again when its installer changes.

PYTHON ?= python3
ARGS ?=
OMP_NUM_THREADS ?= 2

export OMP_NUM_THREADS
export NO_ALBUMENTATIONS_UPDATE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := .venv/bin
# LOCKED=1 installs the very files of tools/requirements.lock (Python 3.11, Linux on x86-64)
ifdef LOCKED
INSTALL = $(BIN)/python -m pip install --quiet --require-hashes -r tools/requirements.lock \
	&& $(BIN)/python -m pip install --quiet --no-deps -e .
else
INSTALL = $(BIN)/python -m pip install --quiet -e '.[detection,train,dev]'
endif
PACKAGES := .venv/.packages
READY := .venv/.ready
INSTALLER := tools/install_detectron2.py tools/detectron2_operators.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test check soak faults audit lock clean

help:  ## list what can be made
	@echo "make TARGET [PYTHON=python3.12] [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## make the environment in .venv (once; PyTorch is 6 GB)

demo: $(READY)  ## fine-tune, evaluate and draw on a small generated smear set
	@$(BIN)/python tools/demo.py $(ARGS)

test: check  ## run the checks, then the tests (ARGS='-k name' picks some)
	@$(BIN)/python -m pytest $(ARGS)

soak: $(READY)  ## the long form of tests/stress/soak: kills, fuzzing, thousands of images (about an hour)
	@$(BIN)/python -m pip install --quiet -e '.[soak]'
	@WBCNETS_SOAK=1 $(BIN)/python -m pytest -s tests/stress/soak tests/io/test_atomic_files.py \
		tests/train/test_failures.py tests/mfds_detr/engine/test_failures.py $(ARGS)

faults: $(READY)  ## the corpus of faults, here and in its peers, into tests/stress/faults/README.md
	@$(BIN)/python tests/stress/faults/report.py --output tests/stress/faults/README.md

audit: $(READY)  ## known weaknesses of the installed packages (asks the network)
	@$(BIN)/python -m pip install --quiet pip-audit
	@$(BIN)/pip-audit --skip-editable

lock: $(READY)  ## write tools/requirements.lock anew (asks the network)
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra detection --extra train --extra dev \
		--generate-hashes --no-header --no-annotate --python $(BIN)/python \
		--output-file tools/requirements.lock

check: $(READY)  ## formatting, lint and types
	@$(BIN)/ruff format --check --quiet . \
		|| { echo "Not formatted, see: $(BIN)/ruff format --diff ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/bandit --quiet --recursive --severity-level medium wbcnets projects tools datasets

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
		$(INSTALL) && echo "Packages installed in $$(( $$(date +%s) - start )) s."
	@cp pyproject.toml $(PACKAGES)

$(READY): $(PACKAGES) $(INSTALLER)
	@$(BIN)/python tools/install_detectron2.py
	@touch $@
