#!/usr/bin/env bash
# usage: ./topic.sh [KEY=VALUE ...]
# Creates every topic, replacing those that are there, with all that is in them, by empty ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,3s/^# //p' "$0"
  exit
fi
if [ ! -x .venv/bin/python ]; then
  echo "Nothing is installed yet: run ./start.sh setup first." >&2
  exit 1
fi
exec .venv/bin/python -m emostream topics "$@"
