#!/usr/bin/env python3
"""Measure a whole system, from the outside: only its HTTP interfaces, Kafka, and /proc.

usage: .venv/bin/python benchmarks/pipeline.py latency [--rate 10] [--seconds 60] [--background 0] [--json FILE]
       .venv/bin/python benchmarks/pipeline.py load [--rate 2000] [--seconds 60] [--json FILE]
       .venv/bin/python benchmarks/pipeline.py rest [--seconds 30] [--json FILE]
       .venv/bin/python benchmarks/pipeline.py whole [--name default] [--rounds 3] [--warm 480] [KEY=VALUE ...]

latency   tap → client: every tap has an emoji of its own, so each of the three clients, one on each cluster, knows when
          its count should have come. Taps are sent by the clock whether or not earlier ones were answered (open loop),
          beside as many others a second as --background says.
load      `rate` events/s for `seconds`: how many were counted on MAIN_TOPIC, how long the last took to arrive, and what
          each stage used of the processor and of memory.
rest      memory and CPU time of every process, while nobody taps.
whole     starts systems of its own, in a temporary DATA_DIR, and measures start-up, rest, latency at 10/s, latency with
          2,000/s beside, and load at 2,000/s and 10,000/s. KEY=VALUE are its settings.

The first three measure the system that runs (./start.sh up). --json FILE keeps the figures, whatever is measured.
latency with --background and load need Go. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import histogram, percentile, write
from benchmarks.machine import build_go, describe
from benchmarks.samples import look_at
from benchmarks.taps import Arrival, call_subscriber, receiving_client, send_open_loop
from emostream.broker import consumer, partitions
from emostream.ingest.worker import FLUSH_LEAD_SECONDS, SHORTEST_FLUSH_SECONDS
from emostream.operate.supervisor import Supervisor
from emostream.settings import CLUSTER_TOPICS, Settings, load
from testkit.processes import number_in_proc, tree
from testkit.settings import environment_for
from testkit.system import start_system, stop_system

WARM_UP_SECONDS = 10.0
STAGES = ("tap to Kafka's producer", "to counted (linger, trigger, count)", "to client (commit, route, push)")
BIN_SECONDS = 0.025
RATES = (2_000, 10_000)
Figures = dict[str, Any]


def start_load(settings: Settings, rate: float, seconds: float, warm_seconds: float = 0.0) -> subprocess.Popen[str]:
    """Taps of five emojis by the clock, in a process of its own."""
    load_path = build_go("load", load().data_path / "benchmarks" / "bin")
    options = {"port": settings.app_port, "rate": rate, "warm": warm_seconds, "seconds": seconds}
    command = [str(load_path), *(f"-{name}={value}" for name, value in options.items())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure_latency(settings: Settings, rate: float, seconds: float, background: float) -> Figures:
    """Tap → client over three clusters, and where the taps spend their time."""
    came: dict[str, dict[str, Arrival]] = {topic: {} for topic in CLUSTER_TOPICS}
    others = start_load(settings, background, seconds + WARM_UP_SECONDS + 5) if background else None
    clients = {topic: receiving_client(settings, topic, came[topic]) for topic in CLUSTER_TOPICS}
    run = f"{os.getpid():x}-{time.time_ns():x}"
    send_open_loop(settings, (f"warm-{run}-{n}" for n in range(10**9)), rate, WARM_UP_SECONDS)
    due, refused = send_open_loop(settings, (f"tap-{run}-{n}" for n in range(10**9)), rate, seconds)
    deadline = time.time() + 15
    while time.time() < deadline and any(emoji not in seen for seen in came.values() for emoji in due):
        time.sleep(0.1)
    for topic, client in clients.items():
        call_subscriber(settings, topic, "/deregister", client)
        client.shutdown()
    arrivals = [(when, *seen[emoji]) for seen in came.values() for emoji, when in due.items() if emoji in seen]
    delays = [arrival[-1] - arrival[0] for arrival in arrivals]
    found: Figures = {
        "rate": rate, "seconds": seconds, "background": background, "p50": percentile(delays, 50),
        "p90": percentile(delays, 90), "p99": percentile(delays, 99), "max": max(delays),
        "mean": statistics.mean(delays), "taps": len(due), "refused": refused, "missing": 3 * len(due) - len(delays),
        "histogram": histogram(delays, BIN_SECONDS),
    }  # fmt: skip
    print(
        f"tap → client at {rate:g} events/s for {seconds:g} s, one client on each of 3 clusters: "
        f"p50 {found['p50']:.2f} s, p99 {found['p99']:.2f} s, max {found['max']:.2f} s, mean {found['mean']:.2f} s; "
        f"{len(due)} taps, {refused} refused, {found['missing']} deliveries missing", flush=True,
    )  # fmt: skip
    found["stages"] = {}
    for number, stage in enumerate(STAGES):
        times = [arrival[number + 1] - arrival[number] for arrival in arrivals]
        found["stages"][stage] = {"p50": percentile(times, 50), "p99": percentile(times, 99)}
        print(f"  {stage}: p50 {percentile(times, 50):.3f} s, p99 {percentile(times, 99):.3f} s", flush=True)
    if others:
        report = json.loads(others.communicate()[0])
        found["beside"] = {"rate": report["rate"], "statuses": report["statuses"]}
        print(f"  beside it {report['rate']:.0f} taps/s were answered 200; all: {report['statuses']}", flush=True)
    return found


class Counted:
    """Events in the counts on MAIN_TOPIC from now on, and when the last of them came."""

    def __init__(self, settings: Settings) -> None:
        self.events = 0
        self.last = 0.0
        self._reader = consumer(settings, None)
        assigned = partitions(settings.main_topic)
        self._reader.assign(assigned)
        self._reader.seek_to_end()
        for tp in assigned:
            self._reader.position(tp)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def forget(self, quiet_seconds: float) -> None:
        """Begin at 0, once nothing has come for so long: what was sent before is no part of it."""
        before = -1
        while before != self.events:
            before = self.events
            time.sleep(quiet_seconds)
        self.events = 0

    def close(self) -> None:
        """Read no more."""
        self._done.set()
        self._thread.join()
        self._reader.close()

    def _count(self) -> None:
        while not self._done.is_set():
            for records in self._reader.poll(timeout_ms=100).values():
                for record in records:
                    self.events += json.loads(record.value)["events"]
                    self.last = time.time()


def measure_load(settings: Settings, rate: float, seconds: float) -> Figures:
    """How many of `rate` events/s were counted, how far the count was behind the last, and what it cost by process."""
    supervisor, counted = Supervisor(settings), Counted(settings)
    counted.forget(2 * settings.batch_seconds + settings.linger_ms / 1000)
    clients = {topic: receiving_client(settings, topic, {}) for topic in CLUSTER_TOPICS}
    taps = start_load(settings, rate, seconds, WARM_UP_SECONDS)
    began = time.time()
    time.sleep(WARM_UP_SECONDS)
    before = look_at(settings, supervisor, 0.0)
    time.sleep(max(0.0, began + WARM_UP_SECONDS + seconds - time.time()))
    after = look_at(settings, supervisor, 0.0)
    report = json.loads(taps.communicate()[0])
    ended = began + WARM_UP_SECONDS + seconds
    deadline = time.time() + 60
    while time.time() < deadline and counted.events < report["accepted"]:
        time.sleep(0.05)
    time.sleep(settings.batch_seconds)  # what would come twice
    counted.close()
    for topic, client in clients.items():
        call_subscriber(settings, topic, "/deregister", client)
        client.shutdown()
    span = after["seconds"] - before["seconds"]
    events = report["rate"] * span
    used = cpu_by_process(before, after)
    found = {
        "rate": rate, "seconds": seconds, "accepted": report["accepted"], "counted": counted.events,
        "statuses": report["statuses"], "abandoned": report["abandoned"], "reached": report["rate"],
        "latency_ms": report["latency_ms"], "last_count_after_seconds": counted.last - ended,
        "a_batch_and_a_linger_seconds": settings.batch_seconds + settings.linger_ms / 1000,
        "cores": {name: cpu / span for name, cpu in used.items()},
        "cpu_a_million": {name: 1e6 * cpu / events for name, cpu in used.items()},
        "memory_mb": {name: process["memory_mb"] for name, process in after["processes"].items()},
    }  # fmt: skip
    print(
        f"load: {rate:g} events/s for {seconds:g} s: {report['statuses']}, p99 {report['latency_ms']['p99']:.1f} ms; "
        f"counted {counted.events} of {report['accepted']} accepted; "
        f"the last count came {counted.last - ended:.2f} s after the last tap; "
        f"{sum(used.values()) / span:.2f} cores, {1e6 * sum(used.values()) / events:.0f} s CPU per million events",
        flush=True,
    )
    return found


def cpu_by_process(before: Figures, after: Figures) -> dict[str, float]:
    """CPU seconds between two samples."""
    return {
        name: process["cpu_seconds"] - before["processes"][name]["cpu_seconds"]
        for name, process in after["processes"].items()
    }


def shared_mb(pid: int) -> float:
    """Resident memory of a process, in MB, each shared page counted in part; none of one that has just ended."""
    try:
        return int(number_in_proc(pid, "smaps_rollup", "Pss:")) / 1024
    except (OSError, StopIteration):
        return 0.0


def measure_rest(settings: Settings, seconds: float) -> Figures:
    """Memory and CPU time of every process and of supervisord."""
    supervisor = Supervisor(settings)
    before = look_at(settings, supervisor, 0.0)
    time.sleep(seconds)
    after = look_at(settings, supervisor, 0.0)
    span = after["seconds"] - before["seconds"]
    root = int((settings.data_path / "run" / "supervisord.pid").read_text())
    shared_once_mb = sum(map(shared_mb, tree(root)))
    cores = {name: cpu / span for name, cpu in cpu_by_process(before, after).items()}
    memory = {name: process["memory_mb"] for name, process in after["processes"].items()}
    for name, mb in memory.items():
        print(f"{name:20} {mb:7.0f} MB {100 * cores[name]:6.1f} % of a core")
    print(
        f"at rest: {sum(memory.values()):.0f} MB resident ({shared_once_mb:.0f} MB with shared pages counted once), "
        f"{100 * sum(cores.values()):.1f} % of one core, over {len(memory)} processes in {seconds:g} s", flush=True,
    )  # fmt: skip
    return {"seconds": seconds, "memory_mb": memory, "cores": cores, "shared_once_mb": shared_once_mb}


def measure_whole(name: str, rounds: int, seconds: float, warm_seconds: float, given: dict[str, str]) -> Figures:
    """Everything above, of systems of its own; the taps after so long a load."""
    startup, found = [], {}
    for number in range(rounds):
        environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-bench-")), **given)
        settings = load(environ=environment)
        began = time.monotonic()
        start_system(environment)
        startup.append(time.monotonic() - began)
        print(f"up, in an empty DATA_DIR: {startup[-1]:.1f} s", flush=True)
        try:
            if number == rounds - 1:
                # At rest once what the start has left to do is done; and taps once both JVMs have compiled their way,
                # as in a system that did not start with the match.
                time.sleep(seconds)
                rest = measure_rest(settings, seconds / 2)
                start_load(settings, RATES[0], warm_seconds).communicate()
                found = {
                    "rest": rest,
                    "latency": [measure_latency(settings, 10, seconds, 0) for _ in range(rounds)],
                    "beside": [measure_latency(settings, 10, seconds, RATES[0]) for _ in range(rounds)],
                    "load": [measure_load(settings, rate, seconds) for rate in RATES],
                }
        finally:
            stop_system(environment)
    aligned = settings.linger_ms / 1000 >= SHORTEST_FLUSH_SECONDS
    asked = {"linger_ms": settings.linger_ms, "batch_seconds": settings.batch_seconds,
             "flush_lead_seconds": FLUSH_LEAD_SECONDS if aligned else None}  # fmt: skip
    warm = {"rate": RATES[0], "seconds": warm_seconds}
    return {"name": name, "given": given, "settings": asked, "warm": warm, "startup": startup, **found}


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "load", "rest", "whole"])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="whole: of its systems")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--background", type=float, default=0, help="latency: other taps a second")
    parser.add_argument("--name", default="default", help="whole: of these settings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=float, default=480, help="whole: seconds of load before latency is measured")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    args = parser.parse_intermixed_args()
    settings = load()
    print(describe(), flush=True)
    part, found = args.what, Figures()
    if args.what == "latency":
        found = measure_latency(settings, args.rate or 10, args.seconds or 60, args.background)
    elif args.what == "load":
        found = measure_load(settings, args.rate or 2000, args.seconds or 60)
    elif args.what == "rest":
        found = measure_rest(settings, args.seconds or 30)
    else:
        part = f"pipeline-{args.name}"
        given = dict(argument.split("=", 1) for argument in args.settings)
        found = measure_whole(args.name, args.rounds, args.seconds or 60, args.warm, given)
    write(args.json, part, found)


if __name__ == "__main__":
    main()
