# `make demo` and `make test` from a fresh clone need Python >= 3.11 and make; each makes .venv and fills it first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
# Arguments for pytest, such as: make test ARGS="tests/test_demo.py -k hash"
ARGS ?=
# Options of the fuzzer: seconds, seed, kinds.
FUZZ ?= --seconds 300
# Shapes, ways and seconds of the soak; it goes on from soak.json.
SOAK ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

DEMO := $(VENV)/.demo-installed
DEV := $(VENV)/.dev-installed
DOCS := $(VENV)/.docs-installed
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint docs notebooks check clean
.DELETE_ON_ERROR:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO) ## Distil a small network three ways within six minutes, and write a page about it
	$(BIN)/dukd demo --out $(OUT)

test: $(DEV) ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadgroup $(ARGS)

soak: $(DEV) ## Stop runs and commands at every operation on the disk (SOAK="kill --seconds 600")
	OMP_NUM_THREADS=1 PYTHONPATH=src $(BIN)/python tests/soak/soak_runs.py $(SOAK)

fuzz: $(DEV) ## Try changed images, weights, configurations and command lines (FUZZ="--seconds 600")
	cd tests && OMP_NUM_THREADS=1 PYTHONPATH=../src:. ../$(BIN)/python -m fuzz $(FUZZ)

lint: $(DEV) ## Check style, layout and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --level error --pythonpath $(BIN)/python

docs: $(DOCS) ## Build the documentation's site into build/site, without a network
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 PYTHONPATH=src $(BIN)/mkdocs build --quiet
	@echo "the site is build/site/index.html"

notebooks: $(DEV) ## Run the notebooks at full length, so that the site shows what they give
	OMP_NUM_THREADS=1 PYTHONPATH=src $(BIN)/python tools/site/notebooks.py docs/notebooks build/notebooks

check: lint test docs ## Everything that has to pass before a change goes in

clean: ## Delete the environment, caches and the demo's results
	rm -rf $(VENV) runs/demo build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "dukd needs Python 3.11 or later, but $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1 || echo missing); name another: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: what follows finds the pinned one there and leaves it.
$(VENV)/.torch-installed: constraints.txt | $(BIN)/python
	@echo "installing torch into $(VENV) (once; a few minutes, depending on the network)"
	$(PIP) torch==2.13.0 -c constraints.txt
	@touch $@

$(DEMO): $(PINS) $(VENV)/.torch-installed
	@echo "installing dukd and the demo's photographs"
	$(PIP) -c constraints.txt -e '.[demo]'
	@touch $@

$(DOCS): $(PINS) $(VENV)/.torch-installed
	@echo "installing dukd and what builds its site"
	$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@

$(DEV): $(PINS) $(VENV)/.torch-installed
	@echo "installing dukd and everything its tests use"
	$(PIP) -c constraints.txt -e '.[benchmarks,coreml,demo,dev,heic,jxl,litert,loops,ncnn,onnx,openvino,ray,tensorboard,video]'
	$(PIP) -c constraints.txt --no-deps spandrel einops  # whose torchvision is not needed
	@touch $@ $(DEMO)
