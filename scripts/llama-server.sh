#!/usr/bin/env bash
# llama-server.sh: prints a program that runs llama.cpp's server: the installed one, else that of
# the Debian release that pgrx.toml names, with its own loader and libraries in .run/llama.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
# shellcheck source=scripts/suite-apt.sh
. "$(dirname "$0")/suite-apt.sh"

if command -v llama-server; then exit; fi
tree=$run_dir/llama
if ! [ -x "$tree/llama-server" ]; then
  command -v apt-get >/dev/null || die "no llama-server, and apt-get is not available"
  suite=$(pin llama suite)
  say "downloading llama.cpp from Debian $suite"
  lists=$(mktemp -d); trap 'rm -rf "$lists"' EXIT
  use_suite "$suite" "$lists"
  mapfile -t packages < <("${apt[@]}" -s install --no-install-recommends llama.cpp-tools |
    sed -n 's/^Inst \([^ ]*\).*/\1/p' | grep -E '^(lib|llama)')
  (cd "$lists" && "${apt[@]}" download "${packages[@]}")
  rm -rf "$tree.new"; mkdir -p "$tree.new"
  for package in "$lists"/*.deb; do dpkg-deb -x "$package" "$tree.new"; done
  libraries=usr/lib/$(uname -m)-linux-gnu
  loader=$(cd "$tree.new" && compgen -G "$libraries/ld-linux-*.so.*" | head -n 1)
  # The backend that every machine of this kind runs.
  backend=$(cd "$tree.new" && find "$libraries" -name 'libggml-cpu-*.so' |
    sort | awk '/-x64[.]so$/ || !found { found = $0 } END { print found }')
  cat >"$tree.new/llama-server" <<SERVER
#!/bin/sh
here=$tree
export GGML_BACKEND_PATH="\$here/$backend"
libraries="\$here/$libraries:\$here/$libraries/llama"
exec "\$here/$loader" --library-path "\$libraries" "\$here/usr/bin/llama-server" "\$@"
SERVER
  chmod +x "$tree.new/llama-server"
  rm -rf "$tree"; mv "$tree.new" "$tree"
fi
echo "$tree/llama-server"
