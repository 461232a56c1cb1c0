#!/usr/bin/env bash
# package.sh [MAJOR…]: builds the Debian packages postgresql-MAJOR-pg-caption into target/debian,
# with debug symbols in packages of their own, and checks them with lintian. All majors by default.
#
# Packages run on the Debian on which they are built and on later ones: build them on the oldest.
# DEBIAN_REVISION=2 is for another package of the same version, PROFILE=dev for tests.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
cd "$project"

need=()
for tool in dh:debhelper lintian:lintian dpkg-buildpackage:dpkg-dev; do
  command -v "${tool%:*}" >/dev/null || need+=("${tool#*:}")
done
if [ ${#need[@]} -gt 0 ]; then
  say "installing packages: ${need[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null </dev/null
fi

majors=("$@")
[ $# -gt 0 ] || read -ra majors <<<"$(pin postgresql majors)"
revision=$(version)-${DEBIAN_REVISION:-1}
# The same commit makes the same packages.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct); export SOURCE_DATE_EPOCH
export PROFILE=${PROFILE:-release}
if [ "$PROFILE" = release ]; then
  # C code is hardened as Debian does it; Rust's own linking is (PIE, full RELRO).
  export CFLAGS="-g -O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2"
  export CXXFLAGS=$CFLAGS
else
  # For tests: quickly packed, without debug symbols.
  export QUICK=1 DEB_BUILD_OPTIONS=noautodbgsym
fi
out=$project/target/debian
[ "$PROFILE" = release ] || out+=-$PROFILE

# stage MAJOR FOLDER BUILT: the files of one package, as they are installed.
stage() {
  local major=$1 to=$2 built=$3 file
  local lib=$to/usr/lib/postgresql/$major share=$to/usr/share/postgresql/$major
  local doc=$to/usr/share/doc/postgresql-$major-pg-caption
  install -D -m 644 "$built/pg_caption.so" "$lib/lib/pg_caption.so"
  install -D -m 755 "$built/pg_caption_engine" "$lib/lib/pg_caption/pg_caption_engine"
  install -m 644 "$run_dir/onnxruntime/libonnxruntime.so" "$lib/lib/pg_caption/"
  ln -s "../../../../../share/postgresql/$major/pg_caption/models" "$lib/lib/pg_caption/models"
  install -D -m 755 packaging/pg_caption_setup "$lib/bin/pg_caption_setup"
  for file in "$built"/extension/*; do
    install -D -m 644 "$file" "$share/extension/$(basename "$file")"
  done
  while IFS= read -r -d '' file; do
    install -D -m 644 "$file" "$share/pg_caption/models/default/${file#models/default/}"
  done < <(find models/default -type f -print0)

  install -d "$share/man/man1" "$share/pg_caption/completions" "$doc"
  "$built/pg_caption_engine" manual >"$share/man/man1/pg_caption_engine.1"
  cp packaging/pg_caption_setup.1 "$share/man/man1/"
  gzip -9n "$share"/man/man1/*.1
  local shells=$share/pg_caption/completions
  # update-alternatives makes no folders, and a small system lacks these.
  install -d "$to"/usr/share/{bash-completion/completions,zsh/vendor-completions} \
    "$to/usr/share/fish/vendor_completions.d"
  "$built/pg_caption_engine" completions bash >"$shells/pg_caption_engine.bash"
  "$built/pg_caption_engine" completions zsh >"$shells/_pg_caption_engine"
  "$built/pg_caption_engine" completions fish >"$shells/pg_caption_engine.fish"
  cp NOTICE README.md CHANGELOG.md "$run_dir/onnxruntime/ThirdPartyNotices.txt" "$doc/"
  cargo tree --workspace --edges normal --prefix none --format '{p} {l}' \
    --no-default-features --features "pg_caption/pg$major" |
    sed -E 's/ \([^)]*\)//g; s/ \(\*\)$//' | sort -u >"$doc/rust-crates.txt"
}

for major in "${majors[@]}"; do
  package=postgresql-$major-pg-caption
  built=$(scripts/build.sh "$(scripts/headers.sh "$major")")
  say "packing $package $revision"
  work=$out/$package
  rm -rf "$work" "$out/${package}"*.deb; mkdir -p "$work/debian/source"
  stage "$major" "$work/stage" "$built"
  for file in control rules copyright; do
    sed "s/@MAJOR@/$major/g" "packaging/debian/$file" >"$work/debian/$file"
  done
  for file in alternatives prerm lintian-overrides; do
    sed "s/@MAJOR@/$major/g" "packaging/debian/$file" >"$work/debian/$package.$file"
  done
  chmod +x "$work/debian/rules"
  echo "stage/usr /" >"$work/debian/$package.install"
  echo "3.0 (native)" >"$work/debian/source/format"
  cat >"$work/debian/changelog" <<CHANGELOG
pg-caption ($revision) unstable; urgency=medium

  * Version $(version); see CHANGELOG.md.

 -- pg_caption maintainers <maintainers@pg-caption.example>  $(date -R -d "@$SOURCE_DATE_EPOCH")
CHANGELOG
  sed -i '1s/native/quilt/' "$work/debian/source/format"
  log=$run_dir/package.log
  (cd "$work" && dpkg-buildpackage -b -us -uc -d) >"$log" 2>&1 ||
    { tail -n 30 "$log" >&2; die "$package could not be packed ($log)"; }
  lintian --fail-on error --suppress-tags bad-distribution-in-changes-file \
    "$out"/pg-caption_"$revision"_*.changes >&2 || die "lintian refuses $package"
  mv "$out"/pg-caption_"$revision"_*.changes "$work.changes"
  rm -rf "$work" "$out"/*.buildinfo
done
(cd "$out" && sha256sum ./*.deb >SHA256SUMS)
ls -l "$out" >&2
