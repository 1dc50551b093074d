# Everything needed is set up in .venv on first use; all it takes is Python 3.11 or newer, and make.
#   make demo   the whole pipeline on the bundled tiny world, offline, on two CPU cores
#   make test   linter, type checker and all tests on one Ray
#   make e2e    tests on Ray clusters of several nodes, as processes of this machine: jobs, lost nodes, autoscaling
#   make chaos  SEEDS=20 runs of a whole pipeline, each with something that breaks, and the books of each (docs/reliability.md)
#   make fuzz   invariants on many more examples; every parser of foreign data on damaged samples, for SECONDS_OF_FUZZING=300
#   make docs-test    every code block of README.md and docs/, in an empty folder, beside what it is said to do
#   make coverage     what of the package make test runs, by module
#   make audit  known weaknesses of the pinned packages (asks a public service), and of the code
#   make sbom   build/sbom.json: what is installed, as CycloneDX
# TORCH=default takes the package index's own torch (on Linux: with CUDA, several GB) instead of a CPU build.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
AUDIT := $(VENV)/audit
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH ?= $(if $(shell command -v nvidia-smi),default,auto)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN := runs/demo-$(shell date -u +%Y%m%d-%H%M%S)
export HF_HUB_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test lint types unit e2e chaos fuzz docs-test coverage audit sbom clean

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

SEEDS ?= 20
SECONDS_OF_FUZZING ?= 300

chaos: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --seeds $(SEEDS) --out build/chaos

fuzz: $(VENV)/.installed-dev
	MAGDI_EXAMPLES=20 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/properties
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seconds $(SECONDS_OF_FUZZING)

docs-test: $(VENV)/.installed-dev
	$(BIN)/python -m tests.docs

coverage: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m "not e2e" -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine -q && $(BIN)/coverage report

# An environment of their own: what they need is no part of what is audited.
$(AUDIT)/.installed: | $(VENV)/bin/python
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0
	@touch $@

audit: $(VENV)/.installed-dev $(AUDIT)/.installed
	$(BIN)/python -m pytest tests/security/test_findings.py
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

sbom: $(VENV)/.installed-dev $(AUDIT)/.installed
	@mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate --of JSON \
	  --output-file build/sbom.json $(BIN)/python
	$(BIN)/python -m tests.security.sbom build/sbom.json constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
