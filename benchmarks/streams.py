"""Measure a subscriber's GET /stream beside Centrifuge's handler of Server-Sent Events, in one run, fed by one broker.

saturation  as many micro-batches as the server can fan out, a window of them on their way at once: deliveries/s, in
            turn, round after round; the ratio is of ours to the peer, of the same round. With 2 on their way nearly
            every delivery is a write of its own, as in a match; with 32 a server may join what waits for a viewer.
steady      a micro-batch every 2 s: from produce to the last viewer, and what a connection adds to resident memory.
rooms       the same in one room and spread over 1,000; and 1,000 viewers of 3 rooms, with and without 997 rooms beside
            them that nobody listens to, by the clock: what it costs.
burst       500 viewers stay while `guests` more come within `seconds` and then leave at once: what the 500 notice
            before, with and after them, and the server's memory.

Load generator (benchmarks/viewers), server and broker share the cores. Needs Go, and the Go proxy the first time;
everything lies in DATA_DIR/benchmarks.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.machine import Report, go_command, report_of
from benchmarks.part import Figures, Part, main, own_broker
from emostream.roles import subscriber
from emostream.settings import load
from testkit.broker import Broker
from testkit.http_calls import call
from testkit.scripts import running
from testkit.waiting import wait_until

TOPIC = "cluster1-emoji-topic"
SERVERS = {"ours": "/stream", "Centrifuge": "/connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D"}
STAYING = 500


@contextmanager
def serving(name: str, broker: Broker) -> Iterator[tuple[int, int]]:
    """(pid, port) of a server that is ready for streams."""
    port = subscriber(load(environ=broker.environment), 1, 1).addresses[1].port
    command = [sys.executable, "subscriber.py", f"CLUSTER-TOPIC={TOPIC}", "SUBSCRIBER=1", "MAX_STREAMS=12000"]
    if name == "Centrifuge":
        command = go_command("peers/centrifuge", port=port, brokers=broker.servers, topic=TOPIC)
    with running(command, broker.environment) as server:
        server.wait_for_port(port)
        yield server.process.pid, port


def watch(name: str, broker: Broker, **options: object) -> Report:
    """Run viewers against a server; their report, with the server's cpu (s) and memory (MB, each half second)."""
    with serving(name, broker) as (server, port):
        where = {"port": port, "path": SERVERS[name], "brokers": broker.servers, "topic": TOPIC}
        viewers = go_command("viewers", **where, **options)
        report = report_of(viewers, server, every_seconds=0.5)
        if name == "ours":
            wait_until("every stream is gone", lambda: not streams_held(broker), 30)
    memory = report["memory"]
    report |= {
        "kb_a_connection": 1024 * (max(memory) - memory[0]) / report["viewers"],
        "cpu_us": 1e6 * report["cpu"] / max(report["deliveries"] * report["seconds"], 1),
        "troubles": troubles(report),
    }
    shown = ("viewers", "batches", "deliveries", "cpu_seconds", "kb_a_connection", "cpu_us", "troubles")
    print(f"  {name}: { ({key: report[key] for key in shown}) }", flush=True)
    return report


def streams_held(broker: Broker) -> int:
    """How many streams our subscriber holds."""
    port = subscriber(load(environ=broker.environment), 1, 1).port
    return int(call(f"http://127.0.0.1:{port}/status")[1]["streams"])


def troubles(report: Report) -> str:
    """What should not have happened, in words."""
    found = [f"{report[what]} {what}" for what in ("merged", "missing", "repeated", "gaps", "closed") if report[what]]
    found += [f"{n} × {status!r}" for status, n in report["refused"].items()]
    return ", ".join(found) or "nothing missing, repeated or merged"


