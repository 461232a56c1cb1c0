#!/usr/bin/env bash
# release.sh VERSION: prepares a release in this checkout. It changes the version everywhere, dates
# the changelog, keeps the install script of this version for the upgrade test, begins the upgrade
# script of the next one, and builds packages, checksums and a list of components (SBOM, CycloneDX)
# into target/debian. It commits and pushes nothing.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"

next=${1:-}
[[ $next =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "usage: make release VERSION=1.2.3"
[ -z "$(git status --porcelain)" ] || die "there are changes that are not committed"
! [ -e "tests/released/pg_caption--$next.sql" ] || die "$next is released already"
grep -q "^## \[$next\]" CHANGELOG.md ||
  die "CHANGELOG.md has no section [$next]; write it: it says what a user gets"
# An upgrade script from the last release must be there, as soon as there is one.
last=$(find tests/released -name 'pg_caption--*.sql' | sed 's/.*--\(.*\)\.sql/\1/' | sort -V |
  tail -n 1)
if [ -n "$last" ] && ! [ -e "sql/pg_caption--$last--$next.sql" ]; then
  die "sql/pg_caption--$last--$next.sql is missing: the upgrade from the last release"
fi

before=$(version)
if [ "$before" != "$next" ]; then
  say "version $before becomes $next"
  sed -i "0,/^version = \"$before\"/s//version = \"$next\"/" Cargo.toml
  sed -i "s/\"version\": \"$before\"/\"version\": \"$next\"/" META.json
  sed -i "s/pg-caption_$before-1_/pg-caption_$next-1_/" README.md docs/install.md docs/tutorial.md
  cargo update --workspace --offline --quiet
fi
sed -i "s/^## \[$next\] - Unreleased/## [$next] - $(date -u +%F)/" CHANGELOG.md

say "building packages"
scripts/package.sh
out=target/debian
major=$(pin postgresql majors | tr ' ' '\n' | tail -n 1)
cp "target/package/release-pg$major/extension/pg_caption--$next.sql" tests/released/
# What comes next begins with the statement that every script begins with.
IFS=. read -r x y z <<<"$next"
upgrade=sql/pg_caption--$next--$x.$y.$((z + 1)).sql
say "beginning $upgrade"
cat >"$upgrade" <<SQL
-- From $next: every change of an object in sql/ is also here (CONTRIBUTING.md).
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
SQL

say "listing the components"
cargo metadata --format-version 1 --locked >"$run_dir/metadata.json"
python3 - "$run_dir/metadata.json" "$next" "$(pin onnxruntime version)" >"$out/sbom.cdx.json" \
  <<'PYTHON'
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    packages = json.load(file)["packages"]
components = [{
    "type": "library", "name": p["name"], "version": p["version"],
    "purl": f"pkg:cargo/{p['name']}@{p['version']}",
    "licenses": [{"expression": p["license"].replace("/", " OR ")}] if p.get("license") else [],
} for p in packages if p.get("source")]
components.append({"type": "library", "name": "onnxruntime", "version": sys.argv[3],
                   "purl": f"pkg:pypi/onnxruntime@{sys.argv[3]}",
                   "licenses": [{"license": {"id": "MIT"}}]})
json.dump({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
           "metadata": {"component": {"type": "application", "name": "pg_caption",
                                      "version": sys.argv[2]}},
           "components": sorted(components, key=lambda c: (c["name"], c["version"]))},
          sys.stdout, indent=1)
PYTHON
(cd "$out" && sha256sum -- *.deb sbom.cdx.json >SHA256SUMS)
say "ready: run make test-all and scripts/test-packages.sh, then commit and tag v$next"
