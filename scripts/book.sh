#!/usr/bin/env bash
# book.sh: builds the documentation (docs/) as a site with search into target/book, with mdBook.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"

version=$(pin mdbook version)
if [ "$(mdbook --version 2>/dev/null)" != "mdbook v$version" ]; then
  say "building mdBook $version (some minutes, once)"
  cargo install mdbook --version "=$version" --locked --quiet --no-default-features \
    --features search --root "$run_dir/tools"
fi
mdbook build docs
# Pages name each other by their path in the checkout: docs/errors.md.
python3 - target/book <<'PYTHON'
import glob, os, re, sys
book = sys.argv[1]
pages = {os.path.relpath(page, book) for page in glob.glob(book + "/*.html")}
def link(match):
    page = match[2] + ".html"
    return f'<a href="{page}">{match[1]}</a>' if page in pages else match[0]
for page in pages - {"print.html"}:
    path = os.path.join(book, page)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    # Not in what is a link, code or an attribute already.
    parts = re.split(r"(<a .*?</a>|<code.*?</code>|<[^>]*>)", text, flags=re.S)
    parts[::2] = [re.sub(r"\b(docs/([a-z-]+)\.md)", link, part) for part in parts[::2]]
    with open(path, "w", encoding="utf-8") as file:
        file.write("".join(parts))
PYTHON
say "target/book/index.html"
