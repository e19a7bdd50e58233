"""The main publisher on a standalone cluster of Spark between hosts of their own; kill -9, and a ledger. Needs root.

usage: .venv/bin/python -m tests.hosts.spark_cluster

The broker is on this machine. Spark's master, two workers and the main publisher have a namespace each. Under load one
worker is killed, then both, then the main publisher. Each event has to be counted exactly once.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack

from testkit.broker import Broker, running_broker
from testkit.hosts import Host, environment_here, hosts
from testkit.scripts import Script, running
from testkit.spark_cluster import Master
from testkit.waiting import wait_until

PATIENCE_SECONDS = 300.0
EVENTS_PER_SECOND = 200


def event(number: int) -> bytes:
    """An event whose emoji says which one it is."""
    return json.dumps({"user_id": "u", "emoji": f"e{number}", "timestamp": "2026-01-31T20:15:00+00:00"}).encode()


def counted(broker: Broker) -> Counter[str]:
    """How often each event was counted."""
    found = Counter[str]()
    for count in broker.counts("main-pub-topic"):
        found[count["emoji"]] += count["events"]
    return found


def main() -> int:
    """Run it; the exit status is 0 if the ledger is balanced."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no host is left behind
    environment = environment_here(MAX_EMOJIS_PER_BATCH=100_000)
    with ExitStack() as stack:
        found = stack.enter_context(hosts(["master", "worker-1", "worker-2", "publisher"]))
        broker = stack.enter_context(running_broker(environment))
        master = Master(environment, found["master"])
        stack.enter_context(master.running())

        def start_worker(host: Host) -> None:
            stack.enter_context(master.worker(host, name=host.name))

        def start_publisher() -> Script:
            here = found["publisher"]
            settings = f"SPARK_MASTER={master.url}", f"SPARK_DRIVER_HOST={here.address}"
            return stack.enter_context(
                running(here.command(sys.executable, "main_publisher.py", *settings), environment)
            )

        def caught_up(what: str) -> None:
            goal, began = len(written), time.monotonic()
            wait_until(what, lambda: len(counted(broker)) >= goal, PATIENCE_SECONDS)
            print(f"{what}: all {goal} events so far counted after {time.monotonic() - began:.0f} s", flush=True)

        workers = [found["worker-1"], found["worker-2"]]
        for host in workers:
            start_worker(host)
        start_publisher()
        with broker.stream("emoji-topic", event, EVENTS_PER_SECOND) as written:
            wait_until("the first events", lambda: len(written) > 0)
            caught_up("two workers")
            workers[0].kill()
            caught_up("kill -9 of one worker and its executor")
            start_worker(workers[0])
            for host in workers:
                host.kill()
            for host in workers:
                start_worker(host)
            caught_up("kill -9 of both workers")
            found["publisher"].kill()
            start_publisher()
            caught_up("kill -9 of the main publisher")
        caught_up("the end")
        owed, have = Counter(json.loads(value)["emoji"] for value in written), counted(broker)
        lost, doubled = owed - have, have - owed
        print(f"{sum(owed.values())} events, {sum(lost.values())} lost, {sum(doubled.values())} doubled", flush=True)
    return 1 if lost or doubled else 0


if __name__ == "__main__":
    raise SystemExit(main())
