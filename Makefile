# The commands of the README. Each sets up what it needs: `scripts/setup` says what that is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test test-chart test-kubernetes check bench chaos image demo fmt

# Where cargo puts what it builds; our own downloads go beside it.
export CARGO_TARGET_DIR ?= $(CURDIR)/target

# One shape of command everywhere: `-p` would resolve other features and build everything a second time.
BUILD := cargo build --workspace

# The suites that run a second time on gateway and worker of their own, over NATS and PostgreSQL.
END_TO_END := api:: auth:: commands:: dashboard:: events:: kills:: peers:: replay:: terminals::

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS=$$'\t' read -r name what; do printf 'make %-15s %s\n' "$$name" "$$what"; done

run: ## build and start the server, settings from the environment
	@scripts/setup build
	@echo 'Building Patchbay.'
	$(BUILD)
	@echo 'Starting it. Agents and API: $(or $(PATCHBAY_LISTEN),127.0.0.1:3001). Data: $(or $(PATCHBAY_DATA_DIR),./data). Ctrl-C stops it.'
	@exec "$$CARGO_TARGET_DIR/debug/patchbay"

test: ## all tests, those with foreign WebSocket clients, a browser and the chart too
	@scripts/setup build interop services browser chart
	$(BUILD)
	cargo test --workspace
	PATCHBAY_TEST_ON=split cargo test --workspace --test it -- $(END_TO_END)
	tests/interop/run
	tests/browser/run
	"$(CARGO_TARGET_DIR)/chart/bin/python" tests/chart/run

test-chart: ## the chart alone: rendered, validated, refused where it must be
	@scripts/setup build chart
	$(BUILD)
	@"$(CARGO_TARGET_DIR)/chart/bin/python" tests/chart/run

check: ## format, lints, dependency rules, chart
	@scripts/setup build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --test it -- rules::
	scripts/lint-chart

bench: ## measure against the figures in docs/performance.md
	@scripts/setup build bench
	$(BUILD) --release
	"$$CARGO_TARGET_DIR/release/bench" $(ARGS)

chaos: ## faults at random, two at a time: ARGS='--secs 60 --seed 7'
	@scripts/setup build services
	$(BUILD)
	scripts/chaos $(ARGS)

image: ## pack the release binary into target/image/patchbay.tar, as localhost/patchbay:dev
	@scripts/setup build
	$(BUILD) --release
	@scripts/image "$$CARGO_TARGET_DIR/release/patchbay" "$$CARGO_TARGET_DIR/image/patchbay.tar" localhost/patchbay:dev

test-kubernetes: ## the chart on a real one-node Kubernetes, started for it; needs root
	@scripts/setup build services
	$(BUILD) --release
	tests/kubernetes/run

demo: ## 500 simulated agents against a server that already runs
	@scripts/setup build
	$(BUILD)
	scripts/demo $(ARGS)

fmt: ## format all Rust code
	cargo fmt --all
