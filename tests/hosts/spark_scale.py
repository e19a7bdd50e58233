"""Events/s that one executor of a cluster of Spark's own counts of a full topic, and two, each held to half a core.

usage: .venv/bin/python -m tests.hosts.spark_scale

The broker and the main publisher are on this machine; Spark's master and each worker have a namespace of their own, and
each worker a cgroup. Needs root.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

from confluent_kafka import Producer

from testkit.broker import running_broker
from testkit.hosts import HERE, environment_here, hosts
from testkit.processes import held
from testkit.scripts import script
from testkit.spark_cluster import Master

EVENTS = 8_000_000  # eight micro-batches, of which the last four count


def fill(servers: str, partitions: int) -> None:
    """Put EVENTS plain events on emoji-topic."""
    producer = Producer({"bootstrap.servers": servers, "queue.buffering.max.messages": 1_000_000, "linger.ms": 50})
    value = '{"user_id":"user1","emoji":"😊","timestamp":"2026-01-31T20:15:00+00:00"}'.encode()
    for number in range(EVENTS):
        producer.produce("emoji-topic", value, partition=number % partitions)
        if number % 10_000 == 0:
            producer.poll(0.05)
    assert producer.flush(120) == 0, "the broker did not take every event"


def rate_with(executors: int) -> float:
    """Events/s of the second half of the micro-batches of a full topic."""
    with ExitStack() as stack:
        names = [f"worker{number}" for number in range(executors)]
        places = stack.enter_context(hosts(["master", *names]))
        environment = environment_here(PARTITIONS=4)
        broker = stack.enter_context(running_broker(environment))
        master = Master(environment, places["master"])
        stack.enter_context(master.running())
        workers = [stack.enter_context(master.worker(places[name], cores=2, name=name)) for name in names]
        # Their executors, which they start later, are held with them.
        stack.enter_context(held([worker.process.pid for worker in workers], 0.5))
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
