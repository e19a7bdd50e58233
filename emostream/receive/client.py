"""Pushes from a subscriber, or its stream → emojis in a terminal; and the taps that the same viewer sends."""

from __future__ import annotations

import hashlib
import os
import random
import select
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TextIO

import requests
from flask import Flask, Response, request

from emostream.discovery import Listed, ask_app, ask_each
from emostream.http.wsgi import serve_wsgi
from emostream.metrics.catalogue import RECEIVE
from emostream.metrics.counters import Metrics
from emostream.metrics.page import CONTENT_TYPE, Page
from emostream.process import Log, StopFlag, bound_socket, stop_on_signals
from emostream.receive.stream_reader import Watcher
from emostream.records import InvalidRecord, encode, parse_challenge, parse_count
from emostream.settings import SEED_EMOJIS, Settings

TIMEOUT_SECONDS = (2.0, 5.0)
# How often the client asks its subscriber whether it is still registered, and how long that may fail
# before it looks for another: a subscriber that was killed is back sooner, and goes on where it was.
CONFIRM_SECONDS = 2.0
PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 1.0
MAX_PRINTED = 50
REMEMBERED_RECORDS = 10_000


@dataclass(frozen=True)
class ClientOptions:
    """What a client does: `events` taps, one every `interval_seconds`; whether it sends, receives, waits for a slot.

    `stream`: it reads a subscriber's stream instead of being called by it. `app_url`: where the app is, if not here.
    """

    events: int = 100
    interval_seconds: float = 0.1
    send: bool = True
    receive: bool = True
    wait: bool = True
    stream: bool = False
    app_url: str | None = None


