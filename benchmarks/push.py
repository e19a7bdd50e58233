#!/usr/bin/env python3
"""Measure a subscriber's pushes to registered clients: a real broker, a real subscriber.py, clients in one process.

usage: .venv/bin/python benchmarks/push.py rate [--clients 200] [--records 300] [--rounds 3] [--json FILE]
       .venv/bin/python benchmarks/push.py influence [--healthy 10] [--seconds 20] [--rounds 3] [--json FILE]

rate        pushes/s of one subscriber to `clients`, beside requests.post and a requests.Session, one after another, to
            the same clients.
influence   from produce to a healthy client, p50 and p99, without and with five others: one that hangs, one that
            answers a byte a second, one that answers 500, one that redirects, and one where nobody listens; in turn,
            round after round. The ratio is of the same round.

Clients, subscriber and broker share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import requests
import uvloop
from kafka import KafkaProducer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import percentile, spread, write
from benchmarks.machine import describe
from emostream.settings import CLUSTER_TOPICS, load
from testkit.broker import Broker, running_broker
from testkit.http_calls import call
from testkit.ports import free_port_block, listening
from testkit.scripts import script
from testkit.settings import environment_for
from testkit.waiting import wait_until

TOPIC = CLUSTER_TOPICS[0]
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
BAD = {"500": b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", "302": b"HTTP/1.1 302 x\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"}  # fmt: skip # noqa: E501


class Client(asyncio.Protocol):
    """Every client: the path says which. Notes how long each push to a healthy one took since it was produced."""

    def __init__(self, delays_ms: list[float]) -> None:
        self._delays_ms = delays_ms
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0] or 0) if found else 1
        if not found or len(body) < length:
            return
        self._data = b""
        kind = head.split(b" ", 2)[1][1:].decode()
        if kind in BAD:
            self._write(BAD[kind])
        elif kind == "slow":
            self._trickle(OK)
        elif kind != "hang":
            produced = json.loads(body).get("produced")
            if produced is not None:
                self._delays_ms.append((time.monotonic() - produced) * 1000)
            self._write(OK)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _trickle(self, data: bytes) -> None:
        self._write(data[:1])
        if data[1:]:
            asyncio.get_running_loop().call_later(1.0, self._trickle, data[1:])


def serve_clients(port: int, control: Connection) -> None:
    """Be all clients on `port`; each message on `control` is answered with the delays since the last one."""
    delays_ms: list[float] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: Client(delays_ms), "127.0.0.1", port, backlog=1024)

        def report() -> None:
            control.recv()
            control.send(list(delays_ms))
            delays_ms.clear()

        loop.add_reader(control.fileno(), report)
        await asyncio.Event().wait()

    uvloop.run(serve())


@contextmanager
def clients() -> Iterator[tuple[str, Connection]]:
    """The URL under which all clients are, and the control of serve_clients."""
    port = free_port_block(1)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve_clients, args=(port, theirs), daemon=True)
    process.start()
    try:
        wait_until("the clients listen", lambda: listening(port))
        yield f"http://127.0.0.1:{port}", ours
    finally:
        process.terminate()
        process.join(10)


@contextmanager
def subscriber(broker: Broker, **settings: object) -> Iterator[str]:
    """The URL of a running subscriber."""
    base = free_port_block(2)
    with script(
        broker.environment, "subscriber.py", CLUSTER_TOPIC=TOPIC, SUBSCRIBER_BASE_PORT=base - 1,
        STREAM_BASE_PORT=base, EVICT_AFTER_SECONDS=3600, **settings,
    ) as process:  # fmt: skip
        process.wait_for("msg=listening")
        wait_until("the subscriber listens", lambda: listening(base))
        yield f"http://127.0.0.1:{base}"


def delays(control: Connection, wanted: int = 0) -> list[float]:
    """What healthy clients have noted since the last call, once it is `wanted`."""
    found: list[float] = []
    deadline = time.monotonic() + 120
    while True:
        control.send(None)
        found += control.recv()
        if len(found) >= wanted:
            return found
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(found)} of {wanted} pushes came within 120 s")
        time.sleep(0.02)


def register(subscriber_url: str, client_url: str) -> None:
    """Give a client a slot."""
    status, body = call(f"{subscriber_url}/register", {"client_url": client_url})
    if status != 200:
        raise SystemExit(f"{client_url} was not registered: {body}")


def record(number: int) -> bytes:
    """A count that knows when it was produced."""
    value = {"emoji": "🔥", "count": 2, "events": 1500, "batch_id": number, "produced": time.monotonic()}
    return json.dumps(value).encode()


def measure_rate(broker: Broker, args: argparse.Namespace) -> dict[str, Any]:
    """Pushes/s, and ours to the others'."""
    found: dict[str, list[float]] = {"ours": [], "requests.post": [], "requests.Session": []}
    # Nothing is merged, however far the clients are behind: every push is counted.
    with clients() as (url, control), subscriber(broker, MAX_CLIENTS=args.clients, BATCH_SECONDS=3600) as ours:
        for number in range(args.clients):
            register(ours, f"{url}/{number}")
        for _ in range(args.rounds):
            wanted = args.clients * args.records
            began = time.monotonic()
            broker.produce(TOPIC, [record(number) for number in range(args.records)])
            delays(control, wanted)
            found["ours"].append(wanted / (time.monotonic() - began))
            session = requests.Session()
            for name, post in (("requests.post", requests.post), ("requests.Session", session.post)):
                sent, began = 0, time.monotonic()
                while time.monotonic() < began + 2:
                    post(f"{url}/{sent % args.clients}", data=record(sent), timeout=5)
                    sent += 1
                found[name].append(sent / (time.monotonic() - began))
            delays(control)
    ratios = {}
    for name, rates in found.items():
        ratios[name] = [ours / rate for ours, rate in zip(found["ours"], rates, strict=True)]
        middle = statistics.median(ratios[name])
        print(f"{name:17} pushes/s, min / median / max: {spread(rates)}; ours ÷ it: {middle:.1f}")
    return {"clients": args.clients, "records": args.records, "rates": found, "ours_to_it": ratios}


