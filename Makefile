# Everything here also works by hand; the targets only know the order.
CARGO ?= cargo
# What `make test-matrix` runs, as pairs of a suite and its filters; empty: every scenario.
ONLY ?=
# One scenario for each thing that differs between versions of PostgreSQL or that all else rests on.
CORE = cluster:: s01_ s03_ s05_ s06_ s13_ s20_ s21_ s22_ s30_ s32_ s36_ s38_ s41_ s43_ s45_
CORE_OF_TRIGGER = s01_ s41_ s55_
CORE_OF_DIRECT = s43_ s50_ s53_

# S28 for five minutes, with three nodes.
SECONDS_OF_TORTURE ?= 300

.PHONY: build test test-matrix test-matrix-core torture demo demo-rails bench lint clean setup

build:
	@scripts/setup
	$(CARGO) build --release

# All that the tests need, Ruby on Rails included.
setup:
	@scripts/setup rails

# Most tests wait more than they compute.
test test-matrix: export RUST_TEST_THREADS ?= 4
test test-matrix torture: export TMPDIR := $(shell scripts/tmpdir)
test: setup
	$(CARGO) test --workspace

test-matrix:
	@scripts/setup matrix
	scripts/test-matrix $(ONLY)

test-matrix-core:
	@$(MAKE) --no-print-directory test-matrix ONLY="it '$(CORE)' trigger '$(CORE_OF_TRIGGER)' direct '$(CORE_OF_DIRECT)'"

torture: setup
	TORTURE_SECONDS=$(SECONDS_OF_TORTURE) $(CARGO) test --release --workspace --test it -- \
		--ignored --nocapture s28_random_writes_and_faults_on_three_nodes

# make demo ARGS=--keep
demo: build
	$(CARGO) run --release --quiet --package pgtandem -- demo $(ARGS)

# Two Rails applications, linked, until Ctrl-C. ARGS=--check: without a person. Built as for the tests: it is not about
# speed.
demo-rails: setup
	$(CARGO) build --workspace --bin pgtandem --example demo-rails
	@$(CARGO) run --quiet --example demo-rails -- $(ARGS)

# make bench ARGS='--quick drain lag'
bench: build
	$(CARGO) run --release --quiet --package bench -- $(ARGS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

clean:
	$(CARGO) clean
