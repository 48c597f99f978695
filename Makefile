# Everything from a fresh clone: each target makes its own environment first.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-dev
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo test test-long test-newest lint docs docs-test dist bench clean

demo: $(INSTALLED)  ## make models forget handwritten digits, and show the report
	$(BIN)/jaxunlearn compare $(RUNS)/digits-demo --config experiments/configs/digits_demo.toml

test: $(INSTALLED)  ## the tests of every part, doctests included: seven minutes on two cores
	$(PYTEST) -m "not long"

test-long: $(INSTALLED)  ## the rest: every method on every task, kills, fuzz, devices, whole studies
	$(PYTEST) -m long

# Of the methods' tests those that run every method: what a new JAX may break. Formulas and passes do not depend on it.
WHOLE_METHODS := $(addprefix tests/methods/test_,$(addsuffix .py,conformance generating guard))

test-newest: $(INSTALLED)  ## the core and all methods, for PYTHON=python3.13 and a VENV of its own: newest JAX, coverage
	COVERAGE_CORE=sysmon $(PYTEST) tests/transforms $(WHOLE_METHODS) \
		--cov jaxunlearn.transforms --cov jaxunlearn.methods --cov-report=
	@echo "coverage of the core and the methods: $$($(BIN)/coverage report --format=total)%"

docs-test: $(INSTALLED)  ## only the examples in docstrings, README and docs
	$(BIN)/python -m pytest jaxunlearn tests/test_docs.py tests/methods/test_new_method.py

lint: $(INSTALLED)  ## formatting, lint, types, and the order of the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(INSTALLED)  ## the site, with the API reference, in site/
	$(BIN)/python experiments/results_page.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(INSTALLED)  ## wheel and source distribution in dist/, checked and installed into a fresh environment
	rm -rf dist $(VENV)/fresh
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(VENV)/fresh
	$(VENV)/fresh/bin/python -m pip install --quiet dist/*.whl
	cd $(VENV) && fresh/bin/python -c "import jaxunlearn; jaxunlearn.implicit_surgery; print('jaxunlearn', jaxunlearn.__version__)"
	rm -rf $(VENV)/fresh

bench: $(INSTALLED)  ## the cost of a step, of many runs as one program, and how it grows
	$(BIN)/python experiments/benchmarks/overhead.py
	$(BIN)/python experiments/benchmarks/many_at_once.py mlp vit resnet
	$(BIN)/python experiments/benchmarks/growth.py

clean:  ## remove the environment, all runs, the site and the distributions
	rm -rf $(VENV) $(RUNS) site dist

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
