# Needs only python3 (3.11 to 3.13) and its pip; everything else is installed into $(VENV).
# Which package index is used is the environment's affair: UV_* and PIP_* variables and their config files.

PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 2
MARKS   ?= not slow
PYTEST  ?=
DEMO    ?= configs/quickstart.yaml
# The share of the package's lines that the tests run is printed after them; COV= leaves it out, which is faster.
COV     ?= --cov=rsdistill --cov-report=
# Versions known to work. Empty, as in `make install-dev CONSTRAINTS=`, takes the newest of everything.
CONSTRAINTS ?= constraints.txt

BIN    := $(VENV)/bin
USABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

# Nothing is fetched after installation, by any library.
export HF_HUB_OFFLINE := 1
# Each environment has its own, so that two of them may run tests at a time.
export COVERAGE_FILE := $(abspath $(VENV))/.coverage

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types imports notebooks install install-dev constraints clean distclean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-12s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.run ## Make, judge and export a small distilled set from rendered scenes: no download, minutes on two cores
	$(BIN)/rsdistill run $(DEMO)

test: $(VENV)/.dev ## Run the tests; MARKS=slow the slow ones, PYTEST='-k name' fewer; RSDISTILL_TEST_DATA adds real imagery
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m '$(MARKS)' $(COV) $(PYTEST)
	@$(if $(COV),echo "lines of rsdistill that these tests ran: $$($(BIN)/python -m coverage report --format=total) %")

check: lint types imports test ## All that a change must pass, short of the notebooks and the demo

lint: $(VENV)/.dev ## Style and likely bugs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Types, strict on the package
	$(BIN)/mypy

imports: $(VENV)/.dev ## Imports point down only
	$(BIN)/lint-imports

notebooks: $(VENV)/.dev ## Run every notebook from top to bottom
	@set -- $(wildcard notebooks/*.ipynb); \
	if [ $$# -eq 0 ]; then echo "no notebooks"; else $(BIN)/python -m pytest --nbmake --nbmake-timeout=600 "$$@"; fi

install: $(VENV)/.run ## Install the package into $(VENV)
install-dev: $(VENV)/.dev ## Install the package and what its developers use; CONSTRAINTS= takes the newest versions

constraints: $(VENV)/.dev ## Write constraints.txt anew from $(VENV), once all tests pass there
	@# The oldest Python: what was released for it exists for later ones too, but for torchgeo, which they have newer.
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "constraints.txt is written from Python 3.11" >&2; exit 2; }
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable >$(VENV)/.freeze
	@# What torch brings for one kind of machine, and what installs packages, is left free.
	{ sed -n '/^#/p' constraints.txt; sed -E -e '/^(nvidia-|cuda-|triton|intel-|pip==|uv==|setuptools==|wheel==)/d' -e '/ @ /d' \
	  -e 's/\+[[:alnum:].]+$$//' -e 's/^torchgeo==.*/& ; python_version < "3.12"/' $(VENV)/.freeze; } >$(VENV)/.constraints
	mv $(VENV)/.constraints constraints.txt
	@touch $(VENV)/.run $(VENV)/.dev

clean: ## Remove caches and build products; runs and the environment stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find rsdistill tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environment too
	rm -rf $(VENV)

# Stamps, so that a second call starts at once; a changed pyproject.toml or constraints.txt installs anew.
$(VENV)/.run: pyproject.toml $(CONSTRAINTS) | $(BIN)/uv
	$(call install,.)
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/uv
	$(call install,.[dev])
	@touch $(VENV)/.run $@

ifeq ($(CONSTRAINTS),)
# The newest versions are looked for each time.
.PHONY: $(VENV)/.run $(VENV)/.dev
newest = $(call with,--upgrade,--upgrade --upgrade-strategy eager,$(1))
install = $(newest)
else
newest = $(call with,,,$(1))
install = { $(call with,-c $(CONSTRAINTS),-c $(CONSTRAINTS),$(1)); } || { \
	  echo "the versions of $(CONSTRAINTS) cannot be had here: going on without them" >&2; $(newest); }
endif

# uv takes seconds where pip takes minutes. It does not read pip's settings, so where it fails pip has its turn.
with = $(BIN)/uv pip install --python $(BIN)/python $(1) -e '$(3)' || $(BIN)/python -m pip install $(2) -e '$(3)'

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "'$(PYTHON)' is not there: install Python 3.11, 3.12 or 3.13, or name it: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c '$(USABLE)' || { \
	  echo "$$($(PYTHON) --version) is not supported: name a Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3" >&2; exit 2; }
	@# Debian's python3 without python3-venv has no ensurepip; its pip installs into the environment from outside.
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } || { rm -rf $(VENV); \
	  echo "cannot make a virtual environment: install $(PYTHON)'s venv and pip (Debian: python3-venv)" >&2; exit 2; }
