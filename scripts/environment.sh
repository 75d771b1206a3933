# Sourced by the other scripts: makes .venv, or another folder, with what an extra of the project needs.

say() { printf '%s\n' "$*" >&2; }

fail() { say "$*"; exit 1; }

as_root() { [ "$(id -u)" = 0 ]; }

apt_install() {
  # Quiet unless it fails; a fresh image has no package lists yet.
  local log
  log=$(mktemp)
  if ! { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" ||
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; }; } \
    > "$log" 2>&1; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "Shoal needs Python 3.11 or newer: install it, or name one with PYTHON=/path/to/python3 $0"
}

# environment EXTRA [FOLDER]: .venv, or FOLDER, with the project installed from this checkout, made again when
# pyproject.toml changes.
environment() {
  local extra=$1 venv=${2:-.venv} python stamp
  if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python) || exit 1
    if ! "$python" -c 'import ensurepip' 2> /dev/null; then
      local package
      package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
      as_root || fail "This python3 cannot make virtual environments: run 'sudo apt-get install $package', then this again."
      say "Installing $package ..."
      apt_install "$package" || apt_install python3-venv || fail "apt-get could not install $package"
    fi
    say "Making $venv ..."
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "Could not make a virtual environment in $venv"
  fi
  stamp="$venv/.shoal-$extra-$(cksum < pyproject.toml | tr ' ' '-')"
  if [ ! -e "$stamp" ]; then
    say "Installing Shoal with what '$extra' needs (a minute or two the first time) ..."
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]" ||
      fail "pip could not install the project; its words are above"
    rm -f "$venv/.shoal-$extra-"*
    touch "$stamp"
  fi
}
