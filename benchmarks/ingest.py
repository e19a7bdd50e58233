"""Measure the app's ingest beside its peers, in one run, against one broker of this run's own.

rates     closed loop, 64 kept-alive connections: accepted events/s, peers in turn, round after round. Ratios are of
          ours (2 workers) to the peer, of the same round.
scaling   as rates, of ours with one worker and with two over 256 connections, each worker held to a quarter of a core
          by a cgroup: else they and the broker compete for what cores there are, and a second worker only moves what is
          short.
acks      as rates, of ours with ACK=buffer and with ACK=broker, over 64, 250 and 1,000 connections.
latency   open loop at half of the rate that the same server has just reached.
overload  open loop at 3 × that rate over 4,000 connections, and over 8,000; then at half of it, to see it recover.

Peers (PEERS below): Flask's development server, FastAPI + aiokafka, Go net/http + sarama, and ours by workers, ACK and
events a request. Whatever was answered 200 is balanced against the topic's end offsets. The broker is warmed up first.
The load generator has the last core for itself, because the phones that it stands for do not run on the server: on
shared cores it would take from a server what its own work costs, the more the faster that is. Server and broker share
the others. Needs Go, the Go proxy the first time, and what run.sh sets up; everything lies in DATA_DIR/benchmarks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import requests

from benchmarks.machine import BENCHMARKS_DIR, DATA_DIR, Report, go_command, report_of
from benchmarks.part import Figures, Part, main, own_broker
from emostream.settings import load
from testkit.broker import Broker
from testkit.processes import held, tree
from testkit.scripts import Script, running
from testkit.waiting import wait_until

OURS = "ours-2"
TAP = {"user_id": "ready", "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00+00:00"}
FLOOD_CONNECTIONS = (4000, 8000)
ACK_CONNECTIONS = (64, 250, 1_000)
# For scaling: what each worker gets, and over how many connections. Fewer for each cost a worker more for the same
# work, and 64 are few for two (1.6 x one).
CORE_SHARE = 0.25
SCALING_CONNECTIONS = 256
WARM_UP_SECONDS = 60.0  # at most
T = TypeVar("T")


class LeftOut(Exception):
    """A peer that cannot run here; the text says why."""


@dataclass(frozen=True)
class Peer:
    """A server to measure. `command` may hold {port}, {brokers}, {topic}, {bin}, {venv}, {peers}."""

    what: str
    command: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)
    path: str = "/send-emoji"
    load: tuple[str, ...] = ()  # arguments of the load generator
    events: int = 1  # a request


def ours(workers: int, ack: str = "buffer") -> Peer:
    """Our app."""
    settings = {"APP_WORKERS": str(workers), "ACK": ack}
    return Peer(f"ours, {workers} worker{'s' * (workers > 1)}, ACK={ack}", (sys.executable, "app.py"), settings)


def ours_in_batches(kind: str, *options: str) -> Peer:
    """Our app, by POST /send-emojis."""
    single = ours(2)
    what = f"{single.what}, 1,000 events a request, {kind}"
    return Peer(what, single.command, single.settings, "/send-emojis", ("-batch", "1000", *options), 1000)


PYTHON, GO = "{venv}/bin/python", ("{bin}/sarama", "-port", "{port}", "-brokers", "{brokers}", "-topic", "{topic}")
ARGUMENTS = ("{port}", "{brokers}", "{topic}")
PEERS = {
    OURS: ours(2),
    "ours-1": ours(1),
    "ours-2-broker": ours(2, "broker"),
    "ours-1-broker": ours(1, "broker"),
    "ours-batch": ours_in_batches("array"),
    "ours-ndjson": ours_in_batches("NDJSON", "-ndjson"),
    "flask": Peer("Flask development server + kafka-python", (PYTHON, "{peers}/flask_dev.py", *ARGUMENTS)),
    "fastapi": Peer("FastAPI + aiokafka, 2 uvicorn workers", (PYTHON, "{peers}/fastapi_aiokafka.py", *ARGUMENTS)),
    "go": Peer("Go net/http + sarama", GO),
    "go-idempotent": Peer("Go net/http + sarama, idempotent", (*GO, "-idempotent")),
}


class Bench:
    """One broker, and one server at a time."""

    def __init__(self, broker: Broker, generator: list[str]) -> None:
        """`generator` is the command of the load generator."""
        self.broker, self.generator = broker, generator
        self.settings = load([], broker.environment)

    @contextmanager
    def serving(self, peer: Peer) -> Iterator[int]:
        """The server's pid, once it takes taps. Raises LeftOut."""
        known = {
            "port": self.settings.app_port, "brokers": self.broker.servers, "topic": self.settings.emoji_topic,
            "bin": DATA_DIR / "bin", "venv": DATA_DIR / "peers-venv", "peers": BENCHMARKS_DIR / "peers",
        }  # fmt: skip
        command = [part.format_map(known) for part in peer.command]
        if not Path(command[0]).exists():
            raise LeftOut(f"there is no {command[0]}")
        self.written_before = self.written()
        with running(command, self.broker.environment | peer.settings) as server:
            status = wait_until("the server answers", lambda: self.answer(server, peer))
            if status != 200:
                raise LeftOut(f"POST {peer.path} is answered {status}")
            yield server.process.pid

    def answer(self, server: Script, peer: Peer) -> int:
        """The status that one tap is answered with; 0 while nobody takes it."""
        if server.process.poll() is not None:
            raise LeftOut(f"it ended with {server.process.returncode}; see {server.log_path}")
        url = f"http://127.0.0.1:{self.settings.app_port}{peer.path}"
        try:
            status = requests.post(url, json=TAP if peer.events == 1 else [TAP], timeout=10).status_code
        except OSError:
            return 0
        return 0 if status == 503 else status

    def written(self) -> int:
        """How many events were ever written to the topic."""
        return self.broker.written(self.settings.emoji_topic)

    def generate(self, peer: Peer, server: int, **options: object) -> Report:
        """Run the load generator; its report, with what the server used: cpu (s), memory (MB at each second)."""
        flags = [f"-{name}={value}" for name, value in options.items()]
        command = [*self.generator, f"-port={self.settings.app_port}", *peer.load, *flags]
        return report_of(command, server, every_seconds=1.0)

    def balance(self, *reports: Report) -> str:
        """Whether all that was accepted since the server started is on the topic, in words."""
        accepted = sum(report["accepted"] for report in reports) + 1  # the one that showed that it answers
        unknown = sum(report["unknown"] for report in reports)
        deadline = time.monotonic() + 15
        while (written := self.written() - self.written_before) < accepted and time.monotonic() < deadline:
            time.sleep(0.2)
        if accepted <= written <= accepted + unknown:
            return "all there" + f", {unknown} unanswered" * bool(unknown)
        return f"MISSING {accepted - written} of {accepted}" if written < accepted else f"{written - accepted} MORE"


