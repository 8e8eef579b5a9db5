# Two commands are all you need:   make draw PROMPT="rocket"    and    make test
# Everything is installed in .venv, beside this file; delete that folder and nothing is left behind.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINNED := --constraint constraints.txt

# What you type after PROMPT= reaches the program letter by letter: `value` keeps make from reading a `$` in it, the
# environment keeps the shell from reading quotes and spaces, and `unexport` keeps make from passing on its own reading.
PROMPT_GIVEN := $(filter command,$(firstword $(origin PROMPT)))
export DALLE2_EDU_PROMPT := $(value PROMPT)
unexport PROMPT
DOMAIN ?=
SEED   ?= 0
OUT    ?= out
TIER   ?= cpu

.DEFAULT_GOAL := help
.PHONY: help draw test lab zoo clean

help:  ## what you can type
	@echo 'make draw PROMPT="rocket"   draw a picture, and a sheet of the steps that led to it, into out/'
	@echo '                            also: DOMAIN=emoji|shapes  SEED=0  OUT=out'
	@echo 'make test                   check style, types and behaviour'
	@echo 'make lab                    open the notebooks in JupyterLab'
	@echo 'make zoo                    train every model that ships with the book again (hours): TIER=smoke|cpu|gpu'
	@echo 'make clean                  delete .venv and what Python and the tools cached'
	@echo ''
	@echo 'With another Python (3.10 to 3.13): make test PYTHON=python3.12'

draw: $(VENV)/.installed-base
ifeq ($(PROMPT_GIVEN),)
	@echo 'Say what to draw:  make draw PROMPT="rocket"' >&2; exit 2
else
	@$(BIN)/dalle2-edu draw --seed '$(SEED)' --out '$(OUT)' $(if $(DOMAIN),--domain '$(DOMAIN)') -- "$$DALLE2_EDU_PROMPT"
endif

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

lab: $(VENV)/.installed-book
	$(BIN)/jupyter lab

zoo: $(VENV)/.installed-base
	$(BIN)/dalle2-edu zoo train --tier '$(TIER)'

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find dalle2_edu tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of packages: it is older than pyproject.toml or constraints.txt when they changed, and then pip
# runs again. Drawing needs the base only; the tests and the notebooks bring more.
$(VENV)/.installed-base: EXTRAS :=
$(VENV)/.installed-dev: EXTRAS := [dev]
$(VENV)/.installed-book: EXTRAS := [book]

$(VENV)/.installed-%: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing the pinned packages into $(VENV): some minutes and, with PyTorch, up to 6 GB on disk. Once.'
	$(BIN)/python -m pip install --disable-pip-version-check $(PINNED) --editable '.$(EXTRAS)'
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo 'This book needs Python 3.10, 3.11, 3.12 or 3.13, and "$(PYTHON)" is not one of them.' >&2; \
	  echo 'Install one and name it:  make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo 'Python could not make a virtual environment. On Debian or Ubuntu: apt install python3-venv' >&2; exit 2; }
	@touch $@
