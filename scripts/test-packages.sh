#!/usr/bin/env bash
# test-packages.sh [SUITE…]: installs the packages of target/debian into bare Debian folders as a
# user would, with the lines of docs/install.md: apt, one call of pg_caption_setup, one line of SQL,
# and a table fills. Then an upgrade and the removal. All suites of which a package is there, by
# default. Needs root and debootstrap.
#
# The folders (bookworm, trixie, forky in /var/tmp) are made on the first use and removed at the end
# unless KEEP=1.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
# shellcheck source=scripts/serve.sh
. "$(dirname "$0")/serve.sh"
# shellcheck source=scripts/suite-apt.sh
. "$(dirname "$0")/suite-apt.sh"
cd "$project"
[ "$(id -u)" = 0 ] || die "this needs root"

out=$project/target/debian
mirror=$(debian_mirror)
suites=("$@")
if [ $# = 0 ]; then
  for major in $(pin postgresql majors); do
    suite=$(pin postgresql "debian-$major")
    if [ -n "$suite" ] && compgen -G "$out/postgresql-$major-pg-caption_*.deb" >/dev/null; then
      suites+=("$suite")
    fi
  done
fi
[ ${#suites[@]} -gt 0 ] || die "no packages in $out; run 'make package'"

root='' logs=$(mktemp -d)
finish() {
  kill "${server:-}" 2>/dev/null || true
  rm -rf "$logs"
  [ -z "$root" ] || leave
}
# leave: stops what runs in the folder, unmounts, and removes it.
leave() {
  inside pg_ctlcluster "$major" main stop -m immediate >/dev/null 2>&1 || true
  umount -R -l "$root/proc" "$root/dev" 2>/dev/null || true
  # Nothing of this machine may be mounted in what is removed.
  [ "${KEEP:-}" = 1 ] || findmnt -rno TARGET | grep -q "^$root/" || rm -rf "$root"
  root=''
}
trap finish EXIT
trap 'exit 130' INT TERM

# inside COMMAND…: in the folder, as root.
inside() {
  env -i HOME=/root TERM=dumb LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"
}
# do_line COMMAND: the line of docs/install.md that begins with it, for this major, in /tmp.
do_line() {
  local line
  line=$(grep -m 1 "^$1 " docs/install.md) || die "docs/install.md has no line '$1'"
  inside bash -c "cd /tmp && ${line//postgresql-17-/postgresql-$major-}"
}
# newest_package MAJOR: the path of its newest package, if there is one.
newest_package() { find "$out" -name "postgresql-$1-pg-caption_*.deb" | sort -V | tail -n 1; }
sql() { inside runuser -u postgres -- psql -XqAt -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }
# is WHAT EXPECTED FOUND
is() { [ "$2" = "$3" ] || die "$suite: $1: expected '$2', found '$3'"; }

# --- pictures -----------------------------------------------------------------
# Served here: a folder shares the machine's loopback.
serve_folder "$project/demo/images"

# --- one suite ----------------------------------------------------------------
# make_folder: a bare Debian without Rust, and without services that start by themselves.
make_folder() {
  if ! [ -f "$root/ready" ]; then
    say "making a bare Debian $suite in $root"
    rm -rf "$root"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$mirror" \
      "$([ -e "/usr/share/debootstrap/scripts/$suite" ] || echo sid)" >"$root.log" 2>&1 ||
      die "debootstrap failed ($root.log)"
    rm -f "$root.log"
    touch "$root/ready"
  fi
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  for at in proc dev; do mount --rbind "/$at" "$root/$at"; mount --make-rslave "$root/$at"; done
}

try_suite() {
  local deb package seconds before start files file
  major=$(for m in $(pin postgresql majors); do
    [ "$(pin postgresql "debian-$m")" != "$suite" ] || echo "$m"; done)
  package=postgresql-$major-pg-caption
  deb=$(newest_package "$major")
  [ -n "$deb" ] || die "no package for PostgreSQL $major in $out"
  root=/var/tmp/pg_caption-packages-$suite
  make_folder
  cp "$deb" "$root/tmp/"
  deb=/tmp/$(basename "$deb")
  # The command of the page asks before it installs.
  echo 'APT::Get::Assume-Yes "true";' >"$root/etc/apt/apt.conf.d/yes"
  say "Debian $suite: apt install $(basename "$deb")"
  # The mirror of a test machine may be behind.
  inside apt-get update -qq -o Acquire::Check-Valid-Until=false
  inside apt-get install -qq --download-only "$deb" >/dev/null
  seconds=$EPOCHSECONDS
  do_line "apt install" >"$logs/apt.log" 2>&1 ||
    { tail -n 20 "$logs/apt.log" >&2; die "$suite: $deb cannot be installed"; }
  inside pg_ctlcluster "$major" main start

  # What a user has already: a database, and another library; the pictures are on loopback.
  sql postgres "CREATE DATABASE shop"
  inside pg_conftool "$major" main set shared_preload_libraries pg_stat_statements
  inside pg_conftool "$major" main set pg_caption.allowed_networks 127.0.0.0/8
  inside pg_ctlcluster "$major" main restart
  before=$(sql postgres "SELECT pg_postmaster_start_time()")
  inside pg_caption_setup --database shop
  is "the start of the server without --restart" "$before" \
    "$(sql postgres "SELECT pg_postmaster_start_time()")"
  inside pg_caption_setup --database shop --cluster "$major/main" --restart
  is "the libraries" "pg_stat_statements, pg_caption" \
    "$(sql shop "SHOW shared_preload_libraries")"
  before=$(sql postgres "SELECT pg_postmaster_start_time()")
  do_line pg_caption_setup
  is "the start of the server after a second call" "$before" \
    "$(sql postgres "SELECT pg_postmaster_start_time()")"
  # An ALTER SYSTEM overrides the files: it is what changes.
  sql shop "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'pg_stat_statements'"
  inside pg_caption_setup --database shop
  inside pg_ctlcluster "$major" main restart
  is "the libraries of ALTER SYSTEM" "auto_explain, pg_stat_statements, pg_caption" \
    "$(sql shop "SHOW shared_preload_libraries" | tr -d '"')"
  if inside pg_caption_setup --database nowhere 2>"$logs/error"; then
    die "$suite: a database that does not exist was accepted"
  fi
  grep -q "has no database nowhere" "$logs/error" || die "$suite: $(cat "$logs/error")"

  sql shop "CREATE TABLE products (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image_url text, alt text, seo text)"
  for file in demo/images/0*.jpg; do
    sql shop "INSERT INTO products (image_url) VALUES ('$address/$(basename "$file")')"
  done
  sql shop "SELECT caption.watch('products', 'image_url')" >/dev/null
  sql shop "CALL caption.wait('products', '5 min')" >/dev/null
  seconds=$((EPOCHSECONDS - seconds))
  filled=$(sql shop "SELECT count(*) FROM products WHERE alt <> ''")
  [ "$filled" -gt 0 ] || die "$suite: no caption: $(sql shop 'TABLE caption.failure')"
  say "Debian $suite: $filled alt texts, $seconds seconds after the download"
  is "the version of the engine" "pg_caption_engine $(version)" \
    "$(inside pg_caption_engine --version)"
  inside pg_caption_engine model list >/dev/null
  # Links of update-alternatives are absolute.
  for file in man/man1/pg_caption_engine.1.gz man/man1/pg_caption_setup.1.gz \
    bash-completion/completions/pg_caption_engine zsh/vendor-completions/_pg_caption_engine; do
    inside test -s "/usr/share/$file" || die "$suite: /usr/share/$file is missing"
  done

  # --- packages of other majors next to it, whose servers this Debian does not have ---
  local others=() other highest=$major
  for other in $(pin postgresql majors); do
    [ "$other" != "$major" ] || continue
    file=$(newest_package "$other")
    [ -n "$file" ] || continue
    if [ "$other" -gt "$highest" ]; then highest=$other; fi
    others+=("postgresql-$other-pg-caption")
    cp "$file" "$root/tmp/"
    inside dpkg --force-depends -i "/tmp/$(basename "$file")" >"$logs/dpkg.log" 2>&1 ||
      { cat "$logs/dpkg.log" >&2; die "$suite: $file does not install next to it"; }
  done
  for file in lib/pg_caption/pg_caption_engine bin/pg_caption_setup; do
    is "the link $(basename "$file")" "/usr/lib/postgresql/$highest/$file" \
      "$(inside readlink -f "/usr/bin/$(basename "$file")")"
  done
  [ ${#others[@]} = 0 ] || inside dpkg --purge "${others[@]}" >"$logs/dpkg.log" 2>&1
  is "the engine after that" "/usr/lib/postgresql/$major/lib/pg_caption/pg_caption_engine" \
    "$(inside readlink -f /usr/bin/pg_caption_engine)"

  # --- an upgrade keeps data, settings and models ---
  inside mkdir "/usr/share/postgresql/$major/pg_caption/models/own"
  rm -rf "$root/tmp/next"; dpkg-deb -R "$root$deb" "$root/tmp/next"
  sed -i 's/^Version: .*/&.1/' "$root/tmp/next/DEBIAN/control"
  dpkg-deb --root-owner-group -Zgzip -z1 -b "$root/tmp/next" "$root/tmp/next.deb" >/dev/null
  files=$(md5sum "$root/etc/postgresql/$major/main/postgresql.conf")
  inside apt-get install -y -qq /tmp/next.deb >"$logs/apt.log" 2>&1 ||
    { tail -n 20 "$logs/apt.log" >&2; die "$suite: the upgrade failed"; }
  is "the configuration after an upgrade" "$files" \
    "$(md5sum "$root/etc/postgresql/$major/main/postgresql.conf")"
  start=$(sql postgres "SELECT pg_postmaster_start_time()")
  inside pg_caption_setup --database shop --restart
  [ "$start" != "$(sql postgres "SELECT pg_postmaster_start_time()")" ] ||
    die "$suite: the upgraded library was not loaded"
  is "the texts after an upgrade" "$filled" \
    "$(sql shop "SELECT count(*) FROM products WHERE alt <> ''")"
  sql shop "INSERT INTO products (image_url) VALUES ('$address/38-avocados.jpg')"
  sql shop "CALL caption.wait('products', '5 min')" >/dev/null
  is "rows that wait after an upgrade" t "$(sql shop "SELECT caption.is_idle('products')")"
  inside rmdir "/usr/share/postgresql/$major/pg_caption/models/own"

  # --- the removal leaves no files, and a server that starts ---
  inside pg_caption_setup --remove --restart
  is "the libraries after --remove" "auto_explain, pg_stat_statements" \
    "$(sql shop "SHOW shared_preload_libraries" | tr -d '"')"
  inside apt-get purge -y -qq "$package" >"$logs/apt.log" 2>&1
  inside pg_ctlcluster "$major" main restart
  files=$(find "$root/usr" "$root/etc" "$root/var/lib/dpkg" \
    \( -name '*pg_caption*' -o -name '*pg-caption*' \) || true)
  is "files after the removal" "" "$files"
  is "texts after the removal" "$filled" \
    "$(sql shop "SELECT count(*) FROM products WHERE id <= 9 AND alt <> ''")"
  say "Debian $suite: setup, captions, upgrade and removal of $package work"
  leave
}

for suite in "${suites[@]}"; do try_suite; done
say "the packages work on Debian ${suites[*]}"
