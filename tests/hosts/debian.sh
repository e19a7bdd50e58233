#!/usr/bin/env bash
# usage: tests/hosts/debian.sh [--roots DIRECTORY] [--tar RELEASE=FILE ...] [RELEASE/CASE ...]
# Starts EmoStream as people start it on a fresh Debian: an ordinary user, a path with a space, LC_ALL=C, no home
# directory, few file descriptors, behind a proxy, ... Prints a table: what worked, and what one sentence refused.
#
# Needs root, mmdebstrap and a network, and takes about 45 minutes: each case has a checkout of its own, with nothing
# installed in it. With names it runs only these cases.
# --roots says where the systems and the logs stay (default: a new directory in /tmp);
# --tar starts from FILE, made by `mmdebstrap --variant=minbase RELEASE FILE`.
# Settings in the environment (APP_PORT and the like) are passed on: the systems share the ports of this machine.
# shellcheck disable=SC2016 # what a case runs is expanded in its system
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,10s/^# \{0,1\}//p' tests/hosts/debian.sh
  exit
fi

roots='' tars=() wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --roots) roots=$2; shift ;;
    --tar) tars+=("$2"); shift ;;
    *) wanted+=("$1") ;;
  esac
  shift
done
[ -n "$roots" ] || roots=$(mktemp -d)
mkdir -p "$roots"
port=${APP_PORT:-5000}

# What a case runs as the user, in the checkout. Its last line is the outcome.
cat >"$roots/cycle" <<'CYCLE'
outcome() { echo "OUTCOME $*"; exit; }
cycle() {
  said=$(./start.sh up 2>&1 </dev/null) || { echo "$said"; outcome "refused | $(tail -n 1 <<<"$said")"; }
  echo "$said"
  tap=$(curl -sS --noproxy '*' -H 'Content-Type: application/json' "http://127.0.0.1:$APP_PORT/send-emoji" \
    -d '{"user_id": "u1", "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00Z"}' 2>&1)
  ./start.sh status || outcome "FAILED | not ready after up"
  ./start.sh down || outcome "FAILED | down"
  case $tap in *'"success"'*) ;; *) outcome "FAILED | tap: $tap" ;; esac
  outcome "works | Python $(.venv/bin/python -c 'import sys; print(*sys.version_info[:2], sep=".")'), $("$(.venv/bin/python -c 'from emostream.operate.java import java; print(java())')" -version 2>&1 | grep -o 'version ".*"')"
}
# moved PATH: go to a copy of the checkout at PATH.
moved() { mkdir -p "$1" && tar -c . | tar -x -C "$1" && cd "$1"; }
CYCLE

