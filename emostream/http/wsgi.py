"""A WSGI app, such as Flask's, behind our HTTP server: requests → WSGI environments, in threads → answers."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from emostream.http.access import SIGN_IN, AllowedHosts, Operators
from emostream.http.messages import BUSY, Answer, App, Request
from emostream.http.server import HttpServer
from emostream.process import Log
from emostream.records import MAX_BODY_BYTES
from emostream.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

THREADS = 4
MAX_CONNECTIONS = 100


def serve_wsgi(app: WSGIApplication, listener: socket.socket, log: Log, settings: Settings) -> threading.Thread:
    """Serve a WSGI app on a bound socket, in an event loop of its own. Returns the thread that does it."""
    return serve(WsgiApp(app, THREADS, Operators(settings)), listener, log, settings)


def serve(app: App, listener: socket.socket, log: Log, settings: Settings) -> threading.Thread:
    """Serve an app on a bound socket, in an event loop of its own. Returns the thread that does it."""
    listener.listen()  # so that nobody is turned away while the thread starts

    async def run() -> None:
        check_host = AllowedHosts(settings).check
        server = HttpServer(app, log, MAX_CONNECTIONS, max_requests=MAX_CONNECTIONS, check_host=check_host)
        await server.listen(listener)
        await asyncio.Event().wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="http", daemon=True)
    thread.start()
    return thread


class WsgiApp:
    """Passes requests on to a WSGI app, each in a thread, because such an app may wait."""

    def __init__(self, app: WSGIApplication, threads: int, operators: Operators) -> None:
        self._app = app
        self._operators = operators
        self._threads = ThreadPoolExecutor(threads, "wsgi")

    async def call(self, request: Request) -> Answer:
        """The app's answer, unless this is an operators' call and the caller is no operator."""
        asked = environ(request)
        path = asked["PATH_INFO"]
        if path == SIGN_IN:
            return self._operators.sign_in(request)
        for_operators = self._operators.needed_for(path)
        if for_operators and (refused := self._operators.refusal(request)):
            return refused
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._call, asked)
        if for_operators:  # the pages of others may not read it, whatever CORS_ORIGINS says
            kept = tuple(header for header in answer.headers if not header[0].startswith("access-control-"))
            answer = replace(answer, headers=kept)
        return answer

    def _call(self, asked: dict[str, Any]) -> Answer:
        written: list[bytes] = []
        status, headers = "", []

        def start_response(
            app_status: str, app_headers: list[tuple[str, str]], _exc_info: object = None, /
        ) -> Callable[[bytes], object]:
            nonlocal status, headers
            status, headers = app_status, app_headers
            return written.append

        parts = self._app(asked, start_response)
        try:
            written.extend(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        # The server adds the date, and the length except to the answer to a HEAD, which has no body to measure.
        left_out = ("date",) if asked["REQUEST_METHOD"] == "HEAD" else ("date", "content-length")
        kept = tuple((name.lower(), value) for name, value in headers if name.lower() not in left_out)
        return Answer(int(status[:3]), b"".join(written), kept)

    # What the server calls.

    def max_body_bytes(self, target: bytes) -> int:
        """A bound for the memory; the app itself may accept less."""
        return MAX_BODY_BYTES

    def answer(self, request: Request, busy: bool) -> Answer | Coroutine[Any, Any, Answer]:
        """Call the app, unless too many requests wait for it already."""
        return BUSY if busy else self.call(request)

    def refusal(self, request: Request, answer: Answer) -> Answer:
        """Refuse with the answer of the server as it is."""
        return answer

    def gone(self, requests: int) -> None:
        """Do nothing: nobody counts these requests."""


def environ(request: Request) -> dict[str, Any]:
    """A request as WSGI (PEP 3333) has it."""
    path, _, query = request.target.partition(b"?")
    found: dict[str, Any] = {
        "REQUEST_METHOD": request.method.decode("latin-1"),
        "SCRIPT_NAME": "",
        "PATH_INFO": "/" + unquote_to_bytes(path).decode("latin-1").lstrip("/"),  # as werkzeug reads it
        "QUERY_STRING": query.decode("latin-1"),
        "SERVER_NAME": "localhost",  # the Host header says more
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.peer,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": io.StringIO(),  # Flask logs by itself
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(request.body)),
    }
    for name, value in request.headers.items():
        # A header with an underscore would pass for the one with hyphens, which a proxy may have written. And a body
        # that came in chunks is whole here.
        if b"_" in name or name in (b"content-length", b"transfer-encoding"):
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        found[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value.decode("latin-1")
    return found
