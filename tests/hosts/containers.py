"""compose.yaml and the root of the image → its services as containers without an engine, and a table of what they did.

usage: python -m tests.hosts.containers ROOT BROKER-JARS WORK

deploy.sh calls it as root in namespaces of its own. Each service is on a host of its own: with namespaces for network,
processes, mounts and its name, a read-only root, the folders that compose.yaml calls tmpfs, the user of the image, no
capabilities, and tini as process 1. The broker runs from its jars, with the settings that compose.yaml has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaConsumer, TopicPartition

from emostream.operate.java import java
from testkit.processes import shared_once_mb
from testkit.settings import PROJECT_DIR

NETWORK = "10.89.0."
BRIDGE = f"{NETWORK}1"
USER = "10001"
READY_SECONDS = 400.0  # on a machine that has much else to do
ENVIRONMENT = {
    "PATH": "/opt/emostream/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/data",
    "DATA_DIR": "/data", "BIND_HOST": "0.0.0.0", "BROKERS": "0",
}  # fmt: skip
# $0 is the root, $1 the address, $2 the host name, $3 the file of host names; the rest is the command.
ENTER = """
set -e
mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev" && mount --bind "$3" "$0/etc/hosts"
for folder in $TMPFS; do mount -t tmpfs -o mode=1777 tmpfs "$0${folder%%:*}"; done
hostname "$2"
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up && ip address add "$1/24" dev eth0 && ip link set eth0 up
cd "$0" && exec "${@:4}"
"""


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command. Raises CalledProcessError if it fails."""
    return subprocess.run(command, check=True, text=True, **options)


def fetch(url: str, body: bytes | None = None) -> bytes:
    """Return what a URL answers. Raises OSError."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3) as answer:
        data: bytes = answer.read()
        return data


def seconds_until(what: Callable[[], object], seconds: float = READY_SECONDS) -> float:
    """Return after how many seconds `what` was true. Raises TimeoutError."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            if what():
                return time.monotonic() - began
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"not within {seconds:g} s")


@dataclass
class Container:
    """A service of compose.yaml that runs. `outer` has its namespaces, and `pid` is its process 1 as seen from here."""

    name: str
    address: str
    outer: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The process that is number 1 in the container."""
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as the HEALTHCHECK is run."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--root", "--wd"]
        become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return subprocess.run([*enter, *become, *command], env=ENVIRONMENT, capture_output=True, text=True, check=False)

    def end(self, by: signal.Signals = signal.SIGTERM) -> tuple[float, int]:
        """Send a signal to process 1. Return after how many seconds it has ended, and its exit status."""
        began = time.monotonic()
        os.kill(self.pid, by)
        status = self.outer.wait(60)
        return time.monotonic() - began, status


class Engine:
    """Starts services of compose.yaml."""

    def __init__(self, root: Path, work: Path) -> None:
        self.services: dict[str, Any] = yaml.safe_load((PROJECT_DIR / "compose.yaml").read_text())["services"]
        self._root, self._work = root, work
        self.addresses = {name: f"{NETWORK}{number}" for number, name in enumerate(self.services, 2)}
        self._hosts = work / "hosts"
        names = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        self._hosts.write_text(f"127.0.0.1 localhost\n{names}")
        run("mount", "--bind", str(self._hosts), "/etc/hosts")  # the broker says that it is at kafka:9092
        run("ip", "link", "add", "emo0", "type", "bridge")
        run("ip", "address", "add", f"{BRIDGE}/24", "dev", "emo0")
        run("ip", "link", "set", "emo0", "up")
        run("ip", "link", "set", "lo", "up")

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a service, with the defaults that compose.yaml gives its variables."""
        given: dict[str, object] = self.services[name].get("environment", {})
        return {key: "" if str(value).startswith("${") else str(value) for key, value in given.items()}

    def start(self, name: str, *command: str, root: str | None = None) -> Container:
        """Start a service, or `command` on its host with `root` as the root."""
        service, log = self.services[name], self._work / f"{name}.log"
        if not command:
            become = ("chroot", ".", "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
                      "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")  # fmt: skip
            command = (*become, "tini", "--", "emostream", *service["command"])
        folders = " ".join(service.get("tmpfs", ()))
        enter = ENTER if root is None else "set -e\n" + ENTER[ENTER.index("hostname") :]
        arguments = [root or str(self._root), self.addresses[name], name, str(self._hosts), *command]
        with log.open("ab") as out:
            outer = subprocess.Popen(
                ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child",
                 "bash", "-c", enter, *arguments],
                env=ENVIRONMENT | self.environment(name) | {"TMPFS": folders},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        own = Path("/proc/self/ns/net").readlink()
        seconds_until(lambda: Path(f"/proc/{outer.pid}/ns/net").readlink() != own, 10)
        # A number that no earlier start has used: a pair of devices goes away only some time after its container.
        device = f"v{outer.pid}"
        run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(outer.pid))
        run("ip", "link", "set", device, "master", "emo0", "up")
        return Container(name, self.addresses[name], outer, log)


