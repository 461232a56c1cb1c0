#!/usr/bin/env bash
# test.sh [lint]: everything the project can check, quick things first. Ends with what was checked and what was skipped.
#
# All in the dev profile, and with one selection of packages and features per cargo call: everything is built once.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"

pg_config=$(find_pg_config) || die "no PostgreSQL found; run 'make setup' or name one with PG_CONFIG=…"
pg=pg$(pg_major "$pg_config")
skipped=()

say "formatting"
cargo fmt --all --check
say "clippy"
cargo clippy --quiet --workspace --exclude pg_caption --all-targets -- -D warnings
cargo clippy --quiet -p pg_caption --no-default-features --features "$pg" -- -D warnings
say "scripts"
for script in scripts/*.sh .ci/run; do bash -n "$script"; done
if command -v shellcheck >/dev/null; then shellcheck -x scripts/*.sh .ci/run; else skipped+=("shellcheck is not installed"); fi
say "licences and advisories"
if command -v cargo-deny >/dev/null; then
  # Advisories need the network and change without us: they warn here, and bind at release.
  cargo deny --log-level error check licenses bans sources
  cargo deny --log-level error check advisories || skipped+=("advisories: see above")
else
  skipped+=("cargo-deny is not installed: licences and advisories")
fi
if [ "${1:-}" = lint ]; then exit 0; fi

tested=$(scripts/private-postgresql.sh)
PROFILE=dev BUILD_PG_CONFIG=$pg_config scripts/install.sh "$tested"

say "tests"
[ -d models/default ] || skipped+=("models/default is missing: the live tests use the parity model")
[ -d "${PG_CAPTION_SHARED:-$project/../shared}" ] || skipped+=("../shared is missing: tests that need its files")
# Live tests wait more than they work.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 4))}
PG_CONFIG=$tested cargo test --quiet --workspace --exclude pg_caption --lib --bins --tests --no-fail-fast

for reason in "${skipped[@]}"; do say "skipped: $reason"; done
say "all tests passed on $("$pg_config" --version)"
