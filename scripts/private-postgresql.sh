#!/usr/bin/env bash
# private-postgresql.sh: makes (once) a private copy of the installed PostgreSQL for the tests, and
# prints its pg_config.
#
# PostgreSQL finds its files relative to its program. A tree of the same shape, with the programs
# copied and the rest linked, is therefore an installation of its own. The tests install into it
# without root and without changing the machine's PostgreSQL, and several checkouts can be tested at
# the same time. Tests find it through .run/test-postgresql.
#
# COPY_TO=FOLDER makes such a copy for another purpose (scripts/pgrx.sh), with headers.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

pg_config=$(need_pg_config)
bindir=$("$pg_config" --bindir)
libdir=$("$pg_config" --pkglibdir)
sharedir=$("$pg_config" --sharedir)
# The copy replaces their common prefix.
prefix=$bindir
while case "$libdir/ $sharedir/" in "$prefix"/*" $prefix"/*) false ;; esac; do
  prefix=${prefix%/*}
done

headers=$("$pg_config" --includedir-server)
home=${COPY_TO:-$(test_home)}
# Already one for the tests alone (scripts/postgresql-wheel.sh).
case $bindir in "$home"/*) echo "$pg_config"; exit ;; esac
tree=$home/postgresql-$(pg_major "$pg_config")
stamp="$("$pg_config" --version) $bindir"

if [ "$(cat "$tree/made-from" 2>/dev/null)" != "$stamp" ]; then
  say "making a private copy of $bindir for the tests"
  rm -rf "$tree"
  mkdir -p "$tree${bindir#"$prefix"}" "$tree${libdir#"$prefix"}"
  mkdir -p "$tree${sharedir#"$prefix"}/extension"
  cp -a "$bindir/." "$tree${bindir#"$prefix"}/"
  for from in "$libdir"/* "$sharedir"/* "$sharedir"/extension/*; do
    name=${from##*/}
    case $name in pg_caption* | extension) continue ;; esac
    [ -e "$tree${from#"$prefix"}" ] || ln -s "$from" "$tree${from#"$prefix"}"
  done
  case $headers in "$prefix"/*)
    mkdir -p "$(dirname "$tree${headers#"$prefix"}")"
    ln -s "$headers" "$tree${headers#"$prefix"}"
  esac
  echo "$stamp" >"$tree/made-from"
fi
mkdir -p "$run_dir"
[ -n "${COPY_TO:-}" ] || ln -sfn "$tree${bindir#"$prefix"}" "$run_dir/test-postgresql"
echo "$tree${bindir#"$prefix"}/pg_config"
