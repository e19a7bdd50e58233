"""An app with the viewers' pages, and subscribers whose batches a test decides."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

from emostream.discovery import Directory
from emostream.http.cors import Cors
from emostream.settings import Settings, load
from emostream.web.pages import blueprint
from testkit.http_servers import Answer, Asked, HttpServer
from testkit.ports import free_port_block


def batch(batch_id: int, counts: Mapping[str, int]) -> dict[str, Any]:
    """The data of one event of a stream: the number of events per emoji."""
    listed = [{"emoji": emoji, "count": -(-events // 1000), "events": events} for emoji, events in counts.items()]
    return {"batch_id": batch_id, "counts": listed, "batched_ms": 1_700_000_000_000 + batch_id * 2000, "merged": 1}


@dataclass
class FakeSubscriber:
    """A subscriber whose streams send what a test tells them, on the port of its GET /status."""

    cluster: int
    port: int
    room: int = 100
    past: list[dict[str, Any]] = field(default_factory=list)  # what it sends of the recent past when it is asked
    resumed_with: list[str] = field(default_factory=list)
    asked_rooms: list[str] = field(default_factory=list)
    refusal: str = ""  # what streams are refused with, for good
    sent: list[tuple[int, str]] = field(default_factory=list)  # batch id, text
    open_streams: list[queue.Queue[bytes | None]] = field(default_factory=list)
    server: HttpServer | None = None

    def send(self, data: Mapping[str, Any], event_id: str | None = None) -> None:
        """One event on every open stream; its id is that of the cluster and the batch."""
        event_id = event_id or f"{self.cluster}-{data['batch_id']}-{data['batch_id']}"
        text = f"id: {event_id}\ndata: {json.dumps(dict(data))}\n\n"
        self.sent.append((data["batch_id"], text))
        self.write(text)

    def missed(self, last_event_id: str) -> str:
        """What a stream that goes on after this id begins with."""
        seen = int(last_event_id.split("-")[1])
        return "".join(text for batch_id, text in self.sent if batch_id > seen)

    def write(self, text: str) -> None:
        for stream in list(self.open_streams):
            stream.put(text.encode())

    def kill(self) -> None:
        """No more connections, and an end to those there are."""
        assert self.server
        self.server.close()
        for stream in list(self.open_streams):
            stream.put(None)

    @contextmanager
    def running(self) -> Iterator[FakeSubscriber]:
        self.server = HttpServer(self._answer, self.port)
        try:
            yield self
        finally:
            self.kill()

    def _answer(self, asked: Asked) -> Answer:
        headers = {"Access-Control-Allow-Origin": "*"}
        path = urlsplit(asked.path)
        if path.path == "/status":
            return Answer(200, json.dumps(self.status()).encode(), headers | {"Content-Type": "application/json"})
        query = parse_qs(path.query)
        self.asked_rooms += query.get("room", [])
        if self.refusal:
            return Answer(400, json.dumps({"error": self.refusal}).encode(), headers)
        [last_event_id] = query.get("last_event_id", [""])
        self.resumed_with.append(last_event_id)
        stream = self._stream(last_event_id, asks_recent="recent" in query)
        return Answer(200, headers=headers | {"Content-Type": "text/event-stream"}, stream=stream)

    def _stream(self, last_event_id: str, asks_recent: bool) -> Iterator[bytes]:
        newest = self.sent[-1][0] if self.sent else 0
        recent = json.dumps({"pushed_ms": round(time.time() * 1000), "batches": self.past})
        begin = f"id: {self.cluster}-{newest}-{newest}\n" + (
            f"event: recent\ndata: {recent}\n\n" if asks_recent else "\n"
        )
        if last_event_id:
            begin = self.missed(last_event_id)
        yield f"retry: 1000\n{begin}".encode()
        stream: queue.Queue[bytes | None] = queue.Queue()
        self.open_streams.append(stream)
        try:
            while (text := stream.get()) is not None:
                yield text
        finally:
            self.open_streams.remove(stream)

    def status(self) -> dict[str, int]:
        streams = len(self.open_streams)
        return {
            "available_slots": 2, "stream_port": self.port, "streams": streams, "available_streams": self.room - streams
        }  # fmt: skip


@dataclass
class FakeSystem:
    """The pages on an app that notes the taps, and some of the subscribers of the first two clusters."""

    port: int
    subscribers: list[FakeSubscriber]
    taps: list[dict[str, Any]] = field(default_factory=list)
    posts: int = 0
    tap_rooms: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    answer: tuple[int, dict[str, Any]] = (200, {"status": "success", "rejected": []})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serving(self) -> list[FakeSubscriber]:
        """The subscribers that have a stream open."""
        return [subscriber for subscriber in self.subscribers if subscriber.open_streams]

    def send(self, data: Mapping[str, Any]) -> None:
        """A batch on every stream of every subscriber, as when all clusters are well."""
        for subscriber in self.subscribers:
            subscriber.send(data)


@contextmanager
def serving_pages(app: Flask, settings: Settings) -> Iterator[None]:
    """The app, with the viewers' and the operator's pages, on its port."""
    directory = Directory(settings)
    app.register_blueprint(blueprint(settings, directory))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
    # Without keep-alive: a browser would go on with the app of the test before, where that had the same port.
    server = make_server("127.0.0.1", settings.app_port, app, threaded=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        directory.close()


@contextmanager
def fake_system(subscribers: tuple[int, ...] = (1, 1, 2), room: int = 100, **more: object) -> Iterator[FakeSystem]:
    """A FakeSystem with a subscriber in each of these clusters, which all have room for as many streams."""
    first = free_port_block(60)
    ours = {"APP_PORT": first, "SUBSCRIBER_BASE_PORT": first + 10} | more
    settings = load([f"{name}={value}" for name, value in ours.items()], environ={})
    number = dict.fromkeys(subscribers, 0)
    with ExitStack() as stack:
        fakes = []
        for cluster in subscribers:
            number[cluster] += 1
            port = settings.subscriber_base_port + 10 * (cluster - 1) + number[cluster]
            fakes.append(stack.enter_context(FakeSubscriber(cluster, port, room).running()))
        system = FakeSystem(first, fakes)
        app = Flask("testkit")

        @app.post("/send-emojis")
        def send_emojis() -> tuple[Response, int]:
            system.posts += 1
            system.tap_rooms += request.args.getlist("room")
            system.authorizations += request.headers.getlist("Authorization")
            status, body = system.answer
            if status == 200:
                system.taps += request.get_json()
            return jsonify(body), status

        @app.after_request
        def allow_pages(response: Response) -> Response:
            cors = Cors(settings.cors_origins)
            response.headers.extend(cors.headers(request.headers.get("Origin")))
            if request.method == "OPTIONS":
                response.headers.extend(cors.preflight(request.headers.get, "POST", "Content-Type"))
            return response

        with serving_pages(app, settings):
            yield system
