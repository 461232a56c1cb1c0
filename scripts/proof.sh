#!/usr/bin/env bash
# proof.sh [ROWS]: pages of captioned products (100, or ROWS) in headless Chromium: axe, GitHub's
# rules for alternative texts, structured data, and a contact sheet at two widths. Ends with one
# line that says how many pages were checked.
#
# Needs Chromium and npm; without them it says so and ends well. The tools are downloaded once, as
# tests/proof/package-lock.json names them. Pages and screenshots are in .run/proof/pages. From 100
# rows on, Lighthouse judges some of the pages, too (accessibility and SEO).
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
# shellcheck source=scripts/serve.sh
. "$(dirname "$0")/serve.sh"
cd "$project"

skip() { say "skipped: the proof in a browser: $1"; exit 0; }

for name in chromium chromium-browser google-chrome; do
  [ -n "${CHROMIUM:-}" ] || CHROMIUM=$(command -v "$name" || true)
done
[ -n "${CHROMIUM:-}" ] || skip "no Chromium is installed (apt-get install chromium)"
command -v npm >/dev/null || skip "npm is not installed"
export CHROMIUM PROOF_ROWS=${1:-100}

tools=$run_dir/proof
mkdir -p "$tools"
if ! cmp -s tests/proof/package-lock.json "$tools/package-lock.json" ||
  [ ! -d "$tools/node_modules" ]; then
  cp tests/proof/package.json tests/proof/package-lock.json "$tools/"
  npm ci --prefix "$tools" --no-audit --no-fund --ignore-scripts >"$tools/npm.log" 2>&1 ||
    skip "its tools cannot be downloaded ($tools/npm.log)"
fi
pg_config=$(need_pg_config)
tested=$(PG_CONFIG=$pg_config scripts/private-postgresql.sh)
PROFILE=dev BUILD_PG_CONFIG=$pg_config DEFAULT_MODEL=tests/models/default \
  scripts/install.sh "$tested"
say "the proof in a browser, $PROOF_ROWS products"
PG_CONFIG=$tested cargo test --quiet --workspace --exclude pg_caption --test live -- \
  --nocapture proof::

[ "$PROOF_ROWS" -ge 100 ] || exit 0
lighthouse=$run_dir/lighthouse
if [ ! -x "$lighthouse/node_modules/.bin/lighthouse" ]; then
  npm install --prefix "$lighthouse" --no-audit --no-fund --ignore-scripts \
    "lighthouse@$(pin lighthouse version)" >"$run_dir/lighthouse.log" 2>&1 ||
    skip "Lighthouse cannot be downloaded ($run_dir/lighthouse.log)"
fi
say "Lighthouse"
trap 'kill "${server:-}" 2>/dev/null' EXIT
serve_folder "$tools/pages"
# scores PAGE: both scores of a page, of 100.
scores() {
  CHROME_PATH=$CHROMIUM "$lighthouse/node_modules/.bin/lighthouse" "$address/$1" --quiet \
    --only-categories=accessibility,seo --output=json --chrome-flags="--headless=new --no-sandbox" |
    python3 -c 'import json, sys
for kind in json.load(sys.stdin)["categories"].values(): print(round(100 * kind["score"]))' |
    paste -sd ' '
}
for page in product-0.html product-10.html product-50.html; do
  found=$(scores "$page")
  [ "$found" = "100 100" ] || die "Lighthouse: $page has accessibility and SEO of $found"
done
found=$(scores faulty.html)
case $found in *100*) die "Lighthouse finds nothing in faulty.html: $found" ;; esac
say "Lighthouse: accessibility and SEO 100 on three pages; the planted faults have $found"
