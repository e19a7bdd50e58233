#!/usr/bin/env python3
"""Run a whole system for an hour under load while clients and streams come and go, and see that nothing grows.

usage: .venv/bin/python benchmarks/soak.py [--minutes 60] [--rate 1000] [--json FILE] [KEY=VALUE ...]

A system of its own, in a temporary DATA_DIR: events at a steady rate (open loop, needs Go), 12 clients and 300 event
streams at a time, each of which stays for seconds and then leaves, politely or not. Memory, threads and file
descriptors of every process, and files under DATA_DIR, are sampled all the time. Status 1 where a bound is broken:

- growth after a quarter of the run, as the fitted slope (Theil-Sen) times the time since then, is above a bound;
- an accepted event was not counted exactly once: on each topic, at a client and at a stream of each cluster;
- a process was started again; or a client or a stream was still held, or file descriptors were, after all had left.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import figures
from benchmarks.guests import Clients, Streams, StreamWitness, subscribers
from benchmarks.machine import build_go, describe
from benchmarks.samples import Sample, growth, look_at
from emostream.operate.supervisor import Supervisor
from emostream.settings import CLUSTER_TOPICS, Settings, load
from testkit.broker import Broker
from testkit.http_calls import call
from testkit.http_servers import HttpClient, http_client
from testkit.settings import environment_for
from testkit.system import start_system, stop_system
from testkit.waiting import wait_until

CLIENTS, STREAMS = 12, 300
SAMPLES = 120
WARM_UP_SHARE = 0.25
JVMS = ("kafka_1", "main_publisher")
# What may be added after the warm-up, by any process: memory in MB, threads, file descriptors. The JVMs' heaps fill up
# to their -Xmx however little is kept; streams come and go, so that the number of descriptors is never the same twice.
GROWTH_BOUNDS = {"memory_mb": 5.0, "threads": 3.0, "descriptors": 15.0}
GROWTH_BOUNDS_OF_JVMS = {"memory_mb": 120.0, "threads": 8.0, "descriptors": 30.0}
# Highest value at any time. A heap of 512 and 600 MB, and what a JVM and Python need besides.
MEMORY_BOUNDS_MB = {"kafka_1": 900.0, "main_publisher": 1300.0}
# Spark keeps 100 batches; Kafka's log keeps six hours, and is no part of other_mb.
FILE_BOUNDS = {"checkpoint_files": 600, "other_mb": 200.0}
DESCRIPTORS_LEFT_BOUND, DESCRIPTORS_LEFT_BOUND_OF_JVMS = 10, 30  # what was first needed under load stays open


@dataclass(frozen=True)
class Check:
    """Something that was bounded."""

    what: str
    found: float
    bound: float

    @property
    def kept(self) -> bool:
        return self.found <= self.bound


def checks_of(samples: list[Sample], rest_before: Sample, rest_after: Sample) -> list[Check]:
    """Every bound on memory, threads, descriptors and files, with what was found."""
    found = []
    for name, before in rest_before["processes"].items():
        for what, bound in (GROWTH_BOUNDS_OF_JVMS if name in JVMS else GROWTH_BOUNDS).items():
            found.append(Check(f"{name}: {what}, growth", round(growth(samples, name, what, WARM_UP_SHARE), 2), bound))
        if name in MEMORY_BOUNDS_MB:
            highest = max(sample["processes"][name]["memory_mb"] for sample in samples)
            found.append(Check(f"{name}: memory_mb, highest", highest, MEMORY_BOUNDS_MB[name]))
        left = rest_after["processes"][name]["descriptors"] - before["descriptors"]
        bound = DESCRIPTORS_LEFT_BOUND_OF_JVMS if name in JVMS else DESCRIPTORS_LEFT_BOUND
        found.append(Check(f"{name}: descriptors more than before the load", left, bound))
    for what, bound in FILE_BOUNDS.items():
        found.append(Check(f"{what}, highest", max(sample[what] for sample in samples), bound))
    return found


class Witnesses:
    """A client and a stream of a subscriber of each cluster, there from before the first event to after the last."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self._settings = settings
        self._clients = {topic: stack.enter_context(http_client()) for topic in CLUSTER_TOPICS}
        self._streams = {topic: StreamWitness(settings, topic) for topic in CLUSTER_TOPICS}
        for topic in CLUSTER_TOPICS:
            wait_until(f"a slot for the witness of {topic}", lambda topic=topic: self._call(topic, "register") == 200)  # type: ignore[misc]
            wait_until(f"a stream for the witness of {topic}", self._streams[topic].open.is_set)

    def leave(self) -> None:
        """Deregister, and read no more."""
        for topic, stream in self._streams.items():
            stream.stop()
            self._call(topic, "deregister")

    def events(self) -> dict[str, int]:
        """How many events each has heard of."""
        return {f"a client of {topic}": heard(client) for topic, client in self._clients.items()} | {
            f"a stream of {topic}": stream.events for topic, stream in self._streams.items()
        }

    def _call(self, topic: str, path: str) -> int:
        url = f"http://{self._settings.client_host}:{self._settings.subscriber_port(topic, 1)}/{path}"
        return call(url, {"client_url": self._clients[topic].url})[0]


