# Everything needed is set up in .venv on first use; all it takes is Python 3.11 or newer, and make.
#   make demo   the whole pipeline on the bundled tiny world, offline, on two CPU cores
#   make test   linter, type checker and all tests on one Ray
#   make e2e    tests on Ray clusters of several nodes, as processes of this machine: jobs, lost nodes, autoscaling
# TORCH=default takes the package index's own torch (on Linux: with CUDA, several GB) instead of a CPU build.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH ?= $(if $(shell command -v nvidia-smi),default,auto)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN := runs/demo-$(shell date -u +%Y%m%d-%H%M%S)
export HF_HUB_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test lint types unit e2e clean

demo: $(VENV)/.installed
	@$(BIN)/magdi run configs/tiny.yaml --out $(RUN) --json

test: lint types unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e" -n 2 --dist loadfile --no-loadscope-reorder

e2e: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m e2e tests/cluster

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is required, found $$($(PYTHON) --version). Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first: deepspeed's set-up imports it, and a CPU build must be in place before anything else asks for torch.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@echo "installing torch $(TORCH_VERSION) ($(TORCH))"
	@$(PIP) setuptools wheel
	@if [ "$(TORCH)" = default ] || [ "$$(uname -sm)" != "Linux x86_64" ]; then \
	  $(PIP) torch==$(TORCH_VERSION); \
	else \
	  $(PIP) torch==$(TORCH_VERSION)+cpu 2>/dev/null \
	  || $(PIP) --extra-index-url https://download.pytorch.org/whl/cpu torch==$(TORCH_VERSION)+cpu \
	  || { echo "No CPU build of torch $(TORCH_VERSION) is at hand. To take the package index's build with CUDA: make TORCH=default"; exit 1; }; \
	fi
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo "installing magdi_ray and what it needs (a few minutes the first time)"
	@DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
