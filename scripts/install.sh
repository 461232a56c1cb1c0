#!/usr/bin/env bash
# install.sh [PG_CONFIG]: builds the extension and the engine (scripts/build.sh). Installs both, the
# ONNX Runtime library and the default model into that PostgreSQL.
#   PROFILE=release (default), demo or dev
#   HEIF=1           a release engine that decodes AVIF and HEIC
#   PARTS=engine     all but the extension itself
#   DEFAULT_MODEL    the folder that is installed as the default model (models/default)
#   BUILD_PG_CONFIG  build against the headers of this one (the tests' private copies have none)
#
# Every file is written under a temporary name and renamed: a running server keeps the files that it
# has open.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

if [ $# -gt 0 ]; then PG_CONFIG=$1; fi
target=$(need_pg_config)
cd "$project"
package=$(scripts/build.sh "${BUILD_PG_CONFIG:-$target}")

pkglibdir=$("$target" --pkglibdir) sharedir=$("$target" --sharedir)
if [ -w "$pkglibdir" ] && [ -w "$sharedir/extension" ]; then root=() ; else root=(as_root); fi

# put FROM TO [MODE]: installs one file unless it is there already.
put() {
  local from=$1 to=$2 mode=${3:-644}
  cmp -s "$from" "$to" && return
  "${root[@]}" install -D -m "$mode" "$from" "$to.new"
  "${root[@]}" mv -f "$to.new" "$to"
  echo "    $to" >&2
}

say "installing into $pkglibdir and $sharedir"
if [ "${PARTS:-}" != engine ]; then
  put "$package/pg_caption.so" "$pkglibdir/pg_caption.so" 755
  for file in "$package/extension/"pg_caption*; do
    put "$file" "$sharedir/extension/$(basename "$file")"
  done
fi
put "$package/pg_caption_engine" "$pkglibdir/pg_caption/pg_caption_engine" 755
put "$run_dir/onnxruntime/libonnxruntime.so" "$pkglibdir/pg_caption/libonnxruntime.so" 755
for file in LICENSE ThirdPartyNotices.txt; do
  put "$run_dir/onnxruntime/$file" "$sharedir/pg_caption/onnxruntime/$file"
done
# On the command line the program looks for models next to itself; they are in the data directory.
"${root[@]}" install -d "$sharedir/pg_caption/models"
"${root[@]}" ln -sfn "$sharedir/pg_caption/models" "$pkglibdir/pg_caption/models"
model=${DEFAULT_MODEL:-models/default}
if [ -d "$model" ]; then
  while IFS= read -r -d '' file; do
    put "$file" "$sharedir/pg_caption/models/default/${file#"$model/"}"
  done < <(find "$model" -type f -print0)
else
  say "$model is missing: installed without a model"
fi
