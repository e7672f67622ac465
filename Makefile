# Everything a newcomer or CI runs. Needs only Python 3.11 or newer and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-fast check docs clean

help:  ## Say what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/.demo  ## Install, then train a classifier of handwritten digits
	$(BIN)/python -m jtl.train --mask=head_only

test: $(VENV)/.test  ## Install with all test peers, then run the test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.test  ## The same without what is slow, starts processes or needs a peer
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not process and not peer"

check: $(VENV)/.test  ## Format, lint and types, as pre-commit runs them
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pre-commit run --all-files --show-diff-on-failure
	scratch=$$(mktemp -d) && JTL_CACHE=$$scratch $(BIN)/python -m pytest -q --doctest-modules jtl/common jtl/api; \
		ended=$$?; rm -rf $$scratch; exit $$ended

docs: $(VENV)/.docs  ## Build the documentation into build/site and run its notebook; warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/site

clean:  ## Remove the virtual environment
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile -e '.[docs]'
	@touch $@ $(VENV)/.demo

# By name, as it is there by now: what builds the documentation meanwhile never finds it gone.
$(VENV)/.test: $(VENV)/.docs
	$(BIN)/python -m pip install --quiet --no-compile 'jtl[test]'
	# On all cores; what some packages hold for other versions of Python does not compile.
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@
