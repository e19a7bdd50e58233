#!/usr/bin/env bash
# Sets EmoStream up, starts it, shows it, stops it. See usage below, or ./start.sh --help.
# Installs what Python needs; all the rest is emostream/operate, in Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'USAGE'
usage: ./start.sh [COMMAND] [--brokers N] [KEY=VALUE ...]

  (none)        set up on the first run, start every process, run the client in this terminal;
                Ctrl-C, or unsub + Enter, ends the client and stops what this call has started
  up            start every process in the background; returns when each is ready
  down          stop every process, in the order of the data
  status        state, readiness, pid, uptime and restarts of each process; exit 0 when all are ready
  logs [NAME]   follow the log of one process, or of all
  setup         only install: Python packages, the Kafka broker, Spark's Kafka connector
  kafka         start only the broker, for processes started by hand

  --brokers N   run 1 (default) or 3 Kafka brokers on this machine, or 0 to use those that
                KAFKA_BOOTSTRAP_SERVERS names
  --only NAMES  up starts only these, for example app,subscriber_2 (all subscribers of cluster 2)
  KEY=VALUE     a setting, stronger than the environment, .env and config/emostream.env,
                for example ./start.sh up APP_PORT=8080
USAGE
}

say() { printf '%s\n' "$*" >&2 || true; }  # nobody may read it
die() { say "$@"; exit 1; }

# step WHAT LOG DIRECTORY COMMAND...: run a long command, showing its time and how much DIRECTORY has grown.
step() {
  local what=$1 log=$2 directory=$3 began=$SECONDS pid seconds size
  shift 3
  mkdir -p "$(dirname "$log")" "$directory"
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  trap 'kill $pid 2>/dev/null || true; wait $pid 2>/dev/null || true; exit 130' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    seconds=$((SECONDS - began))
    size=$(du -sm "$directory" 2>/dev/null | cut -f1) || true
    if [ -t 2 ]; then
      printf '\r\033[K  %s: %d s, %s MB' "$what" "$seconds" "${size:-0}" >&2
    elif [ $((seconds % 10)) -eq 9 ]; then
      say "  $what: $seconds s, ${size:-0} MB"
    fi
    sleep 1
  done
  trap - INT TERM
  [ -t 2 ] && printf '\r\033[K' >&2
  if wait "$pid"; then
    say "  $what: done in $((SECONDS - began)) s"
    return
  fi
  tail -n 15 "$log" | sed 's/^/    /' >&2
  if grep -q 'No space left' "$log"; then
    die "$what failed: the disk of $directory is full. Make room, then run this again."
  elif grep -qiE 'connection|resolve|timed out|unreachable|Could not find a version' "$log"; then
    die "$what failed: the download did not come through. Check the network, the proxy and the certificates, then run this again. Log: $log"
  fi
  die "$what failed: see $log. Mend the cause, then run this again."
}

python_is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if python_is_recent "$candidate"; then command -v "$candidate"; return; fi
  done
  die "Python 3.10 or later is needed and was not found. On Debian or Ubuntu: apt-get install python3 python3-venv"
}

# install_package DEBIAN-PACKAGE FEDORA-PACKAGE: with the system's package manager, if this user may.
install_package() {
  local as_root="sudo -n"
  [ "$(id -u)" -ne 0 ] || as_root="env"
  $as_root true 2>/dev/null || return 1
  if command -v apt-get >/dev/null; then
    $as_root apt-get update && $as_root apt-get install -y "$(name_of "$1")"
  elif command -v dnf >/dev/null; then
    $as_root dnf install -y "$2"
  else
    return 1
  fi
}

# name_of PACKAGE: the same, or for `java` the newest that this Debian or Ubuntu offers of those that Spark supports.
name_of() {
  local version
  [ "$1" = java ] || { echo "$1"; return; }
  for version in 25 24 23 22 21 20 19 18 17; do
    if apt-cache show --no-all-versions "openjdk-$version-jre-headless" >/dev/null 2>&1; then
      echo "openjdk-$version-jre-headless"
      return
    fi
  done
  echo default-jre-headless
}

