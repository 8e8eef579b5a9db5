# Start with  make book  (read it),  make draw PROMPT="rocket"  (draw),  make test  (check it);  make help  lists the rest.
# Everything is installed in .venv, beside this file; delete that folder and nothing is left behind.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINNED := --constraint constraints.txt

# What you type after a name such as PROMPT= reaches the program letter by letter, in the environment, as TYPED_PROMPT:
# `value` keeps make from reading a `$` in it, the environment keeps the shell from reading quotes and spaces, and
# `unexport` keeps make from passing on its own reading. So a recipe says "$$TYPED_OUT" and never $(OUT).
DOMAIN ?=
SEED   ?= 0
OUT    ?= out
TIER   ?= cpu
SERVE  ?= 1
PORT   ?= 8000
CHAPTER ?=
FROM    ?=
CONFIRM ?=
# Many systems set PROMPT and LANGUAGE for other programs; here they count only when you type them after `make`.
typed = $(if $(filter command,$(firstword $(origin $(1)))),$(1))
define hand_over
export TYPED_$(1) := $$(value $(1))
unexport $(1)
endef
$(foreach name,$(call typed,PROMPT) $(call typed,LANGUAGE) DOMAIN SEED OUT TIER PORT CHAPTER FROM CONFIRM,\
  $(eval $(call hand_over,$(name))))

.DEFAULT_GOAL := help
.PHONY: help book slides draw test bench style-report lab notebooks notebooks-stale sync handouts zoo clean

help:  ## what you can type
	@echo 'make book                   build the book in both languages, show it on http://localhost:8000/'
	@echo '                            also: PORT=8000  SERVE=0 (build it into _build/site, show nothing)'
	@echo 'make slides                 the slides alone, into _build/site/slides'
	@echo 'make draw PROMPT="rocket"   draw a picture, and a sheet of the steps that led to it, into out/'
	@echo '                            also: DOMAIN=emoji|shapes  SEED=0  OUT=out'
	@echo 'make test                   check style, types, formulas, chapters and pages (half an hour on two slow cores)'
	@echo 'make bench                  our speed and memory beside diffusers, into benchmarks/RESULTS.md (under ten minutes)'
	@echo 'make style-report           how the package reads, in numbers: comments, lengths, density'
	@echo 'make lab                    open the notebooks in JupyterLab'
	@echo 'make notebooks              run the chapters and store what they show: CHAPTER=07 LANGUAGE=en|zh TIER=cpu'
	@echo 'make notebooks-stale        which stored chapters were run with an older package'
	@echo 'make sync                   carry code between the English and the Chinese notebooks, name stale translations'
	@echo '                            also: CHAPTER=07  FROM=en|zh  CONFIRM=07_ddpm:cell'
	@echo 'make handouts               the chapters without solutions and outputs, into out/en and out/zh'
	@echo 'make zoo                    train every model that ships with the book again (hours): TIER=smoke|cpu|gpu'
	@echo 'make clean                  delete .venv, the built book and what Python and the tools cached'
	@echo ''
	@echo 'With another Python (3.10 to 3.13): make test PYTHON=python3.12'

book: $(VENV)/.installed-book
	@$(BIN)/python book/tools/build.py
ifneq ($(SERVE),0)
	@$(BIN)/python book/tools/serve.py "$$TYPED_PORT"
endif

slides: $(VENV)/.installed-book
	@$(BIN)/python book/tools/build.py --only slides

draw: $(VENV)/.installed-base
ifeq ($(call typed,PROMPT),)
	@echo 'Say what to draw:  make draw PROMPT="rocket"' >&2; exit 2
else
	@$(BIN)/dalle2-edu draw --seed "$$TYPED_SEED" --out "$$TYPED_OUT" \
	  $(if $(value DOMAIN),--domain "$$TYPED_DOMAIN") -- "$$TYPED_PROMPT"
endif

# Two tests at a time, a file (a notebook) to a process. --nbval-lax runs the notebooks of both languages too.
test: $(VENV)/.installed-dev $(VENV)/.installed-book
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --nbval-lax --nbval-current-env

# Needs the machine to itself. benchmarks/lucid.py says how dalle2-pytorch joins in.
bench: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/run.py

# Needs nothing but Python.
style-report:
	@$(PYTHON) benchmarks/style_report.py

lab: $(VENV)/.installed-book
	$(BIN)/jupyter lab

notebooks: $(VENV)/.installed-book
	@$(BIN)/python book/tools/run.py --tier "$$TYPED_TIER" --chapter "$$TYPED_CHAPTER" --language "$$TYPED_LANGUAGE"

# Runs nothing: names the pages whose package or weights have changed since.
notebooks-stale: $(VENV)/.installed-book
	@$(BIN)/python book/tools/run.py --stale --chapter "$$TYPED_CHAPTER" --language "$$TYPED_LANGUAGE"

sync: $(VENV)/.installed-book
	@$(BIN)/python book/tools/sync.py --chapter "$$TYPED_CHAPTER" --confirm "$$TYPED_CONFIRM" \
	  $(if $(value FROM),--from "$$TYPED_FROM")

# Two folders below the root, as notebooks/en is: so links into the repository and the chapter's language stay right.
HANDOUT := --to notebook --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=solution \
           --ClearOutputPreprocessor.enabled=True --log-level=WARN
handouts: $(VENV)/.installed-book
	@$(BIN)/jupyter nbconvert notebooks/en/*.ipynb $(HANDOUT) --output-dir out/en
	@$(BIN)/jupyter nbconvert notebooks/zh/*.ipynb $(HANDOUT) --output-dir out/zh
	@echo 'The handouts are in out/en and out/zh.'

zoo: $(VENV)/.installed-base
	@$(BIN)/dalle2-edu zoo train --tier "$$TYPED_TIER"

clean:
	rm -rf $(VENV) build _build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find dalle2_edu tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of packages: it is older than pyproject.toml or constraints.txt when they changed, and then pip
# runs again. Drawing needs the base only; the tests and the notebooks bring more.
$(VENV)/.installed-base: EXTRAS :=
$(VENV)/.installed-dev: EXTRAS := [dev]
$(VENV)/.installed-book: EXTRAS := [book]

$(VENV)/.installed-%: $(VENV)/.made pyproject.toml constraints.txt
	@echo 'Installing the pinned packages into $(VENV): some minutes and, with PyTorch, up to 7 GB on disk. Once.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINNED) --editable '.$(EXTRAS)'
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo 'This book needs Python 3.10, 3.11, 3.12 or 3.13, and "$(PYTHON)" is not one of them.' >&2; \
	  echo 'Install one and name it:  make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo 'Python could not make a virtual environment. On Debian or Ubuntu: apt install python3-venv' >&2; exit 2; }
	@touch $@
