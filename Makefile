# pg_caption: the commands. The work is in scripts/, the versions are in pgrx.toml.
#
# PG_CONFIG=/path/to/pg_config selects a PostgreSQL; the default is the newest supported one that is
# installed. PROFILE=dev builds quickly instead of for speed. IMAGES=/some/folder gives `make demo`
# your own pictures.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help setup demo test test-all proof install cluster cluster-stop bench bench-families
.PHONY: bench-context bench-fleet bench-noise bench-queue bench-remote bench-statements format lint
.PHONY: clean pgrx package test-packages book release

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install missing build requirements on this machine
	@scripts/setup.sh

install: setup ## build, and install into PG_CONFIG: extension, engine, library, default model
	@scripts/install.sh

demo cluster: export PROFILE := $(or $(PROFILE),demo)
demo cluster: export CLOCK := $(shell date +%s)
demo: ## show a table of products being captioned, on a temporary cluster
	@scripts/setup.sh
	@scripts/install.sh
	@scripts/cluster.sh run scripts/demo.sh

cluster: install ## start a temporary cluster; the last line is its connection string
	@scripts/cluster.sh start

cluster-stop: ## stop that cluster and remove it
	@scripts/cluster.sh stop

pgrx: setup ## prepare `cargo pgrx run`: cargo-pgrx, a PostgreSQL of your own, engine, settings
	@scripts/pgrx.sh

package: setup ## build Debian packages in target/debian; MAJORS="15 17" for some
	@scripts/package.sh $(MAJORS)

test-packages: ## install these packages into bare Debian folders; needs root
	@scripts/test-packages.sh

book: ## build the documentation as a site in target/book
	@scripts/book.sh

release: setup ## prepare VERSION=1.2.3: versions, changelog, packages, checksums, components
	@scripts/release.sh $(VERSION)

test: setup ## run all checks, from formatting to a live server
	@scripts/test.sh

test-all: setup ## the same on every supported PostgreSQL, packages, and cargo pgrx
	@scripts/test-all.sh

proof: setup ## check pages of captioned products in headless Chromium; needs npm
	@scripts/proof.sh

bench: install ## measure rows per second, and where the time goes
	@scripts/bench.sh

bench-families: setup ## compare large models with Python peers; MODELS=vit-gpt2 for one
	@scripts/bench-families.sh $(MODELS)

bench-noise: install ## measure a session and a watch next to hostile callers
	@scripts/bench.sh noise

bench-fleet: install ## measure three servers in front of a fleet, with engines that die
	@scripts/bench.sh fleet

bench-context: install ## measure what context and templates cost a watch
	@scripts/bench.sh context

bench-remote: install ## measure the engine in front of a model server
	@scripts/bench.sh remote

bench-statements: install ## measure what statements without captions pay
	@scripts/bench.sh statements

bench-queue: install ## measure the queue: enqueueing, and a million rows
	@scripts/bench.sh queue

format: ## format every crate
	@cargo fmt --all

lint: setup ## check formatting, clippy, style, scripts and SQL only
	@scripts/test.sh lint

clean: cluster-stop ## remove builds and the tests' PostgreSQL; downloads stay
	@cargo clean
	@rm -rf .run/postgresql-* .run/test-postgresql .run/*.log
	@rm -rf /var/tmp/pg_caption-$$(cksum <<<"$$PWD" | cut -d' ' -f1)
