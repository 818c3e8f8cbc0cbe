# make demo   sets everything up, then makes a face from a bundled voice
# make test   sets everything up, then runs the tests
# make docs   builds the pages: guides, a tour that is executed, and the interface from its docstrings
# make bench  times everything against a plain formulation, and writes docs/benchmarks.md
# make browser  what the tests of the page need beside that: Playwright, and Debian's or Ubuntu's Chromium
#
# Linux and macOS. On Windows, in Git Bash (where there is no make, the commands of its lines do the same).
# Settings: make test TORCH='torch==2.10.*' PYTHON=python3.12
PYTHON ?= $(if $(filter Windows_NT,$(OS)),python,python3)
# The release that the tests were last run with; any that pyproject.toml allows may be named
TORCH ?= torch==2.13.0
# Where PyTorch comes from. On Linux the default build brings CUDA along, some gigabytes; where there is no GPU, name the
# index of CPU builds that PyTorch's installation page gives
TORCH_INDEX ?=
# Processes that run tests side by side
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
VOICE ?= examples/slt.flac

.PHONY: demo test browser lint docs bench clean

demo: $(VENV)/.installed
	$(BIN)/voicestyle generate $(VOICE) -o out --sheet

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/bench.py

browser: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --editable ".[browser]"
	command -v chromium || { apt-get update -qq && apt-get install -y -qq chromium; }

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks dev && $(BIN)/ruff format --check src tests benchmarks dev && $(BIN)/mypy

# The pages, for any static host: docs/_build. Warnings are errors, and the tour is executed
docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

clean:
	rm -rf $(VENV) out docs/_build docs/api docs/tour.ipynb

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
