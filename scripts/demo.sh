#!/usr/bin/env bash
# demo.sh: serves a folder of pictures on loopback, watches a table of products with their URLs, and
# shows the captions as they appear. Needs PG_CAPTION_DSN (a cluster with the extension; `make demo`
# starts one). IMAGES=/some/folder uses your own pictures. Succeeds only if captions were written.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
# shellcheck source=scripts/serve.sh
. "$(dirname "$0")/serve.sh"

images=${IMAGES:-$project/demo/images}
[ -d "$images" ] || die "IMAGES=$images: no such folder"
pg_config=$(find_pg_config)
psql=("$("$pg_config" --bindir)/psql" -XqAt -v ON_ERROR_STOP=1 "$PG_CAPTION_DSN")

# --- a web server for the pictures --------------------------------------------
products=$(mktemp)
trap 'kill "${server:-}" 2>/dev/null; rm -f "$products"' EXIT
serve_folder "$images"

# --- the table ----------------------------------------------------------------
# Titles are from products.csv next to the folder or in it, else from the file names.
python3 - "$images" "$address" >"$products" <<'PYTHON'
import csv, os, sys, urllib.parse
folder, address = sys.argv[1:]
titles = {}
for place in (folder, os.path.join(folder, os.pardir)):
    listing = os.path.join(place, "products.csv")
    if os.path.exists(listing):
        with open(listing, newline="", encoding="utf-8") as rows:
            titles = {row["file"]: row["title"] for row in csv.DictReader(rows)}
        break
out = csv.writer(sys.stdout)
for name in sorted(os.listdir(folder)):
    stem, ending = os.path.splitext(name)
    if ending.lower() in (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        title = titles.get(name) or stem.replace("_", " ").replace("-", " ")
        out.writerow([title, f"{address}/{urllib.parse.quote(name)}"])
PYTHON
count=$(wc -l <"$products")
[ "$count" -gt 0 ] || die "$images holds no pictures (jpg, png, webp, gif, bmp, tiff)"

say "a table of $count products without texts"
"${psql[@]}" <<'SQL'
CREATE TABLE products (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title text NOT NULL, image_url text NOT NULL, alt text, seo text
);
SQL
"${psql[@]}" -c '\copy products (title, image_url) FROM pstdin WITH (FORMAT csv)' \
  <"$products"

say "SELECT caption.watch('products', 'image_url');"
"${psql[@]}" -c "SELECT caption.watch('products', 'image_url')" >/dev/null

# --- progress -----------------------------------------------------------------
# A terminal gets one line that is rewritten; a log gets a line for each change.
if [ -t 2 ]; then line='\r\033[K%s'; else line='%s\n'; fi
last=
while :; do
  row=$("${psql[@]}" -F '|' -c "
      SELECT bar, filled, failed, coalesce(round(rows_per_minute::numeric)::text, '-'),
             coalesce(date_trunc('second', time_left)::text, '-'),
             caption.is_idle('products'), stopped, state
        FROM caption.progress WHERE relation = 'products'::regclass")
  IFS='|' read -r bar filled failed rate left over stopped watch_state <<<"$row"
  now="$bar  $filled filled, $failed without a caption, $rate rows a minute, time left: $left"
  # shellcheck disable=SC2059
  if [ "$now" != "$last" ]; then printf "$line" "$now" >&2; last=$now; fi
  if [ "$over" = t ]; then break; fi
  state=$("${psql[@]}" -F ' ' -c 'SELECT state, failure FROM caption.engine_status()')
  case $state in failed*) echo >&2; die "the engine cannot work: ${state#failed }" ;; esac
  if [ "$stopped" = t ]; then echo >&2; die "the table is not being filled: $watch_state"; fi
  sleep 0.2
done
[ ! -t 2 ] || echo >&2

# --- the result ---------------------------------------------------------------
# print_table QUERY: a table as wide as the terminal (a log: 160), broken between words.
print_table() {
  local columns=160
  if [ -t 1 ]; then columns=${COLUMNS:-$(tput cols 2>/dev/null || echo 120)}; fi
  "${psql[@]}" --csv -P tuples_only=off -c "$1" | python3 -c '
import csv, sys, textwrap
rows = list(csv.reader(sys.stdin))
count = len(rows[0])
room = int(sys.argv[1]) - 3 * count
# A column is never narrower than its longest word: what the terminal cannot hold, it wraps itself.
longest = [max(len(word) for row in rows for word in row[n].split() or [""]) for n in range(count)]
widths = [max(len(row[n]) for row in rows) for n in range(count)]
while sum(widths) > room and widths != longest:
    n = max(range(count), key=lambda n: (widths[n] > longest[n], widths[n]))
    widths[n] -= 1
for number, row in enumerate(rows):
    cells = [textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)
             for cell, width in zip(row, map(max, widths, [1] * count))]
    for line in range(max(1, max(map(len, cells)))):
        texts = [cell[line] if line < len(cell) else "" for cell in cells]
        print(" " + " | ".join(map(str.ljust, texts, widths)).rstrip())
    if number == 0:
        print("-" + "-+-".join("-" * width for width in widths) + "-")
' "$columns"
}
print_table 'SELECT title, alt, seo FROM products ORDER BY id'
failures=$("${psql[@]}" -c 'SELECT count(*) FROM caption.failure')
if [ "$failures" -gt 0 ]; then
  say "without a caption ($failures): the model was not sure, or the picture could not be read"
  print_table "SELECT p.title, f.code, f.message FROM caption.failure f
                 JOIN products p ON p.id = (f.key ->> 'id')::int ORDER BY p.id LIMIT 10"
fi
filled=$("${psql[@]}" -c "SELECT count(*) FROM products WHERE alt <> '' AND seo <> ''")
say "$filled of $count products have an alt text and a meta description"
[ "$filled" -gt 0 ]
