#!/usr/bin/env bash
# check-sql.sh: runs pgspot over the SQL of the extension and its upgrade scripts. It finds names
# and operators that another schema could shadow, and functions that set no search_path. Any finding
# fails.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

wanted="pgspot==$(pin pgspot version) pglast==$(pin pgspot pglast)"
home=$run_dir/pgspot
if [ "$(cat "$home/made-from" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$home"; mkdir -p "$run_dir"
  # shellcheck disable=SC2086
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --only-binary=:all: --target "$home" $wanted
  echo "$wanted" >"$home/made-from"
fi

# check [--ignore CODE]… FILE…: checks the files as one script, as PostgreSQL runs them. A procedure
# that commits cannot set a search_path: wait and backfill qualify every name, and pgspot checks it.
check() {
  local script ignore=()
  script=$(mktemp --suffix=.sql)
  while [ "$1" = --ignore ]; do ignore+=("$1" "$2"); shift 2; done
  cat "$@" | sed 's/@extschema@/public/g' >"$script"
  PYTHONPATH=$home python3 -c 'import sys; from pgspot.cli import run; sys.exit(run())' \
    --proc-without-search-path 'caption.wait(relation regclass,timeout interval,deferred boolean)' \
    --proc-without-search-path \
    'caption.backfill(relation regclass,image text,fills jsonb,condition text,batch integer)' \
    "${ignore[@]}" "$script" >"$script.report" || true
  if ! grep -q 'Errors: 0 Warnings: 0 Unknown: 0' "$script.report"; then
    cat "$script.report" >&2
    rm -f "$script" "$script.report"
    return 1
  fi
  rm -f "$script" "$script.report"
}

cd "$project"
shopt -s nullglob
# Every file but upgrade scripts; schema.sql, which pins the search_path, is first.
install=(sql/schema.sql)
for file in sql/*.sql; do
  case $file in sql/schema.sql | sql/pg_caption--*) ;; *) install+=("$file") ;; esac
done
check "${install[@]}" || die "pgspot complains about the extension's SQL (above)"
# PS002 and PS015, CREATE OR REPLACE: an upgrade replaces functions and views of the extension's
# schema, and PostgreSQL allows that for members of the extension only.
for upgrade in sql/pg_caption--*--*.sql; do
  check --ignore PS002 --ignore PS015 "$upgrade" || die "pgspot complains about $upgrade (above)"
done
