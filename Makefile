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

# uv takes a fifth of pip's time. It does not read pip's settings: where they name an index, or uv
# does not get through, pip installs.
define install
@if $(BIN)/python -m pip config list | grep -qE '[.](index-url|no-index)='; then \
	echo "pip installs $(1): its settings name an index, which uv does not read" >&2; false; \
else \
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || \
		{ echo "uv could not install $(1), so pip does" >&2; false; }; \
fi || $(BIN)/python -m pip install --quiet $(1)
endef

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv || \
		$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(call install,-e '.[demo]')
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(call install,-e '.[docs]')
	@touch $@ $(VENV)/.demo

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(call install,-e '.[test]')
	@touch $@ $(VENV)/.docs $(VENV)/.demo