# root RELEASE: make the system of a release unless it is there.
root() {
  local root=$roots/$1 tar='' given
  if [ -f "$root.made" ]; then
    checkout "$1"
    return
  fi
  for given in ${tars[@]+"${tars[@]}"}; do
    [ "${given%%=*}" = "$1" ] && tar=${given#*=}
  done
  mkdir -p "$root"
  if [ -z "$tar" ]; then
    tar=$roots/$1.tar
    [ -f "$tar" ] || mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=minbase "$1" "$tar"
  fi
  tar -xf "$tar" -C "$root" --exclude='./dev/*'
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
  mkdir -p "$root/usr/local/share/ca-certificates"
  cp -rL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
  as_root "$1" "apt-get -qq update && apt-get -qq install -y curl ca-certificates procps && update-ca-certificates && useradd -m -s /bin/bash ann"
  touch "$root.made"
  checkout "$1"
}

checkout() {
  rm -rf "$roots/$1/home/ann" "$roots/$1/tmp/4711" "$roots/$1/root/emo stream"
  mkdir -p "$roots/$1/home/ann/emo stream"
  git ls-files -z | tar -c --null -T - --owner=1000 --group=1000 | tar -x -C "$roots/$1/home/ann/emo stream"
  cp "$roots/cycle" "$roots/$1/home/ann/cycle"
  chroot "$roots/$1" chown ann: /home/ann '/home/ann/emo stream'
}

# enter RELEASE HOST-NAME CHROOT-ARGUMENT COMMAND...: run a command in a system. Whatever it leaves running ends with it.
enter() {
  local root=$roots/$1 name=$2 user=$3
  shift 3
  unshare --mount --pid --fork --kill-child --uts bash -c '
    hostname "$1" && mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/run" || exit
    [ "$3" != no-dns ] || mount --bind /dev/null "$0/etc/resolv.conf"
    [ "$3" != read-only ] || mount --bind -o ro "$0/home/ann/emo stream" "$0/home/ann/emo stream"
    exec chroot "$2" "$0" "${@:4}"' "$root" "$name" "$user" "$@"
}

as_root() { enter "$1" host --userspec=0:0 '' env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c "$2" >>"$roots/$1.log" 2>&1; }

as_ann() { enter "$1" host --userspec=1000:1000 '' env -i PATH=/usr/bin:/bin HOME=/home/ann "${passed[@]}" bash -c "cd '/home/ann/emo stream' && $2" >>"$roots/$1.log" 2>&1; }

# try RELEASE/CASE [KEY=VALUE ...] SCRIPT: run a case and print its row. KEY is USER, HOST or MOUNT, or goes to the
# environment of the script.
try() {
  local name=$1 release=${1%%/*} began=$SECONDS user=1000:1000 host=host mount='' row variables=()
  shift
  [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  root "$release"
  while [ $# -gt 1 ]; do
    case $1 in
      USER=*) user=${1#*=} ;;
      HOST=*) host=${1#*=} ;;
      MOUNT=*) mount=${1#*=} ;;
      *) variables+=("$1") ;;
    esac
    shift
  done
  # A checkout that cannot be written to has been set up before.
  [ "$mount" != read-only ] || as_ann "$release" './start.sh setup'
  enter "$release" "$host" "--userspec=$user" "$mount" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/home/ann LC_ALL=C \
    APP_PORT="$port" "${passed[@]}" ${variables[@]+"${variables[@]}"} \
    bash -c "cd '/home/ann/emo stream' && . /home/ann/cycle && $1" >"$roots/${name/\//-}.log" 2>&1 </dev/null || true
  row=$(grep -a '^OUTCOME ' "$roots/${name/\//-}.log" | tail -n 1) || row="OUTCOME FAILED | $(tail -n 1 "$roots/${name/\//-}.log")"
  printf '| %s | %s | %d s |\n' "$name" "${row#OUTCOME }" $((SECONDS - began))
}

# install RELEASE PACKAGE...: for the cases that follow.
install() {
  local release=$1
  shift
  [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]}" == *" $release/"* ]] || return 0
  root "$release"
  as_root "$release" "apt-get -qq install -y --no-install-recommends $*"
}

# Settings, and what says how to reach the network.
mapfile -t passed < <(env | grep -E '^(PIP_|SSL_CERT|JAVA_TOOL_OPTIONS=|https?_proxy=|HTTPS?_PROXY=|no_proxy=|KAFKA_BOOTSTRAP_SERVERS=|[A-Z]+_BASE_PORT=)' || true)
passed+=(X=x)

echo '| case | outcome | what | time |'
echo '|---|---|---|---|'
try bookworm/no-python cycle
install bookworm python3
try bookworm/no-java cycle
install bookworm openjdk-17-jre-headless
try bookworm/no-venv cycle
install bookworm python3-venv
try bookworm/java-17 cycle
try bookworm/no-home 'unset HOME; cycle'
try bookworm/uid-without-name USER=4711:4711 'export HOME=/tmp/4711; moved "/tmp/4711/emo stream"; cycle'
try bookworm/uid-without-name-or-home USER=4711:4711 'unset HOME; moved "/tmp/4711/emo stream"; cycle'
try bookworm/host-name-unknown HOST=nohost-xyz cycle
try bookworm/odd-path "moved \"\$HOME/it's 100%2Fx; \\\$HOME #1 \\\"ünï\\\"\"; cycle"
try bookworm/64-files 'ulimit -n 64; cycle'
try bookworm/256-files 'ulimit -n 256; cycle'
try bookworm/1024-files 'ulimit -n 1024; cycle'
try bookworm/read-only MOUNT=read-only 'DATA_DIR=$HOME/data; export DATA_DIR; cycle'
try bookworm/read-only-data MOUNT=read-only 'cycle'
# Names resolve only at the proxy, so whatever goes past it fails.
rm -f "$roots/proxy.log"
python3 -u tests/hosts/proxy.py >"$roots/proxy.log" 2>/dev/null &
proxy=$!
trap 'kill $proxy' EXIT
until read -r proxy_port <"$roots/proxy.log"; do sleep 0.1; done 2>/dev/null
try bookworm/behind-proxy MOUNT=no-dns "https_proxy=http://127.0.0.1:$proxy_port" cycle
# As root, start.sh installs Java itself.
install trixie python3-venv
try trixie/root USER=0:0 'moved "/root/emo stream"; cycle'
try trixie/java-25 cycle
install trixie openjdk-21-jre-headless
try trixie/java-21 'JAVA_HOME=$(echo /usr/lib/jvm/java-21-openjdk-*); export JAVA_HOME; cycle'
try trixie/uid-without-name USER=4711:4711 'unset HOME; moved "/tmp/4711/emo stream"; cycle'
try trixie/host-name-unknown HOST=nohost-xyz cycle
install forky python3-venv default-jre-headless
try forky/as-it-is cycle
