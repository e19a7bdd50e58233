#!/usr/bin/env python3
"""Measure the app's ingest beside its peers, in one run, against one broker of this run's own.

usage: .venv/bin/python benchmarks/ingest.py rates [--rounds 3] [--seconds 8] [--peers NAME,...] [--json FILE]
       .venv/bin/python benchmarks/ingest.py latency [--rounds 3] [--seconds 20] [--peers NAME,...] [--json FILE]
       .venv/bin/python benchmarks/ingest.py scaling [--rounds 3] [--seconds 8] [--json FILE]
       .venv/bin/python benchmarks/ingest.py overload [--seconds 60] [--peers NAME,...] [--json FILE]

rates     closed loop, 64 kept-alive connections: accepted events/s, peers in turn, round after round. Ratios are of
          ours (2 workers) to the peer, of the same round.
scaling   as rates, of ours with one worker and with two over 256 connections, each worker held to a quarter of a core
          by a cgroup: else they and the broker compete for what cores there are, and a second worker only moves what is
          short.
latency   open loop at half of the rate that the same server has just reached.
overload  open loop at 3 × that rate over 4,000 connections, and over 8,000; then at half of it, to see it recover.

Peers (PEERS below): Flask's development server, FastAPI + aiokafka, Go net/http + sarama, and ours by workers, ACK and
events a request. Whatever was answered 200 is balanced against the topic's end offsets. The broker is warmed up first.
The load generator has the last core for itself, because the phones that it stands for do not run on the server: on
shared cores it would take from a server what its own work costs, the more the faster that is. Server and broker share
the others. Needs Go, and PyPI and the Go proxy the first time; everything lies in DATA_DIR/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import spread, write
from benchmarks.machine import BENCHMARKS_DIR, build_go, describe, held, server_process
from emostream.broker import consumer, partitions
from emostream.settings import load
from testkit.broker import Broker, running_broker
from testkit.processes import cpu_seconds, resident_mb, tree
from testkit.settings import environment_for
from testkit.waiting import wait_until

DATA_DIR = load().data_path / "benchmarks"
OURS = "ours-2"
TAP = json.dumps({"user_id": "ready", "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00+00:00"}).encode()
FLOOD_CONNECTIONS = (4000, 8000)
# For scaling: what each worker gets, and over how many connections. Fewer for each cost a worker more for the same
# work, and 64 are few for two (1.6 x one).
CORE_SHARE = 0.25
SCALING_CONNECTIONS = 256
WARM_UP_SECONDS = 60.0  # at most
NONE: dict[str, list[Any]] = {"round": [], "rate": []}
Report = dict[str, Any]
Figures = dict[str, Any]


class LeftOut(Exception):
    """A peer that cannot run here; the text says why."""


@dataclass(frozen=True)
class Peer:
    """A server to measure. `command` may hold {port}, {brokers}, {topic}, {bin}, {venv}; `load` is the generator's."""

    what: str
    command: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)
    load: tuple[str, ...] = ()
    path: str = "/send-emoji"


def ours(workers: int, ack: str = "buffer") -> Peer:
    """Our app."""
    settings = {"APP_WORKERS": str(workers), "ACK": ack}
    return Peer(f"ours, {workers} worker{'s' * (workers > 1)}, ACK={ack}", (sys.executable, "app.py"), settings)


def ours_in_batches(kind: str, *options: str) -> Peer:
    """Our app, by POST /send-emojis."""
    single = ours(2)
    what = f"{single.what}, 1,000 events a request, {kind}"
    return Peer(what, single.command, single.settings, ("-batch", "1000", *options), "/send-emojis")


def python_peer(what: str, script: str) -> Peer:
    """A peer in its own virtual environment."""
    return Peer(what, ("{venv}/bin/python", str(BENCHMARKS_DIR / "peers" / script), "{port}", "{brokers}", "{topic}"))


def go_peer(what: str, *options: str) -> Peer:
    """The peer in Go."""
    return Peer(what, ("{bin}/sarama", "-port", "{port}", "-brokers", "{brokers}", "-topic", "{topic}", *options))


PEERS = {
    OURS: ours(2),
    "ours-1": ours(1),
    "ours-2-broker": ours(2, "broker"),
    "ours-1-broker": ours(1, "broker"),
    "ours-batch": ours_in_batches("array"),
    "ours-ndjson": ours_in_batches("NDJSON", "-ndjson"),
    "flask": python_peer("Flask development server + kafka-python", "flask_dev.py"),
    "fastapi": python_peer("FastAPI + aiokafka, 2 uvicorn workers", "fastapi_aiokafka.py"),
    "go": go_peer("Go net/http + sarama"),
    "go-idempotent": go_peer("Go net/http + sarama, idempotent", "-idempotent"),
}


