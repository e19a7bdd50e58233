#!/usr/bin/env bash
# usage: tests/hosts/deploy.sh [--work DIRECTORY] [--base TAR] [CASE ...]
# Checks what EmoStream is deployed with, without a container engine and without a cluster, and prints a table:
# image, roles, lint, template, kubernetes, values, compose, units.
#
# image builds the image, from a Debian made by mmdebstrap. roles starts each service of compose.yaml from its root
# (tests/hosts/containers.py). The others check the chart, compose.yaml and the units. With names it runs only these.
# Needs root, podman 4, buildah, mmdebstrap, systemd-analyze, iproute2, a network, and helm, or Go to build it. A case that
# cannot run fails. It takes about 15 minutes.
# --work says where everything stays (default: a new directory in /var/tmp); --base starts from TAR, made by
# `mmdebstrap --variant=minbase trixie TAR`.
# shellcheck disable=SC2329 # `check` calls the functions by name
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,12s/^# \{0,1\}//p' tests/hosts/deploy.sh
  exit
fi

HELM=helm.sh/helm/v3/cmd/helm@v3.22.0
KUBERNETES='1.31 1.33 1.35'
work='' base='' wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --work) work=$2; shift ;;
    --base) base=$2; shift ;;
    *) wanted+=("$1") ;;
  esac
  shift
done
[ -n "$work" ] || work=$(mktemp -d -p /var/tmp)
mkdir -p "$work"
work=$(cd "$work" && pwd)
chart=deploy/helm/emostream
failed=0

# Storage of its own, so that no image of this machine is touched.
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/storage"\nrunroot = "%s/runroot"\n' "$work" "$work" >"$work/storage.conf"
export CONTAINERS_STORAGE_CONF=$work/storage.conf

# check CASE FUNCTION: run it, and print its row with the last line that it says.
check() {
  local name=$1 began=$SECONDS outcome=works status
  [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  set +e  # and no `||`, within which the function would go on after an error
  (set -e; "$2") >"$work/$name.log" 2>&1 </dev/null
  status=$?
  set -e
  [ "$status" -eq 0 ] || { outcome=FAILED; failed=1; }
  printf '| %s | %s | %s | %d s |\n' "$name" "$outcome" "$(tail -n 1 "$work/$name.log")" $((SECONDS - began))
}

image() {
  [ -n "$base" ] || { base=$work/trixie.tar; [ -f "$base" ] || mmdebstrap --quiet --variant=minbase trixie "$base"; }
  # With the authorities that this machine trusts, so that the build reaches what this machine reaches.
  cp "$base" "$work/base.tar"
  tar -rf "$work/base.tar" -C / --dereference usr/local/share/ca-certificates
  podman import --quiet "$work/base.tar" localhost/emostream-base
  rm "$work/base.tar"
  # Docker's format, because the OCI's has no HEALTHCHECK.
  podman build --format docker --isolation=chroot --build-arg BASE=localhost/emostream-base -t localhost/emostream .
  podman image inspect localhost/emostream --format '{{.User}} {{.HealthCheck.Test}} {{.Config.Entrypoint}}' |
    grep -F '10001:10001 [CMD emostream health] [tini -- emostream]'
  container=$(buildah from --pull-never localhost/emostream)
  buildah run --isolation=chroot "$container" emostream --version | tee "$work/version"
  buildah run --isolation=chroot "$container" sh -c '! ls /data/jars/broker' 2>/dev/null
  buildah rm "$container" >/dev/null
  grep -qF "emostream $(sed -n 's/^__version__ = "\(.*\)"/\1/p' emostream/__init__.py)" "$work/version"
  echo "$(($(podman image inspect localhost/emostream --format '{{.Size}}') / 1000000)) MB"
}

roles() {
  root=$(podman image mount localhost/emostream)
  # Whatever runs in these namespaces ends with them.
  unshare --net --mount --pid --fork --kill-child --mount-proc \
    .venv/bin/python -m tests.hosts.containers "$root" "$PWD/.data/jars/broker" "$(mktemp -d -p "$work")"
}

ensure_helm() {
  command -v helm || { [ -x "$work/bin/helm" ] || GOBIN=$work/bin go install "$HELM"; }
}

# Both ends of what the values can say.
fewest=(--set kafka.bootstrapServers=kafka:9092)
most=(-f tests/hosts/values.yaml --namespace live)

lint() {
  ensure_helm && helm lint --strict "$chart" "${fewest[@]}" && helm lint --strict "$chart" "${most[@]}" | tail -n 1
}

template() {
  ensure_helm
  for version in $KUBERNETES; do
    helm template emostream "$chart" --kube-version "$version" "${fewest[@]}" >"$work/fewest-$version.yaml"
    helm template emostream "$chart" --kube-version "$version" "${most[@]}" >"$work/most-$version.yaml"
  done
  echo "$(grep -c '^kind:' "$work/fewest-$version.yaml") objects with the fewest values, $(grep -c '^kind:' "$work/most-$version.yaml") with the most"
}

ensure_validators() {
  [ -x "$work/venv/bin/check-jsonschema" ] || {
    python3 -m venv "$work/venv" && "$work/venv/bin/pip" -q install kubernetes-validate==1.37.0 check-jsonschema
  }
}

kubernetes() {
  ensure_validators
  for version in $KUBERNETES; do
    "$work/venv/bin/kubernetes-validate" -k "$version" --strict "$work/fewest-$version.yaml" "$work/most-$version.yaml"
    # What is wrong must be found, or the rest shows nothing.
    sed 's/^  podManagementPolicy:/  podManagmentPolicy:/' "$work/fewest-$version.yaml" >"$work/wrong.yaml"
    if "$work/venv/bin/kubernetes-validate" -k "$version" --strict "$work/wrong.yaml"; then exit 1; fi
  done
  echo "strictly valid for Kubernetes $KUBERNETES; no schema for ServiceMonitor"
}

# refused VALUE: the schema of the values says no.
refused() { ! helm template emostream "$chart" --kube-version 1.35 "${fewest[@]}" --set "$1" >/dev/null; }

values() {
  ensure_helm
  refused mainPublisher.replicas=2
  refused clusterPublisher.replicas=2
  refused subscriber.replicas=0
  refused settings.OPERATOR_KEY=x
  refused kafka.bootstrapServers=
  refused nonsense=1
  echo "more than one main publisher, secrets in the open and unknown names are refused"
}

compose() {
  ensure_validators
  "$work/venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec compose.yaml
}

units() {
  rm -rf "$work/units" && cp -r deploy/systemd "$work/units"
  # The program is not installed here.
  sed -i 's|/opt/emostream/bin/emostream|/bin/true|' "$work"/units/*.service
  said=$(systemd-analyze verify "$work"/units/*.service "$work"/units/*.target 2>&1) || { echo "$said"; exit 1; }
  [ -z "$said" ] || { echo "$said"; exit 1; }
  echo "systemd-analyze verify says nothing, $(systemd-analyze --version | head -n 1)"
}

PATH=$work/bin:$PATH
./start.sh setup >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
echo '| case | outcome | what | time |'
echo '|---|---|---|---|'
check image image
check roles roles
check lint lint
check template template
check kubernetes kubernetes
check values values
check compose compose
check units units
[ ! -f "$work/roles.log" ] || { echo; cat "$work/roles.log"; }
[ "$failed" -eq 0 ] || echo "The logs are in $work." >&2
exit "$failed"
