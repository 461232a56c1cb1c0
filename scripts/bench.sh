#!/usr/bin/env bash
# bench.sh: runs benches/throughput.py on a temporary cluster whose engine may use every core, then
# benches/memory.py on another one, then the decoding of camera pictures at reduced scale.
#   IMAGES=/folder, ROWS=1000  what is captioned
#   PEER=0   leaves the Python peer out (its packages are stored in .run/peer)
#   LARGE=0  leaves benches/memory.py out
# bench.sh queue: runs benches/queue_cost.py, the queue without the model; ROWS=1000000.
# bench.sh fleet: runs tests/examples/fleet.rs, three servers in front of a fleet; ROWS=3000
# bench.sh context: runs benches/context.py, what context and templates cost; ROUNDS=9
# bench.sh statements: runs tests/examples/statements.rs, what other statements pay; ROUNDS=21
# bench.sh remote: runs benches/remote.py, the engine in front of a model server; PICTURES=640
# bench.sh cascade: runs benches/cascade.py; THEN=/folder of the second model
# bench.sh noise: runs benches/noise.py, hostile callers next to a session and a watch.
#   SECONDS_EACH=10 for each measurement, KINDS='drip,engine kills' for some of them
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

if [ "${1:-}" = queue ]; then
  pg_config=$(find_pg_config)
  exec "$project/scripts/cluster.sh" run python3 "$project/benches/queue_cost.py" \
    "$("$pg_config" --bindir)/psql" "${ROWS:-1000000}"
fi

if [ "${1:-}" = fleet ]; then
  command -v haproxy >/dev/null || die "no haproxy; install Debian's package haproxy"
  cargo build --quiet -p pg_caption_engine
  PG_CONFIG=$(find_pg_config) exec cargo run --quiet -p pg_caption_tests --example fleet
fi

if [ "${1:-}" = statements ]; then
  PG_CONFIG=$(find_pg_config) exec cargo run --quiet -p pg_caption_tests --example statements
fi

if [ "${1:-}" = remote ]; then
  images=${IMAGES:-$project/demo/images}
  exec python3 "$project/benches/remote.py" "$project/target/release/pg_caption_engine" "$images" \
    "${PICTURES:-640}"
fi

if [ "${1:-}" = cascade ]; then
  [ -d "${THEN:-}" ] || die "name the folder of the second model with THEN=…"
  images=${IMAGES:-$project/../shared/catalogue/images}
  find "$images" -type f | sort | head -n "${PICTURES:-300}" | tr '\n' '\0' |
    xargs -0 python3 "$project/benches/cascade.py" "$project/target/release/pg_caption_engine" \
      "${FIRST:-$project/models/default}" "$THEN"
  exit
fi

if [ "${1:-}" = noise ]; then
  pg_config=$(find_pg_config)
  SETTINGS="pg_caption.min_confidence = 0;max_connections = 200;${SETTINGS:-}"
  export SETTINGS="pg_caption.memo = 0;$SETTINGS"
  noise=("$project/scripts/cluster.sh" run python3 "$project/benches/noise.py"
    "$("$pg_config" --bindir)/psql" "${SECONDS_EACH:-10}")
  if ! unshare --mount true 2>/dev/null; then exec "${noise[@]}"; fi
  # A name server that does not answer, for this cluster only.
  resolver=$(mktemp)
  chmod 644 "$resolver"
  echo "nameserver 127.9.9.9" >"$resolver"
  # shellcheck disable=SC2016 # expanded by the inner shell
  DEAD_NAMES=1 exec unshare --mount sh -c \
    'mount --bind "$0" /etc/resolv.conf && rm "$0" && exec "$@"' "$resolver" "${noise[@]}"
fi

images=${IMAGES:-}
for folder in "$project/../shared/catalogue/images" "$project/demo/images"; do
  if [ -z "$images" ] && [ -d "$folder" ]; then images=$folder; fi
done
[ -n "$images" ] || die "no pictures; name a folder with IMAGES=…"
pg_config=$(find_pg_config)
if [ "${PEER:-1}" != 0 ] && [ -z "${1:-}" ]; then
  if ! [ -x "$run_dir/peer/bin/python" ]; then
    say "installing the peer's packages into .run/peer"
    python3 -m venv "$run_dir/peer"
    "$run_dir/peer/bin/pip" install --quiet "onnxruntime==$(pin onnxruntime version)" \
      pillow==11.3.0 numpy==2.3.5 tokenizers==0.22.2 'psycopg[binary]'
  fi
  export PEER_PYTHON=$run_dir/peer/bin/python PEER_MODEL=${PEER_MODEL:-$project/models/default}
fi
settings="pg_caption.threads = $(nproc);pg_caption.min_confidence = 0"
# Pictures are distinct: nothing may be known of an earlier measurement.
settings="$settings;pg_caption.memo = 0;${SETTINGS:-}"
psql=$("$pg_config" --bindir)/psql
if [ "${1:-}" = context ]; then
  SETTINGS=$settings exec "$project/scripts/cluster.sh" run \
    python3 "$project/benches/context.py" "$psql" "$images" "${ROWS:-300}"
fi
SETTINGS=$settings "$project/scripts/cluster.sh" run \
  python3 "$project/benches/throughput.py" "$psql" "$images" "${ROWS:-300}"
echo
if [ "${LARGE:-200}" -gt 0 ]; then
  SETTINGS=$settings "$project/scripts/cluster.sh" run \
    python3 "$project/benches/memory.py" "$psql" "${LARGE:-200}"
fi
echo
cargo bench --quiet -p pg_caption_pixels --bench resize