ensure_java() {
  "$python" -m emostream.operate.java 2>/dev/null && return
  if [ -z "${JAVA_HOME:-}" ]; then
    say "Java 17 or later is needed and was not found; installing it."
    ( step "installing Java" "$(mktemp)" /usr/lib install_package java java-latest-openjdk-headless ) || true
  fi
  "$python" -m emostream.operate.java || exit 1
}

# The packages are complete when their stamp holds the checksum of the lock file, and Python runs.
packages_are_complete() {
  [ -f .venv/.complete ] && [ "$(cat .venv/.complete)" = "$(cksum <requirements.lock)" ] && .venv/bin/python -c '' 2>/dev/null
}

ensure_packages() {
  packages_are_complete && return
  if [ -e .venv ] && [ ! -f .venv/.emostream ] && [ ! -f .venv/.complete ]; then
    die "$PWD/.venv was not made by EmoStream: move it away, then run this again."
  fi
  [ -w . ] || die "$PWD cannot be written to: run ./start.sh setup there once as a user who may."
  if [ "$(df -Pm . | awk 'NR == 2 {print $4}')" -lt 2000 ]; then
    die "Less than 2 GB are free on the disk of $PWD; Spark and Kafka need about 1.5. Make room, then run this again."
  fi
  say "Setting up, once:"
  make_environment || {
    say "Python's venv module is missing; installing it."
    install_package python3-venv python3 >/dev/null 2>&1 || true
    make_environment ||
      die "No virtual environment could be made. On Debian or Ubuntu: sudo apt-get install python3-venv, then run this again."
  }
  # PEP 517, because older versions of pip run setup.py, which takes a semicolon for the end of a path.
  step "installing Python packages" .venv/install.log .venv \
    .venv/bin/python -m pip install --disable-pip-version-check --use-pep517 --require-hashes -r requirements.lock
  cksum <requirements.lock >.venv/.complete
}

# The mark comes first, so that what is left of an attempt that failed is known to be ours.
make_environment() {
  rm -rf .venv
  mkdir .venv && touch .venv/.emostream && "$python" -m venv .venv >/dev/null 2>&1
}

# Two calls at a time install one after the other. The lock is on this very file, so it needs none of its own.
lock() {
  exec 9<"${BASH_SOURCE[0]##*/}"
  if command -v flock >/dev/null; then
    flock -n 9 || { say "Another ./start.sh is at work here; waiting for it."; flock 9; }
  fi
}

command=run name=
overrides=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit ;;
    --brokers) overrides+=("BROKERS=${2:-}"); shift $(($# > 1)) ;;
    --only) overrides+=(--only "${2:-}"); shift $(($# > 1)) ;;
    *=*) overrides+=("$1") ;;
    up | down | status | logs | setup | kafka) command=$1 ;;
    *) if [ "$command" = logs ] && [ -z "$name" ]; then name=$1; else usage >&2; exit 2; fi ;;
  esac
  shift
done

case $command in
  down | status | logs)
    [ -f .venv/.complete ] || die "Nothing is installed yet, so nothing runs. ./start.sh sets up and starts." ;;
  *)
    # Before anything is downloaded.
    [ "$(uname -s)" = Linux ] || die "EmoStream runs on Linux only, not on $(uname -s): it needs epoll and /proc."
    case $PWD in *[:$'\n']*) die "The path of this folder has a colon or a line break in it, which Python and Java cannot use: $PWD" ;; esac
    lock
    if packages_are_complete; then python=.venv/bin/python; else python=$(find_python); fi
    ensure_java
    ensure_packages
    exec 9<&- ;;
esac
exec .venv/bin/python -m emostream "$command" ${name:+"$name"} ${overrides[@]+"${overrides[@]}"}
