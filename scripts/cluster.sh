#!/usr/bin/env bash
# cluster.sh start|stop|run COMMAND…: a temporary PostgreSQL with the extension in database `demo`.
#   start  starts it unless it runs; prints its libpq connection string as the last line
#   stop   stops it and removes it
#   run    starts one, runs COMMAND with PG_CAPTION_DSN set to its connection string, and stops it
#          however COMMAND ends
# .run/cluster holds the folder of the running one. SETTINGS='a = 1; b = 2' adds server settings.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

state=$run_dir/cluster
pg_config=$(need_pg_config)
bin=$("$pg_config" --bindir)

running() { [ -f "$1/dsn" ] && as_server_user "$bin/pg_ctl" -D "$1/data" status >/dev/null 2>&1; }

stop() {
  local home
  home=$(cat "$state" 2>/dev/null) || return 0
  if running "$home"; then
    as_server_user "$bin/pg_ctl" -D "$home/data" -m fast -w stop >/dev/null
  fi
  # The path comes from a file: remove only what start made.
  case $home in /tmp/pg_caption.*) rm -rf "$home" ;; esac
  rm -f "$state"
}

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

start() {
  local home port password
  home=$(cat "$state" 2>/dev/null) || home=
  if [ -n "$home" ] && running "$home"; then cat "$home/dsn"; return; fi
  stop
  home=$(mktemp -d /tmp/pg_caption.XXXXXX)
  mkdir -p "$run_dir"; echo "$home" >"$state"
  port=$(free_port)
  password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
  (umask 077; echo "$password" >"$home/password")
  chown -R "$(server_user)" "$home"
  say "starting a temporary PostgreSQL $(pg_major "$pg_config") in $home"
  as_server_user "$bin/initdb" -D "$home/data" -U postgres -A scram-sha-256 \
    --pwfile="$home/password" -E UTF8 --locale=C.UTF-8 >/dev/null
  cat >>"$home/data/postgresql.conf" <<CONF
shared_preload_libraries = 'pg_caption'
pg_caption.allowed_networks = '127.0.0.0/8'
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$home'
$(tr ';' '\n' <<<"${SETTINGS:-}")
CONF
  # The server must not inherit this script's output: a caller that waits for its end would hang.
  if ! as_server_user "$bin/pg_ctl" -D "$home/data" -l "$home/log" -w start \
    </dev/null >/dev/null 2>&1; then
    cat "$home/log" >&2; stop; die "the server did not start"
  fi
  export PGPASSWORD=$password
  local psql=("$bin/psql" -qX -h 127.0.0.1 -p "$port" -U postgres -v ON_ERROR_STOP=1)
  "${psql[@]}" -d postgres -c 'CREATE DATABASE demo' >&2
  "${psql[@]}" -d demo -c 'CREATE EXTENSION pg_caption' >&2
  echo "host=127.0.0.1 port=$port user=postgres password=$password dbname=demo" >"$home/dsn"
  say "its log: $home/log; 'make cluster-stop' stops it"
  cat "$home/dsn"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  run)
    shift
    run_dir=$(mktemp -d); state=$run_dir/cluster
    trap 'stop; rm -rf "$run_dir"' EXIT
    trap 'exit 130' INT TERM
    PG_CAPTION_DSN=$(start) "$@"
    ;;
  *) die "usage: cluster.sh start | stop | run COMMAND…" ;;
esac
