# Everything from a fresh clone: each target makes its own environment in .venv first.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-dev

.PHONY: demo test lint docs-test bench clean

demo: $(INSTALLED)  ## make models forget handwritten digits, and show the report
	$(BIN)/jaxunlearn compare $(RUNS)/digits-demo --config experiments/configs/digits_demo.toml

test: $(INSTALLED)  ## all tests, doctests included
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

docs-test: $(INSTALLED)  ## only the examples in docstrings, README and docs
	$(BIN)/python -m pytest jaxunlearn tests/test_docs.py tests/test_new_method.py

lint: $(INSTALLED)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## what steps cost, many runs as one program, and how the cost grows
	$(BIN)/python experiments/benchmarks/overhead.py
	$(BIN)/python experiments/benchmarks/many_at_once.py mlp vit resnet
	$(BIN)/python experiments/benchmarks/growth.py

clean:  ## remove the environment and all runs
	rm -rf $(VENV) $(RUNS)

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
