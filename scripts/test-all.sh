#!/usr/bin/env bash
# test-all.sh [MAJOR…]: the live tests on every supported PostgreSQL (or on those named), after everything that `make test` checks.
#
# The installed major is used as it is, others come out of the tests' wheel, and what neither has comes from the Debian that
# ships it: a bare folder made with debootstrap (as root; some minutes, once, 2 GB in /var/tmp), in which only the
# extension is built anew: engine and tests are those built here.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"

installed=$(find_pg_config) || die "no PostgreSQL found; run 'make setup' or name one with PG_CONFIG=…"
majors=("$@")
if [ $# = 0 ]; then read -ra majors <<<"$(pin postgresql majors)"; scripts/test.sh; fi

# in_debian SUITE MAJOR: the live tests in a Debian folder.
in_debian() {
  local suite=$1 major=$2 root=/var/tmp/pg_caption-debian-$1 mirror passed=0 at
  command -v debootstrap >/dev/null || as_root apt-get install -y -qq debootstrap >/dev/null
  mirror=$({ cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true; } | awk '$1 ~ /^(URIs:|deb)$/ && !found { found = $2 } END { print found }')
  if ! [ -f "$root/ready" ]; then
    say "making a Debian $suite in $root (its log: $root.log)"
    [ -d "$root/usr" ] || as_root debootstrap --variant=minbase \
      --include=ca-certificates,build-essential,pkg-config,procps,clang,libclang-dev,python3,sudo "$suite" "$root" "$mirror" >"$root.log" 2>&1
    as_root cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    as_root chroot "$root" sh -c "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      postgresql-$major postgresql-server-dev-$major" >>"$root.log" 2>&1
    as_root touch "$root/ready"
  fi
  # The checkout, the toolchain and the shared files at the paths that they have here: what is built stays valid.
  local mounts=(/proc /dev "$project" "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}" "${PG_CAPTION_SHARED:-$project/../shared}")
  for at in "${mounts[@]}"; do
    at=$(realpath "$at"); [ -d "$at" ] || continue
    as_root mkdir -p "$root$at"
    as_root mount --rbind "$at" "$root$at"; as_root mount --make-rslave "$root$at"
  done
  as_root chroot "$root" env -i HOME="$HOME" TERM=dumb LANG=C.UTF-8 PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
    PGRX_HOME=/nowhere PG_CONFIG="/usr/lib/postgresql/$major/bin/pg_config" RUST_TEST_THREADS="${RUST_TEST_THREADS:-}" \
    bash -c "cd '$project' && [ -n \"\$RUST_TEST_THREADS\" ] || unset RUST_TEST_THREADS; exec scripts/test.sh live" || passed=$?
  for at in "${mounts[@]}"; do as_root umount -R -l "$root$(realpath "$at")" 2>/dev/null || true; done
  return "$passed"
}

# What the folders are given: built here, where everything is that it needs, and in the very words of scripts/test.sh. What a folder would build would want its
# newer C library for ever after.
if [ $# -gt 0 ]; then
  cargo build --quiet --workspace --exclude pg_caption --lib --bins --tests
  cargo test --quiet --workspace --exclude pg_caption --no-run --test live
fi

results=()
for major in "${majors[@]}"; do
  if [ "$major" = "$(pg_major "$installed")" ] || { [ $# = 0 ] && [ "$major" = "$(pin postgresql also-tested)" ]; }; then
    if [ $# -gt 0 ]; then PG_CONFIG=$installed scripts/test.sh live; fi
  elif from=$(scripts/postgresql-wheel.sh "$major" 2>/dev/null); then PG_CONFIG=$from scripts/test.sh live
  elif suite=$(pin postgresql "debian-$major") && [ -n "$suite" ]; then in_debian "$suite" "$major"
  else die "nothing here has a PostgreSQL $major"
  fi
  results+=("$major")
done
say "the live tests passed on PostgreSQL ${results[*]}"