def in_turn(
    bench: Bench, names: list[str], rounds: Iterable[T], measure: Callable[[Peer, int, T], Figures]
) -> tuple[dict[str, dict[T, Figures]], dict[str, str]]:
    """What `measure` found of each peer and its server, by round; and why others were left out."""
    found: dict[str, dict[T, Figures]] = {}
    left_out: dict[str, str] = {}
    for this in rounds:
        for name in [name for name in names if name not in left_out]:
            peer = PEERS[name]
            try:
                with bench.serving(peer) as server:
                    values = measure(peer, server, this)
            except LeftOut as reason:
                left_out[name] = f"{peer.what}: {reason}"
                print(f"left out: {left_out[name]}", flush=True)
                continue
            found.setdefault(name, {})[this] = values
            shown = {key: value for key, value in values.items() if not isinstance(value, list)}
            print(f"  {this}: {peer.what}: {shown}", flush=True)
    return found, left_out


def by_round(found: dict[str, dict[int, Figures]], left_out: dict[str, str]) -> Figures:
    """A list of each value, in which a round is a place."""
    peers = {
        name: {"what": PEERS[name].what, "round": list(rounds)}
        | {key: [values[key] for values in rounds.values()] for key in next(iter(rounds.values()))}
        for name, rounds in found.items()
    }
    return {"peers": peers, "left_out": left_out}


