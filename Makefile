# Everything a newcomer types. Each target makes the environment it needs.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
ENV3 := .venv-tl3
ENV_ZOO := .venv-zoo
LOWEST := .venv-lowest
# The newest Python that is installed.
NEWEST_PYTHON ?= $(or $(lastword $(shell for one in `ls -v $$HOME/.pyenv/versions/*/bin/python3.?? /usr/bin/python3.?? 2>/dev/null`; do \
	"$$one" -c 'import sys; print(f"{sys.version_info.minor:02} {sys.executable}")'; done | sort)),$(PYTHON))
CASES ?= 1000
COMPAT := tests/compat tests/hooks tests/zoo tests/models tests/test_encoder.py
# Files of weights and the detection of rotations do not depend on the version of TransformerLens.
SAME_ON_BOTH := --ignore=tests/models/tinymyo/test_rope_detection.py --ignore=tests/models/tinymyo/test_tinymyo_checkpoints.py
PIP_INSTALL := -m pip install --disable-pip-version-check --no-input -c constraints.txt
PYTEST := $(BIN)/pytest -n auto --dist loadfile

.PHONY: demo test test-all test-compat test-tl3 smoke package lint types notebooks store-notebooks compatibility test-zoo fuzz fuzz-cuts bench docs docs-links clean

demo: $(ENV)/.installed                   ## the quickstart study: a table, figures, a report
	$(BIN)/emg-lens run quickstart

test: $(ENV)/.ready                       ## the fast tests: under 8 minutes on two cores
	$(PYTEST) -m "not slow"

test-all: test                            ## every test: the slow ones too, and more examples of each property
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=full

test-compat: $(ENV)/.ready $(ENV3)/.ready ## one suite, on TransformerLens 4.x and on 3.9.0
	$(PYTEST) $(COMPAT)
	$(ENV3)/bin/pytest -n auto --dist loadfile $(COMPAT) $(SAME_ON_BOTH)

test-tl3: $(ENV3)/.ready                  ## that suite on 3.9.0 alone
	$(ENV3)/bin/pytest -n auto --dist loadfile $(COMPAT) $(SAME_ON_BOTH)

smoke: $(ENV)/.installed                  ## a small study on the lowest versions that pyproject.toml allows
	$(BIN)/python $(PIP_INSTALL) -q uv
	$(BIN)/uv venv -q --clear --python $(PYTHON) $(LOWEST)
	$(BIN)/uv pip install -q --python $(LOWEST) --resolution lowest-direct -e .
	$(LOWEST)/bin/emg-lens run tests/smoke.yaml --out $(LOWEST)/runs

