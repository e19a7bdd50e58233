#!/usr/bin/env bash
# usage: benchmarks/run.sh [--quick] [PART ...]
# Sets up what is needed, measures everything that is claimed, each beside its peers, and writes benchmarks/REPORT.md.
# Parts: ingest aggregate push streams pulse pipeline plan (all of them: about an hour on 2 cores, which should have nothing
# else to do), or one file of benchmarks/results, such as ingest-rates; soak (an hour by itself, only when it is named);
# report (only writes the report). A part that is measured replaces its figures in benchmarks/results; the others' stay.
# --quick: everything in small, in minutes, to see that it works; its report is in DATA_DIR/benchmarks/quick.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

case " $* " in *" --help "* | *" -h "*) sed -n '2,7s/^# //p' benchmarks/run.sh; exit ;; esac
known="ingest-rates ingest-scaling ingest-acks ingest-latency ingest-overload aggregate-backlog aggregate-sustained
  aggregate-rooms push-rate push-influence streams-saturation streams-steady streams-burst streams-rooms pulse
  pipeline-rooms pipeline-cold pipeline-default pipeline-fast plan soak"
quick=
wanted=
for argument in "$@"; do
  if [ "$argument" = --quick ]; then
    quick=--quick
  elif [[ " report ${known//$'\n'/ } " == *[[:space:]]"$argument"[-[:space:]]* ]]; then
    wanted+=" $argument "
  else
    echo "there is no part $argument; benchmarks/run.sh --help names them" >&2
    exit 2
  fi
done
[ -n "$wanted" ] || wanted=" ingest aggregate push streams pulse pipeline plan "

# install VENV REQUIREMENTS: what is not there yet
install() {
  [ "$(cat "$1/.${2//\//-}" 2>/dev/null)" != "$(cksum <"$2")" ] || return 0
  echo "  installing $2" >&2
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$2" && cksum <"$2" >"$1/.${2//\//-}"
}

# The measurements bring settings of their own; a DATA_DIR from outside would only move the jars.
unset DATA_DIR
./start.sh setup || exit 1
install .venv benchmarks/requirements.txt || exit 1
data=$(.venv/bin/python -c 'from benchmarks.machine import DATA_DIR; print(DATA_DIR)')
peers=$data/peers-venv
[ -d "$peers" ] || .venv/bin/python -m venv "$peers"
install "$peers" benchmarks/peers/requirements.txt || echo "  the peers in Python are left out" >&2

into=benchmarks
[ -z "$quick" ] || into=$data/quick
failed=()
for part in $known; do
  [[ $wanted == *" $part "* || $wanted == *" ${part%%-*} "* ]] || continue
  printf '\n== %s\n' "$part"
  # ingest-rates is `rates` of benchmarks/ingest.py.
  .venv/bin/python -m "benchmarks.${part%%-*}" "${part#*-}" ${quick:+"$quick"} --json "$into/results/$part.json" || failed+=("$part")
done

printf '\n== report\n'
.venv/bin/python -m benchmarks.report --results "$into/results" --into "$into" || failed+=(report)
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
