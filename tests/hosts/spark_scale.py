"""Events/s that one executor of a cluster of Spark's own counts of a full topic, and two, each held to half a core.

usage: .venv/bin/python -m tests.hosts.spark_scale

The broker and the main publisher are on this machine; Spark's master and each worker have a namespace of their own, and
each worker a cgroup. Needs root.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import Producer

from testkit.broker import running_broker
from testkit.hosts import HERE, hosts
from testkit.processes import tree
from testkit.scripts import script
from testkit.settings import environment_for
from testkit.spark_cluster import Master

EVENTS = 3_000_000
HALF_A_CORE = 50_000  # microseconds of each 100,000
CGROUPS = Path("/sys/fs/cgroup")


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
        environment = environment_for(
            Path(tempfile.mkdtemp(prefix="emostream-hosts-")), PARTITIONS=4, MAX_EVENTS_PER_BATCH=200_000
        )
        environment["KAFKA_BOOTSTRAP_SERVERS"] = f"{HERE}:{environment['KAFKA_BOOTSTRAP_SERVERS'].rpartition(':')[2]}"
        broker = stack.enter_context(running_broker(environment))
        master = Master(environment, places["master"])
        stack.enter_context(master.running())
        for number, group in enumerate(groups):
            name = f"worker{number}"
            worker = stack.enter_context(master.worker(places[name], cores=2, name=name))
            for pid in tree(worker.process.pid):
                group.write_text(str(pid))  # its executors will be in there, too
        fill(broker.servers, partitions=4)
        publisher = stack.enter_context(
            script(environment, "main_publisher.py", SPARK_MASTER=master.url, SPARK_DRIVER_HOST=HERE)
        )
        batch = re.compile(r"msg=batch batch_id=\d+ events=(\d+).*?count_seconds=([\d.]+)")
        deadline = time.monotonic() + 600
        while sum(int(events) for events, _ in batch.findall(publisher.log)) < EVENTS:
            assert time.monotonic() < deadline, publisher.log[-2000:]
            time.sleep(0.5)
        found = [(int(events), float(seconds)) for events, seconds in batch.findall(publisher.log)]
        warm = found[len(found) // 2 :]
        return sum(events for events, _ in warm) / sum(seconds for _, seconds in warm)


def main() -> int:
    """Print both rates and their ratio; the exit status is 0 if two count 1.6 times what one does."""
    one, two = rate_with(1), rate_with(2)
    print(f"one executor: {one:,.0f} events/s; two: {two:,.0f} events/s; ratio {two / one:.2f}")
    return 0 if two >= 1.6 * one else 1


if __name__ == "__main__":
    raise SystemExit(main())
