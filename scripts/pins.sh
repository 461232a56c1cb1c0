# shellcheck shell=bash
# Paths, pinned versions and functions that the other scripts share. They source this file; it does
# nothing by itself.
#
# Sets project (absolute path), run_dir (run-time files, ignored by git), and PATH (with the
# project's own tools).

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run_dir=$project/.run
PATH=$run_dir/tools/bin:$PATH
# Otherwise cargo-pgrx links the extension with other flags than cargo, and each rebuilds the
# other's work. build.rs passes the same flag to the linker.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1

# say TEXT…: a step; with its time since CLOCK (seconds of the epoch), if that is set.
say() {
  local time=
  [ -z "${CLOCK:-}" ] || time=$(printf '%d:%02d ' $(((EPOCHSECONDS - CLOCK) / 60)) \
    $(((EPOCHSECONDS - CLOCK) % 60)))
  printf '\033[1m==>\033[0m %s%s\n' "$time" "$*" >&2
}
die() { printf '\033[1merror:\033[0m %s\n' "$*" >&2; exit 1; }

# pin SECTION KEY: a value of pgrx.toml.
pin() {
  awk -v section="[$1]" -v key="$2" '
    /^\[/ { here = ($0 == section) }
    here && $1 == key { sub(/^[^=]*= *"?/, ""); sub(/"? *$/, ""); print; exit }
  ' "$project/pgrx.toml"
}

# The version of this checkout.
version() { sed -n 's/^version = "\(.*\)"/\1/p' "$project/Cargo.toml" | head -n 1; }

# use_headers PG_CONFIG: the builds of this shell use the headers of that PostgreSQL. If
# `cargo pgrx init` knows one of the same major, builds by hand use it, and so do these: another
# path would rebuild the bindings.
use_headers() {
  unset PGRX_PG_CONFIG_PATH
  grep -qs "^pg$(pg_major "$1") *=" "${PGRX_HOME:-$HOME/.pgrx}/config.toml" ||
    export PGRX_PG_CONFIG_PATH=$1
}

# as_root COMMAND…: with sudo unless the user is root.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "this needs root: $* (run as root, or install sudo)"
  fi
}

# PostgreSQL refuses to run as root; for root its processes belong to the package's system user.
server_user() { if [ "$(id -u)" = 0 ]; then echo postgres; else id -un; fi; }
as_server_user() {
  if [ "$(id -u)" != 0 ]; then "$@"; return; fi
  (cd / && setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp "$@")
}

# The pg_config to build against: PG_CONFIG, else that of the newest pinned major that is installed
# with its server.
find_pg_config() {
  local major at
  if [ -n "${PG_CONFIG:-}" ]; then
    command -v "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG: no such program"
    return
  fi
  for major in $(pin postgresql majors | tr ' ' '\n' | sort -rn); do
    at=/usr/lib/postgresql/$major/bin
    if ! [ -x "$at/pg_config" ] || ! [ -x "$at/postgres" ]; then continue; fi
    if [ -d "$("$at/pg_config" --includedir-server)" ]; then echo "$at/pg_config"; return; fi
  done
  return 1
}

# The same, or an error.
need_pg_config() {
  find_pg_config || die "no PostgreSQL found; run 'make setup' or name one with PG_CONFIG=…"
}

# pg_major PG_CONFIG: its major version, checked against the pinned ones.
pg_major() {
  local major
  major=$("$1" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
  case " $(pin postgresql majors) " in
    *" $major "*) echo "$major" ;;
    *) die "$1 is PostgreSQL $major; pg_caption is built for: $(pin postgresql majors)" ;;
  esac
}

# The folder of the tests' private PostgreSQLs. The server's user must be able to enter it, and a
# checkout in a home directory often does not allow that.
test_home() {
  local home=$run_dir; mkdir -p "$home"
  as_server_user test -x "$home" ||
    home=/var/tmp/pg_caption-$(cksum <<<"$project" | cut -d' ' -f1)
  echo "$home"
}
