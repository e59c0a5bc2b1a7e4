# Two commands do everything on a machine with Rust, Python 3.11 and apt: `make demo` and `make test`.
# What is installed or built goes to ~/.cache/corpusmill and is used again by the next call, by CI, and by other clones.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export CORPUSMILL_CACHE ?= $(HOME)/.cache/corpusmill
export CORPUSMILL_VENV  ?= $(CORPUSMILL_CACHE)/venv
export CARGO_TARGET_DIR ?= $(CORPUSMILL_CACHE)/target
# Names this call of make, so that what it starts in the background is told from other calls.
export CORPUSMILL_RUN   := $(shell echo $$PPID-$$$$)
PYTHON  := $(CORPUSMILL_VENV)/bin/python
BIN     := $(CARGO_TARGET_DIR)/debug
PACKAGE := $(CARGO_TARGET_DIR)/python
STEP    := tools/step
# One selection for the demo, the tests and CI: other packages or features would build DataFusion once more.
WORKSPACE := --workspace --features corpusmill-loader/fixtures
DEMO  ?= demo-data
POSTS ?= 20000
SEED  ?= 1
export CORPUSMILL_PYTHON := $(PYTHON)
export PYTHONPATH := $(PACKAGE)

.PHONY: help
help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

.PHONY: demo
demo: ## Generates posts, builds a corpus from them by SQL, and trains PyTorch on it
	@$(STEP) "system packages" tools/setup system
	@tools/background start "Python environment (PyTorch is large)" tools/setup venv
	@$(STEP) "corpusmill, compiled (the first time: DataFusion, some ten minutes)" cargo build $(WORKSPACE) --quiet
	@tools/background wait "Python environment (PyTorch is large)"
	@$(STEP) "Python package" tools/python-package "$(PACKAGE)"
	@$(STEP) "$(POSTS) posts from seed $(SEED)" $(BIN)/corpusmill generate --posts $(POSTS) --seed $(SEED) --images 50 --out "$(DEMO)/input"
	@cd "$(DEMO)" && "$(CURDIR)/$(STEP)" "moderation.sql" $(BIN)/corpusmill run "$(CURDIR)/examples/moderation.sql"
	@cd "$(DEMO)" && "$(CURDIR)/$(STEP)" "train.py" $(PYTHON) "$(CURDIR)/examples/train.py"

.PHONY: test
test: ## Runs all tests: Rust, SQL, command line, Python
	@$(STEP) "system packages" tools/setup system
	@tools/background start "Python environment (PyTorch is large)" tools/setup venv
	@tools/background start "Azure's storage emulator" tools/setup azurite
	@$(STEP) "tests, compiled (the first time: DataFusion, some ten minutes)" tools/test compile $(WORKSPACE)
	@tools/background wait "Python environment (PyTorch is large)"
	@tools/background wait "Azure's storage emulator"
	@$(STEP) "Python package" tools/python-package "$(PACKAGE)"
	@$(STEP) "tests" tools/test run $(WORKSPACE)

.PHONY: bench
bench: ## Measures pipeline and loader against others, and prints one table
	@$(STEP) "system packages" tools/setup system
	@$(STEP) "Python environment" tools/setup venv
	@benches/run

MINUTES ?= 30
.PHONY: soak
soak: ## Builds again and again while processes are killed, and looks for what is left behind
	@$(STEP) "system packages" tools/setup system
	@$(STEP) "corpusmill, compiled" cargo build $(WORKSPACE) --quiet
	@tests/soak/run --minutes $(MINUTES)

.PHONY: wheel
wheel: ## Builds the Python wheel, optimised, into dist/
	@$(STEP) "system packages" tools/setup system
	@$(STEP) "Python environment" tools/setup venv
	@$(STEP) "wheel" $(CORPUSMILL_VENV)/bin/maturin build --quiet --release --manifest-path loader/Cargo.toml --interpreter $(PYTHON) --out dist
	@ls -l dist/*.whl

.PHONY: fmt
fmt: ## Formats the code
	cargo fmt --all

.PHONY: check
check: ## What CI checks beside the tests: format, clippy, licences
	@$(STEP) "system packages" tools/setup system
	@tools/background start "cargo-deny" tools/setup deny
	@$(STEP) "format" cargo fmt --all --check
	@$(STEP) "clippy" cargo clippy $(WORKSPACE) --all-targets --quiet -- -D warnings
	@tools/background wait "cargo-deny"
	@$(STEP) "licences, bans, sources" $(CORPUSMILL_CACHE)/tools/bin/cargo-deny --log-level error check licenses bans sources

.PHONY: clean-demo
clean-demo: ## Removes what the demo wrote
	rm -rf "$(DEMO)"
