"""Hop 4 for browsers: one cluster's topic → subscriber.py → GET /stream, read by curl."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from testkit.broker import Broker
from testkit.http_calls import call
from testkit.http_servers import http_client
from testkit.ports import free_port_block, listening
from testkit.scripts import Script, script
from testkit.waiting import wait_until

CLUSTER = "cluster2-emoji-topic"


def batch(number: int, *emojis: str) -> list[bytes]:
    """The records of one micro-batch."""
    common = {"count": 1, "events": 10, "batch_id": number, "batch_emojis": len(emojis)}
    return [json.dumps({"emoji": emoji} | common).encode() for emoji in emojis]


class Curl:
    """`curl -N`, and what it has printed."""

    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path

    def _fields(self, name: str) -> list[str]:
        lines = self._log_path.read_text().split("\n")
        return [line.removeprefix(f"{name}: ") for line in lines[:-1] if line.startswith(f"{name}: ")]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in self._fields("data")]

    @property
    def last_event_id(self) -> str:
        return (self._fields("id") or [""])[-1]

    def wait_for_batches(self, batch_ids: list[int]) -> None:
        wait_until(f"batches {batch_ids}", lambda: [e.get("batch_id") for e in self.events] == batch_ids)


@contextmanager
def curl(environment: dict[str, str], url: str, *options: str) -> Iterator[Curl]:
    log_path = Path(environment["DATA_DIR"]) / f"curl-{free_port_block(1)}-{len(options)}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(["curl", "-sSN", "--noproxy", "*", *options, url], stdout=log)
        found = Curl(log_path)
        try:
            wait_until("the greeting", lambda: "retry: 1000\n" in log_path.read_text())
            yield found
        finally:
            process.kill()
            process.wait(10)


@contextmanager
def running(broker: Broker, base: int, **settings: object) -> Iterator[Script]:
    with script(
        broker.environment, "subscriber.py", CLUSTER_TOPIC=CLUSTER, SUBSCRIBER=1,
        SUBSCRIBER_BASE_PORT=base - 11, STREAM_BASE_PORT=base - 10, **settings,
    ) as process:  # fmt: skip
        process.wait_for("msg=listening")
        wait_until("the subscriber listens", lambda: listening(base) and listening(base + 1))
        yield process


def test_curl_gets_one_event_per_micro_batch_through_the_subscribers_own_port(empty_topics: Broker) -> None:
    base = free_port_block(2)
    with running(empty_topics, base, MAX_STREAMS=1):
        before = call(f"http://127.0.0.1:{base}/status")[1]
        assert (before["stream_port"], before["streams"], before["available_streams"]) == (base + 1, 0, 1)
        with curl(empty_topics.environment, f"http://127.0.0.1:{base}/stream", "-L") as viewer:

            def streams() -> tuple[int, int]:
                after = call(f"http://127.0.0.1:{base}/status")[1]
                return after["streams"], after["available_streams"]

            wait_until("the only stream is counted", lambda: streams() == (1, 0))
            assert call(f"http://127.0.0.1:{base + 1}/stream")[0] == 503
            for number in range(3):
                # At once, as a cluster publisher does: a batch that is not whole after 0.1 s is sent in two parts.
                empty_topics.produce_at_once(CLUSTER, batch(number, "🔥", "👏", "😊"), partition=number)
            viewer.wait_for_batches([0, 1, 2])
            for event in viewer.events:
                counts = sorted(event["counts"], key=lambda count: str(count["emoji"]))
                assert counts == [{"emoji": emoji, "count": 1, "events": 10} for emoji in ("👏", "🔥", "😊")]


def test_clients_are_still_answered_while_more_streams_are_open_than_select_can_watch(empty_topics: Broker) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    base = free_port_block(2)
    with running(empty_topics, base), ExitStack() as streams:
        for _ in range(1100):
            connection = streams.enter_context(socket.create_connection(("127.0.0.1", base + 1), timeout=60))
            connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until("1,100 streams", lambda: call(f"http://127.0.0.1:{base}/status")[1]["streams"] == 1100)
        with http_client() as client:
            assert call(f"http://127.0.0.1:{base}/register", {"client_url": client.url})[0] == 200
            empty_topics.produce(CLUSTER, batch(1, "🔥"))
            wait_until("the client has it", lambda: client.received)


def test_a_viewer_goes_on_after_kill_9_of_the_subscriber_without_a_gap_or_a_repeat(empty_topics: Broker) -> None:
    base = free_port_block(2)
    url = f"http://127.0.0.1:{base + 1}/stream"
    with running(empty_topics, base) as subscriber:
        empty_topics.produce(CLUSTER, batch(0, "🔥"))
        status = f"http://127.0.0.1:{base}/status"
        wait_until("the first batch is from before", lambda: call(status)[1]["counts"].get("consumed") == 1)
        with curl(empty_topics.environment, url) as viewer:
            for number in range(1, 4):
                empty_topics.produce_at_once(CLUSTER, batch(number, "🔥", "👏"), partition=number % 3)
            viewer.wait_for_batches([1, 2, 3])
            place = viewer.last_event_id
        subscriber.kill()
    for number in range(4, 8):
        empty_topics.produce_at_once(CLUSTER, batch(number, "🔥", "👏"), partition=number % 3)
    with running(empty_topics, base):
        with curl(empty_topics.environment, url, "-H", f"Last-Event-ID: {place}") as viewer:
            empty_topics.produce_at_once(CLUSTER, batch(8, "🔥"))
            viewer.wait_for_batches([4, 5, 6, 7, 8])
            place = viewer.last_event_id
        with curl(empty_topics.environment, f"{url}?last_event_id={place}") as viewer:
            empty_topics.produce_at_once(CLUSTER, batch(9, "🔥"))
            viewer.wait_for_batches([9])


def test_a_viewer_is_told_of_a_gap_only_when_it_missed_something(empty_topics: Broker) -> None:
    base = free_port_block(2)
    url = f"http://127.0.0.1:{base + 1}/stream"
    with running(empty_topics, base), curl(empty_topics.environment, url) as viewer:
        empty_topics.produce_at_once(CLUSTER, batch(1, "🔥"), partition=1)
        viewer.wait_for_batches([1])
        before = viewer.last_event_id
        empty_topics.produce_at_once(CLUSTER, batch(2, "🔥"), partition=1)
        viewer.wait_for_batches([1, 2])
        after = viewer.last_event_id
        published = time.monotonic()
    # A restart after the history has gone: whoever had all has missed nothing.
    wait_until("the records are too old", lambda: time.monotonic() > published + 5.5)
    with running(empty_topics, base, MAX_AGE_SECONDS=5):
        with curl(empty_topics.environment, url, "-H", f"Last-Event-ID: {before}") as behind:
            wait_until("the gap", lambda: behind.events)
            assert list(behind.events[0]) == ["reason"]
        with curl(empty_topics.environment, url, "-H", f"Last-Event-ID: {after}") as viewer:
            empty_topics.produce_at_once(CLUSTER, batch(3, "🔥"), partition=1)
            viewer.wait_for_batches([3])
