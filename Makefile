# Everything a newcomer types. Each target makes the environment it needs.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
ENV3 := .venv-tl3
CASES ?= 1000
COMPAT := tests/compat tests/hooks tests/models tests/test_encoder.py
# Training, files of weights and their formats are no matter of TransformerLens.
NO_MATTER := --ignore=tests/models/tinymyo/test_rope_detection.py --ignore=tests/models/tinymyo/test_tinymyo_checkpoints.py
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-compat test-tl3 lint types notebooks compatibility fuzz fuzz-cuts bench clean

demo: $(ENV)/.ready                       ## the quickstart study: a table, figures, a report
	$(BIN)/emg-lens run quickstart

test: $(ENV)/.ready                       ## every test
	$(BIN)/pytest -n auto

test-compat: $(ENV)/.ready $(ENV3)/.ready ## one suite, on TransformerLens 4.x and on 3.9.0
	$(BIN)/pytest -n auto $(COMPAT)
	$(ENV3)/bin/pytest -n auto $(COMPAT) $(NO_MATTER)

test-tl3: $(ENV3)/.ready                  ## that suite on 3.9.0 alone
	$(ENV3)/bin/pytest -n auto $(COMPAT) $(NO_MATTER)

lint: $(ENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A type checker reads folders, not the import system: show it the package as it is installed.
types: $(ENV)/.ready
	rm -rf build/types && mkdir -p build/types/emg_lens
	ln -s $(CURDIR)/emg_lens/* $(CURDIR)/hooks $(CURDIR)/studies build/types/emg_lens
	$(BIN)/pyright -p pyproject.toml

notebooks: $(ENV)/.ready                  ## run them all
	$(BIN)/pytest -n auto --nbmake notebooks

compatibility: $(ENV)/.ready $(ENV3)/.ready ## which model is cut by which lever, and the proof
	$(BIN)/python -m emg_lens.hooks.compatibility
	$(ENV3)/bin/python -m emg_lens.hooks.compatibility

fuzz: $(ENV)/.ready                       ## damaged and hostile files, texts and calls: CASES of each target
	$(BIN)/python tests/fuzz --cases $(CASES)

fuzz-cuts: $(ENV)/.ready                  ## 300 random cuts in random situations: right, refused, or wrong
	OMP_NUM_THREADS=1 PYTHONPATH=tests/hooks $(BIN)/python tests/compat/random_cuts.py 300

bench: $(ENV)/.ready                      ## sweeps against their bound, the naive loop and other tools; forward; fitting; statistics
	$(BIN)/python $(PIP_INSTALL) -e '.[bench]'
	$(BIN)/python tests/bench/sweep.py
	$(BIN)/python tests/bench/peers.py
	$(BIN)/python tests/bench/forward.py
	$(BIN)/python tests/bench/training.py
	$(BIN)/python tests/bench/coverage.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

$(ENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(ENV)
	$(BIN)/python $(PIP_INSTALL) torch
	$(BIN)/python $(PIP_INSTALL) -e '.[dev,notebooks,cluster]'
	touch $@

$(ENV3)/.ready: pyproject.toml constraints.txt
	test -x $(ENV3)/bin/python || $(PYTHON) -m venv $(ENV3)
	$(ENV3)/bin/python $(PIP_INSTALL) torch
	$(ENV3)/bin/python $(PIP_INSTALL) -e '.[dev]' 'transformer-lens==3.9.0'
	touch $@
