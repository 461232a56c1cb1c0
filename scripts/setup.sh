#!/usr/bin/env bash
# Installs missing build requirements: PostgreSQL with headers, clang, cmake, nasm, the ONNX Runtime
# library. Quiet and quick when nothing is missing. PG_CONFIG=… selects an installed PostgreSQL.
# Builds need no cargo-pgrx; scripts/pgrx.sh installs it for those who use it.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

command -v cargo >/dev/null ||
  die "Rust is missing; install it with rustup (https://rustup.rs), then run this again"
mkdir -p "$run_dir"

# --- packages -----------------------------------------------------------------
# lacking PACKAGE: it is not installed. (The status is read into a variable first: grep -q would
# exit at its first match, and pipefail would report the broken pipe as a failure.)
lacking() {
  local status
  status=$(dpkg-query -W -f='${Status}' "$1" 2>/dev/null) || return 0
  [[ $status != *"ok installed"* ]]
}
# offered PACKAGE: the distribution has it.
offered() {
  local policy
  policy=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null) || return 1
  [[ $policy =~ Candidate:\ [0-9] ]]
}

if command -v apt-get >/dev/null; then
  need=()
  packages=(build-essential pkg-config ca-certificates)
  packages+=(clang libclang-dev cmake nasm python3)
  for package in "${packages[@]}"; do
    if lacking "$package"; then need+=("$package"); fi
  done
  python3 -m pip --version >/dev/null 2>&1 || need+=(python3-pip)
  updated=
  if ! find_pg_config >/dev/null; then
    say "looking for PostgreSQL in the package lists"
    as_root apt-get update -qq; updated=1
    for major in $(pin postgresql majors | tr ' ' '\n' | sort -rn); do
      if offered "postgresql-server-dev-$major"; then
        need+=("postgresql-$major" "postgresql-server-dev-$major")
        break
      fi
    done
  fi
  if [ ${#need[@]} -gt 0 ]; then
    say "installing packages: ${need[*]}"
    [ -n "$updated" ] || as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      "${need[@]}" >"$run_dir/apt.log" 2>&1 </dev/null || {
      tail -n 20 "$run_dir/apt.log" >&2
      die "the packages could not be installed ($run_dir/apt.log)"
    }
  fi
else
  for program in cc clang cmake nasm python3; do
    command -v "$program" >/dev/null || die "$program is missing, and apt-get is not available"
  done
fi
find_pg_config >/dev/null ||
  die "no PostgreSQL ($(pin postgresql majors)) with headers found; name one with PG_CONFIG=…"

# --- ONNX Runtime -------------------------------------------------------------
"$project/scripts/onnxruntime.sh"
