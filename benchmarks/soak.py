"""Run a whole system for an hour under load while clients and streams come and go, and see that nothing grows.

A system of its own, in a temporary DATA_DIR: events at a steady rate (open loop, needs Go), 12 clients and 300 event
streams at a time, each of which stays for seconds and then leaves, politely or not. Memory, threads and file
descriptors of every process, and files under DATA_DIR, are sampled all the time. Status 1 where a bound is broken:

- growth after a quarter of the run, as the fitted slope (Theil-Sen) times the time since then, is above a bound;
- an accepted event was not counted exactly once: on each topic, at a client and at a stream of each cluster;
- a process was started again; or a client or a stream was still held, or file descriptors were, after all had left.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.facts import JVMS
from benchmarks.figures import growth
from benchmarks.machine import start_load
from benchmarks.part import Figures, Part, main
from emostream.operate.supervisor import Supervisor
from emostream.roles import place, subscriber, subscribers
from emostream.settings import Settings, load
from testkit.broker import Broker
from testkit.http_calls import call
from testkit.settings import environment_for
from testkit.system import Sample, look_at, registered_clients, running_system
from testkit.visitors import Clients, Streams, StreamWitness
from testkit.waiting import wait_until

CLIENTS, STREAMS = 12, 300
SAMPLES = 120
WARM_UP_SHARE = 0.25
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


def still_held(settings: Settings) -> list[Check]:
    """Whether subscribers hold clients or streams, though all have left."""
    answers = [
        call(f"http://{settings.client_host}:{role.port}/status")[1] for role in subscribers(settings)
    ]
    return [
        Check("clients held after all left", sum(len(answer["clients"]) for answer in answers), 0),
        Check("streams held after all left", sum(answer["streams"] for answer in answers), 0),
    ]


def measure(options: Namespace) -> Figures:
    """A run on a system of its own."""
    environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-soak-")), **options.settings)
    print(f"  DATA_DIR {environment['DATA_DIR']}", flush=True)
    with running_system(environment):
        return soak(environment, options.minutes, options.rate)


def soak(environment: dict[str, str], minutes: float, rate: float) -> Figures:
    """The figures of a run on a system that is up."""
    settings = load(environ=environment)
    supervisor, kafka = Supervisor(settings), Broker(environment)
    restarts_before = sum(process.restarts for process in supervisor.processes())
    rest_before = look_at(settings, supervisor)
    samples: list[Sample] = []
    streams = {
        topic: StreamWitness(place(settings, subscriber(settings, cluster, 1)).stream_url)
        for cluster, topic in enumerate(settings.cluster_topics, 1)
    }
    with registered_clients(settings) as clients:
        wait_until("a stream of each cluster", lambda: all(stream.open.is_set() for stream in streams.values()))
        guests = (Clients(settings, CLIENTS, seed=1), Streams(settings, STREAMS, seed=2))
        taps = start_load(settings.app_port, rate, 60 * minutes)
        began = time.monotonic()
        report = None
        while report is None:
            # Its output is read all the while: it is more than a pipe holds, and a generator that waits for room in it
            # never ends.
            with suppress(subprocess.TimeoutExpired):
                next_sample = began + (len(samples) + 1) * 60 * minutes / SAMPLES
                report = json.loads(taps.communicate(timeout=max(0.0, next_sample - time.monotonic()))[0])
            sample = look_at(settings, supervisor)
            samples.append(sample | {"seconds": round(sample["seconds"] - began, 1)})
            if len(samples) % (SAMPLES // 12) == 0:
                print(f"  {samples[-1]['seconds'] / 60:.1f} min: {summary(samples[-1])}", flush=True)
        for guest in guests:
            guest.stop()
        accepted, most = report["accepted"], report["accepted"] + report["unknown"]

        def places() -> dict[str, int]:
            """How many events were counted on each topic, and at each witness."""
            found = {topic: kafka.counts(topic) for topic in (settings.main_topic, *settings.cluster_topics)}
            found |= {f"a client of {topic}": client.received_once() for (topic, _), client in clients.items()}
            events = {place: sum(count["events"] for count in counts) for place, counts in found.items()}
            return events | {f"a stream of {topic}": stream.events for topic, stream in streams.items()}

        with suppress(AssertionError):  # the checks say what is missing, and where
            wait_until("every event at every place", lambda: min(places().values()) >= accepted)
        events = places()
    for stream in streams.values():
        stream.stop()
    # Those that vanished are evicted, and a stream whose reader is gone is noticed at its next sign of life.
    time.sleep(settings.evict_after_seconds + 20)
    rest_after = look_at(settings, supervisor)
    restarts = sum(process.restarts for process in supervisor.processes()) - restarts_before
    checks = [
        *(Check(f"events lost or doubled: {place}", max(accepted - n, n - most, 0), 0) for place, n in events.items()),
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


def summary(sample: Sample) -> dict[str, float]:
    """A sample in short."""
    total = {what: round(sum(it[what] for it in sample["processes"].values())) for what in GROWTH_BOUNDS}
    return total | {what: sample[what] for what in ("checkpoint_files", "kafka_mb", "other_mb")}


PARTS = {"soak": Part(measure, {"minutes": 60.0, "rate": 1000.0}, {"minutes": 1.0})}

if __name__ == "__main__":
    found = main(__doc__, "soak", PARTS)
    broken = [check for check in found["checks"] if not check["kept"]]
    for check in broken:
        print(f"BROKEN {check['what']}: {check['found']:g} (at most {check['bound']:g})")
    raise SystemExit(1 if broken else 0)
