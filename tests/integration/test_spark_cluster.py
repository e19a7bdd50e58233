"""Hop 2 on a cluster of Spark's own, on loopback: executors get the connector, and may die at any moment.

tests/hosts/spark_cluster.py does the same between hosts, with more of them.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress

from emostream.process import EXIT_STUCK, why_not_ready
from emostream.settings import load
from testkit.broker import Broker
from testkit.processes import tree
from testkit.scripts import Script, script
from testkit.spark_cluster import Master
from testkit.waiting import wait_until
from tests.integration.test_aggregate import event

PATIENCE_SECONDS = 240.0  # on a machine that is busy with others


def kill_with_executors(worker: Script) -> None:
    for pid in tree(worker.process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_cluster_counts_every_event_once_though_its_only_worker_dies(empty_topics: Broker) -> None:
    broker, written = empty_topics, Counter[str]()

    def write_and_await(emoji: str) -> None:
        """3,000 events on every partition, and their counts."""
        for partition in range(3):
            broker.produce("emoji-topic", [event(emoji)] * 1_000, partition)
        written[emoji] += 3_000
        wait_until(f"{emoji} is counted", lambda: counted()[emoji] >= written[emoji], PATIENCE_SECONDS)

    def counted() -> Counter[str]:
        found = Counter[str]()
        for count in broker.counts("main-pub-topic"):
            found[count["emoji"]] += count["events"]
        return found

    def trouble() -> str | None:
        assert publisher.process.poll() is None, publisher.log
        return why_not_ready(load(environ=broker.environment), "main_publisher", publisher.process.pid)

    master = Master(broker.environment)
    with master.running(), script(broker.environment, "main_publisher.py", SPARK_MASTER=master.url) as publisher:
        with master.worker(cores=2) as worker:
            write_and_await("before")
            wait_until("the publisher is ready", lambda: trouble() is None, PATIENCE_SECONDS)
            kill_with_executors(worker)
            wait_until("it says why it is not", lambda: "no executor" in (trouble() or ""), PATIENCE_SECONDS)
        with master.worker(cores=2):
            write_and_await("after")
            wait_until("the publisher is ready again", lambda: trouble() is None, PATIENCE_SECONDS)
            assert counted() == written
            master.end_applications()
            assert publisher.process.wait(PATIENCE_SECONDS) == EXIT_STUCK, publisher.log
        assert "Spark has ended this application; this process ends so that a successor goes on" in publisher.log
        assert "Traceback" not in publisher.log