class Bench:
    """One broker, and one server at a time."""

    def __init__(self, broker: Broker, bin_dir: Path, venv: Path, generator_core: int | None) -> None:
        """The generator runs on `generator_core`, where there is one for it."""
        self.broker, self.bin_dir, self.venv = broker, bin_dir, venv
        self.port = int(broker.environment["APP_PORT"])
        self.topic = load([], broker.environment).emoji_topic
        self.generator_core = generator_core

    @contextmanager
    def serving(self, peer: Peer) -> Iterator[int]:
        """The server's pid, once it takes taps. Raises LeftOut."""
        places = {
            "port": self.port,
            "brokers": self.broker.servers,
            "topic": self.topic,
            "bin": self.bin_dir,
            "venv": self.venv,
        }
        command = [part.format(**places) for part in peer.command]
        if not Path(command[0]).exists():
            raise LeftOut(f"there is no {command[0]}")
        self.offsets_at_start = self.offsets()
        environment = self.broker.environment | peer.settings
        with server_process(peer.what, command, environment, DATA_DIR / "servers.log") as server:
            status = wait_until("the server answers", lambda: self.answer(server, peer))
            if status != 200:
                raise LeftOut(f"POST {peer.path} is answered {status}")
            self.ready_taps = 1
            yield server.pid

    def warm_up(self, seconds: float) -> None:
        """A broker that has just started spends its first minute under load on compiling itself."""
        with self.serving(PEERS[OURS]) as server:
            self.generate(PEERS[OURS], server, seconds=seconds, warm=0)

    def answer(self, server: subprocess.Popen[bytes], peer: Peer) -> int:
        """The status that one tap is answered with; 0 while nobody listens."""
        if server.poll() is not None:
            raise LeftOut(f"it ended with {server.returncode}; see {DATA_DIR / 'servers.log'}")
        body = b"[%s]" % TAP if peer.load else TAP
        url = f"http://127.0.0.1:{self.port}{peer.path}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code if error.code != 503 else 0
        except OSError:
            return 0

    def offsets(self) -> int:
        """How many records were ever written to the topic."""
        reader = consumer(load([], self.broker.environment), None)
        try:
            return sum(reader.end_offsets(partitions(self.topic)).values())
        finally:
            reader.close()

    def generate(self, peer: Peer, server: int, **options: object) -> Report:
        """Run the load generator; its report, with what the server used: cpu (s), memory (MB at each second)."""
        flags = [f"-{name}={value}" for name, value in options.items()]
        used = cpu_seconds(server)
        memory, stop = [resident_mb(server)], threading.Event()

        def sample() -> None:
            while not stop.wait(1.0):
                memory.append(resident_mb(server))

        sampling = threading.Thread(target=sample)
        sampling.start()
        command = [str(self.bin_dir / "load"), "-port", str(self.port), *peer.load, *flags]
        if self.generator_core is not None:
            command = ["taskset", "--cpu-list", str(self.generator_core), *command]
        try:
            answered = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300)
        finally:
            stop.set()
            sampling.join()
        report: Report = json.loads(answered.stdout)
        now = cpu_seconds(server)
        report["cpu"] = sum(now[pid] - used.get(pid, 0.0) for pid in now)
        report["memory"] = memory
        return report

    def balance(self, *reports: Report) -> str:
        """Whether all that was accepted since the server started is on the topic, in words."""
        accepted = sum(report["accepted"] for report in reports) + self.ready_taps
        unknown = sum(report["unknown"] for report in reports)
        deadline = time.monotonic() + 15
        while (written := self.offsets() - self.offsets_at_start) < accepted and time.monotonic() < deadline:
            time.sleep(0.2)
        if accepted <= written <= accepted + unknown:
            return "all there" + f", {unknown} unanswered" * bool(unknown)
        return f"MISSING {accepted - written} of {accepted}" if written < accepted else f"{written - accepted} MORE"


def refusals(report: Report) -> str:
    """What was not answered 200, in words."""
    found = [f"{n:,} × {status}" for status, n in sorted(report["statuses"].items()) if status != "200"]
    found += [f"{report[what]:,} {what}" for what in ("broken", "abandoned") if report[what]]
    return ", ".join(found)


