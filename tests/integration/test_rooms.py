"""Hop 4 with rooms: one cluster's topic → subscriber.py → each client and each stream has its own room only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import requests

from emostream.records import record_key
from testkit.broker import Broker
from testkit.http_calls import call
from testkit.http_servers import Answer, HttpServer, http_server
from testkit.ports import free_port_block
from testkit.scripts import script
from testkit.waiting import wait_until

CLUSTER = "cluster1-emoji-topic"


def produce(broker: Broker, batch_id: int, *rooms: str) -> None:
    """A micro-batch with one count in each of these rooms."""
    for room in rooms:
        value = {"emoji": "🔥", "count": 1, "batch_id": batch_id, "batch_emojis": 1} | ({"room": room} if room else {})
        broker.produce(CLUSTER, [json.dumps(value).encode()], key=record_key("🔥", room))


def pushed(server: HttpServer) -> list[tuple[int, str]]:
    # Each delivery once: when an answer is late, the same one is sent again with the same key.
    asked = {one.headers["Idempotency-Key"]: one.body for one in list(server.asked)}
    found: list[dict[str, Any]] = [json.loads(body) for body in asked.values()]
    return [(one["batch_id"], one.get("room", "")) for one in found]


def test_each_client_and_each_stream_has_its_room_only_also_after_kill_9(empty_topics: Broker, tmp_path: Path) -> None:
    base = free_port_block(2)
    settings = {"CLUSTER_TOPIC": CLUSTER, "SUBSCRIBER_BASE_PORT": base - 1, "STREAM_BASE_PORT": base}
    with http_server(lambda _: Answer()) as default, http_server(lambda _: Answer()) as final:
        with script(empty_topics.environment, "subscriber.py", **settings) as subscriber:
            subscriber.wait_for_port(base)
            url = f"http://127.0.0.1:{base}/register"
            assert call(url, {"client_url": default.url})[0] == 200
            assert call(url, {"client_url": final.url, "room": "final"})[0] == 200
            assert call(url, {"client_url": final.url})[0] == 409
            produce(empty_topics, 1, "", "final", "other")
            wait_until("both have theirs", lambda: (pushed(default), pushed(final)) == ([(1, "")], [(1, "final")]))
            registered = [json.loads(one.value) for one in empty_topics.registrations() if one.value]
            assert {one["client_url"]: one.get("room") for one in registered} == {default.url: None, final.url: "final"}
            subscriber.kill()
        produce(empty_topics, 2, "final", "", "other")
        with script(empty_topics.environment, "subscriber.py", **settings) as subscriber:
            subscriber.wait_for_port(base)
            wait_until("the default room's client goes on", lambda: (2, "") in pushed(default))
            wait_until("the other room's client goes on", lambda: (2, "final") in pushed(final))
            assert {room for _, room in pushed(default)} == {""}
            assert {room for _, room in pushed(final)} == {"final"}
            stream_url = f"http://127.0.0.1:{base + 1}/stream?room=other&recent=60"

            def recent() -> list[int]:
                with requests.get(stream_url, stream=True, timeout=60) as stream:
                    data = next(line for line in stream.iter_lines(chunk_size=1) if line.startswith(b"data: "))
                return [batch["batch_id"] for batch in json.loads(data[6:])["batches"]]

            # The record of this room was written last, and to another partition: it may be read after the others.
            wait_until("the batches of the third room", lambda: recent() == [1, 2])
