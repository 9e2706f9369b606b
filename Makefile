# Each target prepares what it needs: a fresh machine with Python 3.11 and make is enough.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
METHOD ?= ss_cm_rsir
DEMO_ARGS ?=
CLUSTER_ARGS ?=
CHARTS_ARGS ?=
MUTATE_ARGS ?=

.PHONY: help env demo demo-federated test cluster cluster-pods lint types proto proto-release pipelines charts charts-package images bench mutate lock ci clean
help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

env: $(STAMP)    ## create .venv from the locked requirements
$(STAMP): requirements/dev.txt pyproject.toml services/console/package-lock.json
	command -v $(PYTHON) >/dev/null || { echo "eoforge needs Python 3.11; '$(PYTHON)' was not found. Install it, or name yours: make PYTHON=python3 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps --editable .
	$(BIN)/python -m scripts.console_assets --development
	touch $@

demo: env        ## archive -> table -> trained model -> index -> service -> answered queries -> demo/report.html
	$(BIN)/eoforge demo --method $(METHOD) $(DEMO_ARGS)

demo-federated: env ## four silos and a coordinator with mutual TLS, two kill -9, one search across all -> demo-federated/report.html
	$(BIN)/eoforge federate demo $(DEMO_ARGS)

test: env        ## all tests (kernels in two processes: plain, then through the Triton interpreter)
	bash tests/run.sh $(BIN)

cluster: env     ## the charts on a real control plane, with KServe and Trainer (Go builds it once; CLUSTER_ARGS for pytest)
	$(BIN)/python -m tests.cluster.binaries
	$(BIN)/python -m pytest tests/cluster -n 0 $(CLUSTER_ARGS)

cluster-pods: env ## the charts in real pods on a node of this machine: needs root, containerd and podman, and builds images
	$(BIN)/python -m tests.cluster.pods.machine
	$(BIN)/python -m tests.cluster.binaries --pods
	$(BIN)/python -m tests.cluster.pods.images
	$(BIN)/python -m pytest tests/cluster/pods -n 0 --timeout 1200 -o timeout_func_only=true $(CLUSTER_ARGS)

lint: env        ## style and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code --path eoforge && ../$(BIN)/buf breaking --against released.binpb

types: env       ## mypy --strict on our packages
	$(BIN)/mypy

proto: env       ## regenerate eoforge/api from proto/
	$(BIN)/python -m scripts.generate_proto

proto-release: env ## make today's API the one that later changes must not break: run at each release
	cd proto && ../$(BIN)/buf build --exclude-source-info --output released.binpb

pipelines: env   ## recompile pipelines/compiled/*.yaml
	$(BIN)/python -m pipelines.compile

bench: env       ## every benchmark, results into benchmarks/results/<device>/
	$(BIN)/python -m benchmarks

mutate: env      ## one-line faults in formulas that no test notices (MUTATE_ARGS="losses --sample 40"; hours without a sample)
	$(BIN)/python -m scripts.mutate $(MUTATE_ARGS)

charts: env      ## remake the charts' values.schema.json and tables of values
	$(BIN)/python -m scripts.chart_schema

charts-package: env ## archives of the charts for an OCI registry into dist/charts (CHARTS_ARGS="--key NAME --keyring FILE" signs)
	$(BIN)/python -m scripts.chart_package $(CHARTS_ARGS)

images:          ## build the images with podman or docker (IMAGES_ARGS=--debian where no registry is reached)
	$(PYTHON) -m scripts.images $(IMAGES_ARGS)

lock: env        ## recompile requirements/*.txt from pyproject.toml
	$(BIN)/python -m scripts.lock

ci:              ## what CI runs
	bash .ci/run

clean:           ## remove what the targets made (not the environment)
	rm -rf demo demo-federated .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
