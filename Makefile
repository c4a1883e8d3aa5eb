PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup generate app test lint types format docs bench clean

help:
	@echo "make setup     virtual environment with gensift and its development tools"
	@echo "make generate  set up, then sift one picture out of 16 candidates"
	@echo "make app       set up, then serve the page on http://127.0.0.1:7860"
	@echo "make test      set up, then run the tests"
	@echo "make lint      formatter and linter, without changing files"
	@echo "make types     mypy, strict"
	@echo "make format    let the formatter and linter change files"
	@echo "make docs      rewrite the generated tables in docs"
	@echo "make bench     rewrite the figures in docs/benchmarks (several hours on two cores)"

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,policy]'
	@touch $@

setup: $(VENV)/.ready

generate: setup
	$(BIN)/generate --sampler ttsnap --prompt "three green crosses" \
		--num-candidates 16 --output outputs/first

app: setup
	$(BIN)/gensift app

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python docs/tables.py

bench: setup
	$(BIN)/python -m benchmarks.ttsnap
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.start_up
	$(BIN)/python -m benchmarks.tts_var
	$(BIN)/python -m benchmarks.next_scale_speed
	$(BIN)/python -m benchmarks.odd
	$(BIN)/python -m benchmarks.text_speed
	$(BIN)/python -m benchmarks.bfm
	$(BIN)/python -m benchmarks.app
	$(BIN)/python -m benchmarks.policy

clean:
	rm -rf outputs dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
