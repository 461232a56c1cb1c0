#!/usr/bin/env bash
# Puts the ONNX Runtime library at .run/onnxruntime/libonnxruntime.so. It is from the Python wheel
# whose hash pgrx.toml pins; Python is not used at run time.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"

version=$(pin onnxruntime version)
arch=$(uname -m)
hash=$(pin onnxruntime "sha256-$arch")
[ -n "$hash" ] || die "no ONNX Runtime is pinned for $arch in pgrx.toml"
home=$run_dir/onnxruntime
[ "$(cat "$home/wheel.sha256" 2>/dev/null)" != "$hash" ] || exit 0

say "downloading ONNX Runtime $version for $arch"
rm -rf "$home.new"; mkdir -p "$home.new"
printf 'onnxruntime==%s --hash=sha256:%s\n' "$version" "$hash" >"$home.new/requirements.txt"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
  --only-binary=:all: \
  --python-version "$(pin onnxruntime python)" --platform "$(pin onnxruntime platform)_$arch" \
  -r "$home.new/requirements.txt" -d "$home.new"
python3 - "$home.new" "$version" <<'PYTHON'
import glob, sys, zipfile
home, version = sys.argv[1:]
[wheel] = glob.glob(home + "/*.whl")
with zipfile.ZipFile(wheel) as files:
    for inside, name in {
        f"onnxruntime/capi/libonnxruntime.so.{version}": "libonnxruntime.so",
        "onnxruntime/LICENSE": "LICENSE",
        "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.txt",
    }.items():
        with open(f"{home}/{name}", "wb") as out:
            out.write(files.read(inside))
PYTHON
rm -f "$home.new"/*.whl "$home.new/requirements.txt"
echo "$hash" >"$home.new/wheel.sha256"
rm -rf "$home"; mv "$home.new" "$home"
