# One verb a chore. Everything is installed into .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test test-slow lint format bench bench-methods bench-inference real-ct clean

help:
	@echo "make demo       set everything up; merge, train, predict and score built-in phantoms on the CPU"
	@echo "make test       set everything up; run the tests"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make bench      measure against stock nnU-Net (ratios)"
	@echo "make bench-methods  compare the training methods on phantoms, real CT and 2D frames (hours on a CPU)"
	@echo "make bench-inference  compare prediction with nnU-Net's, in time, memory and labels (two hours on a CPU)"
	@echo "make real-ct    train on the real CT volumes in NNUNET_PARTIAL_REAL_DATA (default ../shared/data)"

# uv resolves and installs in a fraction of pip's time; torch and torchvision must come from the same index
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[dev]"
	touch $(INSTALLED)

install: $(INSTALLED)

demo: install
	$(BIN)/nnUNetv2_partial_demo -o demo

# a process a core, each with one thread: threads of several processes only get in each other's way
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m "slow"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python -m pytest -m bench -s tests/bench

bench-methods: install
	$(BIN)/python -m tests.bench.methods -o bench_methods

bench-inference: install
	$(BIN)/python -m tests.bench.inference -o bench_inference

real-ct: install
	$(BIN)/python -m tests.integration.real_ct -o real_ct

clean:
	rm -rf $(VENV) build dist *.egg-info demo real_ct bench_methods bench_inference
