# Everything a newcomer types. Each target makes the environment it needs.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
ENV3 := .venv-tl3
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := $(shell find emg_lens hooks studies -name '*.py' -o -name '*.yaml' -o -name '*.html' -o -name '*.js')

.PHONY: demo test test-compat lint types notebooks compatibility bench clean FORCE

demo: $(ENV)/.ready                       ## the quickstart study: a table, figures, a report
	$(BIN)/emg-lens run quickstart

test: $(ENV)/.ready                       ## every test
	$(BIN)/pytest -n auto

test-compat: $(ENV)/.ready $(ENV3)/.ready ## one suite, on TransformerLens 4.x and on 3.9.0
	$(BIN)/pytest -n auto tests/compat tests/hooks tests/test_encoder.py
	$(ENV3)/bin/pytest -n auto tests/compat tests/hooks tests/test_encoder.py

lint: $(ENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(ENV)/.ready
	$(BIN)/pyright

notebooks: $(ENV)/.ready                  ## run them all
	$(BIN)/pytest --nbmake notebooks

compatibility: $(ENV)/.ready $(ENV3)/.ready ## which model is cut by which lever, and the proof
	$(BIN)/python -m emg_lens.hooks.compatibility
	$(ENV3)/bin/python -m emg_lens.hooks.compatibility

bench: $(ENV)/.ready                      ## sweeps against their bound and against the naive loop
	$(BIN)/python tests/bench/forward.py
	$(BIN)/python tests/bench/sweep.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# A strict editable install links file by file (type checkers need it), so a new file means a new install.
$(ENV)/.ready: pyproject.toml constraints.txt $(ENV)/.files
	test -x $(BIN)/python || $(PYTHON) -m venv $(ENV)
	$(BIN)/python $(PIP_INSTALL) torch
	$(BIN)/python $(PIP_INSTALL) -e '.[dev,notebooks]' --config-settings editable_mode=strict
	touch $@

$(ENV3)/.ready: pyproject.toml constraints.txt $(ENV3)/.files
	test -x $(ENV3)/bin/python || $(PYTHON) -m venv $(ENV3)
	$(ENV3)/bin/python $(PIP_INSTALL) torch
	$(ENV3)/bin/python $(PIP_INSTALL) -e '.[dev]' 'transformer-lens==3.9.0' --config-settings editable_mode=strict
	touch $@

%/.files: FORCE
	@mkdir -p $*
	@echo '$(sort $(SOURCES))' | cmp -s - $@ || echo '$(sort $(SOURCES))' > $@

FORCE:
