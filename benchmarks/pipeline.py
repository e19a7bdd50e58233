#!/usr/bin/env python3
"""Measure a running system (./start.sh up), from the outside: only its HTTP interfaces, Kafka, and /proc.

usage: .venv/bin/python benchmarks/pipeline.py latency [--rate 10] [--seconds 60] [--background 0]
       .venv/bin/python benchmarks/pipeline.py load [--rate 2000] [--seconds 60]
       .venv/bin/python benchmarks/pipeline.py rest [--seconds 30]

latency   tap → client: every tap has an emoji of its own, so each of the three clients, one on each cluster, knows when
          its count should have come. Taps are sent by the clock whether or not earlier ones were answered (open loop),
          beside as many others a second as --background says, which needs Go.
load      `rate` events/s for `seconds`; then how many were counted on MAIN_TOPIC, and how long the last took to arrive.
rest      resident memory and CPU time of every process, while nobody taps. Linux only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import percentile
from benchmarks.machine import build_go, cpu_seconds, describe, field
from emostream.broker import consumer, partitions
from emostream.settings import CLUSTER_TOPICS, Settings, load

SENDERS = 16
REQUEST_HEAD = "POST /send-emoji HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def send_open_loop(
    settings: Settings, emojis: Iterator[str], rate: float, seconds: float
) -> tuple[dict[str, float], int]:
    """Send a tap every 1/rate s over kept-alive connections; `({emoji: when it was due, Unix seconds}, refused)`."""
    due: dict[str, float] = {}
    refused = 0
    lock = threading.Lock()
    total = int(rate * seconds)
    began = time.time() + 0.2

    def send(sender: int) -> None:
        nonlocal refused
        # Bare sockets: http.client costs the generator more than a tap costs the app, on the same two cores.
        connection = socket.create_connection((settings.client_host, settings.app_port), timeout=10)
        answers = connection.makefile("rb")
        for number in range(sender, total, SENDERS):
            when = began + number / rate
            with lock:
                emoji = next(emojis)
                due.setdefault(emoji, when)
            body = json.dumps({"user_id": "benchmark", "emoji_type": emoji, "timestamp": "2026-01-01T00:00:00Z"})
            request = f"{REQUEST_HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode()
            time.sleep(max(0.0, when - time.time()))
            connection.sendall(request)
            taken = answers.readline().startswith(b"HTTP/1.1 200")
            length = 0
            while (line := answers.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answers.read(length)
            if not taken:
                with lock:
                    refused += 1

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return due, refused


Arrival = tuple[float, float, float]  # Unix seconds: on emoji-topic, counted, at the client


def receiving_client(settings: Settings, cluster_topic: str, came: dict[str, Arrival]) -> ThreadingHTTPServer:
    """A client registered with a subscriber of this cluster; `came` gets emoji → when."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            count = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            when = (count["last_accepted_ms"] / 1000, count["batched_ms"] / 1000, time.time())
            came.setdefault(count["emoji"], when)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((settings.client_host, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    call_subscriber(settings, cluster_topic, "/register", server)
    return server


def call_subscriber(settings: Settings, cluster_topic: str, path: str, client: ThreadingHTTPServer) -> None:
    """POST a client's URL to the first subscriber of a cluster."""
    port = settings.subscriber_port(cluster_topic, 1)
    connection = http.client.HTTPConnection(settings.client_host, port, timeout=10)
    url = f"http://{settings.client_host}:{client.server_port}/"
    connection.request("POST", path, json.dumps({"client_url": url}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{path} at port {port}: {answer.status} {answer.read().decode()}")


def measure_latency(settings: Settings, rate: float, seconds: float, background: float) -> None:
    """Print tap → client percentiles over three clusters, and where the median tap spends its time."""
    came: dict[str, dict[str, Arrival]] = {topic: {} for topic in CLUSTER_TOPICS}
    warm_seconds = 10.0
    others = None
    if background:
        load_path = build_go("load", settings.data_path / "benchmarks" / "bin")
        others = subprocess.Popen(
            [load_path, "-port", str(settings.app_port), "-rate", str(background), "-warm", "0",
             "-seconds", str(seconds + warm_seconds + 5)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    clients = {topic: receiving_client(settings, topic, came[topic]) for topic in CLUSTER_TOPICS}
    run = f"{os.getpid():x}"
    send_open_loop(settings, (f"warm-{run}-{n}" for n in range(10**9)), rate, warm_seconds)
    due, refused = send_open_loop(settings, (f"tap-{run}-{n}" for n in range(10**9)), rate, seconds)
    deadline = time.time() + 15
    while time.time() < deadline and any(emoji not in seen for seen in came.values() for emoji in due):
        time.sleep(0.1)
    for topic, client in clients.items():
        call_subscriber(settings, topic, "/deregister", client)
    arrivals = [(when, *seen[emoji]) for seen in came.values() for emoji, when in due.items() if emoji in seen]
    delays = [arrival[-1] - arrival[0] for arrival in arrivals]
    print(
        f"tap → client at {rate:g} events/s for {seconds:g} s, one client on each of 3 clusters: "
        f"p50 {percentile(delays, 50):.2f} s, p99 {percentile(delays, 99):.2f} s, max {max(delays):.2f} s, "
        f"mean {statistics.mean(delays):.2f} s; "
        f"{len(due)} taps, {refused} refused, {3 * len(due) - len(delays)} deliveries missing"
    )
    stages = ("tap to Kafka's producer", "to counted (linger, trigger, count)", "to client (commit, route, push)")
    for number, stage in enumerate(stages):
        times = [arrival[number + 1] - arrival[number] for arrival in arrivals]
        print(f"  {stage}: p50 {percentile(times, 50):.3f} s, p99 {percentile(times, 99):.3f} s")
    if others:
        report = json.loads(others.communicate()[0])
        print(f"  beside it {report['rate']:.0f} taps/s were answered 200; all answers {report['statuses']}")


def measure_load(settings: Settings, rate: float, seconds: float) -> None:
    """Print how many of `rate` events/s were counted, and how far the count was behind when the last was sent."""
    reader = consumer(settings, None)
    assigned = partitions(settings.main_topic)
    reader.assign(assigned)
    reader.seek_to_end()
    for tp in assigned:
        reader.position(tp)
    run = f"{os.getpid():x}"
    emojis = (f"load-{run}-{n % 5}" for n in range(10**9))
    counted: list[tuple[float, int, float]] = []
    done = threading.Event()
    total = int(rate * seconds)

    def count() -> None:
        while not done.is_set():
            for records in reader.poll(timeout_ms=100).values():
                for record in records:
                    value = json.loads(record.value)
                    if value["emoji"].startswith(f"load-{run}"):
                        counted.append((time.time(), value["events"], value["last_accepted_ms"] / 1000))

    counting = threading.Thread(target=count)
    counting.start()
    began = time.time()
    _, refused = send_open_loop(settings, emojis, rate, seconds)
    ended = time.time()
    deadline = ended + 60
    while time.time() < deadline and sum(events for _, events, _ in counted) < total - refused:
        time.sleep(0.05)
    done.set()
    counting.join()
    events = sum(events for _, events, _ in counted)
    last = max(when for when, _, _ in counted)
    print(
        f"load: {total} events at {rate:g} events/s (reached {total / (ended - began):.0f}/s), {refused} refused; "
        f"counted {events} = accepted {total - refused}: {events == total - refused}; "
        f"the last count came {last - ended:.2f} s after the last tap "
        f"(one batch and one linger: {settings.batch_seconds + settings.linger_ms / 1000:g} s)"
    )


def measure_rest(settings: Settings, seconds: float) -> None:
    """Print memory and CPU time of supervisord and everything below it."""
    root = int((settings.data_path / "run" / "supervisord.pid").read_text())
    before = cpu_seconds(root)
    time.sleep(seconds)
    after = cpu_seconds(root)
    resident_kb = {pid: int(field(pid, "status", "VmRSS:")) for pid in after}
    shared_out_kb = {pid: int(field(pid, "smaps_rollup", "Pss:")) for pid in after}
    used = {pid: 100 * (after[pid] - before.get(pid, after[pid])) / seconds for pid in after}
    for pid in after:
        command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        print(f"{pid:>8} {resident_kb[pid] / 1024:7.0f} MB {used[pid]:6.1f} % of a core  {command[:90]}")
    print(
        f"at rest: {sum(resident_kb.values()) / 1024:.0f} MB resident ({sum(shared_out_kb.values()) / 1024:.0f} MB "
        f"with shared pages counted once), {sum(used.values()):.1f} % of one core, "
        f"over {len(after)} processes in {seconds:g} s"
    )


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "load", "rest"])
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--background", type=float, default=0, help="latency: other taps a second")
    args = parser.parse_args()
    settings = load()
    print(describe())
    if args.what == "latency":
        measure_latency(settings, args.rate or 10, args.seconds or 60, args.background)
    elif args.what == "load":
        measure_load(settings, args.rate or 2000, args.seconds or 60)
    else:
        measure_rest(settings, args.seconds or 30)


if __name__ == "__main__":
    main()
