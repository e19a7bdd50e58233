"""Golden records: while no room is in use, every topic, push, answer and stream is byte for byte what it was before.

golden/no_room.json was captured at commit 6b4e62e, the last one without rooms, by this file in a worktree of it:

    .venv/bin/python -m tests.integration.test_golden > tests/integration/golden/no_room.json
"""

from __future__ import annotations

import json
import re
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from testkit.broker import running_broker
from testkit.scripts import script
from testkit.settings import environment_for
from testkit.waiting import wait_until

GOLDEN = Path(__file__).parent / "golden" / "no_room.json"
CLUSTER = "cluster1-emoji-topic"
TIME = "2026-01-31T20:15:00Z"
ONE = {"user_id": "u", "emoji_type": "🔥", "timestamp": TIME}
BATCH: list[dict[str, Any]] = [
    {"user_id": "u1", "emoji_type": "🔥", "timestamp": "2026-01-31T20:15:00.123456", "count": 1000},
    {"user_id": "u2", "emoji_type": "👍🏽", "timestamp": "2026-02-01T01:45:00+05:30", "count": 3},
    {"user_id": "u2", "emoji_type": "👍", "timestamp": TIME, "count": 1, "extra": {"deep": [1, None]}, "emoji": "no"},
    {"user_id": "ünï 'x' \\", "emoji_type": "👩‍🚀", "timestamp": TIME},
    {"user_id": 'u","room":"final', "emoji_type": '❤️","room":"final', "timestamp": TIME},
    {"user_id": "u3", "emoji_type": "final/🔥", "timestamp": TIME, "count": 2},
    {"user_id": "u3", "emoji_type": "/", "timestamp": TIME},
    {"user_id": "u4", "emoji_type": '<b onclick="x">\\', "timestamp": TIME},
    {"user_id": "u4", "emoji_type": " =1+1", "timestamp": TIME},
    {"user_id": "u5", "emoji_type": '{"count":5}', "timestamp": TIME},
    {"user_id": "u5", "emoji_type": "null", "timestamp": TIME},
    {"user_id": "u6", "emoji_type": "\u202e🔥", "timestamp": TIME},
    {"user_id": "u6", "emoji_type": "🔥", "timestamp": TIME, "count": 0},
]
GOOD = len(BATCH) - 2
EMOJIS = len({tap["emoji_type"] for tap in BATCH[:GOOD]})


def take_pushes(server: socket.socket, requests: list[bytes]) -> None:
    """A client of a subscriber, which keeps one connection open: note each request as it comes, and answer 200.

    Where the answer was late, the same request comes again on another connection; it is noted once.
    """
    while True:
        connection, _ = server.accept()
        with suppress(ConnectionError), connection, connection.makefile("rb") as stream:
            head = b""
            for line in stream:
                head += line
                if line == b"\r\n":
                    length = re.search(rb"(?i)content-length: ([0-9]+)", head)
                    assert length, head
                    request = head + stream.read(int(length[1]))
                    if request not in requests:
                        requests.append(request)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    head = b""


def ask(port: int, path: str, body: object = None) -> socket.socket:
    """A connection on which the server is about to answer, and then to close."""
    data = b"" if body is None else json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.sendall(
        f"{'POST' if data else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    )
    return connection


def read(connection: socket.socket, until: bytes = b"") -> bytes:
    """What comes, until it ends or ends with `until`; without the comments of a stream that has waited for 15 s."""
    found = b""
    while not (until and found.endswith(until)) and (data := connection.recv(65536)):
        found = (found + data).removesuffix(b":\n\n")
    return found


def text(data: bytes) -> str:
    """The text, with placeholders for times and ports: nothing else may differ between two runs."""
    found = re.sub(r"\b1[0-9]{12}\b", "<ms>", data.decode())
    found = re.sub(r'(127\.0\.0\.1:|"stream_port":)[0-9]+', r"\1<port>", found)
    return re.sub(r"(?mi)^(date: ).*GMT", r"\1<date>", found)


def capture(data_dir: Path) -> str:
    """Send the taps through every process, and return all that was answered, written, pushed and streamed."""
    # With one partition, the order of records does not depend on which partition is read first.
    environment = environment_for(data_dir, PARTITIONS=1)
    app, subscriber, stream = (
        int(environment[f"{name}_PORT"]) + number
        for name, number in (("APP", 0), ("SUBSCRIBER_BASE", 1), ("STREAM_BASE", 1))
    )
    answers: dict[str, bytes] = {}
    pushes: list[bytes] = []

    def delivered() -> bytes:
        answer = read(ask(subscriber, "/status"))
        return answer if f'"delivered":{EMOJIS},'.encode() in answer else b""

    with running_broker(environment) as broker, socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=take_pushes, args=(server, pushes), daemon=True).start()
        client = {"client_url": f"http://127.0.0.1:{server.getsockname()[1]}/"}

        def records(topic: str) -> list[object]:
            found = broker.registrations() if topic == "subscriber-registry" else broker.read(topic)
            return [[r.key and text(r.key), text(r.value), [(n, text(v)) for n, v in r.headers]] for r in found]

        def written(topic: str, number: int) -> None:
            wait_until(f"{number} records on {topic}", lambda: len(broker.read(topic)) >= number, 240)

        with script(environment, "app.py") as running:
            running.wait_for_port(app)
            answers["one tap"] = read(ask(app, "/send-emoji", ONE))
            answers["one bad tap"] = read(ask(app, "/send-emoji", ONE | {"emoji_type": ""}))
            written("emoji-topic", 1)
            answers["a batch"] = read(ask(app, "/send-emojis", BATCH))
            written("emoji-topic", 1 + GOOD)
        # Each process starts when all that it reads is there, so that there is one micro-batch.
        with script(environment, "main_publisher.py"):
            written("main-pub-topic", EMOJIS)
        with script(environment, "subscriber.py", CLUSTER_TOPIC=CLUSTER) as running:
            running.wait_for("msg=listening")
            running.wait_for_port(subscriber)
            answers["register"] = read(ask(subscriber, "/register", client))
            registration = records("subscriber-registry")
            connection = ask(stream, "/stream")
            answers["stream"] = read(connection, b"\n\n")
            with script(environment, "cluster_publisher.py", CLUSTER_TOPIC=CLUSTER):
                answers["stream"] += read(connection, b"\n\n")
                answers["status"] = wait_until("every push", delivered)
            answers["recent stream"] = read(ask(stream, "/stream?recent=60"), b"}]}\n\n")
            answers["deregister"] = read(ask(subscriber, "/deregister", client))
        topics = {topic: records(topic) for topic in ("emoji-topic", "main-pub-topic", CLUSTER)}
    found = {
        "answers": {name: text(answer).splitlines(keepends=True) for name, answer in answers.items()},
        "key, value and headers of records": topics | {"subscriber-registry": registration},
        "pushes": [text(request).splitlines(keepends=True) for request in pushes],
    }
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def test_without_a_room_every_byte_is_what_it_was_before_rooms(tmp_path: Path) -> None:
    assert capture(tmp_path).splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    sys.stdout.write(capture(Path(tempfile.mkdtemp(prefix="emostream-golden-"))))
