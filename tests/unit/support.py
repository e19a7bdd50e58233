"""What unit tests share: settings, scripts as subprocesses, tiny HTTP servers whose answers a test decides."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hypothesis import strategies as st

from emostream.discovery import Directory, SubscriberState
from emostream.ingest.producer import BufferFull, Receipt
from emostream.settings import SETTING_NAMES, Settings, load
from tests.harness import PROJECT_DIR

# What someone may send where text is expected: control characters, bidirectional overrides, joiners, astral planes.
any_text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\x1b\n\x85\u2028\u202e\u200d😊"))
json_scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text
json_values = st.recursive(
    json_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3), max_leaves=5
)


def settings_with(**values: object) -> Settings:
    """The defaults, and these."""
    return load([f"{name}={value}" for name, value in values.items()], environ={})


def bare_environment(**values: object) -> dict[str, str]:
    """This environment without any setting of ours, and these."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTING_NAMES}
    return kept | {"CLUSTER_TOPIC": ""} | {name: str(value) for name, value in values.items()}


def run_python(*arguments: str, **environment: object) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS...` in the project's root, to its end."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_DIR, env=bare_environment(**environment),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class Lines(logging.Handler):
    """Keeps the lines that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that are logged within the block."""
    lines, logger = Lines(), logging.getLogger("emostream")
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield lines.found
    finally:
        logger.setLevel(level)
        logger.removeHandler(lines)


def is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread is inside a `wait` of threading's."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "wait"


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


class FakeDirectory(Directory):
    """Knows these subscribers and asks nobody."""

    def __init__(self, *found: SubscriberState) -> None:
        self._found = list(found)

    def now(self) -> list[SubscriberState]:
        return self._found


class FakeProducer:
    """Takes records while there is room and acknowledges them, or refuses all of them for one reason."""

    def __init__(self, failure: Exception | None = None, acknowledges: bool = True) -> None:
        self.failure = failure
        self.acknowledges = acknowledges
        self.room = sys.maxsize
        self.sent: list[bytes] = []

    def send(self, value: bytes, receipt: Receipt | None = None) -> None:
        if self.failure:
            raise self.failure
        if len(self.sent) >= self.room:
            raise BufferFull(f"{self.room} events are waiting for the broker already")
        self.sent.append(value)
        if receipt and not self.acknowledges:
            receipt.add(1)
