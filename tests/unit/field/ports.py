"""Every HTTP port of ours, in this process and without Kafka; and how to speak to one byte by byte."""

from __future__ import annotations

import io
import socket
from dataclasses import dataclass
from typing import cast

from emostream.deliver.clients import RegisteredClients
from emostream.deliver.rooms import Rooms
from emostream.deliver.routes import create_app as deliver_app
from emostream.deliver.stream.server import StreamServer
from emostream.http.access import AllowedHosts, Operators
from emostream.http.cors import Cors
from emostream.http.metrics_port import metrics_calls
from emostream.http.wsgi import ThreadedApp, serve, serve_wsgi
from emostream.ingest.api import IngestApi
from emostream.ingest.producer import BoundedProducer
from emostream.ingest.routes import create_app as ingest_app
from emostream.ingest.routes import threaded
from emostream.metrics.catalogue import DELIVER, INGEST
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.operate.dashboard import routes as dashboard
from emostream.process import Log, StopFlag, bound_socket
from emostream.receive.membership import Membership
from emostream.receive.routes import create_app as receive_app
from emostream.receive.screen import Screen
from emostream.settings import Settings
from emostream.web import pages
from testkit.doubles import FakeDirectory, FakeProducer

SECONDS = 10.0
TAP = '{"user_id": "u", "emoji_type": "😊", "timestamp": "2026-01-31T20:15:00Z"}'.encode()
COUNT = '{"emoji": "😊", "count": 1}'.encode()
REGISTRATION = b'{"client_url": "http://127.0.0.1:8001/"}'


class FakeClients:
    """Takes every client."""

    def register(self, client_url: str, token: str, room: str) -> bool:
        return True

    def deregister(self, client_url: str, token: str) -> bool:
        return True


@dataclass
class Port:
    """Where a process listens; a path that answers to GET, and one that takes `body` by POST. Either may be missing."""

    number: int
    get: str = ""
    post: str = ""
    body: bytes = b""


def every_port(settings: Settings) -> dict[str, Port]:
    """Start all of them. They end with the process."""

    def listener() -> socket.socket:
        return bound_socket("127.0.0.1", 0, "test")

    log, page = Log("test"), MetricsPage()
    found = {}
    api = IngestApi(settings, cast(BoundedProducer, FakeProducer()), Metrics(log, INGEST))
    flask = ingest_app(api, page)
    flask.register_blueprint(pages.blueprint(settings, FakeDirectory()))
    flask.register_blueprint(dashboard.blueprint(settings, FakeDirectory(), page.text))
    api.flask = threaded(flask, settings)
    serve(api, at := listener(), log, settings)
    found["app"] = Port(at.getsockname()[1], "/livez", "/send-emoji", TAP)
    clients, cors = cast(RegisteredClients, FakeClients()), Cors(settings.cors_origins)
    serve_wsgi(deliver_app(clients, dict, lambda: None, page, 7101, cors), at := listener(), log, settings)
    found["subscriber"] = Port(at.getsockname()[1], "/status", "/register", REGISTRATION)
    screen = Screen(io.StringIO(), StopFlag())
    membership = Membership(settings, "http://127.0.0.1:9", StopFlag())
    serve_wsgi(receive_app(screen, membership), at := listener(), log, settings)
    found["client"] = Port(at.getsockname()[1], post="/", body=COUNT)
    publisher = ThreadedApp(metrics_calls(page, settings, "main_publisher"), Operators(settings))
    serve(publisher, at := listener(), log, settings)
    found["publisher"] = Port(at.getsockname()[1], "/livez")
    at = listener()
    counters = Metrics(log, DELIVER)
    rooms = Rooms(60, 1_000, counters, log)
    rooms.begin({0: 0}, {})
    StreamServer(at, rooms, 1, cors, 1_000, counters, log, AllowedHosts(settings).check)
    found["stream"] = Port(at.getsockname()[1], "/stream")
    return found


@dataclass
class Reply:
    """One answer."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that must not be there twice."""
        values = self.headers.get(name, [])
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else None


def read_reply(stream: io.BufferedReader, head_only: bool = False) -> Reply | None:
    """The next final answer; None at the end of the connection. The body of an endless stream is not read."""
    while True:
        line = stream.readline()
        if not line:
            return None
        status = int(line.split()[1])
        headers: dict[str, list[str]] = {}
        while name_value := stream.readline().decode("latin-1").strip():
            name, _, value = name_value.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        if status >= 200:
            length = int(headers.get("content-length", ["0"])[0])
            return Reply(status, headers, b"" if head_only else stream.read(length))


def talk(port: int, *parts: bytes, head_only: bool = False) -> list[Reply | None]:
    """Send each part when the answer to the one before has come; return the answers, up to the end."""
    found: list[Reply | None] = []
    connection = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    with connection, connection.makefile("rb") as stream:
        for part in parts:
            try:
                connection.sendall(part)
            except ConnectionError:
                return [*found, None]
            found.append(read_reply(stream, head_only))
            if found[-1] is None:
                break
    return found