package: $(ENV)/.installed                ## the wheel with the newest Python, outside this folder: every module, then the quickstart study
	$(BIN)/python $(PIP_INSTALL) -q uv
	rm -rf dist
	$(BIN)/uv build -q
	$(BIN)/uv tool run -q --with 'readme-renderer[md]' twine check --strict dist/*
	at=$$(mktemp -d) && trap 'rm -rf "$$at"' EXIT && cp tests/installation.py "$$at" && \
	$(BIN)/uv venv -q --python $(NEWEST_PYTHON) "$$at/env" && \
	$(BIN)/uv pip install -q --python "$$at/env" -c constraints.txt dist/*.whl && cd "$$at" && \
	env/bin/python -I installation.py && env/bin/emg-lens list && env/bin/emg-lens run quickstart

test-zoo: $(ENV_ZOO)/.ready               ## models of other libraries: an error if one is cut wrongly, or if the page would change
	PYTHONPATH=tests $(ENV_ZOO)/bin/python -m zoo.libraries.page --check
	$(ENV_ZOO)/bin/pytest -q tests/zoo/test_own_model_page.py

lint: $(ENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A type checker reads folders, not the import system: show it the package as it is installed.
types: $(ENV)/.ready
	rm -rf build/types && mkdir -p build/types/emg_lens
	ln -s $(CURDIR)/emg_lens/* $(CURDIR)/hooks $(CURDIR)/studies build/types/emg_lens
	$(BIN)/pyright -p pyproject.toml

notebooks: $(ENV)/.ready                  ## run them all
	$(PYTEST) --nbmake notebooks

store-notebooks: $(ENV)/.ready            ## run them on simulated data, and store their outputs
	$(BIN)/python tests/store_notebooks.py

compatibility: $(ENV)/.ready $(ENV3)/.ready $(ENV_ZOO)/.ready ## the tables of docs/compatibility.md, measured on tiny models
	PYTHONPATH=tests $(BIN)/python -m zoo.compatibility
	PYTHONPATH=tests $(ENV3)/bin/python -m zoo.compatibility
	PYTHONPATH=tests $(ENV_ZOO)/bin/python -m zoo.libraries.page

fuzz: $(ENV)/.ready                       ## damaged and hostile files, texts and calls: CASES of each target
	$(BIN)/python tests/fuzz --cases $(CASES)

fuzz-cuts: $(ENV)/.ready                  ## 300 random cuts in random situations, 1,000 rounds of threads, surgery and resumed sweeps
	OMP_NUM_THREADS=1 PYTHONPATH=tests:tests/hooks $(BIN)/python tests/compat/random_cuts.py 300
	OMP_NUM_THREADS=1 PYTHONPATH=tests:tests/hooks $(BIN)/python tests/compat/random_rounds.py 1000

bench: $(ENV)/.ready                      ## sweeps against their bound, the naive loop and other tools; forward; fitting; statistics; attribution
	$(BIN)/python $(PIP_INSTALL) -e '.[bench]'
	$(BIN)/python tests/bench/sweep.py
	$(BIN)/python tests/bench/peers.py
	$(BIN)/python tests/bench/forward.py
	$(BIN)/python tests/bench/cutting.py
	$(BIN)/python tests/bench/training.py
	$(BIN)/python tests/bench/coverage.py
	$(BIN)/python tests/bench/attribution.py
	$(BIN)/python tests/bench/attribution_methods.py

# -a writes all pages: Sphinx forgets the index entries of pages that it does not write, and the search needs them.
docs: $(ENV)/.ready                       ## the documentation site, in build/site: a warning or a broken link is an error
	$(BIN)/python docs/generators
	$(BIN)/sphinx-build -q -W --keep-going -a -j 2 -c docs . build/site

docs-links: docs                          ## links to other sites: needs the internet
	$(BIN)/sphinx-build -q -b linkcheck -c docs . build/site-links

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# What users install, and next to it what tests need. One torch first: a later package must not choose another.
$(ENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing emg-lens and torch into $(ENV): one to two minutes, about 2 GB."
	test -x $(BIN)/python || $(PYTHON) -m venv $(ENV)
	$(BIN)/python $(PIP_INSTALL) torch
	$(BIN)/python $(PIP_INSTALL) -e .
	@touch $@

$(ENV)/.ready: $(ENV)/.installed
	@echo "Installing what the tests need."
	$(BIN)/python $(PIP_INSTALL) -e '.[dev,docs,notebooks,cluster,deploy]'
	@touch $@

$(ENV3)/.ready: pyproject.toml constraints.txt
	@echo "Installing TransformerLens 3.9.0 into $(ENV3)."
	test -x $(ENV3)/bin/python || $(PYTHON) -m venv $(ENV3)
	$(ENV3)/bin/python $(PIP_INSTALL) torch
	$(ENV3)/bin/python $(PIP_INSTALL) -e '.[dev]' 'transformer-lens==3.9.0'
	@touch $@

# Not in the other environments: next to a torch without CUDA, PyPI's torchvision makes transformers fail.
$(ENV_ZOO)/.ready: pyproject.toml constraints.txt
	@echo "Installing the libraries of the zoo into $(ENV_ZOO)."
	test -x $(ENV_ZOO)/bin/python || $(PYTHON) -m venv $(ENV_ZOO)
	$(ENV_ZOO)/bin/python $(PIP_INSTALL) torch
	$(ENV_ZOO)/bin/python $(PIP_INSTALL) -e '.[dev,zoo]'
	@touch $@
