# Every target sets up what it needs: a virtual environment in .venv with the tested versions of constraints.txt.
# Another interpreter: make PYTHON=/path/to/python <target>. Another package index or PyTorch build: pip's own variables,
# such as PIP_INDEX_URL and PIP_EXTRA_INDEX_URL.

IS_RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$python -c '$(IS_RECENT)' 2>/dev/null && echo $$python; done) python3)
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check -c constraints.txt
# What pip prints goes to a file; where it fails, the last lines of it are shown.
PIP_LOG := $(VENV)/pip.log
comma := ,
quietly = $(INSTALL) $(1) $(2)$(PIP_LOG) 2>&1 || { tail -n 20 $(PIP_LOG) >&2; exit 1; }
# One thread an operation: the tests are many small ones, and two workers share the cores.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help demo reproduce reproduce-quick test test-all lint format types setup setup-dev
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 20

demo: setup  ## train the embedded model with DPO, and with a setting that does well, and compare
	$(RUN) demo.py

# Every study that one CPU can run, cheapest first; what is complete is not made again, so that an interrupted one goes on.
STUDIES := toy adaptive_beta_toy arithmetic adaptive_beta reward_model twins paper/methods paper/flex_sweep rlhf losses
QUICK_STUDIES := toy arithmetic

reproduce: setup  ## make every result of docs/results that needs no GPU, and their pages (about a day of one core)
	$(RUN) -m studies run $(STUDIES)
	$(RUN) -m studies page $(STUDIES)

reproduce-quick: setup  ## the same for a subset of two studies (a quarter of an hour); pages go to runs/studies/*/quick_page
	$(RUN) -m studies run --quick $(QUICK_STUDIES)
	$(RUN) -m studies page --quick $(QUICK_STUDIES)

test: setup-dev  ## run the test suite
	$(TEST_ENV) $(RUN) -m pytest -n 2

test-all: setup-dev  ## run the test suite with the slow tests
	$(TEST_ENV) $(RUN) -m pytest -n 2 -m "not gpu"

lint: setup-dev  ## check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: setup-dev  ## format the code and sort its imports
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: setup-dev  ## check types (mypy --strict)
	$(RUN) -m mypy

setup: $(VENV)/.runtime  ## install what running needs

setup-dev: $(VENV)/.dev  ## install what developing needs

# The stamps are made last: an installation that was interrupted is taken up again by the next call.
$(VENV)/.runtime: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c '$(IS_RECENT)' || { echo "expected Python >= 3.11, got $(PYTHON): $$($(PYTHON) --version 2>&1)." \
	  "Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "==> Setting up $(VENV) with $$($(PYTHON) --version), once; PyTorch is the largest download"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "==> Installing PyTorch (what pip says: $(PIP_LOG))"
	@$(call quietly,torch,>)
	@echo "==> Installing the rest of what running needs"
	@$(call quietly,-e .,>>)
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "==> Installing what developing needs: pytest, ruff, mypy, judges"
	@$(call quietly,-e ".[dev$(comma)judges]",>>)
	@touch $@