def heard(client: HttpClient) -> int:
    """Events that a client has heard of, repeats left out."""
    records = zip(client.headers, client.received, strict=False)
    return sum({headers["Idempotency-Key"]: record["events"] for headers, record in records}.values())


def counted(kafka: Broker, settings: Settings) -> dict[str, int]:
    """Events in the counts on each topic."""
    topics = (settings.main_topic, *CLUSTER_TOPICS)
    return {topic: sum(value["events"] for value in kafka.counts(topic)) for topic in topics}


def still_held(settings: Settings) -> list[Check]:
    """Whether subscribers hold clients or streams, though all have left."""
    answers = [
        call(f"http://{settings.client_host}:{settings.subscriber_port(topic, number)}/status")[1]
        for topic, number in subscribers(settings)
    ]
    return [
        Check("clients held after all left", sum(len(answer["clients"]) for answer in answers), 0),
        Check("streams held after all left", sum(answer["streams"] for answer in answers), 0),
    ]


def soak(environment: dict[str, str], load_path: Path, minutes: float, rate: float) -> dict[str, Any]:
    """The figures of a run on a system that is up."""
    settings = load(environ=environment)
    supervisor, kafka = Supervisor(settings), Broker(environment)
    restarts_before = sum(process.restarts for process in supervisor.processes())
    rest_before = look_at(settings, supervisor, time.monotonic())
    samples: list[Sample] = []
    with ExitStack() as stack:
        witnesses = Witnesses(settings, stack)
        guests = (Clients(settings, CLIENTS, seed=1), Streams(settings, STREAMS, seed=2))
        options = {"port": settings.app_port, "rate": rate, "warm": 0, "seconds": 60 * minutes}
        command = [str(load_path), *(f"-{name}={value}" for name, value in options.items())]
        taps = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        began = time.monotonic()
        report = None
        while report is None:
            # Its output is read all the while: it is more than a pipe holds, and a generator that waits for room in it
            # never ends.
            with suppress(subprocess.TimeoutExpired):
                next_sample = began + (len(samples) + 1) * 60 * minutes / SAMPLES
                report = json.loads(taps.communicate(timeout=max(0.0, next_sample - time.monotonic()))[0])
            samples.append(look_at(settings, supervisor, began))
            if len(samples) % (SAMPLES // 12) == 0:
                print(f"  {samples[-1]['seconds'] / 60:.1f} min: {summary(samples[-1])}", flush=True)
        for guest in guests:
            guest.stop()
        accepted, most = report["accepted"], report["accepted"] + report["unknown"]
        with suppress(AssertionError):  # the checks say what is missing, and where
            wait_until(
                "every event at every place",
                lambda: min((counted(kafka, settings) | witnesses.events()).values()) >= accepted,
            )
        places = counted(kafka, settings) | witnesses.events()
        witnesses.leave()
    # Those that vanished are evicted, and a stream whose reader is gone is noticed at its next sign of life.
    time.sleep(settings.evict_after_seconds + 20)
    rest_after = look_at(settings, supervisor, began)
    restarts = sum(process.restarts for process in supervisor.processes()) - restarts_before
    checks = [
        *(Check(f"events lost or doubled: {place}", max(accepted - n, n - most, 0), 0) for place, n in places.items()),
        Check("processes started again", restarts, 0),
        *still_held(settings),
        *checks_of(samples, rest_before, rest_after),
    ]
    return {
        "minutes": minutes, "rate": rate, "warm_up_minutes": minutes * WARM_UP_SHARE, "accepted": accepted,
        "unknown": report["unknown"], "statuses": report["statuses"], "latency_ms": report["latency_ms"],
        "guests": {what: number for guest in guests for what, number in sorted(guest.counts.items())},
        "rest_before": rest_before, "rest_after": rest_after, "samples": samples,
        "checks": [asdict(check) | {"kept": check.kept} for check in checks],
    }  # fmt: skip


def summary(sample: Sample) -> str:
    """A sample in one line."""
    total = {what: sum(p[what] for p in sample["processes"].values()) for what in GROWTH_BOUNDS}
    return (
        f"{total['memory_mb']:,.0f} MB, {total['threads']:.0f} threads, {total['descriptors']:.0f} descriptors; "
        f"{sample['checkpoint_files']} checkpoint files, Kafka {sample['kafka_mb']:.0f} MB, "
        f"other {sample['other_mb']:.0f} MB"
    )


def main() -> int:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000, help="events a second")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    args = parser.parse_intermixed_args()
    settings = dict(argument.split("=", 1) for argument in args.settings)
    load_path = build_go("load", load().data_path / "benchmarks" / "bin")
    environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-soak-")), **settings)
    print(f"{describe()}; {args.minutes:g} minutes, DATA_DIR {environment['DATA_DIR']}", flush=True)
    start_system(environment)
    try:
        found = soak(environment, load_path, args.minutes, args.rate)
    finally:
        stop_system(environment)
    figures.write(args.json, "soak", found)
    for check in found["checks"]:
        kept = "kept  " if check["kept"] else "BROKEN"
        print(f"{kept} {check['what']}: {check['found']:g} (at most {check['bound']:g})")
    print(f"{found['accepted']:,} events accepted, {found['statuses']}; {found['guests']}")
    return 0 if all(check["kept"] for check in found["checks"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
