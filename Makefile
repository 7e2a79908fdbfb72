# Everything a newcomer types. Each target makes the environment it needs.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
SOURCES := $(shell find emg_lens hooks studies -name '*.py' -o -name '*.yaml' -o -name '*.html' -o -name '*.js' 2>/dev/null)

.PHONY: demo test test-compat lint types notebooks bench clean

demo: $(ENV)/.ready
	$(BIN)/emg-lens run quickstart

test: $(ENV)/.ready
	$(BIN)/pytest -n auto

lint: $(ENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(ENV)/.ready
	$(BIN)/pyright

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# A strict editable install links file by file (type checkers need it), so a new file means a new install.
$(ENV)/.ready: pyproject.toml constraints.txt $(ENV)/.files
	test -x $(BIN)/python || $(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,notebooks]' --config-settings editable_mode=strict
	touch $@

$(ENV)/.files: FORCE
	@mkdir -p $(ENV)
	@echo '$(sort $(SOURCES))' | cmp -s - $@ || echo '$(sort $(SOURCES))' > $@
FORCE:
