# `make` alone lists what there is. PYTHON=/path/to/python3.11 chooses the
# interpreter for the set-up, ARGS='...' adds arguments to a target's command.

SHELL := /bin/sh
VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python
ARGS ?=
PYTHON ?=
export PYTHON

# A virtual environment whose Python has gone is set up anew.
$(shell test -x $(RUN) || rm -f $(STAMP))

.PHONY: help demo test gpu ray lint lock bench bench-pfl-env bazel-test clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo        attack a federation on real handwritten digits: runs/demo/report.html'
	@echo 'make test        run every test (TFDS_DATA_DIR names a directory with MNIST, faces)'
	@echo 'make lint        check style, import directions and BUILD files'
	@echo 'make bazel-test  run the tests with Bazel'
	@echo 'make bench       measure speed, 10 minutes (ARGS=--only=a,c for some)'
	@echo 'make gpu         add the CUDA libraries that TensorFlow needs on an NVIDIA GPU'
	@echo 'make ray         add Ray, for leak matrices on a cluster and the tests of it'
	@echo 'make lock        make requirements.lock anew (ARGS=--upgrade for newer versions)'
	@echo 'make clean       remove .venv and what tools have cached (runs/ stays)'

$(STAMP): requirements.lock setup.py
	@tools/set_up.sh

demo: $(STAMP)
	$(RUN) -m experiments.run_client_gan \
	    --flagfile=experiments/configs/digits.flags --output_dir=runs/demo $(ARGS)

# Files by their paths, the last of which are quick. By default those with the fewest
# tests come last, and each core would wait for a file that is one long test.
test: $(STAMP)
	$(RUN) -m pytest --numprocesses=auto --dist=loadfile \
	    --no-loadscope-reorder $(ARGS)

gpu: $(STAMP)
	$(RUN) -m pip install --require-hashes --no-deps -r requirements-gpu.lock

ray: $(STAMP)
	$(RUN) -m pip install --require-hashes --no-deps -r requirements-ray.lock

lint: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/lint-imports
	$(RUN) tools/build_files.py --check

bazel-test: $(STAMP)
	tools/bazel_test.sh $(ARGS)

bench: $(STAMP)
	$(RUN) -m benchmarks.run $(ARGS)

# PyTorch and pfl, for benchmark e; `make bench` makes it, too, where it is missing.
bench-pfl-env: $(STAMP)
	$(RUN) -m benchmarks.pfl_environment

lock:
	tools/lock.sh $(ARGS)

clean:
	rm -rf $(VENV) benchmarks/.venv-pfl build dist *.egg-info .pytest_cache .ruff_cache \
	    .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
