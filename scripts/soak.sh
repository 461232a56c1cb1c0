#!/usr/bin/env bash
# soak.sh MINUTES [SEED]: random operations and faults on a real server, for so many minutes. Then
# the faults end, and each text must be right (tests/tests/live/soak). `make test` runs two minutes
# of it.
#
# Prints its seed. The same seed repeats what clients and faults choose, though not the order in
# which they act.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"

minutes=${1:-}
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "usage: scripts/soak.sh MINUTES [SEED]"
export PG_CAPTION_SOAK_MINUTES=$minutes
if [ $# -gt 1 ]; then export PG_CAPTION_SOAK_SEED=$2; fi
pg_config=$(need_pg_config)
tested=$(PG_CONFIG=$pg_config scripts/private-postgresql.sh)
PROFILE=dev BUILD_PG_CONFIG=$pg_config DEFAULT_MODEL=tests/models/default \
  scripts/install.sh "$tested"
say "soak for $minutes minutes on $("$pg_config" --version)"
PG_CONFIG=$tested cargo test --quiet --workspace --exclude pg_caption --test live -- \
  --exact soak::random_faults_lose_and_overwrite_no_text --nocapture
