"""GET /metrics, /livez and /readyz of a process that serves nothing else."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable

from emostream.http.access import METRICS, Operators
from emostream.http.messages import IS_LIVE, IS_READY, Answer, Request, path_of, refusal, retry
from emostream.http.wsgi import ThreadedApp, serve
from emostream.metrics.page import CONTENT_TYPE, MetricsPage
from emostream.process import Log, bound_socket, why_not_ready
from emostream.roles import Role
from emostream.settings import SettingError, Settings


def serve_metrics(page: MetricsPage, settings: Settings, role: Role, log: Log) -> None:
    """Serve a page on the first port of a role, in a thread, until the process ends.

    If the port is taken, wait until it is free: a publisher that takes over from another one starts before that one
    ends.
    """
    at = role.addresses[0]

    def listen() -> None:
        try:
            listener = bound_socket(at.host, at.port, at.setting)
        except SettingError as error:
            log.warning("the port for metrics is taken; trying again", reason=error)
            listener = bound_socket(at.host, at.port, at.setting, wait_seconds=math.inf)
        serve(ThreadedApp(metrics_calls(page, settings, role.name), Operators(settings)), listener, log, settings)

    threading.Thread(target=listen, name="metrics", daemon=True).start()


def metrics_calls(page: MetricsPage, settings: Settings, name: str) -> Callable[[Request], Answer]:
    """Return the three calls of the process that has this `name`."""

    def call(request: Request) -> Answer:
        path = path_of(request.target).decode("latin-1")
        if path not in (METRICS, "/livez", "/readyz"):
            return refusal(404, f"expected GET /metrics, /livez or /readyz, got {path}")
        if request.method not in (b"GET", b"HEAD"):
            return refusal(405, f"expected GET, got {request.method.decode()}", ("allow", "GET, HEAD"))
        if path == METRICS:
            return Answer(200, page.text(), (("content-type", CONTENT_TYPE),))
        if path == "/livez":
            return IS_LIVE
        # A process that takes over from this one has the same heartbeat file: look for this one's id in it.
        reason = why_not_ready(settings, name, os.getpid())
        return IS_READY if reason is None else retry(503, f"not ready: {reason}")

    return call
