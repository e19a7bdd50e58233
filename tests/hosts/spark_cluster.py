"""A cluster of Spark's own on three hosts, a master and two workers, under the main publisher of this machine.

usage: .venv/bin/python -m tests.hosts.spark_cluster [kills | scale]

kills   300 taps/s, while a worker is killed, both are, and the main publisher is: every tap that was answered 200 must be
        counted once on every cluster topic and at a client of each cluster. Prints how long each client saw nothing.
scale   events/s that one executor counts of a full topic, and two, each held to half a core by a cgroup.

Needs root, iproute2 and cgroups with a cpu controller, and takes about ten minutes. The hosts are network namespaces on
a bridge of this machine (testkit/hosts.py).
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from confluent_kafka import Producer

from testkit.broker import running_broker
from testkit.hosts import HERE, Host, hosts
from testkit.processes import tree
from testkit.scripts import Script, script
from testkit.settings import environment_for
from testkit.spark_cluster import Master
from testkit.system import running_system
from tests.chaos.ledger import CHAOS_SETTINGS, Chaos

RATE = 300.0
EVENTS = 3_000_000
HALF_A_CORE = 50_000  # microseconds of each 100,000
CGROUPS = Path("/sys/fs/cgroup")


def environment_beside(master: Host, port: int, **settings: object) -> dict[str, str]:
    """An environment whose Spark is on other hosts, which reach this machine's broker and main publisher."""
    environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-hosts-")), **settings)
    broker = environment["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2]
    return environment | {
        "KAFKA_BOOTSTRAP_SERVERS": f"{HERE}:{broker}", "SPARK_MASTER": f"spark://{master.address}:{port}",
        "SPARK_DRIVER_HOST": HERE,
    }  # fmt: skip


class Workers:
    """The workers of a cluster, each of which may die and be started again."""

    def __init__(self, master: Master, places: list[Host], stack: ExitStack) -> None:
        self._master, self._places, self._stack = master, places, stack
        self._running: list[Script] = []

    def start(self) -> None:
        """Start those that do not run."""
        for number, host in enumerate(self._places):
            if number < len(self._running) and self._running[number].process.poll() is None:
                continue
            worker = self._stack.enter_context(self._master.worker(host, cores=2, name=host.name))
            self._running[number : number + 1] = [worker]

    def kill(self, number: int) -> None:
        """SIGKILL a worker and its executors."""
        for pid in tree(self._running[number].process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._running[number].process.wait(60)


def kills() -> int:
    """The ledger through the death of workers and of the driver."""
    with ExitStack() as stack:
        places = stack.enter_context(hosts(["master", "worker1", "worker2"]))
        environment = environment_beside(places["master"], 7077, **CHAOS_SETTINGS)
        master = Master(environment, places["master"], 7077)
        stack.enter_context(master.running())
        workers = Workers(master, [places["worker1"], places["worker2"]], stack)
        workers.start()
        stack.enter_context(running_system(environment))
        began: list[tuple[str, float]] = []

        def note(what: str) -> None:
            began.append((what, time.monotonic()))

        def kill_one() -> None:
            note("a worker killed")
            workers.kill(0)

        def kill_both() -> None:
            note("the first worker started again")
            workers.start()
            note("both workers killed, and started again")
            for number in range(2):
                workers.kill(number)
            workers.start()

        steps = [lambda: note("undisturbed"), kill_one, kill_both, "main_publisher", lambda: note("the main publisher killed")]
        report = Chaos(environment, RATE, seed=1).run(0, steps)
        print(report)
        for (what, at), (_, until) in zip(began, [*began[1:], ("", time.monotonic())], strict=True):
            print(f"{what}: {until - at:.1f} s until the next step")
        return 0 if report.balanced() else 1


def fill(servers: str, partitions: int) -> None:
    """Put EVENTS plain events on emoji-topic."""
    producer = Producer({"bootstrap.servers": servers, "queue.buffering.max.messages": 1_000_000, "linger.ms": 50})
    value = '{"user_id":"user1","emoji":"😊","timestamp":"2026-01-31T20:15:00+00:00"}'.encode()
    for number in range(EVENTS):
        producer.produce("emoji-topic", value, partition=number % partitions)
        if number % 10_000 == 0:
            producer.poll(0.05)
    assert producer.flush(120) == 0, "the broker did not take every event"


@contextmanager
def half_a_core(name: str) -> Iterator[Path]:
    """A cgroup of version 1 or 2 that may use half a core; processes join by writing their id to the file."""
    version_2 = (CGROUPS / "cgroup.controllers").exists()
    group = (CGROUPS if version_2 else CGROUPS / "cpu") / f"emostream-{os.getpid()}-{name}"
    if version_2:
        (CGROUPS / "cgroup.subtree_control").write_text("+cpu")
    group.mkdir()
    try:
        if version_2:
            (group / "cpu.max").write_text(f"{HALF_A_CORE} 100000")
        else:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(HALF_A_CORE))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def rate_with(executors: int) -> float:
    """Events/s of the second half of the micro-batches of a full topic."""
    with ExitStack() as stack:
        groups = [stack.enter_context(half_a_core(f"{executors}-{number}")) for number in range(executors)]
        places = stack.enter_context(hosts(["master", *(f"worker{number}" for number in range(executors))]))
        environment = environment_beside(places["master"], 7077, PARTITIONS=4, MAX_EVENTS_PER_BATCH=200_000)
        broker = stack.enter_context(running_broker(environment))
        master = Master(environment, places["master"], 7077)
        stack.enter_context(master.running())
        for number, group in enumerate(groups):
            name = f"worker{number}"
            worker = stack.enter_context(master.worker(places[name], cores=2, name=name))
            for pid in tree(worker.process.pid):
                group.write_text(str(pid))  # its executors will be in there, too
        fill(broker.servers, partitions=4)
        publisher = stack.enter_context(script(environment, "main_publisher.py"))
        batch = re.compile(r"msg=batch batch_id=\d+ events=(\d+).*?count_seconds=([\d.]+)")
        deadline = time.monotonic() + 600
        while sum(int(events) for events, _ in batch.findall(publisher.log)) < EVENTS:
            assert time.monotonic() < deadline, publisher.log[-2000:]
            time.sleep(0.5)
        found = [(int(events), float(seconds)) for events, seconds in batch.findall(publisher.log)]
        warm = found[len(found) // 2 :]
        return sum(events for events, _ in warm) / sum(seconds for _, seconds in warm)


def scale() -> int:
    """Print both rates and their ratio."""
    one, two = rate_with(1), rate_with(2)
    print(f"one executor: {one:,.0f} events/s; two: {two:,.0f} events/s; ratio {two / one:.2f}")
    return 0


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["kills", "scale"]
    if set(wanted) - {"kills", "scale"}:
        sys.exit(str(__doc__))
    sys.exit(max({"kills": kills, "scale": scale}[name]() for name in wanted))