def start_broker(engine: Engine, jars: Path, work: Path) -> Container:
    """Start Kafka with the settings of compose.yaml, which Apache's image turns into properties in the same way."""
    given = engine.environment("kafka")
    cluster_id = given.pop("CLUSTER_ID")
    properties = {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in given.items()}
    properties["log.dirs"] = str(work / "kafka")
    file = work / "kafka.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    command = [java(), "-Xmx512m", "-XX:-UsePerfData", "-cp", f"{jars}/*"]
    log4j = f"-Dlog4j2.configurationFile={PROJECT_DIR}/config/kafka-log4j2.properties"
    run(*command, "kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", str(file),
        capture_output=True)  # fmt: skip
    hosts = work / "hosts"
    # The broker looks for itself by name, so it needs these names, too.
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    return engine.start("kafka", "bash", "-c", script, "bash", *command, log4j, "kafka.Kafka", str(file), root="/")


def counted(broker: str) -> int:
    """Return how many taps the committed counts on main-pub-topic stand for."""
    consumer = KafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed", group_id=None)
    try:
        found = [TopicPartition("main-pub-topic", number) for number in consumer.partitions_for_topic("main-pub-topic")]
        consumer.assign(found)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(found)
        total = 0
        while any(consumer.position(one) < ends[one] for one in found):
            for records in consumer.poll(500).values():
                total += sum(json.loads(record.value)["events"] for record in records)
        return total
    finally:
        consumer.close()


def row(what: str, outcome: str) -> None:
    """Print a row of the table."""
    print(f"| {what} | {outcome} |", flush=True)


def prove(root: Path, jars: Path, work: Path) -> None:
    """Start everything, send taps, kill and stop. Raises AssertionError, OSError or an error of a command."""
    engine = Engine(root, work)
    broker = f"{engine.addresses['kafka']}:9092"
    start_broker(engine, jars, work)
    topics = engine.start("topics")
    assert topics.outer.wait(READY_SECONDS) == 0, topics.log.read_text()
    row("`create-topics`", "ends with 0")
    names = [name for name in engine.services if name not in ("kafka", "topics")]
    began = time.monotonic()
    running = {name: engine.start(name) for name in names}
    for name, one in running.items():
        url = f"http://{one.address}:{port_of(name)}/readyz"
        seconds_until(lambda url=url: fetch(url))  # type: ignore[misc]
        took = time.monotonic() - began
        health = one.inside("emostream", "health")
        assert health.returncode == 0, health
        uid = Path(f"/proc/{one.pid}/status").read_text().split("Uid:")[1].split()[0]
        memory = shared_once_mb(one.pid)
        row(f"`{name}`", f"ready {took:.1f} s after all were started, uid {uid}, {memory:.0f} MB, HEALTHCHECK 0")
    refused = running["app"].inside("touch", "/opt/emostream/x", "/data/x")
    assert "Read-only" in refused.stderr, refused
    row("writing to the root", "refused: read-only")

    sent = 0

    def tap(taps: int) -> None:
        nonlocal sent
        one = {"user_id": "u1", "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00Z"}
        fetch(f"http://{running['app'].address}:5000/send-emojis", json.dumps([one] * taps).encode())
        sent += taps

    tap(1000)
    took = seconds_until(lambda: counted(broker) == sent)
    row("1,000 taps", f"counted after {took:.1f} s")
    for _ in range(10):
        tap(100)
        time.sleep(0.07)  # so that the kill comes within a micro-batch
    running["main-publisher"].end(signal.SIGKILL)
    tap(500)
    running["main-publisher"] = engine.start("main-publisher")  # its folders are new and empty
    tap(500)
    took = seconds_until(lambda: counted(broker) >= sent)
    assert counted(broker) == sent, (counted(broker), sent)
    row("kill -9 of the main publisher; a new container with empty folders",
        f"all {sent:,} taps counted exactly once, {took:.1f} s later")  # fmt: skip
    tap(700)  # they are in the app's buffer, and SIGTERM comes at once
    for name, one in running.items():
        took, status = one.end()
        assert status == 0, f"{name}: {status}\n{one.log.read_text()[-2000:]}"
        row(f"SIGTERM to `{name}`", f"ends with 0 after {took:.1f} s")
    assert counted(broker) == sent, (counted(broker), sent)
    row("after SIGTERM to all", f"all {sent:,} taps counted exactly once")


def port_of(name: str) -> int:
    """Return the port on which a service of compose.yaml answers /readyz."""
    if name.startswith("cluster-publisher"):
        return 7200 + int(name.split("-")[-1])
    return {"app": 5000, "main-publisher": 7200}.get(name, 7001)


if __name__ == "__main__":
    prove(*map(Path, sys.argv[1:4]))