def measure_rates(bench: Bench, names: list[str], rounds: int, seconds: float) -> Figures:
    """Accepted events/s at 64 connections, what they cost, and ratios."""
    found, left_out = Found(), {}
    for number in range(rounds):
        for name in [name for name in names if name not in left_out]:
            try:
                with bench.serving(PEERS[name]) as server:
                    report = bench.generate(PEERS[name], server, seconds=seconds)
                    balance = bench.balance(report)
            except LeftOut as reason:
                left_out[name] = f"{PEERS[name].what}: {reason}"
                print(f"left out: {name}, {left_out[name]}", flush=True)
                continue
            cost = 1e6 * report["cpu"] / max(report["accepted"], 1)
            found.add(name, round=number, rate=report["rate"], cpu_us=cost, memory_mb=max(report["memory"]),
                      p99_ms=report["latency_ms"]["p99"], balance=balance, refusals=refusals(report))  # fmt: skip
            print(
                f"  round {number + 1}, {PEERS[name].what}: {report['rate']:,.0f} events/s, "
                f"{cost:.1f} µs CPU an event, {max(report['memory']):.0f} MB, "
                f"p99 {report['latency_ms']['p99']:.1f} ms; topic: {balance}; {refusals(report)}", flush=True,
            )  # fmt: skip
    print(f"\n{'':58} {'events/s, min / median / max':>30}   {OURS} ÷ it, min / median / max")
    for name, peer in found.peers.items():
        ratios = found.ratios(name)
        print(f"{peer['what']:58} {spread(peer['rate']):>30}   {spread(ratios, 2) if ratios else ''}")
        peer["ours_to_it"] = ratios
    return {"seconds": seconds, "connections": 64, "peers": found.peers, "left_out": left_out}


def measure_scaling(bench: Bench, _names: list[str], rounds: int, seconds: float) -> Figures:
    """Accepted events/s of one worker and of two, each with the same share of a core."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers, reached in rates.items():
            with bench.serving(ours(workers)) as server, held(tree(server)[1:], CORE_SHARE):
                report = bench.generate(ours(workers), server, seconds=seconds, connections=SCALING_CONNECTIONS)
                reached.append(report["rate"])
        ratio = rates[2][-1] / rates[1][-1]
        print(f"  round {number + 1}: one {rates[1][-1]:,.0f}/s, two {rates[2][-1]:,.0f}/s, {ratio:.2f} x", flush=True)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        "seconds": seconds, "share": CORE_SHARE, "connections": SCALING_CONNECTIONS,
        "one": rates[1], "two": rates[2], "ratio": ratios,
    }  # fmt: skip


class Found:
    """What was found of each peer, a value a round."""

    def __init__(self) -> None:
        self.peers: dict[str, dict[str, Any]] = {}

    def add(self, name: str, **values: object) -> None:
        """Append a round's values."""
        peer = self.peers.setdefault(name, {"what": PEERS[name].what})
        for key, value in values.items():
            peer.setdefault(key, []).append(value)

    def ratios(self, name: str) -> list[float]:
        """Ours to it, of the rounds that both have."""
        both = self.peers.get(OURS, NONE), self.peers[name]
        ours, it = (dict(zip(peer["round"], peer["rate"], strict=True)) for peer in both)
        return [ours[number] / it[number] for number in it if ours.get(number) and it[number]]


def measure_latency(bench: Bench, names: list[str], rounds: int, seconds: float) -> Figures:
    """Latencies at half of the top rate, by an open loop."""
    found, left_out = Found(), {}
    for number in range(rounds):
        for name in [name for name in names if name not in left_out]:
            peer = PEERS[name]
            try:
                with bench.serving(peer) as server:
                    top = bench.generate(peer, server, seconds=6)
                    half = top["rate"] / 2 / (1000 if peer.load else 1)
                    report = bench.generate(peer, server, seconds=seconds, rate=half)
                    balance = bench.balance(top, report)
            except LeftOut as reason:
                left_out[name] = f"{peer.what}: {reason}"
                print(f"left out: {name}, {left_out[name]}", flush=True)
                continue
            took = report["latency_ms"]
            found.add(name, round=number, rate=top["rate"], half=half, p50_ms=took["p50"], p90_ms=took["p90"],
                      p99_ms=took["p99"], max_ms=took["max"], balance=balance, refusals=refusals(report))  # fmt: skip
            print(
                f"{peer.what:58} top {top['rate']:,.0f} events/s; at {half:,.0f} requests/s: p50 {took['p50']:.1f} ms, "
                f"p90 {took['p90']:.1f} ms, p99 {took['p99']:.1f} ms, max {took['max']:.0f} ms; topic: {balance}; "
                f"{refusals(report)}", flush=True,
            )  # fmt: skip
    return {"seconds": seconds, "peers": found.peers, "left_out": left_out}


def measure_overload(bench: Bench, names: list[str], _rounds: int, seconds: float) -> Figures:
    """Goodput, refusals, memory and recovery at 3 × the top rate, by the number of connections."""
    peers: dict[str, Any] = {}
    left_out = {}
    for name in names:
        peer = PEERS[name]
        try:
            floods = [flood(bench, peer, connections, seconds) for connections in FLOOD_CONNECTIONS]
        except LeftOut as reason:
            left_out[name] = f"{peer.what}: {reason}"
            print(f"left out: {name}, {left_out[name]}", flush=True)
            continue
        peers[name] = {"what": peer.what, "floods": floods}
    return {"seconds": seconds, "peers": peers, "left_out": left_out}


