# Sluice: `make demo` shows the main job, `make test` proves it. Both set up what a fresh machine lacks.

.DEFAULT_GOAL := help
.PHONY: help setup build plugins demo test lint e2e crash

CARGO ?= cargo
SLUICE := target/debug/sluice
PLUGINS := redact dedup-key filter
# Where a run's length or seed may be given: make demo SECONDS=60, make e2e LINES=1000000 SEED=7
# (SECONDS is a variable that bash sets by itself; only one given to make counts.)
SECONDS_GIVEN := $(if $(filter command line,$(origin SECONDS)),$(SECONDS),20)

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 12

setup: ## Install what is missing: Rust, and a way to compile plugins to WebAssembly
	@sh .ci/setup

build: setup
	$(CARGO) build --workspace

plugins: build ## Compile the bundled plugins to target/plugins
	@for plugin in $(PLUGINS); do \
	  $(SLUICE) plugin build plugins/$$plugin -o target/plugins/$$plugin.wasm || exit 1; done

demo: plugins ## Run an edge and a central on a live log [LOG=FILE] [KEEP=1] [SECONDS=20]
	$(SLUICE) demo --plugins target/plugins --seconds $(SECONDS_GIVEN) $(if $(LOG),--log $(LOG)) $(if $(KEEP),--keep)

test: plugins ## Run every test
	$(CARGO) test --workspace

lint: setup ## Check format, lints and dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; \
	  else echo "cargo-deny is not installed: dependencies unchecked (cargo install cargo-deny)"; fi

e2e: plugins ## Kill, cut and starve the real binary for longer [LINES=1000000] [SEED=n]
	E2E_LINES=$(or $(LINES),1000000) $(if $(SEED),E2E_SEED=$(SEED)) $(CARGO) test --workspace --test e2e -- --nocapture --test-threads 1

crash: build ## Kill the journal's writer at random moments [KILLS=500] [SEED=n]
	CRASH_KILLS=$(or $(KILLS),500) $(if $(SEED),CRASH_SEED=$(SEED)) $(CARGO) test --workspace --test journal_crash -- --nocapture --test-threads 1
