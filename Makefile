# Everything a contributor runs. Each target sets up what it needs, can be run again at any time, and ends with one line
# that says how it went.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help demo test test-microvm lint bench soak soak-devices soak-queue soak-load queue-histories queue-kills queue-cuts queue-client soak-async event-kills event-cuts \
	clean setup-demo setup-test \
	build runtimes kernel functions bench-microvm

BIN := target/debug/waterwheel
# Arguments of cargo build: the profile the tests use is the one that `cargo test` has built already.
PROFILE :=
VENV := $(CURDIR)/target/venv
# Environments are made by root: as another user, the programs that make them are run with sudo.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
RUNNER := $(if $(SUDO),CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(SUDO)" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$(SUDO)")
# How often the queue's client is killed, and its power cut. SEED repeats the choices of a run.
KILLS ?= 300
CUTS ?= 300
# The same of the whole server, under a load of asynchronous events.
EVENT_KILLS ?= 150
EVENT_CUTS ?= 50
SEED ?=
# Arguments for pytest, such as PYTEST_ARGS='-k signatures'.
PYTEST_ARGS ?=
BENCHES = $(patsubst loadtest/src/bin/bench-%,%,$(basename $(wildcard loadtest/src/bin/bench-*)))
# What each of them needs: parts of scripts/setup, what cargo builds, further targets, and arguments. BENCH_ARGS='--quick' is for trying
# the bench itself.
BENCH_SERVER := --server target/release/waterwheel --runtimes target/runtimes --functions target/functions
BENCH_SETUP_async := peers
BENCH_SETUP_microvm := microvm
BENCH_SETUP_queue := peers
BENCH_BUILD_invoke := -p waterwheel -p loadtest
BENCH_BUILD_async := $(BENCH_BUILD_invoke)
BENCH_BUILD_microvm := $(BENCH_BUILD_invoke)
BENCH_BUILD_queue := -p loadtest --bin bench-queue
BENCH_TARGETS_async := runtimes functions
BENCH_TARGETS_invoke := runtimes functions
BENCH_TARGETS_microvm := runtimes functions kernel bench-microvm
# The program that is built, if that is not the server.
BENCH_BIN_queue := target/release/bench-queue
BENCH_ARGS_async := $(BENCH_SERVER) $(BENCH_ARGS)
BENCH_ARGS_invoke := $(BENCH_SERVER)
BENCH_ARGS_microvm := $(BENCH_SERVER)
SOAKS = $(patsubst loadtest/src/bin/soak-%,%,$(basename $(wildcard loadtest/src/bin/soak-*)))

help: ## Show this list
	@echo "Waterwheel: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: setup-demo build runtimes functions ## Invoke functions with the AWS CLI, send 10,000 events, kill the server; from nothing
	@$(SUDO) $(BIN) demo --aws $(VENV)/bin/aws --runtimes-dir target/runtimes --functions target/functions

lint: ## Formatting, lints, licences and sources of dependencies
	@scripts/setup system deny
	@echo "lint: formatting"; cargo fmt --all --check
	@echo "lint: clippy"; cargo clippy --quiet --workspace --all-targets -- -D warnings
	@echo "lint: dependencies"; target/tools/bin/cargo-deny --log-level error check licenses bans sources
	@echo "lint: ok"

test: lint setup-test ## Everything that must hold before a change is kept
	@$(MAKE) build runtimes kernel functions
	@echo "test: the service model is botocore's"; $(VENV)/bin/python ingest/model/extract.py --check
	@echo "test: unit and property tests"; $(RUNNER) cargo test --quiet --workspace
	@echo "test: the queue, at length"; $(MAKE) QUEUE_SEQUENCES=20000 QUEUE_DAMAGES=10000 queue-histories
	@echo "test: the queue, killed and cut off"; $(MAKE) queue-kills queue-cuts
	@echo "test: the whole server, killed and cut off"; $(MAKE) event-kills event-cuts
	@echo "test: black box"
	@cargo build --quiet --package connectors --example deliver
	@$(SUDO) $(VENV)/bin/python -m pytest tests/blackbox -q $(PYTEST_ARGS)
	@$(MAKE) test-microvm
	@echo "test: ok (lints, unit, property, black-box and microVM tests)"

test-microvm: ## What needs a KVM that boots kernels: directly, or nested in QEMU
	@scripts/setup system venv microvm
	@$(MAKE) build runtimes kernel functions
	@tests/nested/suite.py build
	@echo "test-microvm: the harness"; python3 tests/nested/test_harness.py
	@$(SUDO) tests/nested/suite.py run
	@echo "test-microvm: ok (what was proved is listed above)"