def flood(bench: Bench, peer: Peer, connections: int, seconds: float) -> Figures:
    """One server's top rate, 3 × that over so many connections, then half of it. Raises LeftOut."""
    with bench.serving(peer) as server:
        top = bench.generate(peer, server, seconds=10, warm=10)
        requests = top["rate"] / (1000 if peer.load else 1)
        over = bench.generate(
            peer, server, seconds=seconds, warm=0, rate=3 * requests, connections=connections, patience="1s"
        )
        after = bench.generate(peer, server, seconds=10, warm=0, rate=requests / 2)
        balance = bench.balance(top, over, after)
    by_second = over["timeline"][: int(seconds)]
    last_refusal = max((n + 1 for n, second in enumerate(after["timeline"]) if second["refused"]), default=0)
    found = {
        "connections": connections, "top": top["rate"], "sent": over["sent_rate"], "goodput": over["rate"],
        "by_second": [second["accepted"] for second in by_second],
        "refused_by_second": [second["refused"] for second in by_second], "memory_mb": over["memory"],
        "accepted_ms": over["latency_ms"], "refusals": refusals(over), "last_refusal_second": last_refusal,
        "after_ms": after["latency_ms"], "balance": balance,
    }  # fmt: skip
    print(
        f"{peer.what}: top {top['rate']:,.0f} events/s. {seconds:g} s at 3 × that over {connections:,} connections, "
        f"of which the generator sent {over['sent_rate']:,.0f} requests/s: goodput {over['rate']:,.0f} events/s = "
        f"{over['rate'] / top['rate']:.0%} of top (worst second {min(found['by_second']):,}); {refusals(over)}; "
        f"200s after p50 {over['latency_ms']['p50']:.0f}, p99 {over['latency_ms']['p99']:.0f} ms.\n"
        f"  memory, MB, each 5 s: {', '.join(f'{mb:.0f}' for mb in over['memory'][::5])}\n"
        f"  then at half of top: last refusal in second {last_refusal}; p99 {after['latency_ms']['p99']:.0f} ms; "
        f"{refusals(after)}; memory {after['memory'][-1]:.0f} MB\n"
        f"  topic: {balance}; generator {over['cpu_seconds']:.0f} s CPU, server {over['cpu']:.0f} s", flush=True,
    )  # fmt: skip
    return found


def set_a_core_apart() -> int | None:
    """The last core, which this process and all that it starts leave to others; None where there is only one."""
    *others, last = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    os.sched_setaffinity(0, others)
    return last


def python_peers_environment() -> Path:
    """A virtual environment with what the peers import; where it cannot be had they are left out."""
    venv, wanted = DATA_DIR / "peers-venv", BENCHMARKS_DIR / "peers" / "requirements.txt"
    stamp = venv / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        python = str(venv / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)]
        try:
            subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
            subprocess.run(pip, check=True, timeout=300)
        except subprocess.SubprocessError as error:
            print(f"left out: the peers in Python: {error}", flush=True)
            return DATA_DIR / "none"
        stamp.write_text(wanted.read_text())
    return venv


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {
        "rates": (measure_rates, 8.0), "scaling": (measure_scaling, 8.0),
        "latency": (measure_latency, 20.0), "overload": (measure_overload, 60.0),
    }  # fmt: skip
    parser.add_argument("what", choices=measures)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--peers", help=f"comma-separated, of {', '.join(PEERS)}; default: all; for overload: {OURS}")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    args = parser.parse_args()
    names = args.peers.split(",") if args.peers else [OURS] if args.what == "overload" else list(PEERS)
    if unknown := set(names) - set(PEERS):
        parser.error(f"there is no peer {', '.join(sorted(unknown))}; expected some of {', '.join(PEERS)}")
    build_go("load", DATA_DIR / "bin")
    try:
        build_go("peers/sarama", DATA_DIR / "bin")
    except subprocess.SubprocessError as error:
        print(f"left out: the peers in Go: {error}", flush=True)
    venv = python_peers_environment()
    print(describe(), flush=True)
    generator_core = set_a_core_apart()
    with running_broker(environment_for(DATA_DIR / "broker", BIND_HOST="127.0.0.1")) as broker:
        measure, default_seconds = measures[args.what]
        seconds = args.seconds or default_seconds
        bench = Bench(broker, DATA_DIR / "bin", venv, generator_core)
        bench.warm_up(min(WARM_UP_SECONDS, 5 * seconds))
        found = measure(bench, names, args.rounds, seconds)
    write(args.json, f"ingest-{args.what}", found)


if __name__ == "__main__":
    main()
