# `make demo` and `make test` each do everything on a machine that has Python 3.10+, make and a C compiler. They use the maintained
# packages; `make test-original` runs the tests on the original ones, of which MMCV is compiled where MMCV_WHEEL names no wheel.
# PYTHON=python3.12 chooses the interpreter of a new .venv; pip's own settings (PIP_* variables, pip.conf) are respected.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.mmetris-installed
ORIGINAL := .venv-original
ORIGINAL_PY := $(ORIGINAL)/bin/python
ORIGINAL_STAMP := $(ORIGINAL)/.mmetris-installed
MMCV_WHEEL ?=
LINT_PATHS := mmetris configs tools demo projects docs/site tests setup.py
# A process per core, four at most; a file's tests stay together.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile

.PHONY: help install test test-original lint docs demo clean

help:
	@echo 'make demo   make Shapes, train a tiny ETRIS on two processes, evaluate it, draw its masks'
	@echo 'make test   lint and run all tests'
	@echo 'make test-original MMCV_WHEEL=FILE'
	@echo '            run all tests on the original OpenMMLab packages; without FILE, MMCV 2.1.0 is compiled (half an hour)'
	@echo 'make lint   only the linter'
	@echo 'make docs   the documentation as a site, in site/'
	@echo 'make clean  remove .venv and .venv-original (data/ and work_dirs/ stay)'

# Make the environment $(1) where its Python does not run.
define make_environment
	@if ! $(1)/bin/python -c '' 2>/dev/null; then \
		version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || \
			{ echo "error: '$(PYTHON)' does not run. Install Python 3.10 or newer, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
			{ echo "error: mmetris needs Python 3.10 or newer, and $(PYTHON) is $$version. Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
		echo "Creating $(1) with Python $$version"; \
		$(PYTHON) -m venv --clear $(1) || \
			{ echo "error: Python's venv module failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
endef

install: $(STAMP)

# Made when missing, completed again when a requirement changes, otherwise left alone.
$(STAMP): $(wildcard requirements/*.txt) setup.py pyproject.toml
	$(call make_environment,$(VENV))
	$(PY) -m pip install -r requirements/mminstall.txt -r requirements/tests.txt -r requirements/docs.txt -e .
	@touch $@

# In two steps, because MMCV is compiled for the torch that is there. Its setup and MMEngine import pkg_resources.
$(ORIGINAL_STAMP): $(wildcard requirements/*.txt) setup.py pyproject.toml tools/misc/compile_mmcv.sh
	@if [ -n '$(MMCV_WHEEL)' ] && [ ! -f '$(MMCV_WHEEL)' ]; then echo "error: MMCV_WHEEL: no file $(MMCV_WHEEL)" >&2; exit 1; fi
	$(call make_environment,$(ORIGINAL))
	$(ORIGINAL_PY) -m pip install -r requirements/original.txt
	@if ! $(ORIGINAL_PY) -c 'import mmcv._ext, sys; sys.exit(mmcv.__version__ != "2.1.0")' 2>/dev/null; then \
		wheel='$(MMCV_WHEEL)'; \
		if [ -z "$$wheel" ]; then \
			PYTHON=$(ORIGINAL_PY) bash tools/misc/compile_mmcv.sh $(ORIGINAL)/wheels && wheel=$$(ls $(ORIGINAL)/wheels/mmcv-*.whl) || exit 1; \
		fi; \
		$(ORIGINAL_PY) -m pip install --force-reinstall --no-deps "$$wheel" && $(ORIGINAL_PY) -m pip install "$$wheel"; \
	fi
	$(ORIGINAL_PY) -m pip install -c requirements/original.txt -r requirements/tests.txt -e .
	@touch $@

lint: $(STAMP)
	$(PY) -m ruff check $(LINT_PATHS)
	$(PY) -m ruff format --check $(LINT_PATHS)
	$(PY) -m mypy

test: lint
	$(PY) -m pytest $(PYTEST_ARGS)

test-original: $(ORIGINAL_STAMP)
	$(ORIGINAL_PY) -m pytest $(PYTEST_ARGS)

# Strict: a warning is an error. The variable leaves out what the theme prints of its successor.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

demo: $(STAMP)
	PYTHON=$(PY) bash tools/demo.sh

clean:
	rm -rf $(VENV) $(ORIGINAL)