bench: ## Measure: make bench NAME=invoke
	@case " $(BENCHES) " in *" $(or $(NAME),?) "*) ;; *) echo "bench: no NAME=$(NAME); there are: $(BENCHES)" >&2; exit 2;; esac
	@scripts/setup system $(BENCH_SETUP_$(NAME))
	@$(MAKE) BIN=$(or $(BENCH_BIN_$(NAME)),target/release/waterwheel) PROFILE="--release $(BENCH_BUILD_$(NAME))" \
		build $(BENCH_TARGETS_$(NAME))
	@mkdir -p target/bench
	@$(SUDO) target/release/bench-$(NAME) $(BENCH_ARGS_$(NAME)) --out target/bench/$(NAME).json
	@echo "bench: ok (target/bench/$(NAME).json)"

# The half of it that runs where KVM boots kernels.
bench-microvm:
	@echo "build: what boots microVMs, ours and QEMU's"; tests/nested/bench_microvm.py build

soak: ## Run for long: make soak NAME=devices
	@case "$(NAME)" in devices|queue|async) $(MAKE) soak-$(NAME);; *) $(MAKE) soak-load;; esac

# Random histories of crashes, errors and damage on a simulated disk, of one caller and of many at once.
queue-histories:
	@QUEUE_SEQUENCES=$(QUEUE_SEQUENCES) QUEUE_DAMAGES=$(QUEUE_DAMAGES) QUEUE_FORGERIES=$(QUEUE_DAMAGES) \
	QUEUE_SIMULATIONS=$(or $(QUEUE_SIMULATIONS),300) \
		cargo test --quiet --package queue --lib -- --nocapture --test-threads=1 \
		tests::crashes tests::damage tests::faults tests::simulation tests::hostile tests::canaries

# A client of the queue on real files, killed; and on a file system of its own that loses its power, or its room. What it was
# promised is judged by a process that lives on.
queue-kills: queue-client
	@tests/durability/test_promises.py
	@tests/durability/kills.py --kills $(KILLS) $(if $(SEED),--seed $(SEED))

queue-cuts: queue-client
	@$(SUDO) tests/durability/cuts.py --cuts $(CUTS) $(if $(SEED),--seed $(SEED))

queue-client:
	@cargo build --quiet --package queue --example storm

soak-queue:
	@scripts/setup system
	@$(MAKE) QUEUE_SEQUENCES=100000 QUEUE_DAMAGES=100000 queue-histories
	@$(MAKE) KILLS=2000 CUTS=2000 queue-kills queue-cuts
	@echo "soak: ok (the queue's histories, kills and cuts)"

# The server under a load of asynchronous events, killed; and on a file system of its own that loses its power.
event-kills:
	@tests/durability/test_event_promises.py
	@$(SUDO) $(VENV)/bin/python tests/durability/event_kills.py --kills $(EVENT_KILLS) $(if $(SEED),--seed $(SEED))

event-cuts:
	@$(SUDO) $(VENV)/bin/python tests/durability/event_cuts.py --cuts $(EVENT_CUTS) $(if $(SEED),--seed $(SEED))

# An hour and a half.
soak-async:
	@scripts/setup system venv
	@$(MAKE) build runtimes
	@$(MAKE) EVENT_KILLS=2000 EVENT_CUTS=2000 event-kills event-cuts
	@echo "soak: ok (the whole server's kills and cuts)"

# The devices of microVMs against hostile guests; hours.
soak-devices:
	@scripts/setup system
	FUZZ_EXECUTIONS=100000000 cargo test --release --package vmm --test 'fuzz_*' -- --nocapture
	@echo "soak: ok (100 million calls of each device)"

soak-load:
	@case " $(SOAKS) " in *" $(or $(NAME),?) "*) ;; *) echo "soak: no NAME=$(NAME); there are: async devices queue $(SOAKS)" >&2; exit 2;; esac
	@scripts/setup system
	@$(MAKE) BIN=target/release/waterwheel PROFILE="--release -p waterwheel -p loadtest" build runtimes functions
	@mkdir -p target/soak
	@$(SUDO) target/release/soak-$(NAME) --server target/release/waterwheel --runtimes target/runtimes \
		--functions target/functions --out target/soak/$(NAME).json
	@echo "soak: ok (target/soak/$(NAME).json)"

clean: ## Remove everything that was built or installed here (target/)
	@$(SUDO) rm -rf target
	@echo "clean: ok"

setup-demo:
	@scripts/setup system venv

setup-test:
	@scripts/setup venv emulators microvm

build:
	@echo "build: $(BIN)"; cargo build --quiet $(PROFILE)

runtimes:
	@$(SUDO) $(BIN) runtimes build --runtimes-dir target/runtimes

kernel:
	@$(SUDO) $(BIN) kernel build --runtimes-dir target/runtimes

functions:
	@tests/functions/build.sh
