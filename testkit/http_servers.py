"""A fake HTTP server whose answers a test decides, and on it the fake client that subscribers push to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
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
    stream: Iterable[bytes] | None = None  # instead of a body: written as it comes; then the connection ends


class HttpServer:
    """A server that keeps connections open, as servers do, until it is closed; and what it was asked."""

    def __init__(self, answer: Callable[[Asked], Answer | None], port: int = 0, host: str = "127.0.0.1") -> None:
        """`answer` may return None: the connection then ends without an answer."""
        self.asked: list[Asked] = []
        self.gone = False  # setting it ends every connection at its next request
        running = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionError):  # whoever asked is gone
                    super().handle()

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                asked = Asked(self.command, self.path, dict(self.headers), self.rfile.read(length))
                if running.gone or len(asked.body) < length:
                    self.close_connection = True
                    return
                running.asked.append(asked)
                given = answer(asked)
                if given is None:
                    self.close_connection = True
                    return
                self._write(given)

            def _write(self, given: Answer) -> None:
                self.send_response(given.status)
                for name, value in given.headers.items():
                    self.send_header(name, value)
                if given.stream is None:
                    self.send_header("Content-Length", str(len(given.body)))
                else:
                    self.send_header("Connection", "close")
                self.end_headers()
                for part in given.stream or [given.body]:
                    self.wfile.write(part)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.host, self.port = host, self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def close(self) -> None:
        """Listen no more, and answer no more on the connections that there are."""
        self.gone = True
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def http_server(answer: Callable[[Asked], Answer | None], port: int = 0) -> Iterator[HttpServer]:
    """An HttpServer for the length of the block."""
    server = HttpServer(answer, port)
    try:
        yield server
    finally:
        server.close()


class HttpClient:
    """A client as someone else would write it against the contract: it notes the counts that are POSTed to it."""

    def __init__(self, status: int = 200, host: str = "127.0.0.1") -> None:
        self.status = status
        self.pause_seconds = 0.0  # before each answer
        # For how many seconds it keeps a push waiting before it closes the connection without an answer; 0: it answers.
        self.fails_after: Callable[[], float] = lambda: 0.0
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []  # Unix seconds
        self._server = HttpServer(self._take, host=host)

    @property
    def url(self) -> str:
        return self._server.url

    def emojis(self) -> list[str]:
        return [record["emoji"] for record in self.received]

    def received_once(self) -> list[dict[str, Any]]:
        """What it received, without repeats of the same delivery."""
        received = zip(self.headers, self.received, strict=False)  # another one may just be noted
        return list({headers["Idempotency-Key"]: record for headers, record in received}.values())

    def close(self) -> None:
        self._server.close()

    def _take(self, asked: Asked) -> Answer | None:
        if seconds := self.fails_after():
            time.sleep(seconds)
            return None
        time.sleep(self.pause_seconds)
        record = json.loads(asked.body)
        if 200 <= self.status < 300:
            self.headers.append(asked.headers)
            self.times.append(time.time())
            self.received.append(record)
        return Answer(self.status)


@contextmanager
def http_client(status: int = 200, host: str = "127.0.0.1") -> Iterator[HttpClient]:
    """An HttpClient that answers everything with `status`, for the length of the block."""
    client = HttpClient(status, host)
    try:
        yield client
    finally:
        client.close()
