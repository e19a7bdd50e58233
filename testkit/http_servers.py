"""HTTP servers whose answers a test decides."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class HttpServer:
    """A running server, and what it was asked so far."""

    port: int
    asked: list[Asked] = field(default_factory=list)
    gone: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@contextmanager
def http_server(answer: Callable[[Asked], Answer], port: int = 0) -> Iterator[HttpServer]:
    """A server on 127.0.0.1 that keeps connections open, as servers do, until the block ends or `gone` is set."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if running.gone:
                self.close_connection = True
                return
            asked = Asked(self.command, self.path, dict(self.headers), body)
            running.asked.append(asked)
            given = answer(asked)
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            self.wfile.write(given.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    running = HttpServer(server.server_port)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield running
    finally:
        running.gone = True
        server.shutdown()
        server.server_close()


@dataclass
class HttpClient:
    """A client as someone else would write it against the contract: an HTTP server that notes what is POSTed to it."""

    status: int = 200
    pause_seconds: float = 0.0  # before each answer
    received: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None
    fails_after: Callable[[], float] = lambda: 0.0  # for how many seconds it thinks about a push, to take it not at all

    @property
    def url(self) -> str:
        assert self.server
        return f"http://127.0.0.1:{self.server.server_port}/"

    def emojis(self) -> list[str]:
        return [record["emoji"] for record in self.received]


@contextmanager
def http_client(status: int = 200) -> Iterator[HttpClient]:
    """An HttpClient that listens and answers everything with `status`."""
    client = HttpClient(status)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # whoever sent it died meanwhile
                super().handle()

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if len(data) < int(self.headers["Content-Length"]):
                return  # whoever sent it died meanwhile
            if seconds := client.fails_after():
                time.sleep(seconds)
                self.close_connection = True
                return
            time.sleep(client.pause_seconds)
            body = json.loads(data)
            if 200 <= client.status < 300:
                client.received.append(body)
                client.headers.append(dict(self.headers))
                client.times.append(time.monotonic())
            self.send_response(client.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    client.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=client.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield client
    finally:
        client.server.shutdown()
        client.server.server_close()
