"""Measure a whole system, from the outside: only its HTTP interfaces, Kafka, and /proc. Needs Go. Linux only.

default, fast  systems of their own, in a temporary DATA_DIR: start-up, rest, latency at 10/s, latency with 2,000/s
               beside, and load at 2,000/s and 10,000/s. KEY=VALUE are their settings.
latency        tap → client: every tap has an emoji of its own, so each of the three clients, one on each cluster, knows
               when its count should have come. Taps are sent by the clock whether or not earlier ones were answered
               (open loop), beside as many others a second as --background says.
load           `rate` events/s for `seconds`: how many were counted on MAIN_TOPIC, how long the last took to arrive, and
               what each stage used of the processor and of memory.
rest           memory and CPU time of every process, while nobody taps.
cold           start-up of a system of its own; latency right after it, without any load before; and latency right after
               kill -9 of the main publisher, once another one is ready.
rooms          latency in one room of a system of its own, in turn without and with `flood` events/s in another room.

latency, load and rest measure the system that runs (./start.sh up).
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import tempfile
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.aggregate import Crowd, fill
from benchmarks.figures import histogram, percentile
from benchmarks.machine import start_load
from benchmarks.part import Figures, Part, main
from emostream.ingest.workers import FLUSH_LEAD_SECONDS, SHORTEST_FLUSH_SECONDS
from emostream.operate.supervisor import Supervisor
from emostream.settings import Settings, load
from testkit.broker import Broker
from testkit.processes import shared_once_mb
from testkit.settings import environment_for
from testkit.system import Sample, System, look_at, registered_clients, running_system
from testkit.taps import Taps
from testkit.visitors import TopicWitness
from testkit.waiting import wait_until

WARM_UP_SECONDS = 10.0
STAGES = ("tap to Kafka's producer", "to counted (linger, trigger, count)", "to client (commit, route, push)")
BIN_SECONDS = 0.025
RATES = (2_000, 10_000)


def measure_latency(
    settings: Settings, rate: float, seconds: float, background: float, room: str = "",
    warm_up_seconds: float = WARM_UP_SECONDS,
) -> Figures:  # fmt: skip
    """Tap → client over three clusters, and where the taps spend their time."""
    others = start_load(settings.app_port, background, seconds + warm_up_seconds + 5) if background else None
    run = f"{os.getpid():x}-{time.time_ns():x}"
    with registered_clients(settings, [room]) as clients:
        for name, this_long in (("warm", warm_up_seconds), ("tap", seconds)):
            total = int(rate * this_long)
            emojis = (f"{name}-{run}-{number}" for number in range(total))
            taps = Taps(settings.app_port, rate, emojis, total, [room])
            taps.wait()
        due = {tap.emoji: tap.due for tap in taps.sent}
        deadline = time.time() + 15
        while time.time() < deadline and any(due.keys() - set(client.emojis()) for client in clients.values()):
            time.sleep(0.1)
    arrivals = []  # Unix seconds of each delivery: due, on emoji-topic, counted, at the client
    for client in clients.values():
        came: dict[str, tuple[float, float, float]] = {}
        for count, when in zip(client.received, client.times, strict=True):
            came.setdefault(count["emoji"], (count["last_accepted_ms"] / 1000, count["batched_ms"] / 1000, when))
        arrivals += [(at, *came[emoji]) for emoji, at in due.items() if emoji in came]
    delays = [arrival[-1] - arrival[0] for arrival in arrivals]
    refused = len(taps.sent) - len(taps.answered_200())
    found: Figures = {
        "rate": rate, "seconds": seconds, "background": background, "p50": percentile(delays, 50),
        "p90": percentile(delays, 90), "p99": percentile(delays, 99), "max": max(delays),
        "mean": statistics.mean(delays), "taps": len(due), "refused": refused, "missing": 3 * len(due) - len(delays),
        "stages": {},
    }  # fmt: skip
    for number, stage in enumerate(STAGES):
        times = [arrival[number + 1] - arrival[number] for arrival in arrivals]
        found["stages"][stage] = {"p50": percentile(times, 50), "p99": percentile(times, 99)}
    if others:
        report = json.loads(others.communicate()[0])
        found["beside"] = {"rate": report["rate"], "statuses": report["statuses"]}
    print(f"  tap → client: {found}", flush=True)
    return found | {"histogram": histogram(delays, BIN_SECONDS)}


def measure_load(settings: Settings, rate: float, seconds: float) -> Figures:
    """How many of `rate` events/s were counted, how far the count was behind the last, and what it cost by process."""
    supervisor, counted = Supervisor(settings), TopicWitness(settings, settings.main_topic)
    a_batch_and_a_linger = settings.batch_seconds + settings.linger_ms / 1000
    counted.forget(a_batch_and_a_linger + settings.batch_seconds)
    with registered_clients(settings):
        taps = start_load(settings.app_port, rate, seconds, WARM_UP_SECONDS)
        ended = time.time() + WARM_UP_SECONDS + seconds
        time.sleep(WARM_UP_SECONDS)
        before = look_at(settings, supervisor)
        time.sleep(max(0.0, ended - time.time()))
        after = look_at(settings, supervisor)
        report = json.loads(taps.communicate()[0])
        deadline = time.time() + 60
        while time.time() < deadline and counted.events < report["accepted"]:
            time.sleep(0.05)
        time.sleep(settings.batch_seconds)  # what would come twice
        counted.close()
    cores = cores_between(before, after)
    found = {
        "rate": rate, "seconds": seconds, "accepted": report["accepted"], "counted": counted.events,
        "statuses": report["statuses"], "abandoned": report["abandoned"], "reached": report["rate"],
        "latency_ms": report["latency_ms"], "last_count_after_seconds": counted.last - ended,
        "a_batch_and_a_linger_seconds": a_batch_and_a_linger, "cores": cores,
        "cpu_a_million": {name: 1e6 * used / report["rate"] for name, used in cores.items()},
        "memory_mb": {name: process["memory_mb"] for name, process in after["processes"].items()},
    }  # fmt: skip
    print(f"  load: {found}", flush=True)
    return found


def cores_between(before: Sample, after: Sample) -> dict[str, float]:
    """How many cores each process used between two samples."""
    span = after["seconds"] - before["seconds"]
    return {
        name: (process["cpu_seconds"] - before["processes"][name]["cpu_seconds"]) / span
        for name, process in after["processes"].items()
    }


def measure_rest(settings: Settings, seconds: float) -> Figures:
    """Memory and CPU time of every process and of supervisord."""
    supervisor = Supervisor(settings)
    before = look_at(settings, supervisor)
    time.sleep(seconds)
    after = look_at(settings, supervisor)
    root = int((settings.data_path / "run" / "supervisord.pid").read_text())
    found = {
        "seconds": seconds,
        "memory_mb": {name: process["memory_mb"] for name, process in after["processes"].items()},
        "cores": cores_between(before, after),
        "shared_once_mb": shared_once_mb(root),
    }
    print(f"  at rest: {found}", flush=True)
    return found


def measure_whole(name: str, options: Namespace) -> Figures:
    """Everything above, of systems of its own; the taps after so long a load."""
    startup, found = [], {}
    for number in range(options.rounds):
        environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-bench-")), **options.settings)
        settings = load(environ=environment)
        began = time.monotonic()
        with running_system(environment):
            startup.append(time.monotonic() - began)
            if number == options.rounds - 1:
                found = measure_running(settings, options)
    aligned = settings.linger_ms / 1000 >= SHORTEST_FLUSH_SECONDS
    asked = {
        "linger_ms": settings.linger_ms, "batch_seconds": settings.batch_seconds,
        "flush_lead_seconds": FLUSH_LEAD_SECONDS if aligned else None,
    }  # fmt: skip
    warm = {"rate": RATES[0], "seconds": options.warm}
    return {"name": name, "given": options.settings, "settings": asked, "warm": warm, "startup": startup, **found}


def measure_running(settings: Settings, options: Namespace) -> Figures:
    """Rest, latency and load of a system that has just started."""
    # At rest once what the start has left to do is done; and taps once both JVMs have compiled what they do, as in a
    # system that did not start with the match.
    time.sleep(options.seconds)
    rest = measure_rest(settings, options.seconds / 2)
    start_load(settings.app_port, RATES[0], options.warm).communicate()
    return {
        "rest": rest,
        "latency": [measure_latency(settings, 10, options.seconds, 0) for _ in range(options.rounds)],
        "beside": [measure_latency(settings, 10, options.seconds, RATES[0]) for _ in range(options.rounds)],
        "load": [measure_load(settings, rate, options.seconds) for rate in RATES],
    }


def measure_cold(options: Namespace) -> Figures:
    """Seconds of start-up, and tap → client right after it and after the death of the main publisher."""
    found: dict[str, list[Any]] = {"startup": [], "started": [], "restarted": []}
    for _ in range(options.rounds):
        environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-bench-")), **options.settings)
        settings, system = load(environ=environment), System(environment)
        began = time.monotonic()
        with running_system(environment):
            found["startup"].append(time.monotonic() - began)
            found["started"].append(measure_latency(settings, options.rate, options.seconds, 0, warm_up_seconds=0))
            kill_main_publisher(system)
            found["restarted"].append(measure_latency(settings, options.rate, options.seconds, 0, warm_up_seconds=0))
    return {"rate": options.rate, "seconds": options.seconds, **found}


def kill_main_publisher(system: System) -> None:
    """Return when another one is ready."""
    killed = system.pid("main_publisher")
    os.kill(killed, signal.SIGKILL)
    wait_until("another main publisher", lambda: system.pid("main_publisher") not in (0, killed))
    wait_until("it is ready", system.all_ready, timeout_seconds=120)


def measure_rooms(options: Namespace) -> Figures:
    """Tap → client in one room, without and with a flood of events in another."""
    environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-bench-")), **options.settings)
    settings, crowd = load(environ=environment), Crowd(emojis=20, rooms=1)
    found: dict[str, list[Figures]] = {"alone": [], "beside": []}
    with running_system(environment), ThreadPoolExecutor(1) as executor:
        fill(Broker(environment), round(options.flood * options.warm), options.flood, crowd)
        for _ in range(options.rounds):
            found["alone"].append(measure_latency(settings, 10, options.seconds, 0, "quiet"))
            events = round(options.flood * (options.seconds + WARM_UP_SECONDS))
            flooding = executor.submit(fill, Broker(environment), events, options.flood, crowd)
            found["beside"].append(measure_latency(settings, 10, options.seconds, 0, "quiet"))
            found["beside"][-1]["flood"] = flooding.result()
    ratios = [beside["p99"] / alone["p99"] for alone, beside in zip(*found.values(), strict=True)]
    return {"flood": options.flood, "seconds": options.seconds, "ratio": ratios, **found}


WHOLE = {"rounds": 2, "seconds": 60.0, "warm": 480.0}
FAST = {"BATCH_SECONDS": "0.5", "LINGER_MS": "50"}  # the fast profile of the README
QUICK = {"rounds": 1, "seconds": 10.0, "warm": 20.0}
PARTS = {
    "default": Part(lambda options: measure_whole("default", options), WHOLE, QUICK),
    "fast": Part(
        lambda options: measure_whole("fast", options), WHOLE | {"seconds": 40.0, "warm": 300.0}, QUICK, FAST
    ),
    "cold": Part(measure_cold, {"rounds": 3, "rate": 4.0, "seconds": 30.0}, {"rounds": 1, "seconds": 10.0}),
    "rooms": Part(
        measure_rooms, {"flood": 100_000, "rounds": 3, "seconds": 60.0, "warm": 120.0},
        {"flood": 2_000, "rounds": 1, "seconds": 10.0, "warm": 10.0},
    ),
    "latency": Part(
        lambda options: measure_latency(load(), options.rate, options.seconds, options.background),
        {"rate": 10.0, "seconds": 60.0, "background": 0.0}, {"seconds": 10.0},
    ),
    "load": Part(lambda options: measure_load(load(), options.rate, options.seconds),
                 {"rate": 2000.0, "seconds": 60.0}, {"seconds": 10.0}),
    "rest": Part(lambda options: measure_rest(load(), options.seconds), {"seconds": 30.0}, {"seconds": 5.0}),
}  # fmt: skip

if __name__ == "__main__":
    main(__doc__, "pipeline", PARTS)
