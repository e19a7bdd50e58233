"""The contract at every arrow: a part that someone else wrote takes the place of ours, and the emoji still arrives.

What stands in for others' parts is written against the contract only, with kafka-python and http.server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from kafka import KafkaConsumer, KafkaProducer

from testkit.broker import Broker
from testkit.http_calls import call
from testkit.http_servers import http_client
from testkit.ports import listening
from testkit.scripts import Script, script
from testkit.waiting import wait_until


def port_of(broker: Broker, cluster: int, subscriber: int) -> int:
    return int(broker.environment["SUBSCRIBER_BASE_PORT"]) + 10 * (cluster - 1) + subscriber


def app_url(broker: Broker) -> str:
    return f"http://127.0.0.1:{broker.environment['APP_PORT']}/send-emoji"


@pytest.fixture(scope="module")
def ours(broker: Broker) -> Iterator[Broker]:
    """Our app, main publisher, and the publisher and the first subscriber of cluster 1, all running."""
    broker.replace_topics()
    cluster = {"CLUSTER_TOPIC": "cluster1-emoji-topic"}
    with (
        script(broker.environment, "main_publisher.py") as main_publisher,
        # One worker: each has a list of subscribers of its own, and a client asks any of them.
        script(broker.environment, "app.py", APP_WORKERS=1),
        script(broker.environment, "cluster_publisher.py", **cluster),
        script(broker.environment, "subscriber.py", **cluster),
    ):
        ports = int(broker.environment["APP_PORT"]), port_of(broker, 1, 1)
        wait_until("the servers listen", lambda: all(map(listening, ports)))
        main_publisher.wait_for("msg=aggregating", 240)
        yield broker


@contextmanager
def our_client(broker: Broker) -> Iterator[Script]:
    """Our client.py, registered and sending nothing."""
    with script(broker.environment, "client.py", "--receive-only") as client:
        client.wait_for("registered with")
        yield client


def test_events_of_someone_elses_app_reach_our_client(ours: Broker) -> None:
    with our_client(ours) as client:
        event = {"emoji": "🦊", "timestamp": "2026-01-31T20:15:00", "user_id": "theirs", "their_key": {"more": 1}}
        # At once, so that one micro-batch holds all of them.
        ours.produce_at_once("emoji-topic", [json.dumps(event, ensure_ascii=False).encode()] * 2001)
        client.wait_for("🦊🦊🦊")
        assert client.log.count("🦊") == 3


def test_counts_of_someone_elses_main_publisher_reach_our_client(ours: Broker) -> None:
    with our_client(ours) as client:
        ours.produce("main-pub-topic", [b'{"emoji": "\\ud83d\\udc22", "count": 4}'])
        client.wait_for("🐢🐢🐢🐢")
        assert client.log.count("🐢") == 4


def test_counts_through_someone_elses_cluster_publisher_reach_a_client(ours: Broker) -> None:
    topic, port = "cluster2-emoji-topic", port_of(ours, 2, 1)
    with (
        script(ours.environment, "subscriber.py", CLUSTER_TOPIC=topic),
        their_cluster_publisher(ours, topic),
        http_client() as client,
    ):
        wait_until("our subscriber of cluster 2 listens", lambda: listening(port))
        assert call(f"http://127.0.0.1:{port}/register", {"client_url": client.url})[0] == 200
        ours.produce_at_once("emoji-topic", [tap_on_topic("🦉")] * 1001)
        wait_until("the count", lambda: client.received)
        assert [(count["emoji"], count["count"]) for count in client.received] == [("🦉", 2)]


def test_our_client_works_with_someone_elses_subscriber(ours: Broker) -> None:
    # More free slots than any of ours, so that the client takes this one.
    with their_subscriber(ours, port_of(ours, 1, 2), "cluster1-emoji-topic", slots=50) as registered:
        listing = f"{app_url(ours).removesuffix('/send-emoji')}/subscribers"
        wait_until("our app knows of it", lambda: "50" in str(call(listing)[1]["subscribers"][0]))
        with our_client(ours) as client:
            assert registered == [f"http://127.0.0.1:{ours.environment['PORT']}/"]
            ours.produce_at_once("emoji-topic", [tap_on_topic("🐝")] * 1001)
            client.wait_for("🐝🐝")
            assert client.log.count("🐝") == 2
            assert client.terminate() == 0
        assert registered == []


def test_someone_elses_client_sends_to_our_app_and_gets_the_count_from_our_subscriber(ours: Broker) -> None:
    with http_client() as client:
        subscriber = f"http://127.0.0.1:{port_of(ours, 1, 1)}"
        assert call(f"{subscriber}/status")[1]["available_slots"] == 2
        answer = call(f"{subscriber}/register", {"client_url": client.url})
        assert answer == (200, {"status": "registered", "client_url": client.url})
        tap = {"user_id": "theirs", "emoji_type": "🦔", "timestamp": "2026-01-31T20:15:00"}
        assert call(app_url(ours), tap) == (200, {"status": "success", "message": "Emoji sent to Kafka"})
        wait_until("the count", lambda: client.received)
        assert [(count["emoji"], count["count"]) for count in client.received] == [("🦔", 1)]
        answer = call(f"{subscriber}/deregister", {"client_url": client.url})
        assert answer == (200, {"status": "deregistered", "client_url": client.url})


def tap_on_topic(emoji: str) -> bytes:
    return json.dumps({"user_id": "u", "emoji": emoji, "timestamp": "2026-01-31T20:15:00Z"}).encode()


def at_the_end(consumer: KafkaConsumer) -> bool:
    """Whether it has partitions, and has found where each ends; what is written from now on is read."""
    consumer.poll(100)
    assigned = consumer.assignment()
    return bool(assigned) and all(consumer.position(tp) is not None for tp in assigned)


@contextmanager
def their_cluster_publisher(broker: Broker, cluster_topic: str) -> Iterator[None]:
    """A plain loop from one topic to the other, by the defaults of kafka-python."""
    stop = threading.Event()
    consumer = KafkaConsumer("main-pub-topic", bootstrap_servers=broker.servers, group_id="theirs")
    producer = KafkaProducer(bootstrap_servers=broker.servers)
    wait_until("their publisher has its partitions", lambda: at_the_end(consumer))

    def publish() -> None:
        while not stop.is_set():
            for records in consumer.poll(timeout_ms=100).values():
                for record in records:
                    producer.send(cluster_topic, record.value)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        consumer.close()
        producer.close()


@contextmanager
def their_subscriber(broker: Broker, port: int, cluster_topic: str, slots: int) -> Iterator[list[str]]:
    """An HTTP server with the three calls, and a loop that pushes with two headers only; yields its clients."""
    clients: list[str] = []
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, {"available_slots": slots - len(clients)})

        def do_POST(self) -> None:
            url = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["client_url"]
            if self.path == "/register":
                known = url in clients
                if not known:
                    clients.append(url)
                self.answer(200, {"status": "already_registered" if known else "registered", "client_url": url})
            elif url in clients:
                clients.remove(url)
                self.answer(200, {"status": "deregistered", "client_url": url})
            else:
                self.answer(404, {"status": "not_found", "client_url": url})

        def answer(self, status: int, body: dict[str, object]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    consumer = KafkaConsumer(cluster_topic, bootstrap_servers=broker.servers)
    wait_until("their subscriber has its partitions", lambda: at_the_end(consumer))

    def deliver() -> None:
        while not stop.is_set():
            for records in consumer.poll(timeout_ms=100).values():
                for record in records:
                    for client_url in list(clients):
                        requests.post(client_url, json=json.loads(record.value), timeout=10)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threads = [threading.Thread(target=server.serve_forever), threading.Thread(target=deliver)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        for thread in threads:
            thread.join()
        consumer.close()
