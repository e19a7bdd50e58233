#!/usr/bin/env python3
"""Measure a subscriber's GET /stream beside Centrifuge's handler of Server-Sent Events, in one run, fed by one broker.

usage: .venv/bin/python benchmarks/fanout.py saturation [--viewers 5000] [--window 2,32] [--rounds 3] [--seconds 10]
       .venv/bin/python benchmarks/fanout.py steady [--viewers 5000] [--rounds 3] [--seconds 30]
       .venv/bin/python benchmarks/fanout.py burst [--guests 10000] [--seconds 10]; each takes [--json FILE]

saturation  as many micro-batches as the server can fan out, a window of them on their way at once: deliveries/s, in
            turn, round after round; the ratio is of ours to the peer, of the same round. With 2 on their way nearly
            every delivery is a write of its own, as in a match; with 32 a server may join what waits for a viewer.
steady      a micro-batch every 2 s: from produce to the last viewer, and what a connection adds to resident memory.
burst       500 viewers stay while `guests` more come within `seconds` and then leave at once: what the 500 notice
            before, with and after them, and the server's memory.

Load generator (benchmarks/viewers), server and broker share the cores. Needs Go, and the Go proxy the first time;
everything lies in DATA_DIR/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import spread, write
from benchmarks.machine import build_go, describe, server_process
from emostream.settings import CLUSTER_TOPICS, load
from testkit.broker import Broker, running_broker
from testkit.ports import listening
from testkit.processes import cpu_seconds, resident_mb
from testkit.settings import environment_for
from testkit.waiting import wait_until

DATA_DIR = load().data_path / "benchmarks"
TOPIC = CLUSTER_TOPICS[0]
SERVERS = {"ours": "/stream", "Centrifuge": "/connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D"}
STAYING = 500
Report = dict[str, Any]


@contextmanager
def serving(name: str, broker: Broker) -> Iterator[tuple[int, int]]:
    """(pid, port) of a server that is ready for streams."""
    port = int(broker.environment["STREAM_BASE_PORT"]) + 1
    ours = [sys.executable, "subscriber.py", f"CLUSTER-TOPIC={TOPIC}", "SUBSCRIBER=1", "MAX_STREAMS=12000"]
    peer = [str(DATA_DIR / "bin" / "centrifuge"), "-port", str(port), "-brokers", broker.servers, "-topic", TOPIC]
    log_path = DATA_DIR / "servers.log"
    with server_process(name, ours if name == "ours" else peer, broker.environment, log_path) as server:

        def ready() -> bool:
            if server.poll() is not None:
                raise SystemExit(f"{name} ended with {server.returncode}; see {log_path}")
            return listening(port)

        wait_until(f"{name} listens on {port}", ready)
        yield server.pid, port


def watch(name: str, broker: Broker, **options: object) -> Report:
    """Run viewers against a server; their report, with the server's cpu (s) and memory (MB, each half second)."""
    with serving(name, broker) as (server, port):
        memory, used, stop = [resident_mb(server)], cpu_seconds(server), threading.Event()

        def sample() -> None:
            while not stop.wait(0.5):
                memory.append(resident_mb(server))

        sampling = threading.Thread(target=sample)
        sampling.start()
        flags = [f"-{option}={value}" for option, value in options.items()]
        where = [f"-port={port}", f"-path={SERVERS[name]}", f"-brokers={broker.servers}", f"-topic={TOPIC}"]
        try:
            viewers = [str(DATA_DIR / "bin" / "viewers"), *where, *flags]
            said = subprocess.run(viewers, stdout=subprocess.PIPE, check=True, timeout=400)
            now = cpu_seconds(server)
            if name == "ours":
                print(f"  ours, when all have left: {status_without_streams(broker)}", flush=True)
        finally:
            stop.set()
            sampling.join()
        report: Report = json.loads(said.stdout)
        report["memory"] = memory
        report["cpu"] = sum(now[pid] - used.get(pid, 0.0) for pid in now)
        return report


def status_without_streams(broker: Broker) -> str:
    """What our subscriber says of itself once no stream is open, or that it does not get there."""
    url = f"http://127.0.0.1:{int(broker.environment['SUBSCRIBER_BASE_PORT']) + 1}/status"

    def status() -> dict[str, Any]:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return {} if found["streams"] else found

    try:
        return json.dumps(wait_until("the streams are gone", status, 30))
    except (AssertionError, OSError) as error:
        return f"GET {url}: {error}"


def troubles(report: Report) -> str:
    """What should not have happened, in words."""
    found = [f"{report[what]} {what}" for what in ("merged", "missing", "repeated", "gaps", "closed") if report[what]]
    found += [f"{n} × {status!r}" for status, n in report["refused"].items()]
    return ", ".join(found) or "nothing missing, repeated or merged"


def took(summary: dict[str, float]) -> str:
    """A summary of milliseconds."""
    return f"p50 {summary['p50']:.0f}, p99 {summary['p99']:.0f}, max {summary['max']:.0f} ms"


def per_connection_kb(report: Report) -> float:
    """What one connection added to the server's memory at its largest."""
    return float(1024 * (max(report["memory"]) - report["memory"][0]) / report["viewers"])


