# pg_caption: what there is to do. The work is in scripts/, the versions are in pgrx.toml.
#
# PG_CONFIG=/path/to/pg_config names a PostgreSQL; without it, the newest supported one that is installed is used.
# PROFILE=dev builds quickly instead of for speed. IMAGES=/some/folder gives `make demo` your own pictures.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PG_CONFIG PROFILE IMAGES SETTINGS ROWS PEER LARGE HEIF

.PHONY: help setup demo test test-all install cluster cluster-stop bench bench-families bench-queue format lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what a build needs and this machine lacks
	@scripts/setup.sh

install: setup ## build, and install into PG_CONFIG: extension, engine, ONNX Runtime, default model
	@scripts/install.sh

demo: install ## watch a table of products get its captions, on a throw-away cluster
	@scripts/cluster.sh run scripts/demo.sh

cluster: install ## start a throw-away cluster; the last line is its libpq connection string
	@scripts/cluster.sh start

cluster-stop: ## end that cluster and remove it
	@scripts/cluster.sh stop

test: setup ## everything the project can check, from formatting to a live server
	@scripts/test.sh

test-all: setup ## that, and the live tests on every supported PostgreSQL
	@scripts/test-all.sh

bench: install ## rows a second, and where the time goes
	@scripts/bench.sh

bench-families: setup ## Florence-2, SmolVLM and ViT-GPT2 at their published sizes beside Python peers; MODELS=vit-gpt2 for one
	@scripts/bench-families.sh $(MODELS)

bench-queue: install ## what the queue costs: enqueueing, and a million rows from the first to the last
	@scripts/bench.sh queue

format: ## format every crate
	@cargo fmt --all

lint: setup ## formatting and clippy only
	@scripts/test.sh lint

clean: cluster-stop ## remove what was built and the tests' PostgreSQL; downloads stay
	@cargo clean
	@rm -rf .run/postgresql-* .run/test-postgresql .run/*.log /var/tmp/pg_caption-$$(cksum <<<"$$PWD" | cut -d' ' -f1)