def measure_saturation(broker: Broker, names: list[str], options: Namespace) -> Figures:
    """Deliveries/s and ratios."""
    windows = {}
    for window in options.window.split(","):
        found: dict[str, list[Report]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                report = watch(name, broker, viewers=options.viewers, window=window, seconds=options.seconds)
                found[name].append(report)
        windows[window] = {
            name: {key: [it[key] for it in rounds] for key in ("deliveries", "kb_a_connection", "cpu_us", "troubles")}
            for name, rounds in found.items()
        }
        for it in windows[window].values():
            pairs = zip(windows[window]["ours"]["deliveries"], it["deliveries"], strict=True)
            it["ours_to_it"] = [ours / its for ours, its in pairs]
    return {"viewers": options.viewers, "windows": windows}


def measure_steady(broker: Broker, names: list[str], options: Namespace) -> Figures:
    """Latency to the last viewer, and memory."""
    servers: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            report = watch(name, broker, viewers=options.viewers, every="2s", seconds=options.seconds)
            kept = {key: report[key] for key in ("batches", "kb_a_connection", "troubles")}
            servers[name].append(report["phases"]["before"] | kept)
    return {"viewers": options.viewers, "servers": servers}


def measure_rooms(broker: Broker, _names: list[str], options: Namespace) -> Figures:
    """Deliveries/s by the number of rooms, and CPU seconds by the number of rooms without listeners."""
    spread: dict[str, list[float]] = {"one room": [], "all rooms": []}
    unheard: dict[str, list[float]] = {"alone": [], "among others": []}
    few = {"viewers": options.viewers // 5, "listening": 3, "every": "2s", "seconds": 4 * options.seconds}
    for _ in range(options.rounds):
        for name, rooms in zip(spread, (1, options.rooms), strict=True):
            many = {"viewers": options.viewers, "window": 2, "seconds": options.seconds}
            report = watch("ours", broker, rooms=rooms, listening=rooms, **many)
            spread[name].append(report["deliveries"])
        for name, rooms in zip(unheard, (3, options.rooms), strict=True):
            unheard[name].append(watch("ours", broker, rooms=rooms, **few)["cpu"])
    return {"viewers": options.viewers, "rooms": options.rooms, "spread": spread, "unheard": unheard}


def measure_burst(broker: Broker, names: list[str], options: Namespace) -> Figures:
    """What those who stay notice of those who come and leave."""
    servers = {}
    for name in names:
        report = watch(name, broker, viewers=STAYING, every="500ms", guests=options.guests, seconds=options.seconds)
        servers[name] = {
            "phases": {phase: found["last_ms"] for phase, found in report["phases"].items()},
            "guests_open": report["guests_open"], "memory_mb": report["memory"], "troubles": report["troubles"],
        }  # fmt: skip
    return {"staying": STAYING, "guests": options.guests, "servers": servers}


def beside_the_peer(
    measure: Callable[[Broker, list[str], Namespace], Figures],
) -> Callable[[Namespace], Figures]:
    """The measure with a broker, and with as many open files as it needs."""

    def measured(options: Namespace) -> Figures:
        needed = max(getattr(options, "viewers", 0), getattr(options, "guests", 0) + STAYING) + 1000
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard < needed:
            sys.exit(f"needs {needed} open files a process, and `ulimit -Hn` is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        names, left_out = list(SERVERS), ""
        try:
            go_command("peers/centrifuge")
        except subprocess.SubprocessError as error:
            names, left_out = ["ours"], f"Centrifuge: {error}"
        with own_broker(options.settings) as broker:
            return measure(broker, names, options) | {"left_out": left_out}

    return measured


PARTS = {
    "saturation": Part(
        beside_the_peer(measure_saturation),
        {"viewers": 5000, "window": "2,32", "rounds": 3, "seconds": 8.0},
        {"viewers": 200, "rounds": 1, "seconds": 2.0},
    ),
    "steady": Part(
        beside_the_peer(measure_steady),
        {"viewers": 5000, "rounds": 3, "seconds": 30.0},
        {"viewers": 200, "rounds": 1, "seconds": 6.0},
    ),
    "rooms": Part(
        beside_the_peer(measure_rooms),
        {"viewers": 5000, "rooms": 1000, "rounds": 3, "seconds": 8.0},
        {"viewers": 200, "rooms": 20, "rounds": 1, "seconds": 2.0},
    ),
    "burst": Part(beside_the_peer(measure_burst), {"guests": 10_000, "seconds": 10.0}, {"guests": 200, "seconds": 2.0}),
}

if __name__ == "__main__":
    main(__doc__, "streams", PARTS)