def refusals(report: Report) -> str:
    """What was not answered 200, in words."""
    found = [f"{n:,} × {status}" for status, n in sorted(report["statuses"].items()) if status != "200"]
    found += [f"{report[what]:,} {what}" for what in ("broken", "abandoned") if report[what]]
    return ", ".join(found)


def measure_rates(bench: Bench, names: list[str], options: Namespace) -> Figures:
    """Accepted events/s at 64 connections, what they cost, and ratios."""

    def measure(peer: Peer, server: int, _: int) -> Figures:
        report = bench.generate(peer, server, seconds=options.seconds)
        return {
            "rate": report["rate"], "cpu_us": 1e6 * report["cpu"] / max(report["accepted"], 1),
            "memory_mb": max(report["memory"]), "p99_ms": report["latency_ms"]["p99"],
            "balance": bench.balance(report), "refusals": refusals(report),
        }  # fmt: skip

    found, left_out = in_turn(bench, names, range(options.rounds), measure)
    figures = by_round(found, left_out)
    for name, rounds in found.items():
        pairs = [(found.get(OURS, {}).get(number, {}).get("rate"), it["rate"]) for number, it in rounds.items()]
        figures["peers"][name]["ours_to_it"] = [ours / it for ours, it in pairs if ours and it]
    return {"seconds": options.seconds, "connections": 64} | figures


def measure_scaling(bench: Bench, _: list[str], options: Namespace) -> Figures:
    """Accepted events/s of one worker and of two, each with the same share of a core."""

    def measure(peer: Peer, server: int, _: int) -> Figures:
        with held(tree(server)[1:], CORE_SHARE):
            report = bench.generate(peer, server, seconds=options.seconds, connections=SCALING_CONNECTIONS)
        return {"rate": report["rate"]}

    found, _left_out = in_turn(bench, ["ours-1", "ours-2"], range(options.rounds), measure)
    one, two = ([values["rate"] for values in rounds.values()] for rounds in found.values())
    return {
        "seconds": options.seconds, "share": CORE_SHARE, "connections": SCALING_CONNECTIONS,
        "one": one, "two": two, "ratio": [b / a for a, b in zip(one, two, strict=True)],
    }  # fmt: skip


def measure_acks(bench: Bench, _: list[str], options: Namespace) -> Figures:
    """Accepted events/s by ACK and by the number of connections."""

    def measure(peer: Peer, server: int, this: tuple[int, int]) -> Figures:
        report = bench.generate(peer, server, seconds=options.seconds, connections=this[0])
        return {"rate": report["rate"], "p50_ms": report["latency_ms"]["p50"], "balance": bench.balance(report)}

    rounds = [(connections, number) for number in range(options.rounds) for connections in ACK_CONNECTIONS]
    buffer, broker = in_turn(bench, [OURS, "ours-2-broker"], rounds, measure)[0].values()
    rows = []
    for connections in ACK_CONNECTIONS:
        one, other = ([it[this]["rate"] for this in rounds if this[0] == connections] for it in (buffer, broker))
        rows.append({"connections": connections, "buffer": one, "broker": other,
                     "ratio": [b / a for a, b in zip(one, other, strict=True)]})  # fmt: skip
    return {"seconds": options.seconds, "rows": rows, "balances": sorted({it["balance"] for it in broker.values()})}


def measure_latency(bench: Bench, names: list[str], options: Namespace) -> Figures:
    """Latencies at half of the top rate, by an open loop."""

    def measure(peer: Peer, server: int, _: int) -> Figures:
        top = bench.generate(peer, server, seconds=6)
        half = top["rate"] / 2 / peer.events
        report = bench.generate(peer, server, seconds=options.seconds, rate=half)
        took = {f"{which}_ms": report["latency_ms"][which] for which in ("p50", "p90", "p99", "max")}
        balance = bench.balance(top, report)
        return {"rate": top["rate"], "half": half, **took, "balance": balance, "refusals": refusals(report)}

    return {"seconds": options.seconds} | by_round(*in_turn(bench, names, range(options.rounds), measure))


