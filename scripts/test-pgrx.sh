#!/usr/bin/env bash
# test-pgrx.sh: the lines of README.md about cargo pgrx, done by a user who is not root and has
# nothing but Rust: a temporary one, in a clone of this checkout. Then the server that they start
# captions a picture. Needs root, to make that user, and PostgreSQL with headers.
#
# CARGO_TARGET_DIR=FOLDER keeps the builds there; the folder is given to the user.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"
[ "$(id -u)" = 0 ] || die "this needs root"

# (PostgreSQL refuses superusers whose names begin with "pg_".)
user=caption_readme
home=$(mktemp -d /var/tmp/pg_caption-readme.XXXXXX)
major=$(pg_major "$(need_pg_config)")
finish() {
  as_user 'cargo pgrx stop all' >/dev/null 2>&1 || true
  mountpoint -q "$home/rustup" && umount "$home/rustup"
  userdel "$user" 2>/dev/null || true
  mountpoint -q "$home/rustup" || rm -rf "$home"
}
trap finish EXIT
trap 'exit 130' INT TERM
as_user() {
  (cd / && setpriv --reuid="$user" --regid="$user" --init-groups env -i \
    HOME="$home" USER="$user" TERM=dumb LANG=C.UTF-8 RUSTUP_HOME="$home/rustup" \
    PATH="$home/.cargo/bin:/usr/bin:/bin:/usr/sbin:/sbin" \
    ${CARGO_TARGET_DIR:+"CARGO_TARGET_DIR=$CARGO_TARGET_DIR"} bash -c "$1")
}

useradd --home-dir "$home" --no-create-home --shell /bin/bash "$user"
# The toolchain and downloads of root, where this user can read them.
mkdir -p "$home/rustup" "$home/.cargo/registry"
mount --bind -o ro "${RUSTUP_HOME:-$HOME/.rustup}" "$home/rustup"
from=${CARGO_HOME:-$HOME/.cargo}
cp -a "$from/bin" "$home/.cargo/"
for part in index cache; do cp -a "$from/registry/$part" "$home/.cargo/registry/"; done
git clone -q "$project" "$home/checkout"
[ -z "${CARGO_TARGET_DIR:-}" ] || chown -R "$user:" "$CARGO_TARGET_DIR"
find "$home" -path "$home/rustup" -prune -o -exec chown -h "$user:" {} +

# The block of README.md after the line that names pgrx.
mapfile -t lines < <(awk '/^For development with pgrx/ { here = 1 }
  here && /^    / { sub(/^    /, ""); sub(/ *#.*/, ""); print; shown = 1; next }
  shown { exit }' README.md)
[ ${#lines[@]} -ge 2 ] || die "README.md has no lines about cargo pgrx"
picture=$project/demo/images/$(cd demo/images && compgen -G '0*.jpg' | head -n 1)
cp "$picture" /tmp/pg_caption-readme.jpg
sql="CREATE EXTENSION pg_caption;
  SET pg_caption.timeout = '5min';
  SELECT 'caption: ' || caption_image(pg_read_binary_file('/tmp/pg_caption-readme.jpg'));"
for line in "${lines[@]}"; do
  line=${line//pg15/pg$major}
  say "$line"
  as_user "cd ~/checkout && $line" <<<"$sql" >"$home/out" 2>"$home/errors" ||
    { tail -n 30 "$home/out" "$home/errors" >&2; die "README.md: '$line' failed"; }
done
rm -f /tmp/pg_caption-readme.jpg
grep 'caption: .*[a-z]' "$home/out" >&2 ||
  { cat "$home/out" "$home/errors" >&2; die "the server wrote no caption"; }
say "the lines of README.md about cargo pgrx work for a user who is not root"
