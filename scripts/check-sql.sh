#!/usr/bin/env bash
# check-sql.sh: pgspot over the SQL of the extension and its upgrades: names and operators that somebody could shadow, functions
# without a search_path of their own. Any finding fails.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

wanted="pgspot==$(pin pgspot version) pglast==$(pin pgspot pglast)"
home=$run_dir/pgspot
if [ "$(cat "$home/made-from" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$home"; mkdir -p "$run_dir"
  # shellcheck disable=SC2086
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --only-binary=:all: --target "$home" $wanted
  echo "$wanted" >"$home/made-from"
fi

# check [--ignore CODE]… FILE…: as one script, as PostgreSQL runs it. A procedure that commits cannot have a search_path of its own: everything in
# caption.wait is qualified instead, which is what pgspot looks at then.
check() {
  local script ignore=(); script=$(mktemp --suffix=.sql)
  while [ "$1" = --ignore ]; do ignore+=("$1" "$2"); shift 2; done
  cat "$@" | sed 's/@extschema@/public/g' >"$script"
  PYTHONPATH=$home python3 -c 'import sys; from pgspot.cli import run; sys.exit(run())' \
    --proc-without-search-path 'caption.wait(relation regclass,timeout interval)' "${ignore[@]}" "$script" >"$script.said" || true
  if ! grep -q 'Errors: 0 Warnings: 0 Unknown: 0' "$script.said"; then cat "$script.said" >&2; rm -f "$script" "$script.said"; return 1; fi
  rm -f "$script" "$script.said"
}
cd "$project"
check sql/schema.sql sql/caption.sql sql/queue.sql || die "pgspot complains about the extension's SQL (above)"
# PS002 and PS015, CREATE OR REPLACE: an upgrade replaces functions and views of our own schema, and PostgreSQL only lets it replace members of the extension.
for upgrade in sql/pg_caption--*--*.sql; do check --ignore PS002 --ignore PS015 "$upgrade" || die "pgspot complains about $upgrade (above)"; done