def measure_saturation(broker: Broker, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Deliveries/s and ratios."""
    windows = {}
    for window in map(int, args.window.split(",")):
        found: dict[str, list[Report]] = {name: [] for name in names}
        for number in range(args.rounds):
            for name in names:
                report = watch(name, broker, viewers=args.viewers, window=window, seconds=args.seconds or 10)
                found[name].append(report)
                print(
                    f"  window {window}, round {number + 1}, {name}, {report['viewers']} viewers: "
                    f"{report['deliveries']:,.0f} deliveries/s, {report['batches'] / report['seconds']:.1f} batches/s, "
                    f"viewers {report['cpu_seconds']:.0f} s CPU, server {cost_us(report):.1f} µs a delivery, "
                    f"{per_connection_kb(report):.1f} KB a connection; {troubles(report)}", flush=True,
                )  # fmt: skip
        windows[str(window)] = {
            name: {
                "deliveries": [r["deliveries"] for r in reports],
                "kb_a_connection": [per_connection_kb(r) for r in reports],
                "cpu_us": [cost_us(r) for r in reports],
                "troubles": [troubles(r) for r in reports],
                "ours_to_it": [
                    ours["deliveries"] / it["deliveries"]
                    for ours, it in zip(found.get("ours", []), reports, strict=False)
                ],
            }
            for name, reports in found.items()
        }
        for name, it in windows[str(window)].items():
            print(
                f"window {window}, {name}: deliveries/s, min / median / max: {spread(it['deliveries'])}; "
                f"KB a connection: {spread(it['kb_a_connection'], 1)}; "
                f"ours ÷ it: {spread(it['ours_to_it'], 2) if it['ours_to_it'] else 'not measured'}", flush=True,
            )  # fmt: skip
    return {"viewers": args.viewers, "windows": windows}


def cost_us(report: Report) -> float:
    """The server's CPU time for one delivery."""
    return float(1e6 * report["cpu"] / max(report["deliveries"] * report["seconds"], 1))


def measure_steady(broker: Broker, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Latency to the last viewer, and memory."""
    servers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            report = watch(name, broker, viewers=args.viewers, every="2s", seconds=args.seconds or 30)
            phase = report["phases"]["before"]
            servers[name].append(
                {"last_ms": phase["last_ms"], "any_ms": phase["any_ms"], "batches": report["batches"],
                 "kb_a_connection": per_connection_kb(report), "troubles": troubles(report)}
            )  # fmt: skip
            print(
                f"{name:12} {report['viewers']} viewers, {report['batches']} batches: to the last viewer "
                f"{took(phase['last_ms'])}; to any {took(phase['any_ms'])}; memory {report['memory'][0]:.0f} → "
                f"{max(report['memory']):.0f} MB = {per_connection_kb(report):.1f} KB a connection; {troubles(report)}",
                flush=True,
            )
    return {"viewers": args.viewers, "servers": servers}


def measure_burst(broker: Broker, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """What those who stay notice of those who come and leave."""
    servers = {}
    for name in names:
        report = watch(
            name, broker, viewers=STAYING, every="500ms", guests=args.guests, seconds=args.seconds or 10
        )  # fmt: skip
        servers[name] = {"phases": {phase: found["last_ms"] for phase, found in report["phases"].items()},
                         "guests_open": report["guests_open"], "memory_mb": report["memory"],
                         "troubles": troubles(report)}  # fmt: skip
        came = f"{report['guests_open']} of {args.guests} guests came"
        print(f"{name:12} {report['viewers']} stay; {came}; {troubles(report)}")
        for phase in ("before", "with", "after"):
            last = report["phases"][phase]["last_ms"]
            print(f"{'':12} {phase:6} them: to the last of those who stay {took(last)}, {last['n']} batches")
        print(f"{'':12} memory, MB, each 5 s: {', '.join(f'{mb:.0f}' for mb in report['memory'][::10])}", flush=True)
    return {"staying": STAYING, "guests": args.guests, "servers": servers}


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {"saturation": measure_saturation, "steady": measure_steady, "burst": measure_burst}
    parser.add_argument("what", choices=measures)
    parser.add_argument("--viewers", type=int, default=5000)
    parser.add_argument("--guests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", default="2,32", help="saturation: batches on their way at once")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--only", choices=SERVERS)
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    args = parser.parse_args()
    needed = max(args.viewers, args.guests + STAYING) + 1000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < needed:
        sys.exit(f"needs {needed} open files a process, and `ulimit -Hn` is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    build_go("viewers", DATA_DIR / "bin")
    names, left_out = [args.only] if args.only else list(SERVERS), ""
    try:
        build_go("peers/centrifuge", DATA_DIR / "bin")
    except subprocess.SubprocessError as error:
        left_out = f"Centrifuge: {error}"
        names = [name for name in names if name != "Centrifuge"]
        print(f"left out: {left_out}", flush=True)
    print(describe(), flush=True)
    with running_broker(environment_for(DATA_DIR / "broker", BIND_HOST="127.0.0.1")) as broker:
        found = measures[args.what](broker, names, args)
    write(args.json, f"streams-{args.what}", found | {"left_out": left_out})


if __name__ == "__main__":
    main()
