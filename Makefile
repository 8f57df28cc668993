# `make demo` and `make test` set up everything they need; nothing else has to be installed but Python 3.11 or later.
.DEFAULT_GOAL := help
BIN := .venv/bin
# The programs are started hundreds of times, by tests above all; some container images have each start compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-slow check lint format types image breaking generate lock bench bench-peers soak clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Make .venv with everything the lock file pins
	@scripts/setup.sh

demo: setup ## Answer a real question over the standard library's source, with the demo model
	@scripts/demo.sh

test: setup ## Lint, check types, run the tests
	@$(MAKE) --no-print-directory --jobs 2 lint types image
	@$(BIN)/pytest --numprocesses $$($(BIN)/python -c "import os; print(min(4, 2 * (os.cpu_count() or 1)))") \
		--dist loadfile --no-loadscope-reorder

test-slow: setup ## Run the tests that take too long for `make test`
	@$(BIN)/pytest -m slow

lint: setup ## Check style and the contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code
	@scripts/breaking.sh $(AGAINST)

format: setup ## Format everything
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/buf format --write

types: setup ## Check types, strictly
	@$(BIN)/mypy clients/python/src common/src rlm_server/src sandbox_server/src

image: setup ## Build the sandbox image, which a server does at its first start otherwise
	@$(BIN)/rlm-sandbox image build

breaking: setup ## Compare the contracts with the last landed state
	@scripts/breaking.sh $(AGAINST)

generate: setup ## Generate the Python stubs from proto/
	@$(BIN)/python scripts/generate_stubs.py

lock: setup ## Pin every dependency anew
	@$(BIN)/python -m pip install --quiet uv
	@UPGRADE=1 UV=$(BIN)/uv scripts/lock.sh

bench: setup ## Measure; prints tables and writes bench/results; ARGS="PART... --quick" for less
	@$(BIN)/python -m bench $(ARGS)

soak: setup ## Ten minutes of good and hostile load on a sandbox server; ARGS="--minutes 3" for less
	@$(BIN)/python -m bench.soak $(ARGS)

bench-peers: setup ## Measure the sandbox beside its peers, which it installs into build/peers; ARGS="--markdown FILE"
	@scripts/bench_peers.sh $(ARGS)

clean: ## Remove what setup made
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache
