# make demo: train on the sample photographs and colorize some.    make test: all checks and tests; with TEST_OPTIONS=--long the long forms too.
# make app: sliders in the browser, MODEL=folder for a model of your own.    make lab: the course in JupyterLab.    make readme: README.md from nbs/index.ipynb.    make shrink: the notebooks' pictures, small.    make docs: the course and the reference as a site, in _docs.    make bench: how fast is it, beside the usual way?    make clean: away with what was made.
# Each of them sets up what it needs: a virtual environment in .venv, with the package installed in it.

SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python3.10,$(shell \
    command -v $(p) >/dev/null && $(p) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $(p))))
BIN := .venv/bin
STAMP := .venv/set-up

.PHONY: demo test export app lab readme shrink docs bench clean setup

demo: $(STAMP)
	@$(BIN)/python tools/demo.py

test: $(STAMP)
	@$(BIN)/python tools/check_export.py
	@set -e; export PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 TMPDIR="$$(mktemp -d)"; trap 'rm -rf "$$TMPDIR"' EXIT; \
	echo "Running the notebooks, with their exercises solved …"; rm -rf _solved; python tools/solved.py _solved; nbdev-test _solved --n-workers 2 --timing; \
	echo "Running the tests …"; python -m pytest -n 2 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder $(TEST_OPTIONS) tests

export: $(STAMP)
	@$(BIN)/nbdev-export

app: $(STAMP)
	@cd nbs && JUPYTER_PATH="$(CURDIR)/nbs/jupyter" $(if $(MODEL),COLORIZE_MODEL="$(abspath $(MODEL))") ../$(BIN)/python -m voila app.ipynb $(APP_OPTIONS)

lab: $(STAMP)
	@cd nbs && ../$(BIN)/python -m jupyter lab index.ipynb

readme: $(STAMP)
	@$(BIN)/python tools/make_readme.py

shrink: $(STAMP)
	@$(BIN)/python tools/shrink_notebooks.py $(SHRINK_OPTIONS)

docs: $(STAMP)
	@$(BIN)/python tools/make_docs.py $(DOCS_OPTIONS)

bench: $(STAMP)
	@$(BIN)/python bench/bench.py $(BENCH_OPTIONS)

setup: $(STAMP)

$(STAMP): settings.ini setup.py pyproject.toml
	@if [ -z "$(PYTHON)" ] || ! command -v "$(PYTHON)" >/dev/null; then \
	    echo "colorize needs Python 3.10 or newer, and there is none on this machine (tried: $(or $(PYTHON),python3, python3.10 to python3.13))." >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "colorize needs Python 3.10 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." >&2; exit 1; }
	@echo "Setting up .venv with $$("$(PYTHON)" --version): once, about 5 minutes and 6 GB …"
	@"$(PYTHON)" -m venv .venv || { echo "The virtual environment could not be made; on Debian and Ubuntu it needs the package python3-venv." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,app,backbone,photos,engines,scale,docs]'
	@touch $(STAMP)
	@echo "Set up."

clean:
	rm -rf .venv out runs build dist *.egg-info _docs _proc _solved .pytest_cache
