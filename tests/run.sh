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
as_root="sudo -n"
[ "$(id -u)" -ne 0 ] || as_root="env"
./start.sh setup
if [ ! -f .venv/.tests ] || [ "$(cat .venv/.tests)" != "$(cksum <tests/requirements.txt)" ]; then
  echo "  installing the tests' packages" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cksum <tests/requirements.txt >.venv/.tests
fi
case " $* " in
  "  " | *tests/browser*)
    packages=()
    { command -v chromium && command -v chromedriver; } >/dev/null || packages+=(chromium chromium-driver)
    fc-list 2>/dev/null | grep -qi emoji || packages+=(fontconfig fonts-noto-color-emoji)
    # A Node from elsewhere has its own npm, which Debian's would not stand beside.
    command -v node >/dev/null || packages+=(nodejs)
    command -v npm >/dev/null || packages+=(npm)
    if [ ${#packages[@]} -gt 0 ]; then
      echo "  installing Chromium and Node, in which the pages and clients/js are tested" >&2
      { $as_root apt-get -qq update && $as_root apt-get -qq install -y --no-install-recommends "${packages[@]}"; } >/dev/null ||
        echo "  it could not be installed, so the tests of the pages will fail; as root: apt-get install ${packages[*]}" >&2
    fi
    if ! { command -v nginx && command -v caddy && command -v haproxy; } >/dev/null && [ ! -f .data/proxies/.complete ]; then
      # Not installed, only unpacked, with what they need: the packages would start services.
      echo "  fetching nginx, Caddy and HAProxy, behind which the pages are tested" >&2
      rm -rf .data/proxies
      mkdir -p .data/proxies
      (
        cd .data/proxies
        # With all that they need and that is not installed yet.
        fetch() {
          apt-get -s install --no-install-recommends nginx caddy haproxy | awk '/^Inst/ {print $2}' | xargs apt-get -qq download
        }
        fetch || { $as_root apt-get -qq update && fetch; }
        for package in *.deb; do dpkg -x "$package" . || exit 1; done
        rm -- *.deb
        touch .complete
      ) >/dev/null 2>&1 ||
        echo "  that failed, so the tests with them will fail; install Debian's packages nginx, caddy and haproxy" >&2
    fi
    if [ ! -d .data/axe/node_modules/axe-core ]; then
      echo "  fetching axe-core, which is to find what keeps people from using the pages" >&2
      npm install --silent --no-audit --no-fund --prefix .data/axe axe-core@4 >/dev/null ||
        echo "  that failed, so the test with it will fail" >&2
    fi ;;
esac
case " $* " in
  "  " | *tests/e2e*)
    if ! { command -v prometheus && command -v promtool; } >/dev/null && [ ! -x .data/prometheus/usr/bin/promtool ]; then
      # Not installed, only unpacked: the package would start a service, now and whenever this machine starts.
      echo "  fetching Prometheus, which is to read the metrics" >&2
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
