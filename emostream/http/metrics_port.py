"""GET /metrics, /livez and /readyz of a process that serves nothing else."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

from werkzeug.wrappers import Request, Response

from emostream.http.messages import JSON, RETRY_AFTER_SECONDS
from emostream.http.wsgi import serve_wsgi
from emostream.metrics.page import CONTENT_TYPE, MetricsPage
from emostream.process import Log, bound_socket, why_not_ready
from emostream.roles import Role
from emostream.settings import SettingError, Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

LISTEN_AGAIN_SECONDS = 1.0


def serve_metrics(page: MetricsPage, settings: Settings, role: Role, log: Log) -> None:
    """Serve a page on the first port of a role, in a thread, until the process ends.

    If the port is taken, try again until it is free: a publisher that takes over from another one starts before that
    one ends.
    """
    at = role.addresses[0]

    def listen() -> None:
        warned = False
        while True:
            try:
                listener = bound_socket(at.host, at.port, at.setting)
            except SettingError as error:
                if not warned:
                    log.warning("the port for metrics is taken; trying again", reason=error)
                warned = True
                time.sleep(LISTEN_AGAIN_SECONDS)
            else:
                serve_wsgi(metrics_app(page, settings, role.name), listener, log, settings)
                return

    threading.Thread(target=listen, name="metrics", daemon=True).start()


def metrics_app(page: MetricsPage, settings: Settings, name: str) -> WSGIApplication:
    """The three calls of the process that has this `name`."""

    def said(status: int, /, **body: str) -> Response:
        return Response(json.dumps(body), status, mimetype=JSON)

    @Request.application
    def answer(request: Request) -> Response:
        if request.path not in ("/metrics", "/livez", "/readyz"):
            return said(404, error=f"expected GET /metrics, /livez or /readyz, got {request.path}")
        if request.method not in ("GET", "HEAD"):
            refused = said(405, error=f"expected GET, got {request.method}")
            refused.headers["Allow"] = "GET, HEAD"
            return refused
        if request.path == "/metrics":
            return Response(page.text(), content_type=CONTENT_TYPE)
        if request.path == "/livez":
            return said(200, status="live")
        # A process that takes over from this one has the same file, so it must be this one's.
        reason = why_not_ready(settings, name, os.getpid())
        if reason is None:
            return said(200, status="ready")
        refused = said(503, error=f"not ready: {reason}")
        refused.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return refused

    return answer
