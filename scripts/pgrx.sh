#!/usr/bin/env bash
# pgrx.sh: prepares `cargo pgrx run` for the user who calls it: cargo-pgrx, a PostgreSQL that this
# user may install into, engine, ONNX Runtime and model in it, and the settings of pgrx's cluster.
# Changes nothing outside of PGRX_HOME (~/.pgrx) and of cargo's programs. Can be repeated.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

[ "$(id -u)" != 0 ] || die "PostgreSQL does not run as root: use another user for cargo pgrx run"
major=$(pg_major "$(need_pg_config)")
home=${PGRX_HOME:-$HOME/.pgrx}

version=$(pin cargo-pgrx version)
if [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $version" ]; then
  say "building cargo-pgrx $version (some minutes, once)"
  cargo install cargo-pgrx --version "=$version" --locked --quiet
fi

# known MAJOR: the pg_config that pgrx has for it.
known() { sed -nE "s/^pg$1 *= *\"(.*)\"\$/\1/p" "$home/config.toml" 2>/dev/null || true; }
pg_config=$(known "$major")
if [ -z "$pg_config" ] || ! [ -w "$("$pg_config" --pkglibdir)" ] ||
  ! [ -w "$("$pg_config" --sharedir)/extension" ]; then
  # cargo pgrx run installs the extension, which only root may do in the system's PostgreSQL.
  mkdir -p "$home"
  pg_config=$(COPY_TO=$home/pg_caption scripts/private-postgresql.sh)
  say "registering $pg_config with cargo-pgrx"
  # init forgets majors that are not named again.
  others=()
  for other in 13 14 15 16 17 18; do
    at=$(known $other)
    if [ $other != "$major" ] && [ -n "$at" ]; then others+=("--pg$other=$at"); fi
  done
  cargo pgrx init --no-run "${others[@]}" "--pg$major=$pg_config" >"$run_dir/pgrx-init.log" 2>&1 ||
    { cat "$run_dir/pgrx-init.log" >&2; die "cargo pgrx init failed"; }
fi

# The extension is built and installed by cargo pgrx run itself. The profile of tests would build
# them, too.
PROFILE=demo PARTS=engine scripts/install.sh "$pg_config"

data=$home/data-$major
if ! [ -f "$data/PG_VERSION" ]; then
  say "making pgrx's cluster in $data"
  { cargo pgrx start "pg$major" && cargo pgrx stop "pg$major"; } \
    >"$run_dir/pgrx-start.log" 2>&1 </dev/null ||
    { cat "$run_dir/pgrx-start.log" >&2; die "cargo pgrx start failed"; }
fi
libraries=$("$("$pg_config" --bindir)/postgres" -D "$data" -C shared_preload_libraries)
case ",${libraries// /}," in
  *,pg_caption,*) ;;
  *)
    say "adding pg_caption to shared_preload_libraries in $data/postgresql.conf"
    echo "shared_preload_libraries = '${libraries:+$libraries, }pg_caption'" \
      >>"$data/postgresql.conf"
    ;;
esac
say "ready: cargo pgrx run pg$major"
