"""Pushes from a subscriber, or its stream → emojis in a terminal; and the taps that the same viewer sends."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass

from emostream.http.wsgi import serve_wsgi
from emostream.metrics.catalogue import RECEIVE
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.process import Log, bound_socket, stop_on_signals
from emostream.receive.membership import Membership
from emostream.receive.routes import create_app
from emostream.receive.screen import Screen
from emostream.receive.sender import Sender
from emostream.receive.stream_reader import StreamReader
from emostream.receive.terminal import say, stop_when_told
from emostream.settings import Settings


@dataclass(frozen=True)
class ClientOptions:
    """What the client does: send `events` taps, one every `interval_seconds`; receive; wait for a free slot.

    With `stream` it reads a subscriber's stream, and needs no PORT. `app_url` is for an app on another host.
    """

    events: int = 100
    interval_seconds: float = 0.1
    send: bool = True
    receive: bool = True
    wait: bool = True
    stream: bool = False
    app_url: str | None = None


def metrics_of(screen: Screen, sender: Sender) -> Metrics:
    """The counters of what this client has shown and sent, for GET /metrics."""
    metrics = Metrics(Log("receive"), RECEIVE)
    metrics.read(
        shown=lambda: screen.records, repeats=lambda: screen.repeats,
        sent=lambda: sender.sent, failed=lambda: sender.failed,
    )  # fmt: skip
    return metrics


def run(settings: Settings, options: ClientOptions) -> int:
    """Send and receive until `unsub`, SIGINT or SIGTERM; return 1 if no slot is free and it may not wait for one."""
    stop = stop_on_signals()
    app_url = (options.app_url or f"http://{settings.client_host}:{settings.app_port}").rstrip("/")
    sender = Sender(app_url, f"client-{settings.port}", stop)
    if not options.receive:
        sender.run(options.events, options.interval_seconds)
        return 0 if not sender.failed else 1
    screen = Screen(sys.stdout)
    source: Membership | StreamReader
    if options.stream:
        source = StreamReader(settings, app_url, screen.show, say, stop)
    else:
        source = Membership(settings, f"http://{settings.client_host}:{settings.port}/", stop, app_url)
        listener = bound_socket(settings.bind_host, settings.port, setting="PORT")
        app = create_app(screen, source, MetricsPage(metrics_of(screen, sender)))
        serve_wsgi(app, listener, Log("receive"), settings)
    threading.Thread(target=stop_when_told, args=(stop,), name="terminal", daemon=True).start()
    if not source.find(options.wait):
        if not stop.requested:
            say("no subscriber has a free slot")
            return 1
        return 0
    if options.send:
        threading.Thread(
            target=sender.run, args=(options.events, options.interval_seconds), name="sender", daemon=True
        ).start()
    source.keep()
    source.leave()
    return 0
