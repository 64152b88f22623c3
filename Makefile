# Every target sets up what it needs on a fresh machine: a virtual environment in .venv and the tested versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
OUT ?= runs/bench.json

.PHONY: quickstart test test-slow test-base test-peers lint format bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,demo,peft,dev]'
	touch $@

# The page of `medssl serve`: built where npm is, left out where it is not.
PAGE := medssl/runtime/server/static/build.json
PAGE_IF_NPM := $(if $(shell command -v npm),$(PAGE))

quickstart: $(VENV)/.installed  ## the whole line on the built-in synthetic cohort; ends with $(RUN)/report.html
	$(BIN)/medssl quickstart --out $(RUN)

.PHONY: viewer
viewer: $(PAGE)  ## the page of `medssl serve`; needs Node.js with npm, which checks NiiVue against the hash of the lock file

$(PAGE): $(shell find deploy/viewer -name node_modules -prune -o -type f -print)
	npm --prefix deploy/viewer ci --ignore-scripts --omit=optional --no-audit --no-fund
	node deploy/viewer/build.js

test: $(VENV)/.installed $(PAGE_IF_NPM)  ## the tests
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/.installed  ## the long tests
	$(BIN)/python -m pytest -m 'slow and not gpu'

test-base: constraints.txt  ## the base install alone, without torch: its tests pass
	rm -rf .venv-base
	$(PYTHON) -m venv .venv-base
	.venv-base/bin/python -m pip install --quiet -c constraints.txt . pytest hypothesis
	.venv-base/bin/python -m pytest -q tests/test_base_install.py tests/imaging tests/runtime

test-peers: pyproject.toml  ## encoders inside timm's and nnU-Net's own modules, which need torchvision and so another torch
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet '.[train,timm]' torch==2.14.1 torchvision==0.29.1 dynamic_network_architectures pytest
	PYTHONPATH=. .venv-peers/bin/python -m pytest -q tests/peers

lint: $(VENV)/.installed  ## ruff, import contracts, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## side by side with peers; numbers in $(OUT)
	$(BIN)/medssl bench all --json $(OUT)

clean:
	rm -rf $(VENV) .venv-base .venv-peers runs build dist deploy/viewer/node_modules medssl/runtime/server/static
