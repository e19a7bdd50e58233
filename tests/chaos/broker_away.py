"""Take the broker away under load, bring it back, and see that all flows again and nothing was lost or grew.

usage: .venv/bin/python -m tests.chaos.broker_away [--how kill|stop] [--seconds 60] [--rate 2000] [KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kafka.errors import KafkaError

from emostream.operate.supervisor import Supervisor
from emostream.roles import broker
from emostream.settings import load
from emostream.topics import broker_answers
from testkit.broker import Broker
from testkit.processes import resident_mb
from testkit.settings import environment_for
from testkit.system import running_system
from testkit.taps import Taps
from testkit.waiting import wait_until

STEADY_SECONDS = 5.0


@dataclass
class Outcome:
    """What was sent and counted, and how the system bore it."""

    accepted: int
    counted: int
    refused: Counter[int]
    retry_after: bool
    grown_mb: float
    back_seconds: float

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, counted {self.counted}; refused by status {dict(self.refused)}, each with "
            f"Retry-After: {self.retry_after}; the app grew by {self.grown_mb:.0f} MB; the first count of an "
            f"event accepted after the broker was back came after {self.back_seconds:.1f} s"
        )


def take_away(environment: dict[str, str], how: str, seconds: float, rate: float) -> Outcome:
    """Run the experiment on a system that is up."""
    settings = load(environ=environment)
    supervisor = Supervisor(settings)
    processes = {process.name: process for process in supervisor.processes()}
    taps = Taps(settings.app_port, rate, (f"e{number % 5}" for number in itertools.count()))
    time.sleep(STEADY_SECONDS)
    before_mb = resident_mb(processes["app"].pid)
    broker_pid = processes["kafka_1"].pid
    if how == "kill":
        supervisor.hold("kafka_1")
    else:
        os.kill(broker_pid, signal.SIGSTOP)
    largest_mb = before_mb
    away_until = time.monotonic() + seconds
    while time.monotonic() < away_until:
        largest_mb = max(largest_mb, resident_mb(processes["app"].pid))
        time.sleep(0.5)
    if how == "kill":
        supervisor.start(["kafka_1"])
        # A broker takes seconds to start, and longer on a busy machine; it is back when it answers.
        wait_until("the broker answers", lambda: broker_answers(settings, broker(settings, 1).addresses[0]), 120)
    else:
        os.kill(broker_pid, signal.SIGCONT)
    back_ms = time.time() * 1000
    kafka = Broker(environment)

    def first_count() -> float:
        try:
            records = kafka.read("cluster1-emoji-topic")
            return min((r.timestamp for r in records if json.loads(r.value)["last_accepted_ms"] > back_ms), default=0)
        except KafkaError:
            return 0  # not back yet

    first_ms = wait_until("a count after the broker is back", first_count, 120)
    largest_mb = max(largest_mb, resident_mb(processes["app"].pid))
    time.sleep(STEADY_SECONDS)
    taps.stop()
    accepted = sum(tap.status == 200 for tap in taps.sent)
    refused = [tap for tap in taps.sent if tap.status != 200]

    def counted() -> int:
        return sum(value["events"] for value in kafka.counts("cluster1-emoji-topic"))

    wait_until("every accepted event counted", lambda: counted() >= accepted, 120)
    return Outcome(
        accepted, counted(), Counter(tap.status for tap in refused), all(tap.retry_after for tap in refused),
        largest_mb - before_mb, (first_ms - back_ms) / 1000,
    )  # fmt: skip


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--how", choices=["kill", "stop"], default="stop")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=2000)
    args = parser.parse_args()
    settings = dict(argument.split("=", 1) for argument in args.settings)
    environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-chaos-")), **settings)
    with running_system(environment):
        print(take_away(environment, args.how, args.seconds, args.rate))


if __name__ == "__main__":
    main()