def measure_overload(bench: Bench, names: list[str], options: Namespace) -> Figures:
    """Goodput, refusals, memory and recovery at 3 × the top rate, by the number of connections."""

    def measure(peer: Peer, server: int, connections: int) -> Figures:
        top = bench.generate(peer, server, seconds=10, warm=10)
        requests_a_second = top["rate"] / peer.events
        over = bench.generate(
            peer, server, seconds=options.seconds, warm=0, rate=3 * requests_a_second, connections=connections,
            patience="1s",
        )  # fmt: skip
        after = bench.generate(peer, server, seconds=10, warm=0, rate=requests_a_second / 2)
        by_second = over["timeline"][: int(options.seconds)]
        last_refusal = max((n + 1 for n, second in enumerate(after["timeline"]) if second["refused"]), default=0)
        return {
            "connections": connections, "top": top["rate"], "sent": over["sent_rate"], "goodput": over["rate"],
            "by_second": [second["accepted"] for second in by_second],
            "refused_by_second": [second["refused"] for second in by_second], "memory_mb": over["memory"],
            "accepted_ms": over["latency_ms"], "refusals": refusals(over), "last_refusal_second": last_refusal,
            "after_ms": after["latency_ms"], "balance": bench.balance(top, over, after),
        }  # fmt: skip

    found, left_out = in_turn(bench, names, FLOOD_CONNECTIONS, measure)
    peers = {name: {"what": PEERS[name].what, "floods": list(floods.values())} for name, floods in found.items()}
    return {"seconds": options.seconds, "peers": peers, "left_out": left_out}


def generator_apart() -> list[str]:
    """The load generator on the last core, which this process and all that it starts leave to it."""
    *others, last = sorted(os.sched_getaffinity(0))
    if not others:  # there is only one
        return go_command("load")
    os.sched_setaffinity(0, others)
    return ["taskset", "--cpu-list", str(last), *go_command("load")]


def on_a_bench(measure: Callable[[Bench, list[str], Namespace], Figures]) -> Callable[[Namespace], Figures]:
    """The measure with a broker that is warm: its first minute under load goes into compiling itself."""

    def measured(options: Namespace) -> Figures:
        names = getattr(options, "peers", OURS).split(",")
        if unknown := set(names) - set(PEERS):
            sys.exit(f"there is no peer {', '.join(sorted(unknown))}; expected some of {', '.join(PEERS)}")
        try:
            go_command("peers/sarama")
        except subprocess.SubprocessError as error:
            print(f"left out: the peers in Go: {error}", flush=True)
        generator = generator_apart()
        with own_broker(options.settings) as broker:
            bench = Bench(broker, generator)
            with bench.serving(PEERS[OURS]) as server:
                bench.generate(PEERS[OURS], server, seconds=min(WARM_UP_SECONDS, 5 * options.seconds), warm=0)
            return measure(bench, names, options)

    return measured


PARTS = {
    "rates": Part(
        on_a_bench(measure_rates),
        {"rounds": 3, "seconds": 6.0, "peers": ",".join(PEERS)},
        {"rounds": 1, "seconds": 1.0, "peers": "ours-2,flask"},
    ),
    "scaling": Part(on_a_bench(measure_scaling), {"rounds": 3, "seconds": 6.0}, {"rounds": 1, "seconds": 1.0}),
    "acks": Part(on_a_bench(measure_acks), {"rounds": 3, "seconds": 6.0}, {"rounds": 1, "seconds": 1.0}),
    "latency": Part(
        on_a_bench(measure_latency),
        {"rounds": 3, "seconds": 15.0, "peers": "ours-2,ours-1,fastapi,go"},
        {"rounds": 1, "seconds": 2.0, "peers": OURS},
    ),
    "overload": Part(
        on_a_bench(measure_overload), {"seconds": 60.0, "peers": "ours-2,go,fastapi"}, {"seconds": 4.0, "peers": OURS}
    ),
}

if __name__ == "__main__":
    main(__doc__, "ingest", PARTS)
