# Every target installs what it needs into .venv first (once). `make` alone lists the targets.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
ALL_INSTALLED := .venv/.all-installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install install-all compare validate bench test check lint docs docs-check clean distclean

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

install-all: $(ALL_INSTALLED) ## install the extras of learning too (PyTorch, SB3, PettingZoo, Minari)

$(ALL_INSTALLED): $(INSTALLED)
	@echo "Installing PyTorch, Stable-Baselines3, PettingZoo and Minari into .venv (once, a minute or two)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,train,pettingzoo,minari]'
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
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	@rm -rf .venv
