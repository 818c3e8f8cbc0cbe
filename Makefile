# make demo   sets everything up, then makes a face from a bundled voice
# make test   sets everything up, then runs the tests
PYTHON ?= python3
# The release that the tests were last run with; any that pyproject.toml allows may be named: make demo TORCH=torch
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
VOICE ?= examples/slt.flac

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/voicestyle generate $(VOICE) -o out --sheet

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks dev && $(BIN)/ruff format --check src tests benchmarks dev

clean:
	rm -rf $(VENV) out

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