def measure_influence(broker: Broker, args: argparse.Namespace) -> dict[str, Any]:
    """What healthy clients notice of five others."""
    rounds = []
    # One for all: the first records of a new one wait 100 ms for it to know the topic, and there are 1 % of them.
    producer = KafkaProducer(bootstrap_servers=broker.servers, linger_ms=0)
    with clients() as (url, control):
        nobody = f"http://127.0.0.1:{free_port_block(1)}/"
        bad = [f"{url}/{kind}" for kind in ("hang", "slow", "500", "302")] + [nobody]
        for number in range(args.rounds):
            this: dict[str, Any] = {}
            for name, others in (("alone", []), ("with five others", bad)):
                with subscriber(broker, MAX_CLIENTS=args.healthy + len(bad)) as ours:
                    for client_url in [f"{url}/{healthy}" for healthy in range(args.healthy)] + others:
                        register(ours, client_url)
                    produce_steadily(producer, args.per_second, 3.0)  # connections and caches are there
                    delays(control)
                    sent = produce_steadily(producer, args.per_second, args.seconds)
                    found = delays(control, sent * args.healthy)
                this[name] = {"p50_ms": percentile(found, 50), "p99_ms": percentile(found, 99), "max_ms": max(found)}
                print(
                    f"  round {number + 1}, {args.healthy} healthy clients {name}: p50 {this[name]['p50_ms']:.2f}, "
                    f"p99 {this[name]['p99_ms']:.2f}, max {max(found):.1f} ms, {len(found)} pushes", flush=True,
                )  # fmt: skip
            rounds.append(this | {"ratio": this["with five others"]["p99_ms"] / this["alone"]["p99_ms"]})
    print(f"p99 with five others ÷ alone, min / median / max: {spread([found['ratio'] for found in rounds], 2)}")
    return {"healthy": args.healthy, "per_second": args.per_second, "seconds": args.seconds, "rounds": rounds}


def produce_steadily(producer: KafkaProducer, per_second: float, seconds: float) -> int:
    """Produce by the clock; how many."""
    began, total = time.monotonic(), round(per_second * seconds)
    for number in range(total):
        time.sleep(max(0.0, began + number / per_second - time.monotonic()))
        producer.send(TOPIC, record(number))
    producer.flush()
    return total


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {"rate": measure_rate, "influence": measure_influence}
    parser.add_argument("what", choices=measures)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--records", type=int, default=300)
    parser.add_argument("--healthy", type=int, default=10)
    parser.add_argument("--per-second", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    args = parser.parse_args()
    print(describe(), flush=True)
    with running_broker(environment_for(load().data_path / "benchmarks" / "push")) as broker:
        found = measures[args.what](broker, args)
    write(args.json, f"push-{args.what}", found)


if __name__ == "__main__":
    main()
