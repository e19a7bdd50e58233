"""Measure a subscriber's pushes to registered clients: a real broker, a real subscriber.py, clients in one process.

rate        pushes/s of one subscriber to `clients`, beside requests.post and a requests.Session, one after another, to
            the same clients.
influence   from produce to a healthy client, p50 and p99, without and with five others: one that hangs, one that
            answers a byte a second, one that answers 500, one that redirects, and one where nobody listens; in turn,
            round after round. The ratio is of the same round.

Clients, subscriber and broker share the cores.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from kafka import KafkaProducer

from benchmarks.figures import percentile
from benchmarks.part import Figures, Part, main, own_broker
from testkit.broker import Broker
from testkit.http_calls import call
from testkit.ports import free_port_block
from testkit.push_clients import push_clients
from testkit.scripts import script

TOPIC = "cluster1-emoji-topic"


@contextmanager
def subscriber(broker: Broker, urls: list[str], **settings: object) -> Iterator[None]:
    """A running subscriber with these clients."""
    base = free_port_block(2)
    with script(
        broker.environment, "subscriber.py", CLUSTER_TOPIC=TOPIC, SUBSCRIBER_BASE_PORT=base - 1,
        STREAM_BASE_PORT=base, EVICT_AFTER_SECONDS=3600, MAX_CLIENTS=len(urls), **settings,
    ) as process:  # fmt: skip
        process.wait_for_port(base)
        for url in urls:
            status, body = call(f"http://127.0.0.1:{base}/register", {"client_url": url})
            if status != 200:
                raise SystemExit(f"{url} was not registered: {body}")
        yield


def record(number: int) -> bytes:
    """A count that knows when it was produced."""
    value = {"emoji": "🔥", "count": 2, "events": 1500, "batch_id": number, "produced": time.monotonic()}
    return json.dumps(value).encode()


def measure_rate(options: Namespace) -> Figures:
    """Pushes/s, and ours to the others'."""
    found: dict[str, list[float]] = {"ours": [], "requests.post": [], "requests.Session": []}
    with own_broker(options.settings) as broker, push_clients() as clients:
        urls = [f"{clients.url}/{number}" for number in range(options.clients)]
        # Nothing is merged, however far the clients are behind: every push is counted.
        with subscriber(broker, urls, BATCH_SECONDS=3600):
            for _ in range(options.rounds):
                began = time.monotonic()
                broker.produce(TOPIC, [record(number) for number in range(options.records)])
                pushes = len(clients.delays_ms(options.clients * options.records))
                found["ours"].append(pushes / (time.monotonic() - began))
                session = requests.Session()
                for name, post in (("requests.post", requests.post), ("requests.Session", session.post)):
                    sent, began = 0, time.monotonic()
                    while time.monotonic() < began + 2:
                        post(urls[sent % len(urls)], data=record(sent), timeout=5)
                        sent += 1
                    found[name].append(sent / (time.monotonic() - began))
                clients.delays_ms()
    ratios = {name: [our / its for our, its in zip(found["ours"], rates, strict=True)] for name, rates in found.items()}
    return {"clients": options.clients, "records": options.records, "rates": found, "ours_to_it": ratios}


def measure_influence(options: Namespace) -> Figures:
    """What healthy clients notice of five others."""
    rounds = []
    with own_broker(options.settings) as broker, push_clients() as clients:
        # One for all: the first records of a new one wait 100 ms for it to know the topic, and there are 1 % of them.
        producer = KafkaProducer(bootstrap_servers=broker.servers, linger_ms=0)
        healthy = [f"{clients.url}/{number}" for number in range(options.healthy)]
        bad = [f"{clients.url}/{kind}" for kind in ("hang", "slow", "500", "302")]
        bad.append(f"http://127.0.0.1:{free_port_block(1)}/")  # where nobody listens
        for _ in range(options.rounds):
            this: dict[str, Any] = {}
            for name, others in (("alone", []), ("with five others", bad)):
                with subscriber(broker, healthy + others):
                    produce_steadily(producer, options.per_second, 3.0)  # connections and caches are there
                    clients.delays_ms()
                    sent = produce_steadily(producer, options.per_second, options.seconds)
                    found = clients.delays_ms(sent * options.healthy)
                this[name] = {"p50_ms": percentile(found, 50), "p99_ms": percentile(found, 99), "max_ms": max(found)}
                print(f"  {name}: {this[name]}", flush=True)
            rounds.append(this | {"ratio": this["with five others"]["p99_ms"] / this["alone"]["p99_ms"]})
    return {key: getattr(options, key) for key in ("healthy", "per_second", "seconds")} | {"rounds": rounds}


def produce_steadily(producer: KafkaProducer, per_second: float, seconds: float) -> int:
    """Produce by the clock; how many."""
    began, total = time.monotonic(), round(per_second * seconds)
    for number in range(total):
        time.sleep(max(0.0, began + number / per_second - time.monotonic()))
        producer.send(TOPIC, record(number))
    producer.flush()
    return total


PARTS = {
    "rate": Part(
        measure_rate,
        {"clients": 200, "records": 300, "rounds": 3},
        {"clients": 20, "records": 20, "rounds": 1},
    ),
    "influence": Part(
        measure_influence,
        {"healthy": 10, "per_second": 50.0, "seconds": 20.0, "rounds": 3},
        {"seconds": 2.0, "rounds": 1},
    ),
}

if __name__ == "__main__":
    main(__doc__, "push", PARTS)
