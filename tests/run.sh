#!/usr/bin/env bash
# usage: tests/run.sh [PYTEST-ARGUMENTS ...]
# Sets up what the tests need and runs all of them, or those that the arguments select:
# style and types; unit (no Kafka); integration (a real broker, a real Spark); e2e (the real start.sh); chaos (kill -9).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,4s/^# //p' "$0"
  exit
fi
# The tests bring settings of their own; a DATA_DIR from outside would only move the jars.
unset DATA_DIR
./start.sh setup
if [ ! -f .venv/.tests ] || [ "$(cat .venv/.tests)" != "$(cksum <tests/requirements.txt)" ]; then
  echo "  installing the tests' packages" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cksum <tests/requirements.txt >.venv/.tests
fi
if [ $# -eq 0 ]; then
  .venv/bin/ruff check .
  .venv/bin/mypy
fi
[ $# -gt 0 ] || set -- tests/unit tests/integration tests/e2e tests/chaos
exec .venv/bin/python -m pytest "$@"
