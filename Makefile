# Everything a contributor runs. Each target sets up what it needs, can be run again at any time, and ends with one line
# that says how it went.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help demo test test-microvm lint bench soak soak-devices soak-queue soak-load queue-histories clean setup-demo setup-test \
	build runtimes kernel functions bench-microvm

BIN := target/debug/waterwheel
# Arguments of cargo build: the profile the tests use is the one that `cargo test` has built already.
PROFILE :=
VENV := $(CURDIR)/target/venv
# Environments are made by root: as another user, the programs that make them are run with sudo.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
RUNNER := $(if $(SUDO),CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(SUDO)" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$(SUDO)")
# Arguments for pytest, such as PYTEST_ARGS='-k signatures'.
PYTEST_ARGS ?=
BENCHES = $(patsubst loadtest/src/bin/bench-%,%,$(basename $(wildcard loadtest/src/bin/bench-*)))
# What one of them needs beyond the others: parts of scripts/setup, and targets.
BENCH_SETUP_microvm := microvm
BENCH_TARGETS_microvm := kernel bench-microvm
SOAKS = $(patsubst loadtest/src/bin/soak-%,%,$(basename $(wildcard loadtest/src/bin/soak-*)))

help: ## Show this list
	@echo "Waterwheel: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: setup-demo build runtimes functions ## Create and invoke two functions with the AWS CLI, from nothing
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
	@echo "test: black box"
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
	@$(MAKE) BIN=target/release/waterwheel PROFILE="--release -p waterwheel -p loadtest" build runtimes functions $(BENCH_TARGETS_$(NAME))
	@mkdir -p target/bench
	@$(SUDO) target/release/bench-$(NAME) --server target/release/waterwheel --runtimes target/runtimes \
		--functions target/functions --out target/bench/$(NAME).json
	@echo "bench: ok (target/bench/$(NAME).json)"

# The half of it that runs where KVM boots kernels.
bench-microvm:
	@echo "build: what boots microVMs, ours and QEMU's"; tests/nested/bench_microvm.py build

soak: ## Run for long: make soak NAME=devices
	@case "$(NAME)" in devices|queue) $(MAKE) soak-$(NAME);; *) $(MAKE) soak-load;; esac

# Random histories of crashes, errors and damage on a simulated disk.
queue-histories:
	@QUEUE_SEQUENCES=$(QUEUE_SEQUENCES) QUEUE_DAMAGES=$(QUEUE_DAMAGES) \
		cargo test --quiet --package queue --lib -- --nocapture --test-threads=1 every_history damage_is_found

soak-queue:
	@scripts/setup system
	@$(MAKE) QUEUE_SEQUENCES=100000 QUEUE_DAMAGES=100000 queue-histories
	@echo "soak: ok (the queue's histories)"

# The devices of microVMs against hostile guests; hours.
soak-devices:
	@scripts/setup system
	FUZZ_EXECUTIONS=100000000 cargo test --release --package vmm --test 'fuzz_*' -- --nocapture
	@echo "soak: ok (100 million calls of each device)"

soak-load:
	@case " $(SOAKS) " in *" $(or $(NAME),?) "*) ;; *) echo "soak: no NAME=$(NAME); there are: devices queue $(SOAKS)" >&2; exit 2;; esac
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
	@scripts/setup venv microvm

build:
	@echo "build: $(BIN)"; cargo build --quiet $(PROFILE)

runtimes:
	@$(SUDO) $(BIN) runtimes build --runtimes-dir target/runtimes

kernel:
	@$(SUDO) $(BIN) kernel build --runtimes-dir target/runtimes

functions:
	@tests/functions/build.sh
