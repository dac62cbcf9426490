# Every target installs what it needs into .venv first (once). `make` alone lists the targets.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
ALL_INSTALLED := .venv/.all-installed
FLOORS := .venv-floors
RLLIB := .venv-rllib
# What decides whether the package works at the lowest versions: data, compiled code, its goldens, the environment.
FLOOR_TESTS := tests/params tests/core/test_golden.py tests/core/test_rng.py tests/env/test_env.py tests/env/test_vector.py \
	tests/measure tests/policies/test_on_spin.py tests/cli/test_cli.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install install-all compare validate bench test test-floors test-rllib check lint docs docs-check clean distclean

help: ## list the targets
	@echo "usage: make TARGET [ARGS='...'] [PYTHON=python3] [JOBS=2]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

install: $(INSTALLED) ## install kvmgym and its tools into .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "kvmgym needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Installing kvmgym into .venv (once, about a minute)"
	@$(PYTHON) -m venv .venv || { \
		echo "Could not make .venv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install-all: $(ALL_INSTALLED) ## install the extras of learning too (PyTorch, SB3, PettingZoo, Minari, Ray)

$(ALL_INSTALLED): $(INSTALLED)
	@echo "Installing PyTorch, Stable-Baselines3, PettingZoo, Minari and Ray into .venv (once, a minute or two)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,train,pettingzoo,minari,distributed]'
	@touch $@

compare: $(INSTALLED) ## compare the kernel's policies; table, JSON and plot (ARGS='--vms 2,3,4')
	@$(BIN)/kvmgym compare $(ARGS)

validate: $(INSTALLED) ## prove the simulator against theory (ARGS=--quick for a short run)
	@$(BIN)/kvmgym validate $(ARGS)

bench: $(INSTALLED) ## measure the simulator's speed, into results/bench.json
	@mkdir -p results
	@$(BIN)/kvmgym bench --json results/bench.json $(ARGS)

test: $(INSTALLED) ## run the fast tests and the doctests (those of learning too after install-all)
	@$(BIN)/python -m pytest -q -n $(JOBS) -m 'not slow' $(ARGS)

# Both have an environment of their own, made anew when a version moves; their machine code is kept there too.
test-floors: $(FLOORS)/.installed ## a fast part of the tests at the lowest versions that pyproject.toml claims
	@KVMGYM_CACHE_DIR=$(CURDIR)/$(FLOORS)/cache $(FLOORS)/bin/python -m pytest -q -p no:cacheprovider -m 'not slow' $(FLOOR_TESTS) $(ARGS)

$(FLOORS)/.installed: pyproject.toml tools/floors.py
	@echo "Installing the lowest versions into $(FLOORS) (once, about a minute)"
	@rm -rf $(FLOORS) && $(PYTHON) -m venv $(FLOORS)
	@$(FLOORS)/bin/python -m pip install -qq --disable-pip-version-check -e . \
		$$(sed -n '/^pytest==/p; /^hypothesis==/p' constraints.txt) $$($(FLOORS)/bin/python tools/floors.py plots)
	@touch $@

test-rllib: $(RLLIB)/.installed ## the adapter of RLlib with the real one, which wants a Gymnasium of its own
	@KVMGYM_CACHE_DIR=$(CURDIR)/$(RLLIB)/cache $(RLLIB)/bin/python -m pytest -q -p no:cacheprovider \
		tests/adapters/test_adapters_rllib.py tests/adapters/test_adapters.py -k 'rllib or training' $(ARGS)

$(RLLIB)/.installed: pyproject.toml constraints.txt
	@echo "Installing Ray's RLlib and PyTorch into $(RLLIB) (once, a minute or two)"
	@rm -rf $(RLLIB) && $(PYTHON) -m venv $(RLLIB)
	@$(RLLIB)/bin/python -m pip install -qq --disable-pip-version-check -e . \
		$$(sed -n 's/^ray==/ray[rllib]==/p; /^torch==/p; /^pytest==/p; /^hypothesis==/p' constraints.txt)
	@touch $@

check: lint docs-check ## lint, types, imports, generated docs, and every test
	@$(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

lint: $(INSTALLED) ## ruff, mypy and the import contracts
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

docs: $(INSTALLED) ## regenerate the generated docs
	@$(BIN)/python -m tools.docs

docs-check: $(INSTALLED) ## check that the generated docs are up to date
	@$(BIN)/python -m tools.docs --check

clean: ## remove caches and build output; .venv and results/ stay
	@rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./.venv -prune -o -path './.venv-*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv and its like too
	@rm -rf .venv $(FLOORS) $(RLLIB)
