# shellcheck shell=bash
# Packages of another Debian release, downloaded and checked by apt with lists of its own; nothing
# is installed. Sourced after pins.sh.

# debian_mirror: where this machine gets its packages.
debian_mirror() {
  { cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true; } |
    awk '$1 ~ /^(URIs:|deb)$/ && !found { found = $2 } END { print found }'
}

# use_suite SUITE FOLDER: sets the array apt to an apt-get that knows only this release, and keeps
# its lists in the folder.
use_suite() {
  local suite=$1 lists=$2
  chmod 755 "$lists"
  mkdir -p "$lists"/{state/lists/partial,cache/archives/partial,etc}
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg
  echo "deb [signed-by=$keys] $(debian_mirror) $suite main" >"$lists/etc/sources.list"
  : >"$lists/state/status"
  apt=(apt-get -qq -o "Dir::State=$lists/state" -o "Dir::State::status=$lists/state/status")
  apt+=(-o "Dir::Cache=$lists/cache" -o "Dir::Etc::sourcelist=$lists/etc/sources.list")
  apt+=(-o "Dir::Etc::sourceparts=-" -o "APT::Sandbox::User=root")
  "${apt[@]}" update
}
