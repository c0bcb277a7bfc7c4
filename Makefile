# `make quickstart` and `make test` do all their own set-up; nothing else needs installing first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := torch==2.13.0
export JAX_PLATFORMS ?= cpu
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

APPIUM := 3.8.0
CHROMIUM_DRIVER := 3.1.1
UIAUTOMATOR2_DRIVER := 8.7.0
APPIUM_STAMP := .appium/.installed-$(APPIUM)-$(CHROMIUM_DRIVER)-$(UIAUTOMATOR2_DRIVER)

.PHONY: install quickstart bring-your-own study-slice aitw appium test test-appium test-slow soak wheel lock lint types imports notebooks docs docs-commands help

help:
	@echo "make quickstart  the whole method on the embedded phone, with a table and a report at the end"
	@echo "make study-slice a few minutes of a study: arms, a control, a sweep, records and the page made from them"
	@echo "make bring-your-own  a learned Q on top of two simulated foreign agents, from their logs alone"
	@echo "make test        the tests"
	@echo "make appium      Appium 3 with its Chromium and UiAutomator2 drivers, Debian's chromium and adb (npm and apt-get)"
	@echo "make test-appium the tests that drive a real browser, and the real UiAutomator2 driver, through it"
	@echo "make notebooks   executes the four notebooks; notebooks/execute.py --write refreshes what is committed"
	@echo "make lint types imports wheel   what CI checks besides"
	@echo "make docs        the site, from docs/ and docstrings, into runs/site"
	@echo "make docs-commands  runs the commands that README and docs show"
	@echo "make test-slow   ten minutes of 'make soak' and 20,000 damaged recordings, beside all else that is too slow for CI"
	@echo "make soak        an hour of kills, damage, full disks and junk, with a table at the end"
	@echo "make lock        pins every package anew, with hashes"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
# torch comes first and pinned. Where the package index offers its CPU build, this is that one; where it does not (PyPI's
# is the CUDA build on Linux, some gigabytes), docs/install.md has the line that is.
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

quickstart: install
	$(BIN)/digiq run configs/quickstart.yaml

bring-your-own: install
	$(BIN)/python -m digiq.laboratory.bring_your_own

study-slice: install
	$(BIN)/digiq study configs/study/slice.yaml

AITW ?= ../shared/data/aitw_sample
aitw: install
	$(BIN)/digiq run configs/aitw_sample.yaml --episodes.aitw.source $(AITW)

test: install
	$(BIN)/pytest -n 2 tests --ignore tests/appium
	@echo "skipped: tests/appium, which drive a real browser; 'make appium' gets what they need, 'make test-appium' runs them"

test-appium: install appium
	$(BIN)/pytest -n 2 tests/appium

# Everything npm brings lies in .appium; Appium finds the drivers that are installed beside it. Debian keeps only the
# newest chromium, and its chromedriver is always of the same version.
appium: $(APPIUM_STAMP)

$(APPIUM_STAMP):
	@{ command -v node && command -v npm; } >/dev/null || { echo "Appium needs Node.js 20.19 or later with npm; see nodejs.org." >&2; exit 1; }
	{ command -v chromium && command -v chromedriver && command -v adb; } >/dev/null || \
		{ sudo=$$(test "$$(id -u)" = 0 || echo sudo); $$sudo apt-get update -qq && $$sudo apt-get install -qq -y \
		--no-install-recommends chromium chromium-driver fonts-liberation adb >/dev/null; }
	mkdir -p .appium
	APPIUM_SKIP_CHROMEDRIVER_INSTALL=1 npm install --prefix .appium --no-audit --no-fund --loglevel error --save-exact \
		appium@$(APPIUM) appium-chromium-driver@$(CHROMIUM_DRIVER) appium-uiautomator2-driver@$(UIAUTOMATOR2_DRIVER)
	APPIUM_HOME=$(CURDIR)/.appium node .appium/node_modules/appium/index.js driver list --installed 2>&1 | \
		grep -F "chromium@$(CHROMIUM_DRIVER)"
	touch $@

# Kills, damage, full disks and junk, each for a while; prints a table of what was tried and what survived.
test-slow: install
	$(BIN)/python -m tests.soak --minutes 10
	DIGIQ_FUZZ=3000 $(BIN)/python -m pytest -q --timeout 3000 tests/digiq/data/test_fuzz.py

soak: install
	$(BIN)/python -m tests.soak --minutes 60 --out docs/results/soak.md

# The wheel in clean environments, from an empty directory.
wheel: install
	$(BIN)/python tools/check_wheel.py

# What .venv holds, held against hashes from now on; torch alone has a line of its own.
lock: install
	$(BIN)/pip freeze --exclude-editable --exclude torch | $(BIN)/uv pip compile - --no-deps --generate-hashes --no-annotate \
		--quiet --custom-compile-command "make lock" --output-file requirements.lock

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: install
	$(BIN)/lint-imports
	$(BIN)/deptry .

notebooks: install
	$(BIN)/python notebooks/execute.py

# What README and docs show, in order, each page in a fresh directory; tools/docs_commands.yaml has what is not run, and why.
docs-commands: install
	test -f runs/small/summary.json || $(BIN)/digiq run configs/small.yaml
	$(BIN)/python tools/run_docs.py

# A broken link, or a public name without a docstring, fails it.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
