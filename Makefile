# Every target makes or refreshes .venv by itself, when requirements.txt or pyproject.toml changed.
#   make run            execute the main notebook of every chapter      (CH=ch02: of one chapter)
#   make test           lint, unit tests, every notebook against its stored outputs
#   PYTHON=python3.12   the interpreter to build .venv from
# Windows: README.md shows the same steps as plain pip commands.

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PINS := requirements.txt pyproject.toml
STAMP := $(VENV)/installed-from
PYTEST := $(BIN)/python -m pytest -q
NOTEBOOK_FOLDERS := $(wildcard ch0* appendix-*)

# A PYTHON named by the caller replaces a .venv that was built from another version.
ifdef PYTHON
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V 2>&1))
$(shell rm -rf $(VENV))
endif
endif
PYTHON ?= python3

CHECK_VERSION = $(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or \
	sys.exit("Python 3.10 or newer is needed, but $(PYTHON) is " + sys.version.split()[0] + \
	": name another with PYTHON=...")'
INSTALL = { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && \
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt

.PHONY: FORCE help setup run lab test test-fast test-cuda notebooks timings tables images listings \
	book-data lint format pins pocket-model doctor clean

help:
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: $(STAMP)  ## make .venv and install the pinned packages

# The stamp holds the text that was installed: a file that was only touched installs nothing.
$(STAMP): FORCE
	@cat $(PINS) | cmp -s - $@ || { $(CHECK_VERSION) && $(INSTALL) && cat $(PINS) > $@; }

run: $(STAMP)  ## execute the main notebooks into build/executed (CH=ch02: one chapter)
	@$(BIN)/python -m companion run $(CH)

lab: $(STAMP)  ## open JupyterLab on 127.0.0.1 at the table of contents
	$(BIN)/python -m companion lab

# Notebooks begin, which take longest: then no worker waits at the end for the other one's.
test: lint  ## lint, unit tests, every notebook against its stored outputs
	$(PYTEST) -n 2 --dist loadscope --no-loadscope-reorder --nbval --nbval-current-env \
		--nbval-cell-timeout=900 $(NOTEBOOK_FOLDERS) tests

test-fast: $(STAMP)  ## unit tests alone, a minute and a half
	$(PYTEST) -n 2 --dist loadscope -m "not (notebook or browser or cuda or book or slow)" tests

test-cuda: $(STAMP)  ## the tests that need an NVIDIA GPU
	$(PYTEST) -m cuda tests

notebooks: $(STAMP)  ## re-execute the notebooks and store their outputs in place (CH=ch02: one chapter)
	@$(BIN)/python -m companion notebooks $(CH)

timings: $(STAMP)  ## measure every notebook, and write its time and memory into the READMEs (CH=ch02: one chapter)
	@$(BIN)/python -m companion timings $(CH)

tables: $(STAMP)  ## write the measured times into the READMEs anew, after a change to their tables
	@$(BIN)/python -m companion tables

images: $(STAMP)  ## redraw the pictures from images/src
	@$(BIN)/python images/src/draw_all.py

listings: $(STAMP)  ## write LISTINGS.md anew: where the code of each section is
	@$(BIN)/python listings.py

book-data: $(STAMP)  ## download the book's own texts, verified by sha256
	@$(BIN)/python -m companion book-data

doctor: $(STAMP)  ## say what works on this machine and how to mend what does not
	@$(BIN)/python -m companion doctor

pocket-model: $(STAMP)  ## train the pocket model anew, which takes hours (CORPUS=folder of text files)
	@test -n "$(CORPUS)" || { echo "Name a folder of text files: make pocket-model CORPUS=..."; exit 2; }
	$(BIN)/python ch05/03_bonus_pretraining/pocket_data.py "$(CORPUS)" --out build/pocket/shards
	$(BIN)/python ch05/10_training-at-scale/trainer.py --config ch05/03_bonus_pretraining/pocket.toml --resume
	$(BIN)/python ch05/03_bonus_pretraining/export_pocket.py build/pocket/run build/pocket/shards \
		build/pocket/pocket.safetensors

lint: $(STAMP)  ## ruff, on scripts and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# CUDA's packages are left to torch, which pins them itself and needs none for its CPU build.
pins: $(STAMP)  ## write requirements.txt anew from pyproject.toml (needs the network)
	$(BIN)/python -m pip install --quiet uv
	echo torch==2.13.0 > $(VENV)/torch-pin
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.10 --all-extras \
		--no-header --no-annotate --constraint $(VENV)/torch-pin pyproject.toml -o $(VENV)/pins
	{ echo "# The exact versions that the tests pass with, made by 'make pins' from pyproject.toml."; \
	  grep -vE '^(nvidia-|cuda-|triton)' $(VENV)/pins; echo "-e .[dev]"; } > requirements.txt

clean:  ## remove build/, caches and .venv
	rm -rf build $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
