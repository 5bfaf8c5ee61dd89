# `make help` lists the targets. The README's two are `make demo` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Where everything that is built and kept goes.
export PODLESS_CACHE ?= $(HOME)/.cache/podless
export CARGO_TARGET_DIR ?= $(PODLESS_CACHE)/target
# Cargo profile of what is built: dev for work, dist for images that are shipped.
export PROFILE ?= dev
export PROFILE_DIR = $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

# Groups that no cargo command links together: features would be unified, and the compiler linked into the shim.
OPERATOR_SIDE := -p podless-crds -p podless-engine -p podless-artifact -p podless-link -p podless-operator -p podless-e2e -p xtask
# The child that compiles, alone: the operator must not link what it does.
COMPILER := -p podless-artifact --features compile --bin podless-compile
SHIM_SIDE := -p podless-shim -p podless-host -p podless-engine
# And the one program that has both, for a machine without a cluster.
CLI_SIDE := -p podless-cli
# This machine's own target; the folders of components have another one by default.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# Components, and the native server that one of them is measured beside: each folder is a Cargo workspace of its own.
GUESTS := examples/hello examples/hello-p3 examples/crud e2e/guests e2e/peers/crud-axum
SCRIPTS := $(wildcard scripts/*) $(filter-out %/crud-axum,$(wildcard e2e/peers/*)) .ci/run examples/hello-python/build.sh

export CLUSTER := $(PODLESS_CACHE)/cluster/cluster
export XTASK = $(CARGO_TARGET_DIR)/debug/xtask
# Which cluster tests run on.
export CLUSTER_NAME ?= test
TEST_CLUSTER := $(CLUSTER) --name $(CLUSTER_NAME)
# Which of the tests on a cluster: all, or as .config/nextest.toml has it.
TEST_PROFILE ?= cluster
# BUILT=yes: what was built and installed a moment ago is not looked at again.
unbuilt = $(if $(BUILT),,$(1))

NEXTEST_VERSION := 0.9.151
DENY_VERSION := 0.20.2
NEXTEST := $(PODLESS_CACHE)/tools/cargo-nextest-$(NEXTEST_VERSION)/bin/cargo-nextest
DENY := $(PODLESS_CACHE)/tools/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  KUBECONFIG and REGISTRY given: demo and demo-down use that cluster in place of a local one."
	@echo "  PROFILE=dist: optimised binaries.  PODLESS_CACHE: where builds are kept ($(PODLESS_CACHE))."

## The demo

.PHONY: demo demo-load demo-down recording kubeconfig registry
demo: ## The whole way: a cluster, Podless, a component, an answer
	@scripts/demo

demo-load: harness ## Send the demo's service 200 requests a second for half a minute
	@cargo build --quiet $(OPERATOR_SIDE) --bin xtask
	@scripts/demo-load --rate 200 --requests 6000 --seconds 60

demo-down: harness ## Undo the demo
	@scripts/demo-down

recording: harness ## Run the walk of docs/autoscaling.md on the demo's cluster, draw its terminal into docs/figures
	@cargo build --quiet $(OPERATOR_SIDE) --bin xtask
	@scripts/recording

kubeconfig: harness ## Print the path of the local cluster's kubeconfig
	@$(CLUSTER) --name demo kubeconfig

registry: harness ## Print host:port of the local cluster's registry
	@$(CLUSTER) --name demo registry

## Building

.PHONY: build cli harness guests examples image generate clean
build: ## Build operator, compiler, shim and tools
	cargo build $(OPERATOR_SIDE) $(if $(filter dev,$(PROFILE)),,--bin xtask)
	$(if $(filter dev,$(PROFILE)),,cargo build --profile $(PROFILE) -p podless-operator)
	cargo build --profile $(PROFILE) $(COMPILER)
	cargo build --profile $(PROFILE) $(SHIM_SIDE)

# One file that runs on any Linux: statically linked, unless it is for work on it.
CLI_TARGET = $(if $(filter dev,$(PROFILE)),,x86_64-unknown-linux-musl)
cli: ## Build podless, the program for one machine (PROFILE=dist: optimised and static)
	@scripts/prerequisites rust $(if $(CLI_TARGET),musl)
	cargo build --profile $(PROFILE) $(if $(CLI_TARGET),--target $(CLI_TARGET)) $(CLI_SIDE)
	@echo $(if $(CLI_TARGET),$(CARGO_TARGET_DIR)/$(CLI_TARGET)/$(PROFILE),$(PROFILE_DIR))/podless

# The program that boots local clusters; what runs in them it builds itself, once.
harness:
	@cd e2e/cluster && go build -buildvcs=false -o $(CLUSTER) .

guests: ## Build the components that tests serve, also as machine code
	cargo build -p podless-engine --features compile --example precompile
	@scripts/guests

examples: guests ## Build every example; JavaScript's and Python's need npm and python3
	@scripts/prerequisites npm python
	@scripts/examples

image: ## Make the container images; with REGISTRY given, push them (PROFILE=dist to ship them)
	@$(MAKE) build
	@scripts/images $(if $(REGISTRY),"$(REGISTRY)" --push,podless.local)

generate: ## Write the files that are made from code
	cargo build $(OPERATOR_SIDE) --bin xtask
	$(XTASK) generate

clean: ## Remove all that was built and kept
	rm -rf $(CARGO_TARGET_DIR) $(PODLESS_CACHE)/images $(PODLESS_CACHE)/guests $(PODLESS_CACHE)/tools

## Checking

.PHONY: test lint lint-rust lint-shim lint-go lint-shell lint-chart lint-generated deny
test: ## Everything: lint, unit, real API server, real cluster
	@scripts/stage "prerequisites" scripts/prerequisites rust cluster shellcheck
	@scripts/stage "lint: go" $(MAKE) lint-go
	@scripts/stage "lint: shell" $(MAKE) lint-shell
	@scripts/stage "lint: rust" $(MAKE) lint-rust
	@scripts/stage "lint: what must not be linked" $(MAKE) lint-shim
	@scripts/stage "build" $(MAKE) build
	@scripts/stage "lint: generated files" $(MAKE) lint-generated
	@scripts/stage "components for tests" $(MAKE) guests
	@scripts/stage "test runner (built once)" $(MAKE) $(NEXTEST)
	@scripts/stage "Kubernetes (built once)" $(CLUSTER) bin
	@scripts/stage "lint: chart" $(MAKE) lint-chart
	@scripts/stage "unit tests" $(MAKE) BUILT=yes test-unit
	@scripts/stage "fuzz" $(MAKE) BUILT=yes fuzz
	@scripts/stage "tests on a real API server" $(MAKE) BUILT=yes test-api
	@scripts/stage "clusters up" $(MAKE) BUILT=yes test-clusters-up
	@scripts/stage "tests on real clusters" scripts/beside \
		ordinary "$(MAKE) BUILT=yes TEST_PROFILE=ordinary test-cluster" \
		nodes "$(MAKE) BUILT=yes TEST_PROFILE=nodes CLUSTER_NAME=nodes test-cluster" \
		control "$(MAKE) BUILT=yes TEST_PROFILE=control CLUSTER_NAME=control test-cluster"
	@scripts/stage "clusters down" $(MAKE) test-down

lint: lint-go lint-shell lint-rust lint-shim lint-generated lint-chart ## Formatting, clippy, vet, shellcheck, helm lint, generated files

lint-rust:
	cargo fmt --all --check
	for guests in $(GUESTS); do cargo fmt --check --manifest-path $$guests/Cargo.toml --all; done
	cargo clippy --workspace --all-targets -- -D warnings

# Who cannot compile cannot be made to: the shim links no code generator, and the operator nothing that parses, compiles or
# runs guests. Its child does, and runs none.
lint-shim:
	@scripts/absent podless-shim cranelift-codegen wasmtime-internal-cranelift wasmtime-internal-winch
	@scripts/absent podless-operator cranelift-codegen wasmtime wasmparser wasmtime-wasi wasmtime-wasi-http
	@scripts/absent podless-artifact --features compile -- wasmtime-wasi wasmtime-wasi-http tokio reqwest

lint-go: harness
	@unformatted=$$(gofmt -l e2e/cluster); [ -z "$$unformatted" ] || { echo "run gofmt -w on: $$unformatted" >&2; exit 1; }
	cd e2e/cluster && go vet .

lint-shell:
	@scripts/prerequisites shellcheck
	shellcheck $(SCRIPTS)

lint-chart: harness
	@scripts/lint-chart

lint-generated:
	cargo build $(OPERATOR_SIDE) --bin xtask
	$(XTASK) generate --check

deny: $(DENY) ## Licences, advisories and sources of dependencies (needs the network)
	$(DENY) check

.PHONY: test-unit fuzz test-api test-cluster test-clusters-up test-up test-install test-down soak soak-shim
test-unit: $(NEXTEST) $(call unbuilt,guests harness) ## Tests that need nothing but this machine
	cd e2e/cluster && go test -vet=off .
	@scripts/with-test-cluster $(NEXTEST) nextest run $(OPERATOR_SIDE)
	@scripts/with-test-cluster $(NEXTEST) nextest run $(SHIM_SIDE)
	@scripts/with-test-cluster $(NEXTEST) nextest run $(CLI_SIDE)
	@cd examples/crud && cargo test --quiet --locked --lib --target $(HOST) --target-dir $(CARGO_TARGET_DIR)/guests

# Cases of each property: a minute in all. What one of them finds is kept in a folder proptest-regressions: commit it, and
# add it to the corpus beside the test.
FUZZ ?= 40000
fuzz: $(NEXTEST) $(call unbuilt,guests harness) ## Properties of what strangers send, at random (FUZZ=2000000: for an hour)
	@PROPTEST_CASES=$(FUZZ) scripts/with-test-cluster $(NEXTEST) nextest run --profile fuzz $(OPERATOR_SIDE)
	@PROPTEST_CASES=$(FUZZ) scripts/with-test-cluster $(NEXTEST) nextest run --profile fuzz $(SHIM_SIDE)

# On a cluster of their own: they play the operator and the shims.
test-api: $(NEXTEST) $(call unbuilt,harness) ## Tests on a real API server
	@$(CLUSTER) --name api up --nodes 1
	@CLUSTER_NAME=api scripts/with-test-cluster $(NEXTEST) nextest run --profile api $(OPERATOR_SIDE)
	@$(CLUSTER) --name api down

test-cluster: $(NEXTEST) $(call unbuilt,test-install guests) ## Tests on a real cluster with Podless installed
	@scripts/with-test-cluster $(NEXTEST) nextest run --profile $(TEST_PROFILE) $(OPERATOR_SIDE) $(TESTS)

# What breaks parts of Podless or of Kubernetes has clusters of its own: most of its time it waits.
test-clusters-up:
	@for name in $(CLUSTER_NAME) nodes control; do \
		$(MAKE) CLUSTER_NAME=$$name test-up; \
		$(MAKE) CLUSTER_NAME=$$name test-install; \
	done

test-up: $(call unbuilt,harness) ## Boot the cluster of the tests
	@$(TEST_CLUSTER) up

# The registry has further doors there, see e2e/cluster/gates.go.
test-install: $(call unbuilt,build test-up) ## Install Podless on the cluster of the tests
	@tag=$$(scripts/images podless.local); \
	$(TEST_CLUSTER) load $(PODLESS_CACHE)/images/{operator,shim}.tar; \
	PATH=$$($(CLUSTER) bin):$$PATH scripts/with-test-cluster scripts/install podless.local $$tag \
		"$$(for door in "" basic bearer corrupt; do $(TEST_CLUSTER) registry $$door; done | paste -sd,)" \
		"$$($(TEST_CLUSTER) registry authority)"

# The kubelets' back-off is Kubernetes' own there.
soak: $(NEXTEST) build examples harness ## The tests in their long forms: two hours and a half at most
	@$(MAKE) BUILT=yes FUZZ=1000000 fuzz
	@$(MAKE) BUILT=yes soak-shim
	@$(CLUSTER) --name soak up --default-backoff
	@$(MAKE) BUILT=yes CLUSTER_NAME=soak test-install
	@CLUSTER_NAME=soak PODLESS_SOAK=1 scripts/with-test-cluster timeout 90m \
		$(NEXTEST) nextest run --profile soak --run-ignored all --no-capture $(OPERATOR_SIDE)
	@$(CLUSTER) --name soak down

soak-shim: $(NEXTEST) $(call unbuilt,guests harness) ## Guests that misbehave, for an hour (PODLESS_SOAK_MINUTES)
	@scripts/with-test-cluster $(NEXTEST) nextest run --profile soak-shim --run-ignored only --no-capture $(SHIM_SIDE)

test-down: harness ## End the clusters of the tests
	@$(TEST_CLUSTER) down
	@$(CLUSTER) --name nodes down
	@$(CLUSTER) --name control down
	@$(CLUSTER) --name api down

## Measuring

# A quick run shows in minutes that it works; its figures are not for docs.
FIGURES ?= $(if $(QUICK),$(PODLESS_CACHE)/figures,docs)
BENCH_SCALING := $(CARGO_TARGET_DIR)/debug/examples/bench-scaling
BENCH_ARTIFACTS := $(CARGO_TARGET_DIR)/debug/examples/bench-artifacts
PEER := e2e/peers/crud-axum

# `wasmtime serve` for `make bench`: of Wasmtime's program what serves; how, its own defaults say.
WASMTIME_VERSION := 48.0.8
export WASMTIME ?= $(PODLESS_CACHE)/tools/wasmtime-cli-$(WASMTIME_VERSION)/bin/wasmtime
export PEERS := $(CURDIR)/e2e/peers
export PEERS_BUILT = $(CARGO_TARGET_DIR)/peers/release
BENCH_LIMIT := $(CARGO_TARGET_DIR)/debug/examples/bench-limit
LIMIT_FIGURES = $(if $(QUICK),$(FIGURES)/benchmarks,docs/benchmarks)

.PHONY: bench bench-quick
bench: $(call unbuilt,$(WASMTIME) bench-build) ## Measure the shim beside its peers, into docs/benchmarks (PROFILE=dist to publish; SPIN=, WASH=)
	@mkdir -p $(LIMIT_FIGURES)
	@PODLESS_TEST_ARTIFACTS=$(PODLESS_CACHE)/guests QUICK=$(QUICK) scripts/apart $(BENCH_LIMIT) measure $(LIMIT_FIGURES)
	@$(BENCH_LIMIT) tell $(LIMIT_FIGURES)

bench-quick: ## The same in three minutes, to see that it works
	@$(MAKE) QUICK=1 bench

.PHONY: bench-build
bench-build: guests
	cargo build --profile $(PROFILE) $(SHIM_SIDE) --bins --example cycle
	cargo build $(OPERATOR_SIDE) --example bench-limit
	cargo build --release --locked --manifest-path $(PEER)/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/peers

.PHONY: bench-scaling bench-artifacts
bench-scaling: build guests harness ## Measure scaling, pods beside it, into docs (PROFILE=dist to publish, QUICK=1 to try)
	cargo build $(OPERATOR_SIDE) --example bench-scaling
	cargo build --release --locked --manifest-path $(PEER)/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/peers
	@$(XTASK) image $(CARGO_TARGET_DIR)/peers/release/crud-axum podless.local/peers/crud-axum:1 \
		--output $(PODLESS_CACHE)/images/crud-axum.tar
	@$(CLUSTER) --name bench up
	@$(MAKE) BUILT=yes CLUSTER_NAME=bench test-install
	@$(CLUSTER) --name bench load $(PODLESS_CACHE)/images/crud-axum.tar
	@CLUSTER_NAME=bench QUICK=$(QUICK) scripts/with-test-cluster $(BENCH_SCALING) measure $(FIGURES)
	@$(BENCH_SCALING) tell $(FIGURES)
	@$(CLUSTER) --name bench down

bench-artifacts: build examples harness ## Measure compiling, pulling and loading, into docs (PROFILE=dist to publish, QUICK=1 to try)
	cargo build $(OPERATOR_SIDE) --example bench-artifacts
	@$(CLUSTER) --name bench up
	@$(MAKE) BUILT=yes CLUSTER_NAME=bench test-install
	@CLUSTER_NAME=bench QUICK=$(QUICK) scripts/with-test-cluster $(BENCH_ARTIFACTS) measure $(FIGURES)
	@$(BENCH_ARTIFACTS) tell $(FIGURES)
	@$(CLUSTER) --name bench down

$(WASMTIME):
	cargo install --locked wasmtime-cli@$(WASMTIME_VERSION) --no-default-features \
		--features serve,cranelift,component-model-async,pooling-allocator,parallel-compilation,wat,logging,clap/default \
		--root $(PODLESS_CACHE)/tools/wasmtime-cli-$(WASMTIME_VERSION) --target-dir $(CARGO_TARGET_DIR)/tools

# cargo install prints what it compiles. Once, and unoptimised: it only starts tests.
$(NEXTEST):
	cargo install --debug --locked cargo-nextest@$(NEXTEST_VERSION) --no-default-features --features default-no-update \
		--root $(PODLESS_CACHE)/tools/cargo-nextest-$(NEXTEST_VERSION) --target-dir $(CARGO_TARGET_DIR)/tools

$(DENY):
	cargo install --locked cargo-deny@$(DENY_VERSION) \
		--root $(PODLESS_CACHE)/tools/cargo-deny-$(DENY_VERSION) --target-dir $(CARGO_TARGET_DIR)/tools
