#!/usr/bin/env bash
# usage: tests/run.sh [PYTEST-ARGUMENTS ...]
# Sets up what the tests need and runs all of them, or those that the arguments select:
# style and types; unit (no Kafka); integration (a real broker, a real Spark); browser (a real Chromium);
# e2e (the real start.sh); chaos (kill -9).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,5s/^# //p' tests/run.sh
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
case " $* " in
  "  " | *tests/browser*)
    if ! command -v chromium chromedriver >/dev/null || ! fc-list 2>/dev/null | grep -qi emoji; then
      as_root="sudo -n"
      [ "$(id -u)" -ne 0 ] || as_root="env"
      packages=(chromium chromium-driver fontconfig fonts-noto-color-emoji)
      echo "  installing Chromium, in which the pages are tested" >&2
      { $as_root apt-get -qq update && $as_root apt-get -qq install -y --no-install-recommends "${packages[@]}"; } >/dev/null ||
        echo "  it could not be installed, so the tests of the pages will fail; as root: apt-get install ${packages[*]}" >&2
    fi ;;
esac
case " $* " in
  "  " | *tests/e2e*)
    if ! { command -v prometheus && command -v promtool; } >/dev/null && [ ! -x .data/prometheus/usr/bin/promtool ]; then
      # Not installed, only unpacked: the package would start a service, now and whenever this machine starts.
      echo "  fetching Prometheus, which is to read the metrics" >&2
      as_root="sudo -n"
      [ "$(id -u)" -ne 0 ] || as_root="env"
      rm -rf .data/prometheus
      mkdir -p .data/prometheus
      (
        cd .data/prometheus
        apt-get -qq download prometheus || { $as_root apt-get -qq update && apt-get -qq download prometheus; }
        dpkg -x prometheus_*.deb . && rm prometheus_*.deb
      ) >/dev/null 2>&1 ||
        echo "  that failed, so the test of it will fail; install Debian's package prometheus, or put both on PATH" >&2
    fi ;;
esac
if [ $# -eq 0 ]; then
  .venv/bin/ruff check .
  .venv/bin/mypy
fi
[ $# -gt 0 ] || set -- tests/unit tests/integration tests/browser tests/e2e tests/chaos
exec .venv/bin/python -m pytest "$@"
