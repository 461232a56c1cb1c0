#!/usr/bin/env bash
# build.sh PG_CONFIG: builds the extension for that PostgreSQL, its install script and the engine.
# Prints the folder that holds them: pg_caption.so, extension/, pg_caption_engine.
#   PROFILE=release (default), demo or dev
#   HEIF=1           a release engine that decodes AVIF and HEIC
#   PARTS=engine     only the engine; PARTS=extension: only the library, for a later call
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

source=${1:?a pg_config}
major=$(pg_major "$source")
profile=${PROFILE:-release}
case $profile in
  release | demo) built=$profile flag=(--profile "$profile") ;;
  dev) built=debug flag=() ;;
  *) die "PROFILE=$profile: use release, demo or dev" ;;
esac

cd "$project"
use_headers "$source"
# On a terminal cargo shows how far it is.
quiet=(--quiet)
if [ -t 2 ]; then quiet=(); fi
extension=(-p pg_caption --no-default-features --features "pg_caption/pg$major")
engine=(-p pg_caption_engine -p pg_caption_install_script)
if [ "$profile" = demo ] && [ -z "${PARTS:-}" ]; then
  # One call: both halves share what they depend on, and no core waits for the end of a half.
  say "building extension and engine for PostgreSQL $major ($profile)"
  cargo build "${quiet[@]}" "${flag[@]}" "${extension[@]}" "${engine[@]}"
else
  if [ "${PARTS:-}" != engine ]; then
    say "building the extension for PostgreSQL $major ($profile)"
    cargo build "${quiet[@]}" "${flag[@]}" "${extension[@]}" --lib
  fi
  if [ "${PARTS:-}" = extension ]; then exit; fi
  say "building the engine ($profile)"
  # Tests build the whole workspace next. The same selection of packages has the same features, so
  # there is one build.
  if [ "$profile" = dev ]; then
    cargo build "${quiet[@]}" --workspace --exclude pg_caption --lib --bins --tests
  else
    cargo build "${quiet[@]}" "${flag[@]}" "${engine[@]}" ${HEIF:+--features pg_caption_engine/heif}
  fi
fi

programs=${CARGO_TARGET_DIR:-target}/$built
# The library of each major has the same name: this one is kept. Files of an earlier version are
# not.
package=target/package/$profile-pg$major
rm -rf "$package"; mkdir -p "$package"
ln -f "$programs/pg_caption_engine" "$package/pg_caption_engine"
if [ "${PARTS:-}" = engine ]; then echo "$package"; exit; fi
cp "$programs/libpg_caption.so" "$package/pg_caption.so"
"$programs/pg_caption_install_script" "$package/pg_caption.so" pg_caption.control "$(version)" \
  "$package/extension"
# Upgrade scripts, but the one that has begun for the next version.
while IFS= read -r script; do
  to=${script##*--} to=${to%.sql}
  [ "$(printf '%s\n' "$to" "$(version)" | sort -V | tail -n 1)" != "$(version)" ] ||
    cp "$script" "$package/extension/"
done < <(find sql -name 'pg_caption--*--*.sql')
echo "$package"