class Stream:
    """What the viewer sees: each record once, as one flowing line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self.records = 0
        self.repeats = 0

    def show(self, record_key: str | None, value: bytes) -> bool:
        """Print a record unless it was printed before; returns whether it was. Raises InvalidRecord.

        A record without a key, from a publisher that sends none, is always new.
        """
        emoji, count = parse_count(value)
        with self._lock:
            if record_key is not None:
                # With the value, because keys start over when a topic is replaced.
                digest = hashlib.blake2b(record_key.encode() + b"\0" + value, digest_size=16).digest()
                if digest in self._seen:
                    self.repeats += 1
                    return False
                self._seen[digest] = None
                if len(self._seen) > REMEMBERED_RECORDS:
                    self._seen.popitem(last=False)
            self.records += 1
            self._out.write(flow(emoji, count))
            self._out.flush()
            return True


def flow(emoji: str, count: int) -> str:
    """An emoji `count` times, or as `emoji×count` where that would flood the terminal."""
    return emoji * count if count <= MAX_PRINTED else f" {emoji}×{count} "


class Membership:
    """With which subscriber the client is registered, and the calls that keep it so."""

    def __init__(self, settings: Settings, client_url: str, stop: StopFlag, app_url: str) -> None:
        self._settings = settings
        self._app_url = app_url
        self._client_url = client_url
        self._stop = stop
        self._session = requests.Session()
        self._session.trust_env = False
        self._subscriber_url: str | None = None
        self.identity: str | None = None

    def find(self, wait: bool) -> bool:
        """Register with a subscriber that has a free slot; False where none has and `wait` is not set, or at a stop."""
        told = False
        while not self._stop.requested:
            for subscriber_url in self._with_free_slots():
                if self._register(subscriber_url):
                    return True
            if not wait:
                return False
            if not told:
                _say("no subscriber has a free slot; waiting for one")
                told = True
            self._stop.wait(RETRY_SECONDS)
        return False

    def keep(self) -> None:
        """Until a stop: confirm the registration, and find another subscriber when this one is gone."""
        confirmed = time.monotonic()
        while not self._stop.wait(CONFIRM_SECONDS):
            if self._subscriber_url and self._register(self._subscriber_url):
                confirmed = time.monotonic()
            elif time.monotonic() - confirmed > PATIENCE_SECONDS:
                _say(f"{self._subscriber_url} does not answer any more; looking for another subscriber")
                if self.find(wait=True):
                    confirmed = time.monotonic()

    def leave(self) -> None:
        """Deregister; a subscriber that cannot be reached evicts the client by itself."""
        if self._subscriber_url:
            answer = self._post(f"{self._subscriber_url}/deregister")
            left = answer is not None and answer.status_code in (200, 404)
            _say("deregistered" if left else "the subscriber did not answer; it will notice")

    def _with_free_slots(self) -> Iterator[str]:
        """The subscribers that have free slots, those with the most first, equals in random order.

        As the app knows them; when that leads nowhere, as each says itself.
        """
        tried: set[str] = set()
        for ask in (self._ask_app, self._ask_each):
            free = [(-one.available_slots, random.random(), one.url) for one in ask() if one.available_slots > 0]
            for _, _, subscriber_url in sorted(free):
                if subscriber_url not in tried:
                    tried.add(subscriber_url)
                    yield subscriber_url

    def _ask_app(self) -> list[Listed]:
        return ask_app(self._app_url, self._session)

    def _ask_each(self) -> list[Listed]:
        return ask_each(self._settings, self._session)

    def _register(self, subscriber_url: str) -> bool:
        if subscriber_url != self._subscriber_url:
            self.identity = None  # the new one may push before it has answered
        answer = self._post(f"{subscriber_url}/register")
        if answer is None or not answer.ok:
            return False
        if subscriber_url != self._subscriber_url:
            self._subscriber_url = subscriber_url
            self.identity = self._identify(subscriber_url)
            _say(f"registered with {subscriber_url}")
        return True

    def _identify(self, subscriber_url: str) -> str | None:
        """What this subscriber calls itself in the header `Subscriber`; None where it does not say."""
        try:
            status = self._session.get(f"{subscriber_url}/status", timeout=TIMEOUT_SECONDS).json()
            return f"{status['cluster_topic']}/{status['subscriber']}"
        except (requests.RequestException, KeyError, TypeError):
            return None

    def _post(self, url: str) -> requests.Response | None:
        try:
            return self._session.post(url, json={"client_url": self._client_url}, timeout=TIMEOUT_SECONDS)
        except requests.RequestException:
            return None


def create_app(stream: Stream, membership: Membership, page: Page) -> Flask:
    """POST / takes one record: 204, also for a repeat; 400 for what is none; 410 from a subscriber that was left.

    A challenge is echoed. GET /metrics says how many there were.
    """
    app = Flask("emostream.receive.client")
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024

    @app.post("/")
    def receive() -> Response:
        sender = request.headers.get("Subscriber")
        if sender and membership.identity and sender != membership.identity:
            return Response("registered with another subscriber", status=410)
        if challenge := parse_challenge(request.get_data()):
            return Response(encode({"challenge": challenge}), mimetype="application/json")
        try:
            stream.show(request.headers.get("Idempotency-Key"), request.get_data())
        except InvalidRecord as error:
            return Response(str(error), status=400)
        return Response(status=204)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(page.text(), content_type=CONTENT_TYPE)

    return app


class Sender:
    """Sends random emojis to the app, as a viewer who taps."""

    def __init__(self, app_url: str, user_id: str, stop: StopFlag) -> None:
        self._url = f"{app_url}/send-emoji"
        self._user_id = user_id
        self._stop = stop
        self.sent = 0
        self.failed = 0

    def run(self, events: int, interval_seconds: float) -> None:
        """Send `events` taps, one every `interval_seconds`, and say how many were taken."""
        session = requests.Session()
        session.trust_env = False
        for _ in range(events):
            if self._stop.requested:
                break
            tap = {
                "user_id": self._user_id,
                "emoji_type": random.choice(SEED_EMOJIS),
                "timestamp": datetime.now(timezone.utc).isoformat(),
            }
            try:
                session.post(self._url, json=tap, timeout=TIMEOUT_SECONDS).raise_for_status()
                self.sent += 1
            except requests.RequestException as error:
                self.failed += 1
                if self.failed == 1:
                    _say(f"an emoji could not be sent: {error}")
            self._stop.wait(interval_seconds)
        _say(f"sent {self.sent} emojis" + (f", {self.failed} failed" if self.failed else ""))


def metrics_of(screen: Stream, sender: Sender) -> Metrics:
    """What a viewer has seen and sent, for the page of metrics."""
    metrics = Metrics(Log("receive"), RECEIVE)
    metrics.read(
        shown=lambda: screen.records, repeats=lambda: screen.repeats,
        sent=lambda: sender.sent, failed=lambda: sender.failed,
    )  # fmt: skip
    return metrics


def run(settings: Settings, options: ClientOptions) -> int:
    """Send and receive until `unsub`, SIGINT or SIGTERM; 1 where no slot is free and none is waited for."""
    stop = stop_on_signals()
    app_url = (options.app_url or f"http://{settings.client_host}:{settings.app_port}").rstrip("/")
    sender = Sender(app_url, f"client-{settings.port}", stop)
    if not options.receive:
        sender.run(options.events, options.interval_seconds)
        return 0 if not sender.failed else 1
    screen = Stream(sys.stdout)
    source: Membership | Watcher
    if options.stream:
        source = Watcher(settings, app_url, screen.show, _say, stop)
    else:
        source = Membership(settings, f"http://{settings.client_host}:{settings.port}/", stop, app_url)
        listener = bound_socket(settings.bind_host, settings.port, setting="PORT")
        app = create_app(screen, source, Page(metrics_of(screen, sender)))
        serve_wsgi(app, listener, Log("receive"))
    threading.Thread(target=_obey_terminal, args=(stop,), name="terminal", daemon=True).start()
    if not source.find(options.wait):
        if not stop.requested:
            _say("no subscriber has a free slot")
            return 1
        return 0
    if options.send:
        threading.Thread(
            target=sender.run, args=(options.events, options.interval_seconds), name="sender", daemon=True
        ).start()
    source.keep()
    source.leave()
    return 0


def _obey_terminal(stop: StopFlag) -> None:
    """End at the line `unsub`; an input that has ended ends nothing."""
    if sys.stdin is None or sys.stdin.closed:
        return
    typed = b""
    descriptor = sys.stdin.fileno()
    while not stop.requested:
        if not select.select([descriptor], [], [], 0.2)[0]:
            continue
        if os.isatty(descriptor) and os.tcgetpgrp(descriptor) != os.getpgrp():
            stop.wait(1.0)  # in the background: reading now would suspend the process
            continue
        chunk = os.read(descriptor, 1024)
        if not chunk:
            return
        *lines, typed = (typed + chunk)[-4096:].split(b"\n")
        if any(line.strip() == b"unsub" for line in lines):
            stop.requested = True


def _say(sentence: str) -> None:
    """Tell the viewer something, on stderr: stdout is the stream."""
    print(f"\n[client] {sentence}", file=sys.stderr, flush=True)
