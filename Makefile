# `make demo` and `make test` each do everything on a machine that has Python 3.10+, make and a C compiler.
# PYTHON=python3.12 chooses the interpreter of a new .venv; pip's own settings (PIP_* variables, pip.conf) are respected.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.mmetris-installed
LINT_PATHS := mmetris configs tools demo projects tests setup.py
# A process per core, four at most; a file's tests stay together.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile

.PHONY: help install test lint demo clean

help:
	@echo 'make demo   make Shapes, train a tiny ETRIS on two processes, evaluate it, draw its masks'
	@echo 'make test   lint and run all tests'
	@echo 'make lint   only the linter'
	@echo 'make clean  remove .venv (data/ and work_dirs/ stay)'

install: $(STAMP)

# Made when missing, completed again when a requirement changes, otherwise left alone.
$(STAMP): $(wildcard requirements/*.txt) setup.py pyproject.toml
	@if ! $(PY) -c '' 2>/dev/null; then \
		version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || \
			{ echo "error: '$(PYTHON)' does not run. Install Python 3.10 or newer, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
			{ echo "error: mmetris needs Python 3.10 or newer, and $(PYTHON) is $$version. Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
		echo "Creating $(VENV) with Python $$version"; \
		$(PYTHON) -m venv --clear $(VENV) || \
			{ echo "error: Python's venv module failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	$(PY) -m pip install -r requirements/mminstall.txt -r requirements/tests.txt -e .
	@touch $@

lint: $(STAMP)
	$(PY) -m ruff check $(LINT_PATHS)
	$(PY) -m ruff format --check $(LINT_PATHS)
	$(PY) -m mypy

test: lint
	$(PY) -m pytest $(PYTEST_ARGS)

demo: $(STAMP)
	PYTHON=$(PY) bash tools/demo.sh

clean:
	rm -rf $(VENV)
