#!/usr/bin/env bash
# usage: benchmarks/run.sh [--quick] [PART ...]
# Sets up what is needed, measures everything that is claimed, each beside its peers, and writes benchmarks/REPORT.md.
# Parts: ingest aggregate push streams pipeline (all of them: about an hour on 2 cores, which should have nothing else
# to do), or one file of benchmarks/results, such as ingest-rates; soak (an hour by itself, only when it is named);
# report (only writes the report). A part that is measured replaces its figures in benchmarks/results; the others' stay.
# --quick: everything in small, in minutes, to see that it works; its report is in DATA_DIR/benchmarks/quick.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

case " $* " in *" --help "* | *" -h "*) sed -n '2,7s/^# //p' "$0"; exit ;; esac
known=" ingest ingest-rates ingest-scaling ingest-latency ingest-overload aggregate aggregate-backlog
  aggregate-sustained push push-rate push-influence streams streams-saturation streams-steady streams-burst pipeline pipeline-default pipeline-fast soak report "
quick=
parts=
for argument in "$@"; do
  if [ "$argument" = --quick ]; then
    quick=1
  elif [[ $known =~ [[:space:]]"$argument"[[:space:]] ]]; then
    parts+=" $argument "
  else
    echo "there is no part $argument; benchmarks/run.sh --help names them" >&2
    exit 2
  fi
done
[ -n "$parts" ] || parts=" ingest aggregate push streams pipeline "

# The measurements bring settings of their own; a DATA_DIR from outside would only move the jars.
unset DATA_DIR
./start.sh setup || exit 1
if [ ! -f .venv/.benchmarks ] || [ "$(cat .venv/.benchmarks)" != "$(cksum <benchmarks/requirements.txt)" ]; then
  echo "  installing the benchmarks' packages" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt || exit 1
  cksum <benchmarks/requirements.txt >.venv/.benchmarks
fi

into=benchmarks
if [ -n "$quick" ]; then
  into=$(.venv/bin/python -c 'from emostream.settings import load; print(load().data_path)')/benchmarks/quick
  export QUICK=1
fi
results=$into/results
failed=()

# measure NAME SCRIPT WHAT FULL QUICK: if that part or its group is wanted; the last two are arguments in one string each.
measure() {
  local name=$1 script=$2 what=$3 arguments=$4
  [[ $parts == *" $name "* || $parts == *" ${name%%-*} "* ]] || return 0
  [ -z "$quick" ] || arguments=$5
  printf '\n== %s\n' "$name"
  # shellcheck disable=SC2086 # the arguments are words
  .venv/bin/python "benchmarks/$script.py" $what $arguments --json "$results/$name.json" || failed+=("$name")
}

# The fast profile of the README.
fast="BATCH_SECONDS=0.5 LINGER_MS=50"

measure ingest-rates ingest rates "--seconds 6" "--rounds 1 --seconds 1 --peers ours-2,flask"
measure ingest-scaling ingest scaling "--seconds 6" "--rounds 1 --seconds 1"
measure ingest-latency ingest latency "--seconds 15 --peers ours-2,ours-1,fastapi,go" "--rounds 1 --seconds 2 --peers ours-2"
measure ingest-overload ingest overload "--peers ours-2,go,fastapi" "--seconds 4 --peers ours-2"
measure aggregate-backlog aggregate backlog "" "--events 200000 --rounds 1"
measure aggregate-sustained aggregate sustained "--rates 50000,100000,200000,300000,400000,500000" \
  "--rates 20000 --seconds 8"
measure push-rate push rate "" "--rounds 1 --clients 20 --records 20"
measure push-influence push influence "" "--rounds 1 --seconds 2"
measure streams-saturation fanout saturation "--seconds 8" "--rounds 1 --viewers 200 --seconds 2"
measure streams-steady fanout steady "" "--rounds 1 --viewers 200 --seconds 6"
measure streams-burst fanout burst "" "--guests 200 --seconds 2"
measure pipeline-default pipeline "whole --name default" "--rounds 2" "--rounds 1 --seconds 10 --warm 20"
measure pipeline-fast pipeline "whole --name fast" "--rounds 2 --seconds 40 --warm 300 $fast" "--rounds 1 --seconds 10 --warm 20 $fast"
measure soak soak "" "--minutes 60" "--minutes 1"

printf '\n== report\n'
.venv/bin/python benchmarks/report.py --results "$results" --into "$into" || failed+=(report)
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
