#!/usr/bin/env bash
# bench-families.sh [MODEL…]: runs benches/families.py on the published model sizes with random
# weights. The models (8 GB) and the peers' packages (4 GB) are stored in .run.
#   OPTIONS='--batches 1,8 --rounds 5 --memory'  how long, and what
#   PEER_PYTHON  an interpreter that has the packages
#   ORACLE_DIR   a folder with the models
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"

library=$run_dir/onnxruntime/libonnxruntime.so
[ -e "$library" ] || die "no ONNX Runtime library; run 'make setup'"
python=${PEER_PYTHON:-$run_dir/families/bin/python}
if ! [ -x "$python" ]; then
  say "installing the peers' packages into .run/families"
  python3 -m venv "$run_dir/families"
  "$run_dir/families/bin/pip" install --quiet -r tests/parity/make/requirements.txt
fi
export ORACLE_DIR=${ORACLE_DIR:-$run_dir/oracle}
for model in "${@:-vit-gpt2 florence2 smolvlm}"; do for name in $model; do
  name=${name%%:*}
  if ! [ -d "$ORACLE_DIR/full/$name/onnx" ]; then
    say "making $name in $ORACLE_DIR/full (minutes, gigabytes)"
    mkdir -p "$ORACLE_DIR"
    (cd tests/parity/make && "$python" make_models.py "${name/vit-gpt2/ved}" --full --int8)
  fi
done; done
program=$(cargo bench --no-run -p pg_caption_captioner --bench families \
  --message-format=json 2>/dev/null | python3 -c '
import json, sys
print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")][-1])')
# shellcheck disable=SC2086
exec "$python" benches/families.py "$program" "$library" "$@" ${OPTIONS:-}
