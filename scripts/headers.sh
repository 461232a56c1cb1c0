#!/usr/bin/env bash
# headers.sh MAJOR: prints a pg_config whose headers packages are built with: of the installed
# PostgreSQL, else of the package that its Debian release offers, else of the tests' wheel.
set -euo pipefail
# shellcheck source=scripts/pins.sh
. "$(dirname "$0")/pins.sh"
# shellcheck source=scripts/suite-apt.sh
. "$(dirname "$0")/suite-apt.sh"

major=${1:?a major}
at=/usr/lib/postgresql/$major/bin/pg_config
if [ -x "$at" ] && [ -d "$("$at" --includedir-server)" ]; then echo "$at"; exit; fi
suite=$(pin postgresql "debian-$major")
if [ -z "$suite" ] || ! command -v apt-get >/dev/null; then
  exec "$project/scripts/postgresql-wheel.sh" "$major"
fi

tree=$run_dir/headers-$major
if ! [ -x "$tree/pg_config" ]; then
  say "downloading the headers of PostgreSQL $major from Debian $suite"
  lists=$(mktemp -d); trap 'rm -rf "$lists"' EXIT
  mkdir -p "$tree.new"
  use_suite "$suite" "$lists"
  (cd "$lists" && "${apt[@]}" download "postgresql-server-dev-$major")
  dpkg-deb -x "$lists"/postgresql-server-dev-*.deb "$tree.new"
  include=$tree/usr/include/postgresql
  number=$(sed -n 's/^#define PG_VERSION "\(.*\)"/\1/p' \
    "$tree.new/usr/include/postgresql/$major/server/pg_config.h")
  # A program of that release does not run here; its answers are known.
  cat >"$tree.new/pg_config" <<CONFIG
#!/bin/sh
case \${1:-} in
  --version) echo "PostgreSQL $number" ;;
  --bindir) echo /usr/lib/postgresql/$major/bin ;;
  --includedir) echo "$include" ;;
  --includedir-server) echo "$include/$major/server" ;;
  --pkgincludedir) echo "$include/$major" ;;
  --libdir) echo /usr/lib ;;
  --pkglibdir) echo /usr/lib/postgresql/$major/lib ;;
  --sharedir) echo /usr/share/postgresql/$major ;;
  --cppflags | --cflags | --ldflags | --libs) echo ;;
  *) printf '%s\n' "VERSION = PostgreSQL $number" "INCLUDEDIR-SERVER = $include/$major/server" \\
       "PKGLIBDIR = /usr/lib/postgresql/$major/lib" "SHAREDIR = /usr/share/postgresql/$major" ;;
esac
CONFIG
  chmod +x "$tree.new/pg_config"
  rm -rf "$tree"; mv "$tree.new" "$tree"
fi
echo "$tree/pg_config"
